//! Language models: loss and gradients against transformers and PEFT, on tiny models made on the fly.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gelora::adapter::{Adapter, LoraFactors};
use gelora::checkpoint::{ModelFolder, with_own_head};
use gelora::dataset::{Encoding, Metric, Padding};
use gelora::files::sha256_file;
use gelora::onnx::{Transformer, last_state_after_final_norm};
use gelora::rank::Plan;
use gelora::runtime::Device;
use gelora::task::{Objective, Targets};
use gelora::train::{Kernels, LabelledRows, TrainInput, TrainSettings, loss_and_gradient};
use ndarray::Array2;
use safetensors::SafeTensors;

use crate::merge::plan;
use crate::python::{check, text};

type Matrices = BTreeMap<String, Array2<f32>>;

/// The loss, and the factors and their gradients by name.
fn reference(folder: &Path) -> (f64, Matrices) {
    let bytes = std::fs::read(folder.join("reference.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let values = |data: &[u8]| -> Vec<f32> { data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect() };
    let loss = f64::from(values(file.tensor("loss").unwrap().data())[0]);
    let named = file.tensors().into_iter().filter(|(name, _)| name != "loss").map(|(name, view)| {
        let shape = (view.shape()[0], view.shape()[1]);
        (name, Array2::from_shape_vec(shape, values(view.data())).unwrap())
    });
    (loss, named.collect())
}

fn adapter(plan: &Plan, matrices: &Matrices) -> Adapter {
    let modules = plan.blocks.iter().flat_map(|block| &block.modules);
    let factors = modules.map(|module| LoraFactors {
        module: module.module.clone(),
        alpha: module.alpha,
        a: matrices[&format!("value.{}.lora_A.weight", module.module)].clone(),
        b: matrices[&format!("value.{}.lora_B.weight", module.module)].clone(),
        magnitude: None,
    });
    Adapter { factors: factors.collect(), saved: Vec::new() }
}

fn text_rows(folder: &Path) -> (Vec<Encoding>, Targets) {
    let bytes = std::fs::read(folder.join("rows.json")).unwrap();
    let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let ids: Vec<Vec<u32>> = serde_json::from_value(value["ids"].clone()).unwrap();
    let counted = serde_json::from_value(value["counted"].clone()).unwrap();
    let encodings = ids.into_iter().map(|ids| Encoding { type_ids: vec![0; ids.len()], ids }).collect();
    (encodings, Targets::Tokens(counted))
}

fn compare(folder: &Path) {
    let name = folder.display();
    let base = ModelFolder::open(folder).unwrap();
    let plan = plan(&base, &[2, 2]);
    let model = Transformer::open(&base.onnx).unwrap();
    let found = model.head().unwrap().unwrap();
    assert!(found.predicts_tokens && found.tensors.is_empty(), "{name}: the head is not trained");
    assert_eq!(last_state_after_final_norm(&model), Some(true), "{name}");
    let model = with_own_head(model, base.checkpoint.as_ref().unwrap()).unwrap();
    let (expected, matrices) = reference(folder);
    let (encodings, targets) = text_rows(folder);
    let input = TrainInput {
        model: &model,
        model_sha256: &sha256_file(&base.onnx).unwrap(),
        checkpoint: base.checkpoint.as_ref(),
        config: base.config.as_ref(),
        plan: Some(&plan),
        objective: &Objective::CausalLm,
        train: LabelledRows { encodings: &encodings, targets: &targets },
        validation: None,
        judge: None,
        metrics: &[Metric::Perplexity],
        padding: Padding::default(),
        padding_is_safe: true,
        initial: None,
        folder,
    };
    let settings = TrainSettings { device: Device::Cpu, linear: Kernels::Torch, ..TrainSettings::default() };
    let adapter = adapter(&plan, &matrices);
    let (loss, gradient) = loss_and_gradient(&input, &settings, &adapter, input.train).unwrap();
    assert!((loss - expected).abs() <= 1e-4 * expected.abs(), "{name}: loss {loss}, expected {expected}");
    assert!(
        gradient.saved.is_empty() && 2 * 2 * gradient.factors.len() == matrices.len(),
        "{name}: factors are missing"
    );
    for factors in &gradient.factors {
        for (found, which) in [(&factors.a, "A"), (&factors.b, "B")] {
            let expected = &matrices[&format!("gradient.{}.lora_{which}.weight", factors.module)];
            let largest = expected.iter().fold(0f32, |largest, value| largest.max(value.abs()));
            let difference = (found - expected).iter().fold(0f32, |largest, value| largest.max(value.abs()));
            assert!(largest > 1e-4, "{name}: {} has no gradient", factors.module);
            assert!(difference <= 1e-4 * largest, "{name}: {} {which}: {difference} of {largest}", factors.module);
        }
    }
}

#[test]
fn loss_and_gradients_are_those_of_transformers_and_peft() {
    let folder: PathBuf = Path::new(env!("CARGO_TARGET_TMPDIR")).join("language_cases");
    if !check("language_cases.py", &[text(&folder)]) {
        return;
    }
    for name in ["llama", "llama_tied", "llama_past", "gpt2", "gpt2_dynamo"] {
        compare(&folder.join(name));
    }
}

#[test]
fn the_norm_of_an_encoder_belongs_to_its_blocks() {
    for name in ["tiny_encoder", "tiny_encoder_dynamo"] {
        let folder = ModelFolder::open(&crate::python::repository("onnx").join(name)).unwrap();
        let model = Transformer::open(&folder.onnx).unwrap();
        assert_eq!(last_state_after_final_norm(&model), Some(false), "{name}");
    }
}
