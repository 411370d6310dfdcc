//! The command as a user meets it: help, exit codes, error lines, JSON.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use predicates::prelude::*;

fn gelora() -> Command {
    let mut command = Command::cargo_bin("gelora").unwrap();
    command.env_remove("RUST_BACKTRACE").env_remove("GELORA_LOG").env("NO_COLOR", "1");
    command
}

fn export(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("onnx").join(name)
}

/// Runs a command that must fail in a way the user can mend: exit code 1, one line, nothing on stdout.
fn mendable(arguments: &[&str]) -> String {
    let output = gelora().args(arguments).assert().code(1).stdout("").get_output().clone();
    let stderr = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<&str> = stderr.lines().collect();
    assert_eq!(lines.len(), 1, "not one line: {stderr}");
    lines[0].strip_prefix("error: ").unwrap_or_else(|| panic!("no error line: {stderr}")).to_owned()
}

#[test]
fn help_of_every_command() {
    let commands = ["run", "inspect", "expose", "extract", "dimension", "plan", "train", "merge", "evaluate", "doctor"];
    for command in commands {
        let output = gelora().args([command, "--help"]).assert().success().stderr("").get_output().clone();
        let help = String::from_utf8(output.stdout).unwrap();
        assert!(help.contains("Examples:") && help.contains("--json"), "{command}: {help}");
        insta::assert_snapshot!(format!("help_{command}"), help);
    }
    let output = gelora().arg("--help").assert().success().get_output().clone();
    insta::assert_snapshot!("help", String::from_utf8(output.stdout).unwrap());
}

#[test]
fn wrong_arguments_are_one_line_and_mendable() {
    let line = mendable(&["plan", "--dat", "x.tsv"]);
    assert!(line.contains("'--data'") && line.contains("try `gelora plan --help`"), "{line}");
    let line = mendable(&["doctor", "--device", "tpu"]);
    assert!(line.contains("auto, cpu, cuda or cuda:N"), "{line}");
    let line = mendable(&["dimension", "points.npy", "--threads", "0"]);
    assert!(line.contains("--threads"), "{line}");
    let line = mendable(&["expose", "a", "--eval"]);
    assert!(line.contains("--out"), "{line}");
}

#[test]
fn no_command_shows_the_help_and_is_mendable() {
    gelora().assert().code(1).stderr(predicate::str::contains("Usage: gelora"));
}

#[test]
fn a_closed_pipe_is_not_an_error() {
    // `head` reads one line and leaves; the shell reports gelora's own exit code.
    let program = assert_cmd::cargo::cargo_bin("gelora");
    for arguments in ["--help", "inspect onnx/tiny_encoder --weights --no-self-check --json"] {
        let script = format!("set -o pipefail; {} {arguments} | head -1 > /dev/null", program.display());
        let root = env!("CARGO_MANIFEST_DIR");
        Command::new("bash").args(["-c", &script]).current_dir(root).assert().success().stderr("");
    }
}

#[test]
fn a_missing_file_names_itself_and_the_cure() {
    for arguments in [
        vec!["inspect", "no/such/model"],
        vec!["expose", "no/such/model", "--eval", "-o", "out"],
        vec!["dimension", "no/such/points.npy"],
    ] {
        let line = mendable(&arguments);
        assert!(line.contains("no/such") && line.contains("check the path"), "{line}");
    }
}

#[test]
fn inspect_shows_the_export() {
    let model = export("tiny_encoder");
    let output = gelora().arg("inspect").arg(&model).args(["--no-self-check", "--json"]).assert().success();
    let json: serde_json::Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    let states = json["hidden_states"].as_array().unwrap().len();
    let blocks = json["blocks"].as_array().unwrap();
    assert_eq!(blocks.len() + 1, states);
    for block in blocks {
        let roles: Vec<&str> =
            block["weights"].as_array().unwrap().iter().map(|w| w["role"].as_str().unwrap()).collect();
        assert_eq!(roles, ["query", "key", "value", "output", "feed_forward", "feed_forward"]);
    }
    assert_eq!(json["checkpoint"]["unmatched"], 0);
    assert_eq!(json["obstacles"].as_array().unwrap().len(), 0);

    let output = gelora().arg("inspect").arg(&model).args(["--no-self-check", "--weights"]).assert().success();
    let text = String::from_utf8(output.get_output().stdout.clone()).unwrap();
    let text = text.replace(&model.display().to_string(), "tiny_encoder");
    insta::assert_snapshot!(text);
}

#[test]
fn active_dropout_is_in_the_way_until_it_is_switched_off() {
    let model = export("tiny_encoder_dropout");
    gelora()
        .arg("inspect")
        .arg(&model)
        .arg("--no-self-check")
        .assert()
        .code(1)
        .stderr(predicate::str::contains("gelora expose"));
    let out = tempfile::tempdir().unwrap();
    gelora().arg("expose").arg(&model).arg("--eval").arg("-o").arg(out.path()).assert().success();
    gelora().arg("inspect").arg(out.path()).arg("--no-self-check").assert().success();
    // What has nothing to switch off is not copied.
    let line = mendable(&["expose", out.path().to_str().unwrap(), "--eval", "-o", "elsewhere"]);
    assert!(line.contains("no dropout is active"), "{line}");
}

#[test]
fn doctor_names_the_cure_of_a_library_that_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let fake = folder.path().join("libonnxruntime.so");
    std::fs::write(&fake, "not a library").unwrap();
    let output = gelora().args(["doctor", "--json", "--ort-lib"]).arg(&fake).assert().code(1).get_output().clone();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["missing"].as_array().unwrap().len(), 1);
    assert!(json["onnxruntime"]["version"].is_null());
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.starts_with("error: ") && stderr.contains(&fake.display().to_string()), "{stderr}");
}

#[cfg(not(feature = "train"))]
#[test]
fn train_says_how_to_get_it() {
    let line = mendable(&["train", "model", "--plan", "plan.json", "--data", "train.tsv", "-o", "out"]);
    assert!(line.contains("cargo install gelora"), "{line}");
}
