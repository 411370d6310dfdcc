//! Hidden states, blocks, checkpoint and configuration that disagree: reported by `inspect`, refused by `plan`.

use std::path::Path;
use std::process::Command;

use crate::python::repository;

const NORM: &str = "LayerNorm/LayerNormalization_output_0";

fn gelora(arguments: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_gelora")).args(arguments).arg("--quiet").output().expect("it starts");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8(text).expect("text"))
}

/// A copy of the tiny encoder of two layers, with another number of layers in its configuration.
fn encoder(folder: &Path, layers: usize) {
    let export = repository("onnx/tiny_encoder_plain");
    for file in ["model.onnx", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(export.join(file), folder.join(file)).expect("a file");
    }
    let config = std::fs::read_to_string(export.join("config.json")).expect("a file");
    let config = config.replace("\"num_hidden_layers\": 2", &format!("\"num_hidden_layers\": {layers}"));
    std::fs::write(folder.join("config.json"), config).expect("a file");
}

/// The messages of `inspect` and `plan` about it; a plan computes nothing.
fn refused(model: &Path) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let (data, out) = (folder.path().join("rows.tsv"), folder.path().join("out"));
    let rows: String = (0..150).map(|row| format!("the dog sees {row} cats\n")).collect();
    std::fs::write(&data, format!("text\n{rows}")).expect("a file");
    let text = |path: &Path| path.to_str().expect("text").to_owned();
    let (code, shown) = gelora(&["inspect", &text(model), "--no-self-check"]);
    assert_eq!(code, 1, "{shown}");
    for command in ["plan", "extract"] {
        let (code, line) = gelora(&[command, &text(model), "--data", &text(&data), "-o", &text(&out)]);
        assert_eq!((code, line.lines().count()), (1, 1), "{line}");
        assert!(!out.exists());
        let told = line.split("model.onnx: ").nth(1).unwrap_or_default().trim();
        assert!(!told.is_empty() && shown.contains(told), "{line}\n{shown}");
    }
    shown
}

#[test]
fn a_configuration_with_another_number_of_layers_is_told() {
    let folder = tempfile::tempdir().unwrap();
    encoder(folder.path(), 3);
    let shown = refused(folder.path());
    assert!(shown.contains("config.json says num_hidden_layers 3, but the hidden states of the export have 2 blocks"));
    encoder(folder.path(), 2);
    let (code, shown) = gelora(&["inspect", folder.path().to_str().unwrap(), "--no-self-check"]);
    assert!(code == 0 && !shown.contains("note"), "{shown}");
}

#[test]
fn hidden_states_that_are_not_between_the_blocks_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let (embeddings, first, second) = (
        format!("/model/bert/embeddings/{NORM}"),
        format!("/model/bert/encoder/layer.0/output/{NORM}"),
        format!("/model/bert/encoder/layer.1/output/{NORM}"),
    );
    let middle = format!("/model/bert/encoder/layer.1/attention/output/{NORM}");
    // With one block in the configuration, which then does not show it.
    let model = folder.path().join("model");
    std::fs::create_dir(&model).unwrap();
    encoder(&model, 1);
    let told = |name: &str, states: [&str; 2]| {
        let out = folder.path().join(name);
        let taps = states.join(",");
        let arguments =
            ["expose", model.to_str().unwrap(), "--no-check", "--tap-list", &taps, "-o", out.to_str().unwrap()];
        let (code, line) = gelora(&arguments);
        assert_eq!(code, 0, "{line}");
        for file in ["model.safetensors", "tokenizer.json", "config.json"] {
            std::fs::copy(model.join(file), out.join(file)).unwrap();
        }
        refused(&out)
    };
    let both = told("both", [&embeddings, &second]);
    assert!(both.contains("block 1 of bert.encoder.layer.0 and bert.encoder.layer.1"), "{both}");
    let behind = told("behind", [&first, &second]);
    assert!(behind.contains("6 products with a constant weight lie in no block and not in the head"), "{behind}");
    let before = told("before", [&embeddings, &first]);
    assert!(before.contains("is not the end of the last block: 6 weights of its layers lie behind it"), "{before}");
    let inside = told("inside", [&first, &middle]);
    assert!(inside.contains("is not the end of the last block: 2 weights of its layers lie behind it"), "{inside}");
}
