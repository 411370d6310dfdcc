//! Invalid inputs: reported at once, in one line.

use std::path::Path;
use std::time::Duration;

use gelora::files::npy_header;

use crate::cli::{export, gelora, mendable};
use crate::python::text;
use crate::runtime::library;

/// A named pipe without a writer: reading it would block for ever.
#[cfg(unix)]
#[test]
fn a_named_pipe_is_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = |name: &str| {
        let path = folder.path().join(name);
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        path
    };
    let model = export("tiny_encoder");
    let (data, onnx, plan, config) = (pipe("a.tsv"), pipe("a.onnx"), pipe("plan.json"), pipe("run.toml"));
    let (points, packed, parquet, squad) = (pipe("a.npy"), pipe("a.safetensors"), pipe("a.parquet"), pipe("a.json"));
    let out = folder.path().join("out");
    let model = text(&model);
    for command in [
        vec!["plan", model, "--data", text(&data), "-o", text(&out)],
        vec!["plan", model, "--data", text(&parquet), "-o", text(&out)],
        vec!["plan", model, "--data", text(&squad), "--task", "squad", "-o", text(&out)],
        vec!["inspect", text(&onnx)],
        vec!["run", text(&config)],
        vec!["report", text(&plan), "-o", text(&out)],
        vec!["dimension", text(&points)],
        vec!["dimension", text(&packed)],
    ] {
        let output = gelora().args(&command).timeout(Duration::from_secs(60)).assert().code(1).get_output().clone();
        let said = String::from_utf8(output.stderr).unwrap();
        // Without the feature no Parquet file is opened at all, and without training no run is begun.
        let expected = match command[0] {
            "run" if cfg!(not(feature = "train")) => "does not train",
            _ if cfg!(not(feature = "parquet")) && command.contains(&text(&parquet)) => {
                "built with the feature `parquet`"
            }
            _ => "it is a named pipe (FIFO), not a file",
        };
        // A warning may precede it: that the head is not one for span answers.
        let error = said.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
        assert!(error.contains(expected) && said.ends_with(&format!("{error}\n")), "{command:?}: {said}");
    }
}

fn written(folder: &Path, name: &str, content: impl AsRef<[u8]>) -> String {
    let path = folder.join(name);
    std::fs::write(&path, content).unwrap();
    text(&path).to_owned()
}

#[test]
fn a_plan_looks_at_the_labels_that_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let model = export("tiny_encoder");
    let out = folder.path().join("out");
    let refused = |data: &str, options: &[&str]| {
        let mut command = vec!["plan", text(&model), "--data", data, "-o", text(&out)];
        command.extend(options);
        let said = mendable(&command);
        assert!(!out.exists(), "nothing is computed before");
        said
    };
    let rows: String = (0..100).map(|row| format!("row number {row}\t1\n")).collect();
    let table = written(folder.path(), "a.tsv", format!("text\tlabel\n{rows}"));
    assert!(refused(&table, &["--label", "wrong"]).contains("no column `wrong`"));
    assert!(refused(&table, &["--label", "label"]).contains("one class alone cannot be learnt"));
    let rows: String = (0..100).map(|row| format!("{{\"text\": \"row {row}\", \"tags\": [\"O\"]}}\n")).collect();
    let lists = written(folder.path(), "a.jsonl", rows);
    assert!(refused(&lists, &["--label", "tags"]).contains("a label per word (entities)"));
    assert!(refused(&table, &["--task", "cola"]).contains("no column `sentence`"));
    for (task, reason) in [
        ("token-classification", "entities (a tag per word) are the task ner"),
        ("goemotions", "several labels per text are the task multi-label"),
        ("reranking", "an order of texts (ranking) cannot be learnt yet"),
        ("sentence-similarity", "pairs without labels (similarity, retrieval) cannot be learnt yet"),
        ("summarization", "a text made from a text by an encoder and a decoder cannot be learnt yet"),
    ] {
        assert!(refused(&table, &["--task", task]).contains(reason), "{task}");
    }
}

/// An error that would occur at the end is reported at the beginning, before the rows are even read.
#[test]
fn what_cannot_be_written_or_met_is_refused_before_anything_is_computed() {
    let folder = tempfile::tempdir().unwrap();
    let (model, out) = (export("tiny_encoder"), folder.path().join("out"));
    let missing = folder.path().join("missing.tsv");
    let evaluate = |task: &[&str], name: &str| {
        let (data, predictions) = (text(&missing), folder.path().join(name));
        let base = ["evaluate", text(&model), "--data", data, "--predictions", text(&predictions)];
        mendable(&[&base[..], task].concat())
    };
    for name in ["p.txt", "p", "p.parquet", "p.csv.gz"] {
        let said = evaluate(&[], name);
        assert!(said.ends_with("predictions are written as .csv, .tsv or .jsonl; give one of these endings"), "{said}");
    }
    assert!(evaluate(&["--task", "squad"], "p.csv").ends_with("give the ending .json"));
    assert!(evaluate(&["--task", "causal-lm"], "p.csv").ends_with("leave out --predictions"));
    assert!(evaluate(&[], "p.csv").contains("missing.tsv"));

    let rows: String = (0..100).map(|row| format!("row number {row}\n")).collect();
    let data = written(folder.path(), "a.tsv", format!("text\n{rows}"));
    let plan = |options: &[&str]| {
        let said = mendable(&[&["plan", text(&model), "--data", &data, "-o", text(&out)][..], options].concat());
        assert!(!out.exists(), "{said}");
        said
    };
    let said = plan(&["--budget", "10"]);
    assert!(
        said.starts_with("the smallest ranks need ") && said.contains("the budget is 10; raise --budget"),
        "{said}"
    );
    assert!(
        plan(&["--projections", "query-key-value"]).starts_with("no weight of the model is one of query-key-value")
    );
}

/// What an error advises is an option of a single command, and a key of the configuration for a run.
#[cfg(feature = "train")]
#[test]
fn a_run_names_keys() {
    let folder = tempfile::tempdir().unwrap();
    let rows: String = (0..100).map(|row| format!("row number {row}\t{}\n", row % 2)).collect();
    let rows = written(folder.path(), "rows.tsv", format!("text\tlabel\n{rows}"));
    let model = export("tiny_encoder");
    let both = |data: &str, options: &[&str], keys: &str, section: &str| {
        let out = folder.path().join("out");
        let single = mendable(&[&["plan", text(&model), "--data", data, "-o", text(&out)][..], options].concat());
        let content = format!(
            "[model]\npath = '{}'\n[data]\ntrain = '{data}'\n{keys}\n[output]\nfolder = 'out'\n{section}\n",
            model.display()
        );
        (single, mendable(&["run", &written(folder.path(), "run.toml", content)]))
    };
    let (single, run) = both(&rows, &["--format", "csv"], "format = 'csv'", "");
    assert!(single.ends_with("tabs seem to separate them: say so (--format tsv)"), "{single}");
    assert!(run.ends_with("tabs seem to separate them: say so (`format = \"tsv\"` in [data])"), "{run}");
    let (single, run) = both(&rows, &["--budget", "10"], "", "[plan]\nbudget = 10");
    assert!(single.ends_with("raise --budget, lower --minimum-rank or adapt fewer --projections"), "{single}");
    let keys = "raise `budget` in [plan], lower `minimum_rank` in [plan] or adapt fewer `projections` in [plan]";
    assert!(run.ends_with(keys), "{run}");
}

#[test]
fn points_in_half_precision_have_the_dimension_of_their_values() {
    let folder = tempfile::tempdir().unwrap();
    let values: Vec<half::f16> =
        (0..600u32).map(|at| half::f16::from_f32((at.wrapping_mul(2_654_435_761) % 1000) as f32 / 999.0)).collect();
    let half: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let single: Vec<u8> = values.iter().flat_map(|value| value.to_f32().to_le_bytes()).collect();
    let file = |name: &str, kind: &str, bytes: &[u8]| {
        written(folder.path(), name, [npy_header(kind, &[200, 3]), bytes.to_vec()].concat())
    };
    let dimension = |path: &str| {
        let output = gelora().args(["dimension", path, "--json"]).assert().code(0).get_output().stdout.clone();
        let mut found: serde_json::Value = serde_json::from_slice(&output).unwrap();
        found["source_sha256"].take();
        found.to_string().replace("half.npy", "single.npy")
    };
    let (half, single) = (file("half.npy", "<f2", &half), file("single.npy", "<f4", &single));
    let (of_half, of_single) = (dimension(&half), dimension(&single));
    assert!(of_half == of_single, "{of_half}\n{of_single}");
    let swapped = file("swapped.npy", ">f4", &[0; 2400]);
    assert!(mendable(&["dimension", &swapped]).contains("the other byte order (big-endian)"));
}

#[test]
fn rows_of_one_class_are_evaluated_with_the_classes_of_the_model() {
    if library().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let accuracy = |labels: &[&str]| {
        let rows: String = labels.iter().map(|label| format!("abc {label} word\t{label}\n")).collect();
        let data = written(folder.path(), "a.tsv", format!("text\tlabel\n{rows}"));
        let output = gelora()
            .args(["-q", "evaluate", text(&export("tiny_encoder")), "--data", &data, "--metrics", "accuracy", "--json"])
            .assert()
            .code(0)
            .get_output()
            .stdout
            .clone();
        let found: serde_json::Value = serde_json::from_slice(&output).unwrap();
        assert_eq!(found["objective"]["classification"]["labels"], serde_json::json!(["0", "1"]), "{found}");
        found["metrics"][0]["value"].as_f64().unwrap()
    };
    // Each row is right under one of the two labels.
    let (zeros, ones) = (accuracy(&["0", "0", "0.0"]), accuracy(&["1", "1", "1"]));
    assert!((0.0..=1.0).contains(&zeros) && (0.0..=1.0).contains(&ones), "{zeros} {ones}");
    let data = written(folder.path(), "b.tsv", "text\tlabel\nabc\t5\nabd\t5\n");
    let said = mendable(&["-q", "evaluate", text(&export("tiny_encoder")), "--data", &data]);
    assert!(said.contains("label"), "{said}");
}

/// A text of 10 MB took 21 s and 2 GB; only what fits into a row is tokenized.
#[test]
fn a_very_long_text_is_cut_before_it_is_tokenized() {
    use gelora::dataset::{Example, Tokenizer};
    let tokenizer = Tokenizer::open(&export("tiny_encoder").join("tokenizer.json"), 16).unwrap();
    let encode = |text: &str, pair: Option<&str>| {
        let example = Example { line: 1, text: text.into(), pair: pair.map(str::to_owned) };
        tokenizer.encode(&[example], &gelora::progress::Silent).map(|rows| rows[0].clone())
    };
    let long = "some words of a text, and more ".repeat(400_000);
    assert!(long.len() > 12_000_000);
    let start = std::time::Instant::now();
    let found = encode(&long, None).unwrap();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(found, encode(&long[..20_000], None).unwrap());
    let found = encode(&long, Some("a b")).unwrap();
    assert_eq!(found, encode(&long[..20_000], Some("a b")).unwrap());
    // Of two long texts the one with more tokens keeps more of them, whatever their bytes.
    let (first, second) = ("a ".repeat(50_000), "abcdefghijk ".repeat(20_000));
    let found = encode(&second, Some(&first)).unwrap();
    assert_eq!(found, encode(&second[..12_000], Some(&first[..5_000])).unwrap());
    let undivided = encode(&"x".repeat(5_000_000), None).unwrap_err().to_string();
    assert!(undivided.contains("at most 2 MB of a text that it cannot divide at spaces"), "{undivided}");
}
