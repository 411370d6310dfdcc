//! The same run as PEFT's on PyTorch: `tests/golden/training.json`, made by the script beside it.

use std::path::PathBuf;

use itertools::Itertools;
use ndarray::{Array2, ArrayD, IxDyn};
use serde_json::Value;

use super::support::{Bench, settings};
use crate::adapter::{Adapter, LoraFactors, SavedTensor};
use crate::dataset::Encoding;
use crate::progress::Silent;
use crate::task::Targets;
use crate::train::{Batching, Kernels, TrainSettings, train};

fn numbers(value: &Value) -> Vec<f32> {
    match value {
        Value::Array(values) => values.iter().flat_map(numbers).collect(),
        other => vec![other.as_f64().unwrap() as f32],
    }
}

fn list<T>(value: &Value, item: impl Fn(&Value) -> T) -> Vec<T> {
    value.as_array().unwrap().iter().map(item).collect()
}

fn array(value: &Value) -> ArrayD<f32> {
    let rows = value.as_array().unwrap();
    let shape = match rows[0].as_array() {
        Some(first) => vec![rows.len(), first.len()],
        None => vec![rows.len()],
    };
    ArrayD::from_shape_vec(IxDyn(&shape), numbers(value)).unwrap()
}

fn adapter(bench: &Bench, tensors: &Value) -> Adapter {
    let matrix = |name: String| -> Array2<f32> { array(&tensors[&name]).into_dimensionality().unwrap() };
    let modules = bench.plan.blocks.iter().flat_map(|block| &block.modules);
    let factors = modules.map(|module| LoraFactors {
        module: module.module.clone(),
        alpha: module.alpha,
        a: matrix(format!("{}.lora_A.weight", module.module)),
        b: matrix(format!("{}.lora_B.weight", module.module)),
        magnitude: None,
    });
    let saved = ["classifier.weight", "classifier.bias"];
    let saved = saved.map(|name| SavedTensor { name: name.into(), values: array(&tensors[name]) });
    Adapter { factors: factors.collect(), saved: saved.into() }
}

#[test]
fn training_is_that_of_peft_on_pytorch() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/training.json");
    let reference: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    for (export, kernels) in
        [("tiny_encoder", Kernels::Torch), ("tiny_encoder", Kernels::OneDnn), ("tiny_encoder_dynamo", Kernels::Auto)]
    {
        let mut bench = Bench::new(export);
        bench.encodings = list(&reference["rows"], |row| {
            let ids = list(row, |id| id.as_u64().unwrap() as u32);
            Encoding { type_ids: vec![0; ids.len()], ids }
        });
        bench.targets = Targets::Classes(list(&reference["labels"], |label| label.as_u64().unwrap() as usize));
        let batches = list(&reference["batches"], |batch| list(batch, |row| row.as_u64().unwrap() as usize));
        let settings = TrainSettings {
            batching: Batching::Given(vec![batches]),
            learning_rate: reference["learning_rate"].as_f64().unwrap(),
            warmup_steps: Some(reference["warm_up"].as_u64().unwrap()),
            warmup_ratio: None,
            weight_decay: reference["weight_decay"].as_f64().unwrap(),
            clip_norm: reference["clip_norm"].as_f64().unwrap_or(0.0),
            log_every: 1,
            linear: kernels,
            ..settings()
        };
        let initial = adapter(&bench, &reference["initial"]);
        let mut input = bench.input();
        input.initial = Some(&initial);
        let trained = train(&input, &settings, &Silent).unwrap().adapter;
        let losses: Vec<f64> = bench.journal().iter().filter_map(|line| line["loss"].as_f64()).collect();
        for (loss, expected) in losses.iter().zip_eq(numbers(&reference["losses"])) {
            assert!((loss - f64::from(expected)).abs() < 1e-4, "{export}: {losses:?}");
        }
        let expected = adapter(&bench, &reference["trained"]);
        for (found, expected) in trained.factors.iter().zip_eq(&expected.factors) {
            for (found, expected) in [(&found.a, &expected.a), (&found.b, &expected.b)] {
                let largest = (found - expected).iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
                assert!(largest < 2e-4, "{export}: {largest} in {found} {expected}");
            }
        }
        for (found, expected) in trained.saved.iter().zip_eq(&expected.saved) {
            let largest = (&found.values - &expected.values).iter().fold(0.0f32, |largest, v| largest.max(v.abs()));
            assert!(largest < 2e-4, "{export}: {largest} in {}", found.name);
        }
    }
}
