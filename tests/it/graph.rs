//! Blocks, heads and edits on the tiny exports of `onnx/`, checked with the onnx package and ONNX Runtime.

use gelora::activations::{Pooling, pooled_model};
use gelora::onnx::{
    Edit, HeadPooling, Role, Transformer, WeightLayout, active_dropout, append_head, disable_training_mode,
};

use super::python::{check, repository, text};

const EXPORTS: [&str; 3] = ["tiny_encoder", "tiny_encoder_dynamo", "tiny_encoder_base"];

fn open(name: &str) -> Transformer {
    Transformer::open(repository("onnx").join(name).join("model.onnx")).expect("the fixture opens")
}

#[test]
fn both_exporters_have_the_same_blocks() {
    for name in EXPORTS {
        let model = open(name);
        assert_eq!(model.states().unwrap().values, ["hidden_states.0", "hidden_states.1", "hidden_states.2"]);
        let blocks = model.blocks().unwrap();
        assert_eq!(blocks.len(), 2);
        for (number, block) in blocks.iter().enumerate() {
            assert_eq!(block.index, number + 1);
            let roles: Vec<Role> = block.linears.iter().map(|linear| linear.role).collect();
            let mlp = Role::FeedForward;
            assert_eq!(roles, [Role::Query, Role::Key, Role::Value, Role::Output, mlp, mlp], "{name}");
            let module = block.linears[0].module.as_deref().unwrap();
            assert!(module.ends_with(&format!("encoder.layer.{number}.attention.self.query")), "{module}");
            assert!(block.linears.iter().all(|linear| linear.bias.is_some() && linear.shared_with.is_empty()));
            assert_eq!((block.linears[4].in_features, block.linears[4].out_features), (16, 32));
        }
    }
}

#[test]
fn the_head_is_trained_without_the_pooler() {
    for name in ["tiny_encoder", "tiny_encoder_dynamo"] {
        let model = open(name);
        let head = model.head().unwrap().expect("it has a head");
        assert_eq!(head.output, "logits");
        assert_eq!(head.linears.len(), 2, "pooler and classifier");
        let names: Vec<&str> = head.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        assert_eq!(names, ["model.classifier.weight", "model.classifier.bias"], "{name}");
        assert!(head.tensors.iter().all(|tensor| !tensor.transposed && !tensor.shared));
        assert_eq!(head.linears[1].layout, WeightLayout::OutIn);
    }
    let base = open("tiny_encoder_base");
    assert_eq!(base.head().unwrap(), None);
}

#[test]
fn pooled_outputs_are_means_of_the_hidden_states() {
    let folder = tempfile::tempdir().unwrap();
    for name in EXPORTS {
        let model = open(name);
        let out = folder.path().join(format!("{name}.onnx"));
        std::fs::write(&out, pooled_model(&model, &Pooling::Mean).unwrap()).unwrap();
        check("graph_checks.py", &["pooling", text(model.path()), text(&out)]);
    }
}

#[test]
fn a_head_can_be_added_to_an_export_without_one() {
    let model = open("tiny_encoder_base");
    let folder = tempfile::tempdir().unwrap();
    let weight: Vec<f32> = (0..32).map(|i| (i as f32 * 0.7).sin()).collect();
    for pooling in [HeadPooling::First, HeadPooling::Mean, HeadPooling::Last] {
        let edit = append_head(&model, pooling, &weight, &[0.25, -0.5]).unwrap();
        let out = folder.path().join(format!("{}.onnx", pooling.as_str()));
        edit.write(&model, &out).unwrap();
        let written = std::fs::read(&out).unwrap();
        assert!(written.starts_with(model.file_bytes()), "appending leaves the rest as it was");
        assert_eq!(written, edit.apply_to_bytes(&model).unwrap());
        check("graph_checks.py", &[&format!("head-{}", pooling.as_str()), text(model.path()), text(&out)]);
        let with_head = Transformer::open(&out).unwrap();
        let head = with_head.head().unwrap().expect("now it has a head");
        let names: Vec<&str> = head.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        assert_eq!(names, ["classifier.weight", "classifier.bias"]);
        let again = append_head(&with_head, pooling, &weight, &[0.25, -0.5]).unwrap();
        assert!(again.apply_to_bytes(&with_head).unwrap_err().to_string().contains("already"));
    }
    let error = append_head(&model, HeadPooling::First, &weight[..30], &[0.0, 0.0]).unwrap_err();
    assert!(error.to_string().contains("does not fit"), "{error}");
}

#[test]
fn active_dropout_is_found_and_switched_off() {
    for name in EXPORTS {
        assert!(active_dropout(&open(name)).is_empty());
        assert!(disable_training_mode(&open(name)).unwrap().is_empty());
    }
    let model = open("tiny_encoder_dropout");
    assert!(!active_dropout(&model).is_empty());
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("model.onnx");
    disable_training_mode(&model).unwrap().write(&model, &out).unwrap();
    let quiet = Transformer::open(&out).unwrap();
    assert!(active_dropout(&quiet).is_empty());
    assert_eq!(quiet.graph.nodes.len(), model.graph.nodes.len());
    check("graph_checks.py", &["dropout", text(model.path()), text(&out), text(open("tiny_encoder").path())]);
}

#[test]
fn only_the_replaced_bytes_change() {
    let model = open("tiny_encoder");
    let linear = &model.blocks().unwrap()[0].linears[0];
    let tensor = &model.graph.initializers[linear.weight_index];
    let bytes = vec![7u8; model.bytes(tensor).unwrap().len()];
    let mut edit = Edit::new();
    edit.replace_tensor(&model, tensor, bytes.clone()).unwrap();
    let changed = edit.apply_to_bytes(&model).unwrap();
    let gelora::onnx::TensorData::InFile(range) = &tensor.data else { panic!("stored in the file") };
    assert_eq!(changed[range.clone()], bytes);
    assert_eq!(changed[..range.start], model.file_bytes()[..range.start]);
    assert_eq!(changed[range.end..], model.file_bytes()[range.end..]);
    let error = Edit::new().replace_tensor(&model, tensor, vec![0; 3]).unwrap_err();
    assert!(error.to_string().contains("has 1024 bytes, its replacement 3"), "{error}");
}
