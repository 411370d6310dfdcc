//! Float32 parameters beside values in half precision: results and gradients are those of float32 on the same values.

use itertools::Itertools;
use tch::{Kind, Tensor};

use super::support::{reseed, uniform};
use crate::onnx::{Attribute, Node};
use crate::train::operators::{Building, Call, build, find};

/// Operator, domain, attributes and inputs.
type Case<'a> = (&'a str, &'a str, &'a [(&'a str, Attribute)], Vec<&'a Tensor>);

/// The outputs of an operator, and the gradients of the sum of their squares.
fn results(op_type: &str, domain: &str, attributes: &[(&str, Attribute)], inputs: &[Tensor]) -> Vec<Tensor> {
    let leaves: Vec<Tensor> = inputs.iter().map(|input| input.detach_copy().set_requires_grad(true)).collect();
    let node = Node {
        op_type: op_type.into(),
        domain: domain.into(),
        inputs: (0..inputs.len()).map(|place| format!("x{place}")).collect(),
        outputs: vec!["y".into()],
        attributes: attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        ..Node::default()
    };
    let operator = find(domain, op_type).expect("it is known");
    let kernel = build(operator, &Building { node: &node, opset: 17 }).expect("it can be built");
    let given: Vec<Option<&Tensor>> = leaves.iter().map(Some).collect();
    let made = kernel(&Call { inputs: &given, dropout: None }).unwrap_or_else(|error| panic!("{op_type}: {error}"));
    assert_eq!(made[0].kind(), Kind::Float, "{op_type}: the result is as wide as its widest input");
    made[0].square().sum(Kind::Float).backward();
    leaves.iter().map(|leaf| leaf.grad().to_kind(Kind::Float)).chain([made[0].detach()]).collect()
}

#[test]
fn float32_parameters_get_the_gradients_of_float32_beside_halves() {
    reseed(11);
    let random = |shape: &[i64]| uniform(-1.0, 1.0, shape).to_kind(Kind::Float);
    let (rows, square, wide, vector) = (random(&[3, 4]), random(&[4, 4]), random(&[4, 5]), random(&[5]));
    let row = random(&[4]);
    let turned = [("transB", Attribute::Int(1))];
    let along = [("axis", Attribute::Int(0))];
    let cases: Vec<Case<'_>> = vec![
        ("Gemm", "", &[], vec![&rows, &wide, &vector]),
        ("Gemm", "", &turned, vec![&rows, &square]),
        ("MatMul", "", &[], vec![&rows, &wide]),
        ("Add", "", &[], vec![&rows, &row]),
        ("Sub", "", &[], vec![&rows, &rows]),
        ("Mul", "", &[], vec![&rows, &rows]),
        ("Div", "", &[], vec![&rows, &rows]),
        ("Max", "", &[], vec![&rows, &rows]),
        ("Concat", "", &along, vec![&rows, &square]),
        ("PRelu", "", &[], vec![&rows, &rows]),
        ("BiasGelu", "com.microsoft", &[], vec![&wide, &vector]),
        ("FastGelu", "com.microsoft", &[], vec![&wide, &vector]),
        ("FusedMatMul", "com.microsoft", &[], vec![&rows, &wide]),
    ];
    for kind in [Kind::Half, Kind::BFloat16] {
        for (op_type, domain, attributes, inputs) in &cases {
            // The first input is in half precision, the parameters are not; then the other way round.
            for narrow in 0..2 {
                let given = |exact: bool| -> Vec<Tensor> {
                    let as_given = |(place, input): (usize, &&Tensor)| match (place == 0) == (narrow == 0) {
                        true if exact => input.to_kind(kind).to_kind(Kind::Float),
                        true => input.to_kind(kind),
                        false => input.shallow_clone(),
                    };
                    inputs.iter().enumerate().map(as_given).collect()
                };
                let expected = results(op_type, domain, attributes, &given(true));
                let found = results(op_type, domain, attributes, &given(false));
                for (place, (found, expected)) in found.iter().zip_eq(&expected).enumerate() {
                    // The gradient of a half-precision input is rounded to half precision.
                    let is_narrow = place < inputs.len() && (place == 0) == (narrow == 0);
                    let tolerance = if is_narrow { 1e-2 } else { 1e-6 };
                    let far = (found - expected).abs().max().double_value(&[]);
                    let largest = expected.abs().max().double_value(&[]);
                    assert!(far <= tolerance * largest.max(1.0), "{op_type} {kind:?} {place}: {far}");
                }
            }
        }
    }
}

#[test]
fn norms_take_scales_of_another_precision() {
    reseed(12);
    let (x, scale) = (uniform(-1.0, 1.0, &[3, 8]).to_kind(Kind::Float), uniform(0.5, 1.5, &[8]).to_kind(Kind::Float));
    let bias = uniform(-1.0, 1.0, &[8]).to_kind(Kind::Float);
    for (op_type, domain, inputs) in [
        ("LayerNormalization", "", vec![&x, &scale, &bias]),
        ("SimplifiedLayerNormalization", "", vec![&x, &scale]),
        ("SkipLayerNormalization", "com.microsoft", vec![&x, &x, &scale, &bias]),
        ("SkipSimplifiedLayerNormalization", "com.microsoft", vec![&x, &x, &scale]),
    ] {
        let half = |exact: bool| -> Vec<Tensor> {
            let narrow = |input: &Tensor| match (input.dim(), exact) {
                (2, true) => input.to_kind(Kind::Half).to_kind(Kind::Float),
                (2, false) => input.to_kind(Kind::Half),
                _ => input.shallow_clone(),
            };
            inputs.iter().map(|input| narrow(input)).collect()
        };
        let (expected, found) =
            (results(op_type, domain, &[], &half(true)), results(op_type, domain, &[], &half(false)));
        for (place, (found, expected)) in found.iter().zip_eq(&expected).enumerate() {
            let far = (found - expected).abs().max().double_value(&[]);
            let tolerance = if op_type.starts_with("Simplified") || place < inputs.len() { 1e-2 } else { 1e-5 };
            assert!(far <= tolerance * expected.abs().max().double_value(&[]).max(1.0), "{op_type} {place}: {far}");
        }
    }
}
