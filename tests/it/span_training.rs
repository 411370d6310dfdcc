//! Span answers the whole way on a tiny model: training against PEFT, and the answers of a run against transformers.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::python::{check, text};

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

/// Evaluates a model, compares the result with transformers, and returns the figures by name.
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
fn training_for_spans_is_that_of_peft() {
    let Some(folder) = tiny() else { return };
    let at = |name: &str| folder.path().join(name);
    let (model, data, out) = (at("model"), at("train.json"), at("out"));
    let common = ["--data", text(&data), "--task", "squad"];
    let call = |first: &[&str]| gelora(&[first, &common, &CUT].concat());
    let (_, said) = call(&["plan", text(&model), "-o", text(&out), "--subsamples", "0", "--offset", "2"]);
    assert!(said.contains("1 of 160 questions have no answer at the place") && said.contains("`train-7`"), "{said}");

    // An adapter whose B is not zero, then one epoch of given batches.
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

        // Nothing is repeated; another way to choose answers needs a new evaluation.
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
