use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::one_line;
use super::{Device, Feeder, Found, InputTensor, Library, RuntimeError, Tokens};
use crate::dataset::Positions;
use crate::onnx::{DataType, Dimension, ValueInfo};

/// Compiles a shared library from C; `None` (with a message) where there is no compiler.
fn compile(folder: &Path, name: &str, source: &str) -> Option<PathBuf> {
    let code = folder.join(format!("{name}.c"));
    let library = folder.join(format!("lib{name}.so"));
    std::fs::write(&code, source).unwrap();
    match Command::new("gcc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&code).status() {
        Ok(status) => {
            assert!(status.success());
            Some(library)
        }
        Err(error) => {
            crate::testing::missing(&format!("gcc: {error}"));
            None
        }
    }
}

const OLD: &str = r#"
#include <stddef.h>
typedef struct { const void *(*get_api)(unsigned); const char *(*version)(void); } Base;
static const void *get_api(unsigned wanted) { (void)wanted; return NULL; }
static const char *version(void) { return VERSION; }
static const Base base = { get_api, version };
const Base *OrtGetApiBase(void) { return &base; }
"#;

#[test]
fn what_is_no_library_is_refused_with_a_cure() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("libonnxruntime.so");
    std::fs::write(&text, "this is no library\n".repeat(20)).unwrap();
    let error = Library::probe(&text).unwrap_err();
    assert!(matches!(error, RuntimeError::NotALibrary { .. }), "{error:?}");
    let message = error.to_string();
    assert!(message.contains("invalid ELF header") && message.contains("`ort_lib`"), "{message}");
    assert!(!message.contains('\n'), "{message}");

    let missing = Library::probe(&folder.path().join("nothing.so")).unwrap_err();
    assert!(missing.to_string().contains("No such file"), "{missing}");
    let directory = Library::probe(folder.path()).unwrap_err();
    assert!(directory.to_string().contains("not a regular file"), "{directory}");
}

#[cfg(unix)]
#[test]
fn a_pipe_does_not_hang() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe.so");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let error = Library::probe(&pipe).unwrap_err();
    assert!(error.to_string().contains("not a regular file"), "{error}");
}

#[test]
fn another_library_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let Some(other) = compile(folder.path(), "other", "int something(void) { return 1; }") else { return };
    let error = Library::probe(&other).unwrap_err();
    assert!(matches!(error, RuntimeError::NotOnnxRuntime { .. }), "{error:?}");
    let Some(null) = compile(folder.path(), "null", "const void *OrtGetApiBase(void) { return 0; }") else { return };
    let error = Library::probe(&null).unwrap_err();
    assert!(matches!(error, RuntimeError::NotOnnxRuntime { .. }), "{error:?}");
}

#[test]
fn an_old_library_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (name, version) in [("old", "1.17.3"), ("liar", "1.99.0"), ("ancient", "0.5"), ("odd", "unknown")] {
        let source = OLD.replace("VERSION", &format!("\"{version}\""));
        let Some(library) = compile(folder.path(), name, &source) else { return };
        let error = Library::probe(&library).unwrap_err();
        let RuntimeError::LibraryTooOld { found, .. } = &error else { panic!("{version}: {error:?}") };
        assert_eq!(found, version);
        assert!(error.to_string().contains("install onnxruntime=="), "{error}");
    }
}

#[test]
fn the_search_keeps_its_order_and_never_skips_what_was_named() {
    let folder = tempfile::tempdir().unwrap();
    let make = |name: &str| {
        let place = folder.path().join(name);
        std::fs::create_dir_all(&place).unwrap();
        std::fs::write(place.join("libonnxruntime.so.1.9.0"), "").unwrap();
        std::fs::write(place.join("libonnxruntime.so.1.30.0"), "").unwrap();
        std::fs::write(place.join("libonnxruntime_providers_shared.so"), "").unwrap();
        place
    };
    let (beside, venv, named) = (make("beside"), make("venv"), make("named"));
    let places = [(beside.clone(), Found::BesideBinary), (venv.clone(), Found::VirtualEnvironment)];
    let newest = |place: &Path| place.join("libonnxruntime.so.1.30.0");
    let find = super::library::find;

    assert_eq!(find(None, None, &places).unwrap(), (newest(&beside), Found::BesideBinary));
    assert_eq!(find(None, None, &places[1..]).unwrap(), (newest(&venv), Found::VirtualEnvironment));
    assert_eq!(find(None, Some(&venv), &places).unwrap(), (newest(&venv), Found::Environment));
    assert_eq!(find(Some(&named), Some(&venv), &places).unwrap(), (newest(&named), Found::Named));

    let nowhere = folder.path().join("nowhere");
    let error = find(Some(&nowhere), None, &places).unwrap_err();
    assert!(error.to_string().contains("`ort_lib`"), "{error}");
    let error = find(None, Some(&nowhere), &places).unwrap_err();
    assert!(error.to_string().contains("ORT_DYLIB_PATH"), "{error}");
    let error = find(None, None, &[(nowhere.clone(), Found::VirtualEnvironment)]).unwrap_err();
    let message = error.to_string();
    assert!(message.contains(&nowhere.display().to_string()) && message.contains("scripts/setup.sh"), "{message}");
}

#[test]
fn devices_are_read() {
    assert_eq!("auto".parse::<Device>().unwrap(), Device::Auto);
    assert_eq!("cpu".parse::<Device>().unwrap(), Device::Cpu);
    assert_eq!("cuda".parse::<Device>().unwrap(), Device::Cuda(0));
    assert_eq!("cuda:3".parse::<Device>().unwrap(), Device::Cuda(3));
    for wrong in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "CPU"] {
        assert!(wrong.parse::<Device>().unwrap_err().to_string().contains("cuda:N"), "{wrong}");
    }
}

#[test]
fn failures_are_explained_in_one_line() {
    let gather = "Non-zero status code returned while running Gather node. Name:'/emb/Gather' Status Message: indices \
                  element out of data bounds, idx=40000 must be within the inclusive range [-30522,30521]";
    let error = RuntimeError::from_run(gather, Some((40000, 9)));
    assert!(matches!(error, RuntimeError::TokenOutOfRange { id: 40000, vocabulary: 30522 }), "{error:?}");
    let positions = gather.replace("30522,30521", "512,511").replace("40000", "512");
    let error = RuntimeError::from_run(&positions, Some((400, 700)));
    assert!(matches!(error, RuntimeError::TooLong { length: 700, positions: 512 }), "{error:?}");
    // A table of positions that begins at 2, and ids that would not fit into it either.
    let error = RuntimeError::from_run(&positions, Some((40000, 511)));
    assert!(error.to_string().ends_with("512 positions; set `max_length` to 510 or less"), "{error}");
    let error = RuntimeError::from_run(&positions, Some((400, 7)));
    assert!(matches!(error, RuntimeError::Run { .. }), "{error:?}");
    let sum = "Non-zero status code returned while running Add node. axis == 1 || axis == largest was false. \
               Attempting to broadcast an axis by a dimension other than 1. 512 by 702\n";
    let error = RuntimeError::from_run(sum, Some((400, 702)));
    assert!(matches!(error, RuntimeError::TooLong { length: 702, positions: 512 }), "{error:?}");
    assert!(matches!(RuntimeError::from_run(sum, Some((400, 7))), RuntimeError::Run { .. }));
    let error = RuntimeError::from_run("Failed to allocate memory for requested buffer of size 9", None);
    assert!(error.to_string().contains("`batch_tokens`"), "{error}");
    assert_eq!(one_line("first\n  second.\n"), "first second");
    assert_eq!(one_line("/onnxruntime_src/a/b.cc:12 void f(int, char) it broke"), "it broke");
    // As printed on a GPU machine.
    let device = "[ONNXRuntimeError] : 1 : FAIL : /onnxruntime_src/a/info.cc:66 operator()(const string&) Invalid device ID: 1, \
                  must be between 0 (inclusive) and 1 (exclusive).";
    assert_eq!(one_line(device), "Invalid device ID: 1, must be between 0 (inclusive) and 1 (exclusive)");
    let none = "[ONNXRuntimeError] : 1 : FAIL : provider_options_utils.h:187 Parse Failed to parse provider option \"device_id\": CUDA \
                failure 100: no CUDA-capable device is detected ; GPU=-1 ; hostname=vm ; file=/onnxruntime_src/x.cc ; line=69 ; expr=cudaGet";
    assert_eq!(one_line(none), "CUDA failure 100: no CUDA-capable device is detected");
    let full = "[with ERRTYPE = cublasStatus_t; bool THRW = true; SUCCTYPE = cublasStatus_t; std::conditional_t<THRW, void, common::Status> = \
                void] CUBLAS failure 3: the resource allocation failed ; GPU=0 ; hostname=vm ; file=/onnxruntime_src/onnxruntime/core/\
                providers/cuda/cuda_stream_handle.cc ; line=79 ; expr=cublasCreate(&cublas_handle_)";
    let error = RuntimeError::from_run(full, None);
    assert!(matches!(error, RuntimeError::OutOfMemory { .. }), "{error:?}");
    assert!(error.to_string().contains("(CUBLAS failure 3: the resource allocation failed)"), "{error}");
}

fn input(name: &str, data_type: DataType, axes: &[Dimension]) -> ValueInfo {
    ValueInfo { name: name.into(), data_type: Some(data_type), shape: Some(axes.to_vec()) }
}

fn free(name: &str) -> Dimension {
    Dimension::Named(name.into())
}

#[test]
fn inputs_are_filled_by_name_in_the_declared_type() {
    let axes = [free("batch"), free("sequence")];
    let past = [free("batch"), Dimension::Fixed(12), free("past"), Dimension::Fixed(64)];
    let inputs = [
        input("input_ids", DataType::Int32, &axes),
        input("attention_mask", DataType::Float, &axes),
        input("position_ids", DataType::Int64, &axes),
        input("past_key_values.0.key", DataType::Float, &past),
        input("use_cache_branch", DataType::Bool, &[Dimension::Fixed(1)]),
        input("pool_weights", DataType::Float, &axes),
    ];
    let mut tokens = Tokens {
        rows: 2,
        length: 3,
        ids: &[1, 2, 3, 4, 5, 0],
        mask: &[1, 1, 1, 1, 1, 0],
        type_ids: &[0; 6],
        positions: Positions::FromZero,
    };
    let feed = Feeder::new(&inputs, &["pool_weights"]).unwrap().feed(&tokens);
    let tensors = feed.tensors();
    assert_eq!(tensors.len(), 5);
    let InputTensor::I32 { shape, data } = tensors[0].1 else { panic!() };
    assert_eq!((shape, data), (&[2, 3][..], &[1, 2, 3, 4, 5, 0][..]));
    let InputTensor::F32 { data, .. } = tensors[1].1 else { panic!() };
    assert_eq!(data, [1.0, 1.0, 1.0, 1.0, 1.0, 0.0]);
    let InputTensor::I64 { data, .. } = tensors[2].1 else { panic!() };
    assert_eq!(data, [0, 1, 2, 0, 1, 2]);
    let InputTensor::F32 { shape, data } = tensors[3].1 else { panic!() };
    assert_eq!((shape, data.len()), (&[2, 12, 0, 64][..], 0));
    let InputTensor::Bool { shape, data } = tensors[4].1 else { panic!() };
    assert_eq!((shape, data), (&[1][..], &[false][..]));
    // As `create_position_ids_from_input_ids` of transformers counts for RoBERTa, with padding 0.
    tokens.positions = Positions::BehindPadding(0);
    let feed = Feeder::new(&inputs, &["pool_weights"]).unwrap().feed(&tokens);
    let InputTensor::I64 { data, .. } = feed.tensors()[2].1 else { panic!() };
    assert_eq!(data, [1, 2, 3, 1, 2, 0]);
}

#[test]
fn inputs_that_cannot_be_filled_are_named() {
    let axes = [free("batch"), free("sequence")];
    let error = Feeder::new(&[input("pixel_values", DataType::Float, &axes)], &[]).unwrap_err();
    assert!(error.to_string().contains("`pixel_values` (float32)"), "{error}");
    let error = Feeder::new(&[input("input_ids", DataType::Float, &axes)], &[]).unwrap_err();
    assert!(error.to_string().contains("`input_ids` (float32)"), "{error}");
    let fixed = |rows| [Dimension::Fixed(rows), free("sequence")];
    let both = [input("input_ids", DataType::Int64, &fixed(1)), input("attention_mask", DataType::Int64, &fixed(2))];
    let error = Feeder::new(&both, &[]).unwrap_err();
    assert!(error.to_string().contains("[2, sequence]"), "{error}");
    let three = [free("batch"), free("choices"), free("sequence")];
    let error = Feeder::new(&[input("input_ids", DataType::Int64, &three)], &[]).unwrap_err();
    assert!(error.to_string().contains("[batch, choices, sequence]"), "{error}");
}
