//! Model-local functions, branches and loops, and the operators of newer opsets: against ONNX Runtime forward, and
//! PyTorch backward.

use gelora::onnx::Model;
use gelora::onnx::wire::Writer;
use gelora::train::{AdapterSpec, LinearBackend, Program, ProgramOptions};
use itertools::Itertools;
use tch::{Device, Kind, Tensor};

use crate::program::{difference, folder, read};
use crate::python::{check, text};

fn options(fuse: bool) -> ProgramOptions {
    ProgramOptions { linear: LinearBackend::Torch, fuse, ..ProgramOptions::default() }
}

#[test]
fn functions_branches_and_loops_compute_what_onnx_runtime_and_pytorch_compute() {
    let (path, values) = (folder("control.onnx"), folder("control.safetensors"));
    if !check("control_cases.py", &[text(&path), text(&values)]) {
        return;
    }
    let (values, _) = read(&values);
    let model = Model::open(&path).expect("the model");
    let names: Vec<&str> = model.functions.iter().map(|function| function.name.as_str()).collect();
    assert_eq!(names, ["Scaled", "Layer"]);
    for fuse in [false, true] {
        let mut program = Program::new(&model, Device::Cpu, options(fuse)).expect("a program");
        program.train_whole(&["weight"]).expect("the weight is there");
        // Other shapes take other branches, and the first shape follows again after them.
        for case in ["0", "1", "2", "0"] {
            let inputs = [("x", values[&format!("{case}.x")].shallow_clone())];
            let found = program.run(&inputs, &["y", "means"]).expect("it runs");
            for (found, name) in found.iter().zip_eq(["y", "means"]) {
                assert_eq!(difference(found, &values[&format!("{case}.{name}")], 1e-5, 1e-6), None, "{name} of {case}");
            }
            let mut weight = program.trainables().remove(0).tensor;
            weight.zero_grad();
            found[0].square().sum(Kind::Float).backward();
            let gradient = &values[&format!("{case}.gradient")];
            assert_eq!(difference(&weight.grad(), gradient, 1e-4, 1e-6), None, "the gradient of {case}");
        }
        let operations = program.operations(&["y"]).expect("it compiles");
        assert!(operations.iter().all(|operation| !operation.contains("own")), "{operations:?}");
        // The loop and the branch that depends on the shape remain; the branch with a known condition does not.
        let count = |name: &str| operations.iter().filter(|operation| *operation == name).count();
        assert_eq!((count("If"), count("Loop")), (1, 1), "{operations:?}");
    }
    // An adapter for a weight that a loop uses as well would be missing there: refused.
    let mut program = Program::new(&model, Device::Cpu, options(true)).expect("a program");
    let factor = |shape: [i64; 2]| Tensor::ones(shape, (Kind::Float, Device::Cpu));
    let (a, b) = (factor([2, 4]), factor([4, 2]));
    program
        .attach(vec![AdapterSpec { weight: "weight".into(), copies: Vec::new(), alpha: 1.0, dropout: 0.0, a, b }])
        .expect("it fits");
    let error = program.run(&[("x", values["0.x"].shallow_clone())], &["y"]).expect_err("it is used in the loop");
    insta::assert_snapshot!(
        error.to_string(),
        @"cannot train the weight `weight`: it is also used outside of matrix products (a tied embedding?); leave it out of the plan"
    );
}

#[test]
fn an_export_with_attention_as_one_operator_computes_what_pytorch_computes() {
    let (path, values) = (folder("newer.onnx"), folder("newer.safetensors"));
    if !check("newer_cases.py", &[text(&path), text(&values)]) {
        return;
    }
    let (values, _) = read(&values);
    let model = Model::open(&path).expect("the export");
    for fuse in [false, true] {
        let mut program = Program::new(&model, Device::Cpu, options(fuse)).expect("a program");
        program.train_whole(&["table.weight"]).expect("the table is there");
        for case in ["0", "1", "0"] {
            let inputs = ["ids", "mask"].map(|name| (name, values[&format!("{case}.{name}")].shallow_clone()));
            let y = program.run(&inputs, &["y"]).expect("it runs").remove(0);
            assert_eq!(difference(&y, &values[&format!("{case}.y")], 1e-5, 1e-5), None, "case {case}");
            let mut table = program.trainables().remove(0).tensor;
            table.zero_grad();
            y.square().sum(Kind::Float).backward();
            assert_eq!(
                difference(&table.grad(), &values[&format!("{case}.gradient")], 1e-4, 1e-5),
                None,
                "case {case}"
            );
        }
        let operations = program.operations(&["y"]).expect("it compiles");
        assert_eq!(operations.iter().filter(|operation| *operation == "Attention").count(), 2, "{operations:?}");
    }
}

/// A model whose only node calls a function with these nodes (operator, domain).
fn with_function(nodes: &[(&str, &str)], opset: i64) -> Model {
    let mut model = Writer::new();
    model.int(1, 8).message(7, |graph| {
        graph.message(1, |node| {
            node.string(1, "x").string(2, "y").string(3, "call").string(4, "F").string(7, "own");
        });
        graph.message(11, |input| _ = input.string(1, "x"));
        graph.message(12, |output| _ = output.string(1, "y"));
    });
    model.message(8, |opset| _ = opset.string(1, "").int(2, 17));
    model.message(25, |function| {
        function.string(1, "F").string(4, "a").string(5, "b").string(10, "own");
        for (operator, domain) in nodes {
            function.message(7, |node| {
                node.string(1, "a").string(2, "b").string(4, operator).string(7, domain);
            });
        }
        function.message(9, |version| _ = version.string(1, "").int(2, opset));
    });
    Model::from_bytes("function.onnx", model.into_bytes()).expect("a model")
}

#[test]
fn functions_that_cannot_be_put_in_place_are_refused_in_one_line() {
    let program =
        |nodes: &[(&str, &str)], opset: i64| Program::new(&with_function(nodes, opset), Device::Cpu, options(true));
    insta::assert_snapshot!(
        program(&[("F", "own")], 17).expect_err("it uses itself").to_string(),
        @"node `b` (own.F) cannot be executed: functions use each other without end; export the model again without functions of its own (torch.onnx.export with optimize=True, or onnx.inliner)"
    );
    // Every level doubles: without a limit this would take all memory before it is 32 levels deep.
    assert!(program(&[("F", "own"), ("F", "own")], 17).is_err());
    insta::assert_snapshot!(
        program(&[("Neg", "")], 11).expect_err("another opset").to_string(),
        @"node `call` (own.F) cannot be executed: its function is written for another operator set; export the model again without functions of its own (torch.onnx.export with optimize=True, or onnx.inliner)"
    );
    let x = Tensor::from_slice(&[1.5f32]);
    let y = program(&[("Neg", "")], 17).expect("a program").run(&[("x", x)], &["y"]).expect("it runs");
    assert_eq!(y[0].double_value(&[0]), -1.5);
}

/// libtorch reads as many bytes as a shape implies: a constant that is shorter must be refused first.
#[test]
fn a_constant_with_too_few_bytes_is_refused() {
    let mut model = Writer::new();
    model.int(1, 8).message(7, |graph| {
        graph.message(1, |node| {
            node.string(2, "c").string(3, "short").string(4, "Constant").message(5, |attribute| {
                attribute.string(1, "value").int(20, 4).message(5, |tensor| {
                    tensor.int(1, 1_000_000).int(2, 1).bytes(9, &[0; 8]);
                });
            });
        });
        graph.message(1, |node| {
            node.string(1, "x").string(1, "c").string(2, "y").string(4, "Add");
        });
        graph.message(11, |input| _ = input.string(1, "x"));
        graph.message(12, |output| _ = output.string(1, "y"));
    });
    // It is a weight like any other, so the file is refused on opening.
    let error = Model::from_bytes("short.onnx", model.into_bytes()).expect_err("it is too short").to_string();
    assert!(error.contains("tensor `c` of shape [1000000] and type float32 has 8 bytes"), "{error}");
}
