//! The command as its user sees it: help, exit codes, error lines, JSON.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use itertools::Itertools;
use predicates::prelude::*;

pub fn gelora() -> Command {
    let mut command = Command::cargo_bin("gelora").unwrap();
    command.env_remove("RUST_BACKTRACE").env_remove("GELORA_LOG").env_remove("GELORA_SIMD").env("NO_COLOR", "1");
    command
}

pub fn export(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("onnx").join(name)
}

/// Runs a command that must fail in a way the user can fix: exit code 1, one line, nothing on stdout. Returns the line.
pub fn mendable(arguments: &[&str]) -> String {
    let output = gelora().args(arguments).assert().code(1).stdout("").get_output().clone();
    let stderr = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<&str> = stderr.lines().collect();
    assert_eq!(lines.len(), 1, "not one line: {stderr}");
    lines[0].strip_prefix("error: ").unwrap_or_else(|| panic!("no error line: {stderr}")).to_owned()
}

#[test]
fn an_instruction_set_that_is_not_there_is_an_error_at_once() {
    let manifold = ["manifold", "nonlinear", "--help"];
    gelora().env("GELORA_SIMD", "scalar").args(manifold).assert().success();
    for (name, beginning) in [("sse9", "GELORA_SIMD is \"sse9\"; "), ("", "GELORA_SIMD is \"\"; ")] {
        let output = gelora().env("GELORA_SIMD", name).arg("doctor").assert().code(1).stdout("").get_output().clone();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(
            stderr.starts_with(&format!("error: {beginning}")) && stderr.trim_end().ends_with("scalar"),
            "{stderr}"
        );
        assert_eq!(stderr.lines().count(), 1);
    }
}

#[test]
fn help_of_every_command() {
    let commands = [
        "run",
        "inspect",
        "expose",
        "extract",
        "dimension",
        "manifold",
        "plan",
        "report",
        "train",
        "merge",
        "evaluate",
        "doctor",
        "completions",
        "man",
    ];
    for command in commands {
        let output = gelora().args([command, "--help"]).assert().success().stderr("").get_output().clone();
        let help = String::from_utf8(output.stdout).unwrap();
        assert!(help.contains("Examples:") && help.contains("--json"), "{command}: {help}");
        insta::assert_snapshot!(format!("help_{command}"), help);
    }
    let output = gelora().arg("--help").assert().success().get_output().clone();
    insta::assert_snapshot!("help", String::from_utf8(output.stdout).unwrap());
}

/// The long options of a command, from its help.
fn options_of(command: &str) -> Vec<String> {
    let output = gelora().args([command, "--help"]).assert().success().get_output().clone();
    let help = String::from_utf8(output.stdout).unwrap();
    let words = help.split("Examples:").next().unwrap().lines().filter_map(|line| {
        let named = line.trim_start();
        let long = named.split_whitespace().take(2).find(|word| word.starts_with("--"));
        long.filter(|_| named.starts_with('-') && line.len() - named.len() <= 6)
            .map(|word| word.trim_end_matches("...").to_owned())
    });
    words.collect()
}

/// The commands, from the help of the program.
fn commands() -> Vec<String> {
    let output = gelora().arg("-h").assert().success().get_output().clone();
    let help = String::from_utf8(output.stdout).unwrap();
    let listed = help.split("Commands:").nth(1).unwrap().split("Options:").next().unwrap();
    let name =
        |line: &str| Some(line.strip_prefix("  ").filter(|rest| !rest.starts_with(' '))?.split(' ').next()?.to_owned());
    listed.lines().filter_map(name).collect()
}

#[test]
fn completions_name_every_command_and_option() {
    let script = |shell: &str| {
        let output = gelora().args(["completions", shell]).assert().success().stderr("").get_output().clone();
        String::from_utf8(output.stdout).unwrap()
    };
    let bash = script("bash");
    let commands = commands();
    assert!(commands.len() > 12, "{commands:?}");
    for command in &commands {
        assert!(bash.contains(&format!("gelora,{command})")), "{command}");
    }
    let options = options_of("train");
    assert!(options.len() > 40, "{options:?}");
    let train = bash.split("gelora__subcmd__train)\n").nth(1).unwrap().split("return 0").next().unwrap();
    for option in options {
        assert!(train.split_whitespace().any(|word| word.trim_end_matches('"') == option), "{option}");
    }
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        assert!(script(shell).contains("learning-rate"), "{shell}");
    }
    let line = mendable(&["completions", "tcsh"]);
    assert!(line.contains("bash, elvish, fish, powershell, zsh"), "{line}");
}

#[test]
fn manual_pages_are_written_for_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("share/man1");
    let output = gelora().arg("man").arg(&pages).arg("--json").assert().success().get_output().clone();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let commands: Vec<String> = commands().into_iter().filter(|command| command != "help").collect();
    assert_eq!(json["pages"].as_array().unwrap().len(), commands.len() + 1);
    for command in &commands {
        let page = std::fs::read_to_string(pages.join(format!("gelora-{command}.1"))).unwrap();
        assert!(page.contains(&format!(".TH gelora-{command} 1")), "{page}");
        for option in options_of(command) {
            assert!(page.contains(&option.replace('-', r"\-")), "{command} {option}");
        }
        // The lines of examples must not be joined.
        let examples = page.split(".SH EXAMPLES\n.nf\n").nth(1).unwrap();
        assert!(examples.lines().any(|line| line.trim_start().starts_with("gelora ")), "{examples}");
    }
    let page = std::fs::read_to_string(pages.join("gelora.1")).unwrap();
    assert!(commands.iter().all(|command| page.contains(&format!(r"gelora\-{command}(1)"))), "{page}");
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
fn inspect_runs_an_export_of_a_short_fixed_length() {
    if crate::runtime::library().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let whole = export("tiny_encoder");
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(whole.join(file), folder.path().join(file)).unwrap();
    }
    let inspected = |length: &str| -> serde_json::Value {
        let bytes = std::fs::read(whole.join("model.onnx")).unwrap();
        let bytes = crate::tiny::with_input_axes(&bytes, &["batch", length]);
        std::fs::write(folder.path().join("model.onnx"), bytes).unwrap();
        let output = gelora().arg("inspect").arg(folder.path()).args(["--json", "--device", "cpu"]).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    };
    for length in ["5", "8", "25"] {
        let found = inspected(length);
        assert_eq!(found["obstacles"], serde_json::json!([]), "{length}");
        assert_eq!(found["self_check"]["deterministic"], true, "{length}");
        assert_eq!(found["self_check"]["padding_invariant"], true, "{length}");
    }
    let told = inspected("3")["obstacles"][0].as_str().unwrap().to_owned();
    assert!(told.contains("takes exactly 3 tokens a row, and a text needs 5 with its special tokens"), "{told}");
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
    // An export without dropout to switch off is not copied.
    let line = mendable(&["expose", out.path().to_str().unwrap(), "--eval", "-o", "elsewhere"]);
    assert!(line.contains("no dropout is active"), "{line}");
}

/// The output of `gelora expose`, without the path of the folder that it wrote to.
fn expose(model: &str, options: &[&str], out: &Path) -> String {
    let output = gelora().arg("expose").arg(export(model)).arg("-o").arg(out).args(options).assert().success();
    String::from_utf8(output.get_output().stdout.clone()).unwrap().replace(&out.display().to_string(), "out")
}

#[test]
fn hidden_states_that_an_export_does_not_show_are_exposed() {
    let Some(_) = crate::runtime::library() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (found, named, matched) = (folder.path().join("a"), folder.path().join("b"), folder.path().join("c"));
    insta::assert_snapshot!("expose", expose("tiny_encoder_plain", &[], &found));

    let encoder = "/model/bert/encoder/layer";
    let norm = "LayerNorm/LayerNormalization_output_0";
    let names = [
        format!("/model/bert/embeddings/{norm}"),
        format!("{encoder}.0/output/{norm}"),
        format!("{encoder}.1/output/{norm}"),
    ];
    insta::assert_snapshot!(
        "expose_named",
        expose("tiny_encoder_plain", &["--no-check", "--tap-list", &names.join(",")], &named)
    );
    // Dropout to switch off is not a requirement.
    let eval = expose("tiny_encoder_plain", &["--eval"], &folder.path().join("d"));
    assert!(eval.contains("none was active") && eval.contains("equal to the export's to the bit"), "{eval}");

    let pattern = r".*/(embeddings|layer\.\d/output)/LayerNorm/LayerNormalization_output_0";
    let json = expose("tiny_encoder_plain", &["--json", "--tap", pattern], &matched);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["hidden_states"], serde_json::json!(names));
    assert_eq!(json["comparison"]["equal"], true);

    // Three ways to the same copy, which equals the export that exposes its states.
    let copy = std::fs::read(found.join("model.onnx")).unwrap();
    for other in [&named, &matched] {
        assert_eq!(std::fs::read(other.join("model.onnx")).unwrap(), copy);
    }
    let plain = std::fs::read(export("tiny_encoder_plain").join("model.onnx")).unwrap();
    assert!(copy.starts_with(&plain), "the export is in the copy, byte by byte");
    crate::python::check(
        "graph_checks.py",
        &[
            "same",
            export("tiny_encoder").join("model.onnx").to_str().unwrap(),
            found.join("model.onnx").to_str().unwrap(),
        ],
    );
}

#[test]
fn what_cannot_be_exposed_is_one_line_and_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let attempt = |model: &str, options: &[&str]| {
        let model = export(model);
        let mut arguments = vec!["expose", model.to_str().unwrap(), "-o", out.to_str().unwrap()];
        arguments.extend(options);
        let line = mendable(&arguments).replace(model.to_str().unwrap(), "model");
        assert!(!out.exists(), "{line}");
        line
    };
    let norm = "/model/bert/encoder/layer.0/output/LayerNorm/LayerNormalization_output_0";
    let lines = [
        attempt("tiny_encoder", &[]),
        attempt("tiny_encoder", &["--tap", ".*"]),
        attempt("tiny_encoder_plain", &["--tap", "LayerNormalization_output_0"]),
        attempt("tiny_encoder_plain", &["--tap", "/no/such/value"]),
        attempt("tiny_encoder_plain", &["--tap", "("]),
        attempt("tiny_encoder_plain", &["--tap-list", norm]),
        attempt("tiny_encoder_plain", &["--tap-list", &format!("{norm},{}", norm.replace('0', "9"))]),
        // The second does not depend on the first.
        attempt("tiny_encoder_plain", &["--tap-list", &format!("{},{norm}", norm.replace("er.0", "er.1"))]),
    ];
    insta::assert_snapshot!("expose_refused", lines.join("\n"));
    let itself = export("tiny_encoder_plain");
    let line = mendable(&["expose", itself.to_str().unwrap(), "-o", itself.to_str().unwrap()]);
    assert!(line.contains("choose another"), "{line}");
}

#[test]
fn a_plan_without_shown_hidden_states_is_that_with_them() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("rows.tsv");
    write_rows(&data, 120);
    let plan = |model: &str| {
        let mut command = gelora();
        command.arg("plan").arg(export(model)).arg("--data").arg(&data).arg("-o").arg(folder.path().join(model));
        command.args(["--task", "cola", "--subsamples", "2", "--json"]);
        let output = command.assert().success().get_output().stdout.clone();
        let mut json = serde_json::from_slice::<serde_json::Value>(&output).unwrap();
        for state in json["hidden_states"].as_array_mut().unwrap() {
            let name = state.as_object_mut().unwrap().remove("tensor").unwrap();
            assert_eq!(name.as_str().unwrap().starts_with("hidden_states."), model == "tiny_encoder", "{name}");
        }
        json
    };
    let (shown, plain) = (plan("tiny_encoder"), plan("tiny_encoder_plain"));
    assert_eq!(shown["hidden_states"], plain["hidden_states"]);
    assert_eq!(shown["blocks"], plain["blocks"]);
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

/// `gelora` alone in a folder, as in a package that only plans.
#[cfg(all(unix, not(feature = "train")))]
fn alone(folder: &Path) -> Command {
    let program = folder.join("gelora");
    std::fs::copy(assert_cmd::cargo::cargo_bin("gelora"), &program).unwrap();
    let mut command = Command::new(program);
    command.env("NO_COLOR", "1");
    command
}

#[cfg(all(unix, not(feature = "train")))]
#[test]
fn without_the_program_that_trains_all_else_works() {
    let folder = tempfile::tempdir().unwrap();
    let train = ["train", "model", "--plan", "plan.json", "--data", "train.tsv", "-o", "out"];
    let line = |command: &mut Command| {
        let output = command.assert().code(1).get_output().clone();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        stderr
    };
    let not_there = line(alone(folder.path()).args(train));
    assert!(not_there.contains("gelora-train is not beside") && not_there.contains("package"), "{not_there}");
    alone(folder.path()).arg("--help").assert().success();
    alone(folder.path()).args(["train", "--help"]).assert().success();
    let Some(library) = crate::runtime::library().map(|library| library.path()) else { return };
    let doctor = |arguments: &[&str]| {
        let mut command = alone(folder.path());
        command.arg("doctor").args(arguments).arg("--ort-lib").arg(library).assert()
    };
    let told = doctor(&["--json"]).success().get_output().clone();
    let json: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!((&json["libtorch"]["built_in"], &json["missing"]), (&false.into(), &serde_json::json!([])));
    let notes = json["notes"].as_array().unwrap();
    assert!(notes.iter().any(|note| note.as_str().unwrap().contains("gelora-train is not beside")), "{notes:?}");
    // One that the loader refuses, and one of another version.
    let other = folder.path().join("gelora-train");
    let script = |body: &str| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::write(&other, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&other, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    script(
        "echo \"$0: error while loading shared libraries: libtorch_cpu.so: cannot open shared object file\" >&2; exit 127",
    );
    let refused = line(alone(folder.path()).args(train));
    assert!(refused.contains("cannot be started: libtorch_cpu.so: cannot open shared object file;"), "{refused}");
    let told = doctor(&[]).code(1).get_output().clone();
    assert!(String::from_utf8(told.stderr).unwrap().contains("libtorch_cpu.so: cannot open"));
    script("echo 0.0.9");
    let older = line(alone(folder.path()).args(train));
    assert!(older.contains("is version 0.0.9 and this gelora is version"), "{older}");
}

/// The program that plans and merges must not need libtorch to start.
#[cfg(all(target_os = "linux", not(feature = "train")))]
#[test]
fn only_the_program_that_trains_is_linked_against_libtorch() {
    let bytes = std::fs::read(assert_cmd::cargo::cargo_bin("gelora")).unwrap();
    let needs = |library: &[u8]| bytes.windows(library.len()).any(|window| window == library);
    assert!(needs(b"libc.so.6\0"), "the table of needed libraries is in the file");
    assert!(!needs(b"libtorch_cpu.so\0") && !needs(b"libc10.so\0"));
}

/// Rows for the tiny encoders: words of one to four letters; the label says whether the first one begins with a vowel.
pub fn write_rows(path: &Path, rows: usize) {
    let mut state = 1_u32;
    let mut draw = |below: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) % below
    };
    let mut text = String::from("sentence\tlabel\n");
    for _ in 0..rows {
        let words = 3 + draw(5);
        let word = |draw: &mut dyn FnMut(u32) -> u32| -> String {
            (0..=draw(3)).map(|_| char::from(b'a' + draw(26) as u8)).collect()
        };
        let sentence = (0..words).map(|_| word(&mut draw)).collect::<Vec<_>>().join(" ");
        let label = u8::from(sentence.starts_with(['a', 'e', 'i', 'o', 'u']));
        text += &format!("{sentence}\t{label}\n");
    }
    std::fs::write(path, text).unwrap();
}

#[test]
fn a_plan_is_made_with_all_its_files_and_again_from_its_store() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("rows.tsv"), folder.path().join("out"));
    write_rows(&data, 120);
    let plan = || {
        let mut command = gelora();
        command.arg("plan").arg(export("tiny_encoder")).arg("--data").arg(&data).arg("-o").arg(&out);
        command.args(["--task", "cola", "--subsamples", "4", "--json"]);
        command.assert().success().get_output().clone()
    };
    let first = plan();
    let json: serde_json::Value = serde_json::from_slice(&first.stdout).unwrap();
    assert_eq!(json["blocks"].as_array().unwrap().len(), 2);
    let written: serde_json::Value = serde_json::from_slice(&std::fs::read(out.join("plan.json")).unwrap()).unwrap();
    assert_eq!(json, written);
    for file in ["dimensions.csv", "report.html", "adapter_config.json", "store/manifest.json"] {
        assert!(out.join(file).is_file(), "{file}");
    }
    let second = plan();
    assert_eq!(first.stdout, second.stdout);
    assert!(String::from_utf8(second.stderr).unwrap().contains("complete already"));

    let output = gelora().arg("dimension").arg(out.join("store")).args(["--json", "-q"]).assert().success().stderr("");
    let dimensions: serde_json::Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    let manifest = gelora::files::sha256_file(&out.join("store/manifest.json")).unwrap();
    assert_eq!(dimensions["source_sha256"], manifest);
    for (layer, planned) in
        dimensions["layers"].as_array().unwrap().iter().zip_eq(json["hidden_states"].as_array().unwrap())
    {
        assert_eq!(layer["dimension"], planned["dimension"]);
    }
}

#[test]
fn what_is_wrong_with_the_data_is_one_line_and_leaves_earlier_results() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    std::fs::create_dir(&out).unwrap();
    std::fs::write(out.join("plan.json"), "earlier").unwrap();
    let model = export("tiny_encoder");
    let attempt = |content: &str, options: &[&str]| {
        let data = folder.path().join("rows.tsv");
        std::fs::write(&data, content).unwrap();
        let mut arguments = vec!["plan", model.to_str().unwrap(), "--data", data.to_str().unwrap(), "-q"];
        arguments.extend(["-o", out.to_str().unwrap()]);
        arguments.extend(options);
        let line = mendable(&arguments);
        assert_eq!(std::fs::read_to_string(out.join("plan.json")).unwrap(), "earlier");
        line
    };
    assert!(attempt("sentence\nab c\n", &[]).contains("`text`"), "wrong column");
    assert!(attempt("text\nab c\n\"\"\n", &["--quoting", "true"]).contains("line 3"), "empty text");
    assert!(attempt("text\n", &[]).contains("no rows"), "no rows");
    let line = attempt("text\nab c\nd e\nf g\n", &[]);
    assert!(line.contains("50") && line.contains('3'), "few rows: {line}");
    assert!(attempt("text\nab c\n", &["--task", "colla"]).contains("cola"), "unknown task");
}

/// The same points in every format, with the results of the estimators.
#[test]
fn points_of_files_have_dimensions() {
    let folder = tempfile::tempdir().unwrap();
    let mut state = 9_u64;
    let points = ndarray::Array2::from_shape_simple_fn((400, 3), || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32
    });
    let (single, double, tensors) =
        (folder.path().join("a.npy"), folder.path().join("b.npy"), folder.path().join("c.safetensors"));
    ndarray_npy::write_npy(&single, &points).unwrap();
    ndarray_npy::write_npy(&double, &points.mapv(f64::from)).unwrap();
    let bytes: Vec<u8> = points.iter().flat_map(|value| value.to_le_bytes()).collect();
    let view =
        |shape: Vec<usize>| safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, &bytes).unwrap();
    let named = [("layer", view(vec![400, 3])), ("flat", view(vec![1200]))];
    std::fs::write(&tensors, safetensors::serialize(named, None).unwrap()).unwrap();

    let layers = |path: &Path| {
        let output = gelora().arg("dimension").arg(path).args(["--also", "all", "--json", "-q"]).assert().success();
        let json: serde_json::Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
        assert_eq!(json["source_sha256"], gelora::files::sha256_file(path).unwrap());
        assert_eq!(json["gelora_version"], env!("CARGO_PKG_VERSION"));
        json["layers"].as_array().unwrap().clone()
    };
    let (mut single, double, tensors) = (layers(&single), layers(&double), layers(&tensors));
    assert_eq!((single.len(), tensors.len()), (1, 1));
    let dimension = single[0]["dimension"].as_f64().unwrap();
    assert!((2.5..3.5).contains(&dimension), "{dimension}");
    assert!((double[0]["dimension"].as_f64().unwrap() - dimension).abs() < 1e-9);
    assert_eq!(single[0]["gride"].as_array().unwrap().len(), 6);
    assert!((2.3..3.3).contains(&single[0]["levina_bickel"]["dimension"].as_f64().unwrap()));
    assert!((2.3..3.5).contains(&single[0]["persistent_homology"]["dimension"].as_f64().unwrap()));
    assert_eq!(tensors[0]["layer"], "layer");
    single[0]["layer"] = tensors[0]["layer"].clone();
    assert_eq!(single, tensors);
}

#[test]
fn files_that_hold_no_points_name_the_cure() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let flat = folder.path().join("flat.npy");
    ndarray_npy::write_npy(&flat, &ndarray::Array1::<f32>::zeros(100)).unwrap();
    let whole = folder.path().join("whole.npy");
    ndarray_npy::write_npy(&whole, &ndarray::Array2::<i32>::zeros((100, 2))).unwrap();
    let empty = safetensors::serialize(Vec::<(&str, safetensors::tensor::TensorView)>::new(), None).unwrap();
    let lines = [
        mendable(&["dimension", &file("empty.npy", b"")]),
        mendable(&["dimension", &file("text.npy", b"1 2 3")]),
        mendable(&["dimension", flat.to_str().unwrap()]),
        mendable(&["dimension", whole.to_str().unwrap()]),
        mendable(&["dimension", &file("none.safetensors", &empty)]),
        mendable(&["dimension", &file("broken.safetensors", b"12345678901")]),
        mendable(&["dimension", flat.to_str().unwrap(), "--tensor", "a"]),
        mendable(&["dimension", flat.to_str().unwrap(), "--also", "pca"]),
        mendable(&["dimension", flat.to_str().unwrap(), "--also", "ph", "--alpha", "-1"]),
    ];
    insta::assert_snapshot!("dimension_refused", lines.join("\n").replace(folder.path().to_str().unwrap(), "folder"));
}

#[test]
fn rows_without_labels_are_predicted() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("rows.tsv"), folder.path().join("out.jsonl"));
    std::fs::write(&data, "body\nab c\nthe cat sees a dog\n").unwrap();
    let mut command = gelora();
    command.arg("evaluate").arg(export("tiny_encoder")).arg("--data").arg(&data).args(["--text", "body"]);
    command.arg("--labels").arg("no,yes").arg("--predictions").arg(&out);
    let output = command.assert().success().get_output().clone();
    assert!(String::from_utf8(output.stderr).unwrap().contains("no column of labels"));
    let lines = std::fs::read_to_string(&out).unwrap();
    let rows: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 2);
    assert!(["no", "yes"].contains(&rows[0]["prediction"].as_str().unwrap()) && rows[0]["label"].is_null());

    // A column named explicitly must exist.
    let model = export("tiny_encoder");
    let line = mendable(&[
        "evaluate",
        model.to_str().unwrap(),
        "--data",
        data.to_str().unwrap(),
        "--text",
        "body",
        "--label",
        "kind",
        "--predictions",
        out.to_str().unwrap(),
    ]);
    assert!(line.contains("no column `kind`"), "{line}");
}

#[test]
fn projections_have_the_names_that_are_printed() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("rows.tsv");
    write_rows(&data, 100);
    let plan = |projections: &str| {
        let mut command = gelora();
        command
            .arg("plan")
            .arg(export("tiny_encoder"))
            .arg("--data")
            .arg(&data)
            .arg("-o")
            .arg(folder.path().join("out"));
        command.args(["--task", "cola", "--subsamples", "0", "--json", "--projections", projections]);
        command
    };
    let json = |mut command: Command| -> serde_json::Value {
        serde_json::from_slice(&command.assert().success().get_output().stdout).unwrap()
    };
    let plans = [json(plan("feed_forward")), json(plan("feed-forward"))];
    assert_eq!(plans[0]["blocks"], plans[1]["blocks"]);
    assert_eq!(plans[0]["blocks"][0]["modules"].as_array().unwrap().len(), 2);
    let output = plan("query_key_value").assert().code(1).get_output().clone();
    let line = String::from_utf8(output.stderr).unwrap();
    assert!(line.contains("one of query-key-value; it has query, key, value, output, feed-forward"), "{line}");
}

#[test]
fn a_checkpoint_of_another_model_is_told_before_anything_is_computed() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    std::fs::create_dir(&model).unwrap();
    for file in ["model.onnx", "config.json", "tokenizer.json"] {
        std::fs::copy(export("tiny_encoder").join(file), model.join(file)).unwrap();
    }
    // The same shapes, other values, and names that are not in the graph.
    let bytes = std::fs::read(export("tiny_encoder").join("model.safetensors")).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let text = String::from_utf8(bytes[8..8 + header].to_vec()).unwrap().replace("bert.", "tree.");
    let mut other = [&bytes[..8], text.as_bytes()].concat();
    other.extend(
        bytes[8 + header..]
            .as_chunks::<4>()
            .0
            .iter()
            .flat_map(|value| (f32::from_le_bytes(*value) + 1.0).to_le_bytes()),
    );
    std::fs::write(model.join("model.safetensors"), other).unwrap();
    gelora()
        .arg("inspect")
        .arg(&model)
        .arg("--no-self-check")
        .assert()
        .code(1)
        .stderr(predicate::str::contains("the checkpoint of another model"));
    let data = folder.path().join("rows.tsv");
    write_rows(&data, 100);
    let out = folder.path().join("out");
    let arguments = ["plan", model.to_str().unwrap(), "--data", data.to_str().unwrap(), "--task", "cola", "-o"];
    let line = mendable(&[&arguments[..], &[out.to_str().unwrap()]].concat());
    assert!(line.contains("the checkpoint of another model") && !out.exists(), "{line}");
}

#[test]
fn a_plan_says_that_texts_were_cut() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("rows.tsv");
    write_rows(&data, 120);
    let mut command = gelora();
    command.arg("plan").arg(export("tiny_encoder")).arg("--data").arg(&data).arg("-o").arg(folder.path().join("out"));
    command.args(["--task", "cola", "--subsamples", "0", "--max-length", "8"]);
    let notes = String::from_utf8(command.assert().success().get_output().stderr.clone()).unwrap();
    assert!(notes.contains("of 120 rows are longer than 8 tokens and were cut"), "{notes}");
}

#[test]
fn options_that_do_not_fit_a_language_model_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("texts.jsonl");
    std::fs::write(&data, "{\"text\": \"ab c\"}\n").unwrap();
    let model = export("tiny_encoder");
    let base = ["evaluate", model.to_str().unwrap(), "--data", data.to_str().unwrap(), "--task", "causal-lm"];
    for (option, value) in [("--metrics", "accuracy"), ("--label", "kind"), ("--labels", "a,b")] {
        let line = mendable(&[&base[..], &[option, value]].concat());
        assert!(line.starts_with(option) && line.contains("leave it out"), "{line}");
    }
}

#[test]
fn a_head_of_another_task_is_told_before_anything_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("rows.tsv"), folder.path().join("out"));
    write_rows(&data, 120);
    let (model, data, out) = (export("tiny_encoder"), data.to_str().unwrap(), out.to_str().unwrap());
    let model = model.to_str().unwrap();
    let not_tokens = "does not give a logit for every token of the vocabulary; export it with its language-model head";
    let line = mendable(&["plan", model, "--data", "absent.jsonl", "--task", "causal-lm", "-o", out]);
    assert!(line.contains(not_tokens), "{line}");
    let line = mendable(&["evaluate", model, "--data", "absent.jsonl", "--task", "instruct"]);
    assert!(line.contains(not_tokens), "{line}");

    // A plan belongs to the base model, whatever its head: a plan that cannot be trained is reported.
    let squad = folder.path().join("squad.json");
    let answer = serde_json::json!({"text": "cat", "answer_start": 4});
    let question = serde_json::json!({"id": "1", "question": "who sees?", "answers": [answer]});
    let paragraph = serde_json::json!({"context": "the cat sees a dog", "qas": [question]});
    std::fs::write(&squad, serde_json::json!({"data": [{"paragraphs": [paragraph]}]}).to_string()).unwrap();
    let mut command = gelora();
    command.args(["plan", model, "--data", squad.to_str().unwrap(), "--task", "squad", "-o", out]);
    let notes = String::from_utf8(command.assert().failure().get_output().stderr.clone()).unwrap();
    assert!(notes.contains("nothing can be trained for this task") && notes.contains("`start_logits`"), "{notes}");

    #[cfg(feature = "train")]
    {
        let plan = folder.path().join("plan");
        let mut command = gelora();
        command.args(["plan", model, "--data", data, "--subsamples", "0", "--text", "sentence", "-o"]).arg(&plan);
        command.assert().success();
        let plan = plan.to_str().unwrap();
        let train = |more: &[&str]| mendable(&[&["train", model, "--plan", plan, "-o", out], more].concat());
        let line = train(&["--data", "absent.jsonl", "--task", "causal-lm"]);
        assert!(line.contains(not_tokens), "{line}");
        let line = train(&["--data", data, "--task", "cola", "--labels", "0,1,2"]);
        assert!(line.contains("its head tells 2 classes apart, and the rows have 3 (0, 1, 2)"), "{line}");
        let line = train(&["--data", data, "--task", "cola", "--patience", "2"]);
        assert!(line.contains("--patience needs rows to evaluate on; name them (--validation)"), "{line}");
        std::fs::write(folder.path().join("batches.json"), "[[1]]").unwrap();
        let batches = folder.path().join("batches.json");
        let line = train(&["--data", data, "--task", "cola", "--batches", batches.to_str().unwrap()]);
        assert!(line.starts_with("--batches in ") && line.contains("write JSON such as [[[0, 5], [3]]]"), "{line}");
    }

    // Fewer classes than the head distinguishes, and more.
    let line = mendable(&["evaluate", model, "--data", data, "--task", "cola", "--labels", "0,1,2"]);
    assert!(line.contains("its head tells 2 classes apart, and the rows have 3 (0, 1, 2)"), "{line}");
    assert!(line.contains("--labels (the rows may lack some), or export the model with 3 labels"), "{line}");
}

#[cfg(feature = "train")]
#[test]
fn a_configuration_with_an_unknown_key_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.toml");
    std::fs::write(&config, "[model]\npath = \"m\"\n[data]\ntrian = \"t.tsv\"\n[output]\nfolder = \"o\"\n").unwrap();
    let line = mendable(&["run", config.to_str().unwrap()]);
    assert!(line.contains("trian") && line.contains("train"), "{line}");
}

#[cfg(feature = "train")]
#[test]
fn a_run_goes_to_the_end_and_is_done_once() {
    let folder = tempfile::tempdir().unwrap();
    write_rows(&folder.path().join("train.tsv"), 160);
    write_rows(&folder.path().join("dev.tsv"), 60);
    let config = folder.path().join("config.toml");
    let model = export("tiny_encoder");
    let text = format!(
        "[model]\npath = '{}'\n[data]\ntask = 'cola'\ntrain = 'train.tsv'\ndev = 'dev.tsv'\n[plan]\nsubsamples = 2\n\
         [train]\nepochs = 2\n[output]\nfolder = 'out'\n",
        model.display()
    );
    std::fs::write(&config, &text).unwrap();
    let run = || gelora().arg("run").arg(&config).arg("--json").assert().success().get_output().clone();
    let first = run();
    let json: serde_json::Value = serde_json::from_slice(&first.stdout).unwrap();
    assert_eq!(json["evaluation"]["dev"]["after"]["rows"], 60);
    let trained = json["training"]["validation"][0][1].as_f64().unwrap();
    let merged = json["evaluation"]["dev"]["after"]["metrics"][0]["value"].as_f64().unwrap();
    assert!((trained - merged).abs() < 1e-9, "the trainer says {trained}, ONNX Runtime on the merged export {merged}");
    for file in ["adapter/adapter_model.safetensors", "merged/model.onnx", "merged/model.safetensors", "run.json"] {
        assert!(folder.path().join("out").join(file).is_file(), "{file}");
    }

    let second = run();
    assert_eq!(first.stdout, second.stdout);
    let notes = String::from_utf8(second.stderr).unwrap();
    assert_eq!(notes.matches("taken from an earlier run").count(), 4, "{notes}");

    // With another setting of the training the plan stays, and the rest is done again.
    std::fs::write(&config, text.replace("epochs = 2", "epochs = 1\nlearning_rate = 1e-12")).unwrap();
    let notes = String::from_utf8(run().stderr).unwrap();
    assert_eq!(notes.matches("taken from an earlier run").count(), 1, "{notes}");
    assert!(notes.contains("training did not improve matthews on") && notes.contains("dev.tsv: "), "{notes}");

    // A plan that was edited is not overwritten.
    let plan = folder.path().join("out/plan.json");
    let edited = std::fs::read_to_string(&plan).unwrap() + " ";
    std::fs::write(&plan, &edited).unwrap();
    let line = mendable(&["run", config.to_str().unwrap(), "-q"]);
    assert!(line.contains("was edited") && line.contains("gelora train --plan"), "{line}");
    assert_eq!(std::fs::read_to_string(&plan).unwrap(), edited);
}
