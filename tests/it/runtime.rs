//! Sessions: what they report about a model, what they compute, and how they fail.

use std::path::Path;

use gelora::dataset::Positions;
use gelora::onnx::DataType;
use gelora::onnx::wire::Writer;
use gelora::runtime::{Device, InferenceSession, Library, RuntimeError, SessionSettings, Tokens, feed};

use crate::testing::missing;
use crate::tiny::{self, Kind};

/// ONNX Runtime, or `None` with a message where there is none.
pub fn library() -> Option<&'static Library> {
    match Library::load(None) {
        Ok(library) => Some(library),
        Err(error @ RuntimeError::LibraryMissing { .. }) => {
            missing(&error.to_string());
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn cpu() -> SessionSettings {
    SessionSettings { device: Device::Cpu, threads: Some(1), ..Default::default() }
}

const TOKENS: Tokens<'static> = Tokens {
    rows: 2,
    length: 3,
    ids: &[1, 2, 3, 4, 5, 0],
    mask: &[1, 1, 1, 1, 1, 0],
    type_ids: &[0; 6],
    positions: Positions::FromZero,
};

#[test]
fn a_session_describes_and_runs_a_model() {
    let Some(library) = library() else { return };
    assert!(library.version().starts_with("1."), "{}", library.version());
    assert!(library.providers().iter().any(|name| name == "CPUExecutionProvider"), "{:?}", library.providers());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, tiny::encoder(Kind::Good)).unwrap();

    let mut from_file = InferenceSession::from_file(library, &path, &cpu()).unwrap();
    let names: Vec<&str> = from_file.inputs().iter().map(|input| input.name.as_str()).collect();
    assert_eq!(names, ["input_ids", "attention_mask"]);
    assert_eq!(from_file.inputs()[0].data_type, Some(DataType::Int64));
    assert_eq!(from_file.device(), Device::Cpu);
    assert_eq!(from_file.provider_of_matrix_products(), "CPUExecutionProvider (3 matrix products)");

    let inputs = feed(from_file.inputs(), &TOKENS).unwrap();
    let outputs = from_file.run(&inputs.tensors(), &["hidden_states.1", "hidden_states.0"]).unwrap();
    assert_eq!(outputs[0].shape(), [2, 3, 4]);
    // Token 1, first component: ((1·7 + 0·3) mod 13) / 13 − 0.4.
    assert!((outputs[1][[0, 0, 0]] - (7.0 / 13.0 - 0.4)).abs() < 1e-6);

    let bytes = std::fs::read(&path).unwrap();
    let mut from_bytes = InferenceSession::from_bytes(library, &bytes, folder.path(), &cpu()).unwrap();
    let again = from_bytes.run(&inputs.tensors(), &["hidden_states.1"]).unwrap();
    assert_eq!(again[0], outputs[0]);
}

#[test]
fn cuda_is_never_replaced_silently() {
    let Some(library) = library() else { return };
    if library.has_cuda() {
        println!("skipped: this ONNX Runtime has CUDA");
        return;
    }
    let bytes = tiny::encoder(Kind::Good);
    let settings = |device| SessionSettings { device, ..cpu() };
    let error = InferenceSession::from_bytes(library, &bytes, Path::new("."), &settings(Device::Cuda(0))).unwrap_err();
    assert!(error.to_string().contains("onnxruntime-gpu=="), "{error}");
    let session = InferenceSession::from_bytes(library, &bytes, Path::new("."), &settings(Device::Auto)).unwrap();
    assert_eq!(session.device(), Device::Cpu);
    assert!(session.why().unwrap().contains("no CUDA provider"));
}

#[test]
fn failures_name_the_cure_in_one_line() {
    let Some(library) = library() else { return };
    let folder = tempfile::tempdir().unwrap();
    let bytes = tiny::encoder(Kind::Good);
    let truncated = folder.path().join("truncated.onnx");
    std::fs::write(&truncated, &bytes[..bytes.len() / 2]).unwrap();
    let error = InferenceSession::from_file(library, &truncated, &cpu()).unwrap_err().to_string();
    assert!(error.contains("truncated") && !error.contains('\n'), "{error}");
    let error = InferenceSession::from_file(library, &folder.path().join("none.onnx"), &cpu()).unwrap_err().to_string();
    assert!(error.contains("check the path"), "{error}");

    let mut session = InferenceSession::from_bytes(library, &bytes, folder.path(), &cpu()).unwrap();
    let beyond = Tokens { ids: &[1, 2, 3, 4, 5, 11], ..TOKENS };
    let inputs = feed(session.inputs(), &beyond).unwrap();
    let error = session.run(&inputs.tensors(), &["hidden_states.0"]).unwrap_err();
    assert!(matches!(error, RuntimeError::TokenOutOfRange { id: 11, vocabulary: 11 }), "{error:?}");
    let inputs = feed(session.inputs(), &TOKENS).unwrap();
    let error = session.run(&inputs.tensors(), &["nothing"]).unwrap_err().to_string();
    assert!(error.contains("`nothing` of the model is missing"), "{error}");
    let error = session.run(&inputs.tensors()[..1], &["hidden_states.1"]).unwrap_err().to_string();
    assert!(error.contains("attention_mask") && !error.contains('\n'), "{error}");
}

/// Hidden states of two rows at a time, with a past that the export fixes to as many rows, and a flag of one element.
fn two_rows_with_a_past(past: &str) -> Vec<u8> {
    let mut model = Writer::new();
    model.int(1, 8).message(7, |graph| {
        graph.string(2, "past");
        tiny::node(graph, "Gather", &["table", "input_ids"], &["embedded"], &[]);
        tiny::node(graph, "Size", &["past_key_values.0.key"], &["size"], &[]);
        tiny::node(graph, "Cast", &["size"], &["none"], &[("to", 1)]);
        tiny::node(graph, "Cast", &["use_cache_branch"], &["flag"], &[("to", 1)]);
        tiny::node(graph, "Add", &["none", "flag"], &["nothing"], &[]);
        tiny::node(graph, "Add", &["embedded", "nothing"], &["hidden"], &[]);
        tiny::floats(graph, "table", &[7, 1], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        tiny::value(graph, 11, "input_ids", 7, &["2", "sequence"]);
        tiny::value(graph, 11, "past_key_values.0.key", 1, &["2", "3", past, "4"]);
        tiny::value(graph, 11, "use_cache_branch", 9, &["1"]);
        tiny::value(graph, 12, "hidden", 1, &["2", "sequence", "1"]);
    });
    model.message(8, |opset| {
        opset.string(1, "").int(2, 17);
    });
    model.into_bytes()
}

#[test]
fn a_batch_that_was_filled_up_is_cut_beside_an_empty_past() {
    let Some(library) = library() else { return };
    let run = |past: &str, rows: usize, ids: &[i64]| {
        let mut session =
            InferenceSession::from_bytes(library, &two_rows_with_a_past(past), Path::new("."), &cpu()).unwrap();
        let length = ids.len() / rows;
        let (mask, type_ids) = (vec![1; ids.len()], vec![0; ids.len()]);
        let tokens = Tokens { rows, length, ids, mask: &mask, type_ids: &type_ids, positions: Positions::FromZero };
        let inputs = feed(session.inputs(), &tokens).unwrap();
        let hidden = session.run(&inputs.tensors(), &["hidden"]).unwrap().remove(0);
        (hidden.shape().to_vec(), hidden.into_iter().collect::<Vec<f32>>())
    };
    for past in ["past", "0"] {
        assert_eq!(run(past, 1, &[3, 5, 6]), (vec![1, 3, 1], vec![3.0, 5.0, 6.0]), "{past}");
        assert_eq!(run(past, 2, &[3, 5, 6, 1]), (vec![2, 2, 1], vec![3.0, 5.0, 6.0, 1.0]), "{past}");
    }
}

#[test]
fn another_library_cannot_be_loaded_beside_the_first() {
    let Some(library) = library() else { return };
    assert!(Library::load(Some(library.path())).is_ok());
    let other = tempfile::NamedTempFile::new().unwrap();
    let error = Library::load(Some(other.path())).unwrap_err();
    assert!(matches!(error, RuntimeError::AlreadyLoaded { .. }), "{error:?}");
}
