//! Metrics against scikit-learn and SciPy; an export evaluated through ONNX Runtime against transformers, row by row.

use std::path::Path;
use std::sync::Mutex;

use gelora::dataset::{Encoding, Metric, Score, Tokenizer};
use gelora::evaluate::{EvaluateSettings, evaluate_export};
use gelora::progress::{Event, Observer, Silent};
use gelora::runtime::{Device, InferenceSession, SessionSettings};
use gelora::task::{Classification, DataSettings, Objective, Outputs, Purpose, Request, TaskError};
use itertools::Itertools;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use crate::python::{check, repository, text};
use crate::runtime::library;

/// Random rows with many ties, and short ones, which include the degenerate cases.
fn metric_cases(random: &mut impl Rng) -> Vec<serde_json::Value> {
    let mut cases = Vec::new();
    for case in 0..1000 {
        // Perplexity is computed from a loss, not from predictions; sets of labels have tests of their own.
        let metrics = [Metric::OF_CLASSES.as_slice(), Metric::OF_VALUES.as_slice()].concat();
        let metric = metrics[case % metrics.len()];
        let rows = random.random_range(2..if case % 2 == 0 { 6 } else { 100 });
        let kinds = if metric == Metric::F1 { 2 } else { random.random_range(2..6) };
        let mut column = || -> Vec<u32> { (0..rows).map(|_| random.random_range(0..kinds)).collect() };
        let (predictions, labels) = (column(), column());
        let numbers = |column: &[u32]| column.iter().map(|&value| value as f32 * 0.37 - 1.0).collect::<Vec<_>>();
        let classes = |column: &[u32]| column.iter().map(|&value| value as usize).collect::<Vec<_>>();
        let of_values = Metric::OF_VALUES.contains(&metric);
        let Score { value, note, .. } = match of_values {
            true => metric.of_values(&numbers(&predictions), &numbers(&labels)),
            false => metric.of_classes(&classes(&predictions), &classes(&labels)),
        }
        .unwrap();
        let plain = |column: &[u32]| match of_values {
            true => json!(numbers(column).into_iter().map(f64::from).collect::<Vec<_>>()),
            false => json!(column),
        };
        assert!(value.is_some() || note.is_some(), "what is undefined has a reason");
        cases.push(json!({
            "metric": metric.name(),
            "predictions": plain(&predictions),
            "labels": plain(&labels),
            "value": value,
        }));
    }
    cases
}

#[test]
fn metrics_equal_those_of_scikit_learn_and_scipy() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cases.json");
    let cases = metric_cases(&mut ChaCha8Rng::seed_from_u64(3));
    std::fs::write(&path, serde_json::to_string(&cases).unwrap()).unwrap();
    check("evaluation_checks.py", &["metrics", text(&path)]);
}

/// Pairs of random words of the tiny encoder's vocabulary.
fn rows() -> String {
    let mut random = ChaCha8Rng::seed_from_u64(4);
    let words = ["the", "dog", "walks", "very", "good", "film", "xyz", "she", "likes", "no", "books", "at"];
    let mut lines = String::new();
    for row in 0..60 {
        let mut sentence = || -> String {
            let words = (0..random.random_range(1..14)).map(|_| words[random.random_range(0..words.len())]);
            words.collect::<Vec<_>>().join(" ")
        };
        let label = if row % 3 == 0 { "yes" } else { "no" };
        lines.push_str(&format!("{}\n", json!({"one": sentence(), "two": sentence(), "label": label})));
    }
    lines
}

/// The largest absolute difference between two sets of logits.
fn worst(one: &Outputs, other: &Outputs) -> f32 {
    let pairs = one.rows().iter().flatten().zip_eq(other.rows().iter().flatten());
    pairs.fold(0.0, |worst, (a, b)| worst.max((a - b).abs()))
}

#[test]
fn an_export_is_evaluated_as_transformers_does_it() {
    let Some(library) = library() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (data, written) = (folder.path().join("rows.jsonl"), folder.path().join("predictions.jsonl"));
    std::fs::write(&data, rows()).unwrap();
    let columns = DataSettings {
        text: Some("one".into()),
        pair: Some("two".into()),
        labels: Some(vec!["no".into(), "yes".into()]),
        ..DataSettings::of(&data)
    };
    let model = repository("onnx/tiny_encoder");
    let tokenizer = Tokenizer::open(&model.join("tokenizer.json"), 24).unwrap();
    let rows = columns.reader().read(&Request {
        path: &data,
        settings: &columns,
        purpose: Purpose::Evaluate,
        like: None,
        model_config: None,
        predictions: false,
        tokenizer: &tokenizer,
        observer: &Silent,
    });
    let rows = rows.unwrap();
    let head = rows.objective().unwrap().head();
    let encoded = rows.encode(&tokenizer, &Silent).unwrap();
    let cpu = SessionSettings { device: Device::Cpu, threads: Some(1), ..Default::default() };
    let mut session = InferenceSession::from_file(library, &model.join("model.onnx"), &cpu).unwrap();

    let metrics = [Metric::Accuracy, Metric::F1, Metric::Matthews];
    let mut evaluate = |batch_tokens, equal_lengths| {
        let settings = EvaluateSettings { batch_tokens, equal_lengths, padding: tokenizer.padding() };
        evaluate_export(&mut session, &encoded.encodings, None, &head, &settings, &Silent).unwrap()
    };
    let outputs = evaluate(200, false);
    assert!(outputs.rows().len() == 60 && outputs.rows().iter().all(|row| row.len() == 2));
    let scores = rows.score(&encoded, &outputs, &metrics).unwrap();
    assert_eq!(scores.len(), 3);
    for other in [evaluate(1, false), evaluate(100_000, false), evaluate(200, true)] {
        let worst = worst(&other, &outputs);
        assert!(worst < 1e-5, "the batches make a difference of {worst}");
        assert_eq!(rows.score(&encoded, &other, &metrics).unwrap(), scores);
    }
    rows.write_predictions(&written, &outputs).unwrap();
    check("evaluation_checks.py", &["model", text(&model), text(&data), text(&written)]);

    // A task that does not fit the head is refused.
    let targets = gelora::task::Targets::Values(vec![0.0; 60]);
    let refused = Objective::Regression.score(&targets, &outputs, &[]).unwrap_err();
    assert!(matches!(refused, TaskError::Width { found: 2, expected: 1, .. }), "{refused}");
}

/// Numbers of rows of the batches, as reported to the observer.
#[derive(Default)]
struct Batches(Mutex<Vec<u64>>);

impl Observer for Batches {
    fn observe(&self, event: Event<'_>) {
        if let Event::Advance { done, .. } = event {
            let mut rows = self.0.lock().unwrap();
            let before: u64 = rows.iter().sum();
            rows.push(done - before);
        }
    }
}

#[test]
fn the_padding_of_a_fixed_length_counts_for_the_size_of_batches() {
    let Some(library) = library() else { return };
    let bytes = std::fs::read(repository("onnx/tiny_encoder").join("model.onnx")).unwrap();
    let ids = |row: u32| -> Vec<u32> { (0..1 + row % 5).map(|token| 5 + (row + token) % 11).collect() };
    let encodings: Vec<Encoding> = (0..20).map(ids).map(|ids| Encoding { type_ids: vec![0; ids.len()], ids }).collect();
    let objective = Objective::Classification(Classification { labels: vec!["no".into(), "yes".into()] });
    let settings = EvaluateSettings { batch_tokens: 64, ..EvaluateSettings::default() };
    let cpu = SessionSettings { device: Device::Cpu, threads: Some(1), ..Default::default() };
    let evaluate = |axes: [&str; 2]| {
        let bytes = crate::tiny::with_input_axes(&bytes, &axes);
        let mut session = InferenceSession::from_bytes(library, &bytes, Path::new("."), &cpu).unwrap();
        let told = Batches::default();
        let done = evaluate_export(&mut session, &encodings, None, &objective.head(), &settings, &told).unwrap();
        (done, told.0.into_inner().unwrap())
    };
    let (free, most) = evaluate(["batch", "sequence"]);
    assert!(most[0] > 4, "{most:?}");
    let (fixed, batches) = evaluate(["batch", "16"]);
    assert_eq!(batches, [4; 5], "four rows of 16 tokens are 64");
    let (both, batches) = evaluate(["7", "16"]);
    assert_eq!(batches, [7, 7, 6], "seven rows are computed in any case");
    for logits in [fixed, both] {
        let worst = worst(&logits, &free);
        assert!(worst < 1e-4, "{worst}");
    }
}

#[test]
fn an_export_without_a_head_is_not_evaluated() {
    let Some(library) = library() else { return };
    let model = repository("onnx/tiny_encoder_base/model.onnx");
    let cpu = SessionSettings { device: Device::Cpu, threads: Some(1), ..Default::default() };
    let mut session = InferenceSession::from_file(library, &model, &cpu).unwrap();
    let settings = EvaluateSettings::default();
    let refused = evaluate_export(&mut session, &[], None, &Objective::Regression.head(), &settings, &Silent);
    let text = refused.unwrap_err().to_string();
    assert!(text.starts_with("the model has no output `logits`") && text.lines().count() == 1, "{text}");
}
