//! Span answers: windows against Hugging Face's tokenizers, scores against the published definitions.

use std::path::Path;

use gelora::dataset::metric::squad::{normalize, score_answer};
use gelora::dataset::{SquadFile, SquadSettings, Tokenizer, Windows};
use gelora::progress::Silent;
use itertools::Itertools;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::python::{check, repository, text};
use crate::testing::shared;
use crate::tokenization::encoder;

/// Characters that normalisation handles specially, and others.
const PIECES: [&str; 24] = [
    "the",
    "The",
    "a",
    "An",
    "an",
    "Theatre",
    "cat",
    "Cat's",
    "dog",
    "1,000",
    "café",
    "a\u{301}",
    "İ",
    "ΣΑΣ",
    "東京",
    "_a_",
    "a-b",
    "\u{a0}",
    "\u{1c}",
    "\t",
    "“the”",
    "a's",
    "ा",
    "",
];

fn answer(random: &mut impl Rng) -> String {
    let count = random.random_range(0..5);
    let pieces: Vec<&str> = (0..count).map(|_| PIECES[random.random_range(0..PIECES.len())]).collect();
    pieces.join([" ", "  ", ". ", ""][random.random_range(0..4)])
}

#[test]
fn answers_are_scored_as_published() {
    let mut random = ChaCha8Rng::seed_from_u64(9);
    let cases: Vec<Value> = (0..3000)
        .map(|case| {
            let prediction = answer(&mut random);
            let golds: Vec<String> = (0..random.random_range(0..4)).map(|_| answer(&mut random)).collect();
            let right: Vec<&str> = golds.iter().map(String::as_str).collect();
            let version = 1 + case % 2;
            let score = score_answer(&prediction, &right, version == 2);
            let normalized = normalize(&prediction);
            json!({
                "prediction": prediction, "golds": golds, "version": version, "exact": score.exact, "f1": score.f1,
                "normalized": normalized,
            })
        })
        .collect();
    assert!(cases.iter().any(|case| (0.1..0.9).contains(&case["f1"].as_f64().unwrap())));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cases.json");
    std::fs::write(&path, serde_json::to_string(&cases).unwrap()).unwrap();
    check("span_checks.py", &["metric", text(&path)]);
}

/// gelora's result for a file, for the check in Python.
fn dump(tokenizer: &Path, data: &Path, limit: Option<usize>, (length, stride): (usize, usize)) -> Value {
    let file = SquadFile::load(data, SquadSettings { limit, null_answers: true }).unwrap();
    let opened = Tokenizer::open(tokenizer, length).unwrap();
    let windows = Windows::new(&file, &opened, stride, &Silent).unwrap();
    let labels = windows.labels(&file);
    let rows = windows.encodings.iter().zip_eq(&windows.windows).zip_eq(&labels).map(|((encoding, window), label)| {
        json!({
            "question": window.question, "ids": encoding.ids, "type_ids": encoding.type_ids, "first": window.first,
            "offsets": window.offsets, "label": label.map(|(start, end)| [start, end]),
        })
    });
    json!({
        "tokenizer": tokenizer, "data": data, "limit": limit, "length": length, "stride": stride,
        "windows": rows.collect::<Vec<_>>(), "types": true, "cut": true,
    })
}

fn check_dump(cases: &[Value]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("windows.json");
    std::fs::write(&path, serde_json::to_string(cases).unwrap()).unwrap();
    check("span_checks.py", &["windows", text(&path)]);
}

#[test]
fn windows_beyond_ascii_equal_those_of_hugging_face() {
    let folder = tempfile::tempdir().unwrap();
    let data = repository("tests/golden/questions.json");
    let bytes = folder.path().join("tokenizer.json");
    if !check("span_checks.py", &["tokenizer", text(&data), text(&bytes)]) {
        return;
    }
    let tiny = repository("onnx/tiny_encoder/tokenizer.json");
    let mut cases = vec![dump(&tiny, &data, None, (60, 9)), dump(&bytes, &data, None, (80, 12))];
    if let Some(model) = encoder() {
        cases.extend([(40, 8), (48, 0), (38, 11)].map(|cut| dump(&model.join("tokenizer.json"), &data, None, cut)));
    }
    check_dump(&cases);
}

#[test]
fn windows_of_squad_equal_those_of_hugging_face() {
    let (Some(data), Some(model)) = (shared("data/SQuAD"), encoder()) else { return };
    let tokenizer = model.join("tokenizer.json");
    let case = |name: &str, cut| dump(&tokenizer, &data.join(name), Some(300), cut);
    check_dump(&[
        case("dev-v1.1.json", (128, 64)),
        case("dev-v2.0.json", (100, 32)),
        case("train-v1.1.json", (192, 96)),
    ]);
}
