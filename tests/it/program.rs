//! The training program against ONNX Runtime and PEFT.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gelora::onnx::{Model, Transformer};
use gelora::train::{AdapterSpec, LinearBackend, Precision, Program, ProgramOptions, TrainableKind};
use itertools::Itertools;
use safetensors::{Dtype, SafeTensors};
use tch::{Device, Kind, Tensor};

use crate::python::{check, repository, text};

pub(crate) fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// The tensors of a safetensors file, and its metadata.
pub(crate) fn read(path: &Path) -> (BTreeMap<String, Tensor>, BTreeMap<String, String>) {
    let bytes = std::fs::read(path).expect("the script wrote it");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let (_, header) = SafeTensors::read_metadata(&bytes).expect("safetensors");
    let tensors = file.tensors().into_iter().map(|(name, view)| {
        let shape: Vec<i64> = view.shape().iter().map(|d| *d as i64).collect();
        let kind = match view.dtype() {
            Dtype::F64 => Kind::Double,
            Dtype::F32 => Kind::Float,
            Dtype::F16 => Kind::Half,
            Dtype::BF16 => Kind::BFloat16,
            Dtype::I64 => Kind::Int64,
            Dtype::I32 => Kind::Int,
            Dtype::I16 => Kind::Int16,
            Dtype::I8 => Kind::Int8,
            Dtype::U8 => Kind::Uint8,
            Dtype::BOOL => Kind::Bool,
            other => panic!("unexpected type {other:?}"),
        };
        let tensor = if shape.contains(&0) {
            Tensor::zeros(&shape, (kind, Device::Cpu))
        } else {
            Tensor::from_data_size(view.data(), &shape, kind)
        };
        (name, tensor)
    });
    let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
    (tensors.collect(), metadata)
}

/// The reason why two tensors are not equal within the tolerances; `None` if they are.
pub(crate) fn difference(found: &Tensor, expected: &Tensor, relative: f64, absolute: f64) -> Option<String> {
    if found.size() != expected.size() || found.kind() != expected.kind() {
        let describe = |t: &Tensor| format!("{:?} {:?}", t.kind(), t.size());
        return Some(format!("found {}, expected {}", describe(found), describe(expected)));
    }
    let (found, expected) = (found.to_kind(Kind::Double), expected.to_kind(Kind::Double));
    if found.allclose(&expected, relative, absolute, true) {
        return None;
    }
    Some(format!("largest difference {}", (found - expected).abs().max().double_value(&[])))
}

/// The reference values of a model folder; `None` without Python.
fn reference(model: &Path, rank: usize) -> Option<BTreeMap<String, Tensor>> {
    let name = model.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let out = folder(&format!("program_cases_{name}.safetensors"));
    check("program_cases.py", &[text(model), text(&out), &rank.to_string()]).then(|| read(&out).0)
}

/// The inputs of a case, by name.
pub fn inputs_of<'a>(tensors: &'a BTreeMap<String, Tensor>, case: &str) -> Vec<(&'a str, Tensor)> {
    let prefix = format!("{case}.in.");
    tensors.iter().filter_map(|(n, t)| Some((n.strip_prefix(&prefix)?, t.shallow_clone()))).collect()
}

/// Every way to compute the same thing, with a name for messages.
fn ways() -> Vec<(&'static str, ProgramOptions)> {
    let plain = ProgramOptions {
        linear: LinearBackend::Torch,
        fuse: false,
        narrow: false,
        pack: false,
        ..ProgramOptions::default()
    };
    vec![
        ("plain", plain.clone()),
        ("fused", ProgramOptions { fuse: true, ..plain.clone() }),
        ("oneDNN", ProgramOptions { fuse: true, linear: LinearBackend::OneDnn, ..plain.clone() }),
        ("narrowed", ProgramOptions { narrow: true, ..plain.clone() }),
        ("packed", ProgramOptions { fuse: true, pack: true, ..plain }),
        ("default", ProgramOptions::default()),
    ]
}

fn program(model: &Model, options: &ProgramOptions) -> Program {
    Program::new(model, Device::Cpu, options.clone()).expect("a program")
}

fn equals_onnx_runtime(folder: &Path, tensors: &BTreeMap<String, Tensor>) {
    let model = Model::open(folder.join("model.onnx")).expect("the export");
    for (way, options) in ways() {
        let program = program(&model, &options);
        // The first shape follows again after the others: its shape values then come from the cache.
        for case in ["0", "1", "2", "0"] {
            let prefix = format!("{case}.out.");
            let expected: Vec<(&str, &Tensor)> =
                tensors.iter().filter_map(|(name, tensor)| Some((name.strip_prefix(&prefix)?, tensor))).collect();
            let names: Vec<&str> = expected.iter().map(|(name, _)| *name).collect();
            let found = tch::no_grad(|| program.run(&inputs_of(tensors, case), &names)).expect("it runs");
            for ((name, expected), found) in expected.iter().zip_eq(&found) {
                let problem = difference(found, expected, 0.0, 1e-4);
                assert!(problem.is_none(), "case {case}, {way}, {name}: {problem:?}");
            }
            // Zeros at padding where nobody reads it; the same at real tokens.
            let packed = ProgramOptions { padding_unused: true, ..options.clone() };
            let found = tch::no_grad(|| self::program(&model, &packed).run(&inputs_of(tensors, case), &names));
            let real = tensors[&format!("{case}.in.attention_mask")].to_kind(Kind::Bool);
            for ((name, expected), found) in expected.iter().zip_eq(&found.expect("it runs")) {
                let at_tokens = |t: &Tensor| if t.dim() == 3 { t.index(&[Some(&real)]) } else { t.shallow_clone() };
                let problem = difference(&at_tokens(found), &at_tokens(expected), 0.0, 1e-4);
                assert!(problem.is_none(), "case {case}, {way}, padding unused, {name}: {problem:?}");
            }
            // Requested alone, the logits are computed for real tokens only.
            let found = tch::no_grad(|| program.run(&inputs_of(tensors, case), &["logits"])).expect("it runs");
            let expected = &tensors[&format!("{case}.out.logits")];
            assert_eq!(difference(&found[0], expected, 0.0, 1e-4), None, "case {case}, {way}, logits alone");
        }
    }
}

/// Largest absolute difference as a share of the largest value.
pub fn relative_difference(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.size(), expected.size());
    let largest = |t: &Tensor| t.abs().max().double_value(&[]);
    largest(&(found - expected)) / largest(expected).max(1e-12)
}

fn gradients_equal_those_of_peft(folder: &Path, tensors: &BTreeMap<String, Tensor>, rank: usize) {
    let model = Transformer::open(folder.join("model.onnx")).expect("the export");
    let layers = model.blocks().expect("blocks").iter().flat_map(|block| block.linears.clone());
    // (initializer, module) of every weight that PEFT adapted.
    let known = |path: &str| {
        let mut modules = tensors.keys().filter_map(|k| k.strip_prefix("value.")?.strip_suffix(".lora_A.weight"));
        modules.find(|module| path.ends_with(module)).map(str::to_owned)
    };
    let adapted: Vec<(String, String)> =
        layers.filter_map(|layer| Some((layer.weight, known(&layer.module?)?))).collect();
    assert_eq!(adapted.len(), tensors.keys().filter(|k| k.starts_with("value.") && k.contains("lora_A")).count());
    // (initializer, PEFT's name) of the head's own tensors.
    let head = model.head().expect("blocks").expect("a head");
    let whole: Vec<(&str, &str)> = head
        .tensors
        .iter()
        .filter(|tensor| !tensor.shared && !tensor.transposed)
        .map(|tensor| {
            let ends = |name: &&str| tensor.name.ends_with(*name);
            (
                tensor.initializer.as_str(),
                ["classifier.weight", "classifier.bias"].into_iter().find(ends).expect("known"),
            )
        })
        .collect();
    assert!(!whole.is_empty());
    let initializers: Vec<&str> = whole.iter().map(|(initializer, _)| *initializer).collect();
    let peft_name = |initializer: &str| whole.iter().find(|(i, _)| *i == initializer).expect("attached").1;
    for (way, options) in ways() {
        let mut program = program(&model, &options);
        let specs = adapted.iter().map(|(weight, module)| AdapterSpec {
            weight: weight.clone(),
            copies: Vec::new(),
            alpha: 3.0 * rank as f64,
            dropout: 0.0,
            a: tensors[&format!("value.{module}.lora_A.weight")].shallow_clone(),
            b: tensors[&format!("value.{module}.lora_B.weight")].shallow_clone(),
        });
        program.attach(specs.collect()).expect("adapters fit");
        program.train_whole(&initializers).expect("the head is there");
        for trainable in program.trainables().into_iter().filter(|t| t.kind == TrainableKind::Whole) {
            let name = format!("value.{}", peft_name(&trainable.name));
            tch::no_grad(|| trainable.tensor.shallow_clone().copy_(&tensors[&name]));
        }
        let logits = program.run(&inputs_of(tensors, "0"), &["logits"]).expect("it runs").remove(0);
        assert_eq!(difference(&logits, &tensors["peft.logits"], 0.0, 1e-4), None, "logits, {way}");
        logits.cross_entropy_for_logits(&tensors["labels"]).backward();
        for trainable in program.trainables() {
            let name = match trainable.kind {
                TrainableKind::Whole => format!("gradient.{}", peft_name(&trainable.name)),
                kind => {
                    let (_, module) = adapted.iter().find(|(w, _)| *w == trainable.name).expect("attached above");
                    format!("gradient.{module}.lora_{}.weight", if kind == TrainableKind::LoraA { "A" } else { "B" })
                }
            };
            let difference = relative_difference(&trainable.tensor.grad(), &tensors[&name]);
            assert!(difference < 1e-4, "{name}, {way}: {difference}");
        }
    }
}

#[test]
fn both_exports_compute_what_onnx_runtime_and_peft_compute() {
    const RANK: usize = 3;
    let tiny = ["tiny_encoder", "tiny_encoder_dynamo"].map(|name| repository("onnx").join(name));
    // Larger models, for those who have them: model folders separated by `:`.
    let more = std::env::var("GELORA_TEST_MODELS").unwrap_or_default();
    for folder in tiny.into_iter().chain(more.split(':').filter(|path| !path.is_empty()).map(PathBuf::from)) {
        let Some(tensors) = reference(&folder, RANK) else { return };
        equals_onnx_runtime(&folder, &tensors);
        gradients_equal_those_of_peft(&folder, &tensors, RANK);
    }
}

/// How often an operation runs per batch.
fn count(operations: &[String], name: &str) -> usize {
    operations.iter().filter(|operation| *operation == name).count()
}

#[test]
fn patterns_of_both_exporters_are_recognised() {
    for name in ["tiny_encoder", "tiny_encoder_dynamo"] {
        let model = Model::open(repository("onnx").join(name).join("model.onnx")).expect("the export");
        let operations = program(&model, &ProgramOptions::default()).operations(&["logits"]).expect("it compiles");
        let counts = ["Gelu", "gelora.Attention", "LayerNormalization", "gelora.Linear", "MatMul", "gelora.RealTokens"]
            .map(|operation| count(&operations, operation));
        assert_eq!(counts, [2, 2, 5, 14, 0, 1], "{name}: {operations:?}");
        // Two blocks; the head reads one token of the second: one row of the hidden state and of the mask suffices.
        assert_eq!(count(&operations, "gelora.Row"), 2, "{name}: {operations:?}");
        assert_eq!(count(&operations, "gelora.Unpack"), 6, "{name}: {operations:?}");
        assert_eq!(count(&operations, "gelora.Pack"), 2, "{name}: {operations:?}");
        assert!(operations.len() < 75, "{name}: {} operations: {operations:?}", operations.len());
    }
}

#[test]
fn an_export_that_ignores_its_mask_is_not_packed() {
    let model = Model::open(repository("onnx/tiny_encoder_maskless/model.onnx")).expect("the export");
    let packed = program(&model, &ProgramOptions::default());
    let plain = program(&model, &ProgramOptions { pack: false, ..ProgramOptions::default() });
    let ids = Tensor::from_slice2(&[[5i64, 6, 7, 8, 9], [10, 11, 0, 0, 0]]);
    let inputs = |mask: Tensor| {
        vec![("input_ids", ids.shallow_clone()), ("attention_mask", mask), ("token_type_ids", ids.zeros_like())]
    };
    let padded = || inputs(ids.ne(0).to_kind(Kind::Int64));
    for inputs in [inputs(ids.ones_like()), padded(), padded()] {
        let [found, expected] =
            [&packed, &plain].map(|p| tch::no_grad(|| p.run(&inputs, &["logits"])).expect("it runs"));
        assert_eq!(difference(&found[0], &expected[0], 1e-5, 1e-6), None);
    }
    assert!(packed.padding_matters());
}

#[test]
fn fused_patterns_equal_what_they_replace() {
    let (path, values) = (folder("patterns.onnx"), folder("patterns.safetensors"));
    if !check("pattern_cases.py", &[text(&path), text(&values)]) {
        return;
    }
    let (values, _) = read(&values);
    let model = Model::open(&path).expect("the export");
    let mut results = Vec::new();
    for fuse in [false, true] {
        let options = ProgramOptions { linear: LinearBackend::Torch, fuse, ..ProgramOptions::default() };
        let mut program = program(&model, &options);
        program.train_whole(&["table.weight"]).expect("the table is there");
        let y = program.run(&[("ids", values["ids"].shallow_clone())], &["y"]).expect("it runs").remove(0);
        assert_eq!(difference(&y, &values["y"], 1e-5, 1e-6), None, "fused {fuse}");
        y.square().sum(Kind::Float).backward();
        let gradient = program.trainables()[0].tensor.grad();
        assert!(relative_difference(&gradient, &values["gradient"]) < 1e-5, "fused {fuse}");
        results.push((y, gradient));
        let operations = program.operations(&["y"]).expect("it compiles");
        let patterns = ["Gelu", "LayerNormalization", "Swish", "gelora.Attention", "gelora.Linear"];
        let counts = patterns.map(|operation| count(&operations, operation));
        assert_eq!(counts, if fuse { [4, 1, 1, 1, 2] } else { [0; 5] }, "{operations:?}");
    }
    assert!(relative_difference(&results[0].0, &results[1].0) < 1e-6);
    assert!(relative_difference(&results[0].1, &results[1].1) < 1e-5);
}

/// The text of the error for a run with these outputs.
fn error_of(program: &Program, inputs: &[(&str, Tensor)], outputs: &[&str]) -> String {
    program.run(inputs, outputs).expect_err("it is wrong").to_string()
}

#[test]
fn errors_name_the_place_and_the_cure_in_one_line() {
    let model = Model::open(repository("onnx/tiny_encoder/model.onnx")).expect("the export");
    let mut program = program(&model, &ProgramOptions::default());
    let ids = |id: i64| ("input_ids", Tensor::from_slice2(&[[id, 6, 7], [8, 9, 10]]));
    let rest =
        || ["attention_mask", "token_type_ids"].map(|name| (name, Tensor::ones([2, 3], (Kind::Int64, Device::Cpu))));
    let [mask, types] = rest();
    insta::assert_snapshot!(error_of(&program, &[ids(5)], &["logits"]));
    insta::assert_snapshot!(error_of(&program, &[ids(100), mask, types], &["logits"]));
    insta::assert_snapshot!(error_of(&program, &[], &["logit"]));
    let spec = |weight: &str, rank: i64| AdapterSpec {
        weight: weight.to_owned(),
        copies: Vec::new(),
        alpha: 1.0,
        dropout: 0.0,
        a: Tensor::zeros([rank, 16], (Kind::Float, Device::Cpu)),
        b: Tensor::zeros([16, rank], (Kind::Float, Device::Cpu)),
    };
    let table = "model.bert.embeddings.word_embeddings.weight";
    insta::assert_snapshot!(program.attach(vec![spec("no such weight", 2)]).expect_err("unknown").to_string());
    insta::assert_snapshot!(program.attach(vec![spec(table, 2)]).expect_err("of another shape").to_string());
    insta::assert_snapshot!(program.train_whole(&["classifier"]).expect_err("unknown").to_string());
}

#[test]
fn an_unknown_operator_is_named_with_what_to_export_instead() {
    let mut graph = gelora::onnx::wire::Writer::new();
    graph.int(1, 8).message(7, |graph| {
        graph.message(1, |node| {
            node.string(1, "x")
                .string(2, "y")
                .string(3, "fused")
                .string(4, "MultiHeadAttention")
                .string(7, "com.microsoft");
        });
        graph.message(11, |input| {
            input.string(1, "x");
        });
        graph.message(12, |output| {
            output.string(1, "y");
        });
    });
    let model = Model::from_bytes("fused.onnx", graph.into_bytes()).expect("a model");
    let program = program(&model, &ProgramOptions::default());
    let x = Tensor::zeros([2], (Kind::Float, Device::Cpu));
    insta::assert_snapshot!(error_of(&program, &[("x", x)], &["y"]));
}

#[test]
fn bfloat16_rounds_and_no_more() {
    let model = Model::open(repository("onnx/tiny_encoder/model.onnx")).expect("the export");
    let ids = Tensor::from_slice2(&[[5i64, 6, 7, 8, 9], [10, 11, 0, 0, 0]]);
    let mask = ids.ne(0).to_kind(Kind::Int64);
    let inputs = [("input_ids", ids.shallow_clone()), ("attention_mask", mask), ("token_type_ids", ids.zeros_like())];
    let run = |precision: Precision| {
        let program = program(&model, &ProgramOptions { precision, ..ProgramOptions::default() });
        tch::no_grad(|| program.run(&inputs, &["logits"])).expect("it runs").remove(0)
    };
    let difference = relative_difference(&run(Precision::Bfloat16), &run(Precision::Float32));
    assert!(difference > 0.0 && difference < 0.05, "{difference}");
}

#[test]
fn other_families_compute_what_onnx_runtime_computes() {
    let folder = folder("family_cases");
    if !check("family_cases.py", &[text(&folder)]) {
        return;
    }
    for name in ["deberta", "gpt2", "llama"].map(|f| [format!("{f}_classic"), format!("{f}_dynamo")]).concat() {
        let model = Model::open(folder.join(format!("{name}.onnx"))).expect("the export");
        let (tensors, _) = read(&folder.join(format!("{name}.safetensors")));
        for (way, options) in ways() {
            let program = program(&model, &options);
            for case in ["0", "1", "0"] {
                let found = tch::no_grad(|| program.run(&inputs_of(&tensors, case), &["logits"])).expect("it runs");
                let problem = difference(&found[0], &tensors[&format!("{case}.out.logits")], 1e-4, 1e-4);
                assert!(problem.is_none(), "{name}, {way}, case {case}: {problem:?}");
            }
        }
    }
}
