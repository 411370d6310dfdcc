//! Writes an adapter folder that PEFT opens.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use ndarray::{Array2, ArrayD, Axis, concatenate};

use super::config::{planned, renamed};
use super::provenance::FORMAT_VERSION;
use super::{
    Adapter, AdapterError, BaseFile, CONFIG_FILE, ConfigSettings, Flavour, HEAD_FILE, LoraConfig, LoraFactors, Naming,
    PREFIX, PROVENANCE_FILE, Provenance, SavedTensor, TENSOR_FILE, WHOLE_FILE, adapter_config, head_modules,
};
use crate::checkpoint::{Checkpoint, ElementType, from_f32, write_safetensors};
use crate::files::{FileError, sha256, write_json};
use crate::onnx::HeadPooling;
use crate::rank::Plan;

/// How an adapter folder is written.
#[derive(Debug, Default)]
pub struct WriteSettings<'a> {
    /// How ranks are written.
    pub flavour: Flavour,
    /// Where PEFT finds the base model, for `base_model_name_or_path`.
    pub base_model: Option<String>,
    /// The checkpoint of the base model: module names are checked against it, and tensors of the head that the export
    /// does not hold (a bias of zeros that the exporter left out) are taken from it.
    pub checkpoint: Option<&'a Checkpoint>,
    /// The pooling of a head that training added.
    pub added_head: Option<HeadPooling>,
    /// The names that PEFT uses for the modules.
    pub naming: Naming,
    /// Names of the classes in the order of the logits.
    pub labels: Option<Vec<String>>,
    /// The kind of problem that the head solves (transformers' `problem_type`), where names or numbers alone do not show it.
    pub problem_type: Option<&'static str>,
    /// For every label the probability threshold from which a text has it, where thresholds were chosen.
    pub thresholds: Option<Vec<f64>>,
    /// The other files of the base it was trained on: name and SHA-256 in hex; without it, those that the plan lists.
    pub base_files: Option<Vec<(String, String)>>,
}

/// Writes `adapter_model.safetensors`, `gelora.json` and `adapter_config.json`, each atomically, the configuration last. A head
/// that no transformers class has is written to `gelora_head.safetensors`.
///
/// # Errors
/// If the factors do not match the plan, the plan cannot be expressed, PEFT would not find every tensor, or a file cannot
/// be written.
pub fn write(dir: &Path, plan: &Plan, adapter: &Adapter, settings: &WriteSettings) -> Result<(), AdapterError> {
    check(plan, adapter)?;
    let naming = &settings.naming;
    let mut saved = adapter.saved.clone();
    complete_modules(&mut saved, settings.checkpoint)?;
    if !naming.head_apart {
        saved.iter_mut().for_each(|tensor| tensor.name = naming.tensor(&tensor.name));
    }
    let head = head_modules(saved.iter().map(|tensor| tensor.name.as_str()));
    let modules = settings.checkpoint.map(modules).unwrap_or_default();
    let config = adapter_config(
        plan,
        &ConfigSettings {
            flavour: settings.flavour,
            head: head.clone(),
            base_model: settings.base_model.clone(),
            trained: true,
            naming: naming.clone(),
            modules: modules.clone(),
        },
    )?;
    let largest = adapter.factors.iter().map(LoraFactors::rank).max().unwrap_or(0);
    let mut tensors: Vec<(String, ArrayD<f32>)> = Vec::new();
    let mut adapted = Vec::new();
    for factors in &adapter.factors {
        let (a, b) = match settings.flavour {
            Flavour::Native => (factors.a.clone(), factors.b.clone()),
            Flavour::Uniform => padded(factors, largest),
        };
        let module = naming.module(&factors.module);
        tensors.push((format!("{PREFIX}{module}.lora_A.weight"), a.into_dyn()));
        tensors.push((format!("{PREFIX}{module}.lora_B.weight"), b.into_dyn()));
        adapted.push(module);
    }
    let modules: Vec<String> = match modules.is_empty() {
        true => modules,
        false => modules.iter().chain(renamed(plan)).map(|module| naming.module(module)).collect(),
    };
    let saved_modules = if naming.head_apart { &[][..] } else { &head };
    check_found(&config, &adapted, saved_modules, &modules)?;
    let saved = saved.into_iter().map(|tensor| (tensor.name, tensor.values));
    // Files left by an earlier training of another kind do not belong to this one.
    remove(dir, &[HEAD_FILE, WHOLE_FILE])?;
    if naming.head_apart {
        write_tensors(&dir.join(HEAD_FILE), saved.collect())?;
    } else {
        tensors.extend(saved.map(|(name, values)| (format!("{PREFIX}{name}"), values)));
    }
    write_tensors(&dir.join(TENSOR_FILE), tensors)?;
    write_json(&dir.join(PROVENANCE_FILE), &provenance(plan, settings))?;
    write_json(&dir.join(CONFIG_FILE), &config)?;
    Ok(())
}

/// Removes those of the named files that exist.
pub(super) fn remove(dir: &Path, names: &[&str]) -> Result<(), AdapterError> {
    for stale in names.iter().map(|name| dir.join(name)).filter(|path| path.exists()) {
        std::fs::remove_file(&stale).map_err(FileError::new("remove", &stale))?;
    }
    Ok(())
}

pub(super) fn write_tensors(path: &Path, mut tensors: Vec<(String, ArrayD<f32>)>) -> Result<(), AdapterError> {
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let layout: Vec<_> =
        tensors.iter().map(|(name, values)| (name.clone(), ElementType::F32, values.shape().to_vec())).collect();
    write_safetensors(path, &layout, |index| {
        let values: Vec<f32> = tensors[index].1.iter().copied().collect();
        from_f32(&values, &ElementType::F32).ok_or_else(|| io::Error::other("float32 is a float type"))
    })?;
    Ok(())
}

/// Checks that PEFT finds a module for every tensor, and adapts no other module of the base model: it skips what it does not find
/// silently.
fn check_found(
    config: &serde_json::Value,
    adapted: &[String],
    saved: &[String],
    modules: &[String],
) -> Result<(), AdapterError> {
    let fail = |reason: String| Err(AdapterError::Config { reason });
    let config = LoraConfig::new(config).map_err(|reason| AdapterError::Config { reason })?;
    let adapts = |module: &str| match config.adapts(module) {
        Ok(found) => Ok(found == Some(true)),
        Err(reason) => Err(AdapterError::Config { reason }),
    };
    for module in adapted {
        if !adapts(module)? || !modules.is_empty() && !modules.contains(module) {
            return fail(format!("PEFT would not find the factors of `{module}` in this base model"));
        }
    }
    // A module is saved with all that it contains.
    let around = |module: &str| {
        let ends = module.match_indices('.').map(|(at, _)| at).chain([module.len()]);
        ends.map(|end| &module[..end]).any(|module| config.saves(module))
    };
    if let Some(module) = saved.iter().find(|module| !around(module)) {
        return fail(format!("PEFT would not find the trained `{module}` in this base model"));
    }
    for module in modules {
        if !adapted.contains(module) && adapts(module)? {
            return fail(format!("PEFT would adapt `{module}` too, which was not trained"));
        }
    }
    Ok(())
}

fn provenance(plan: &Plan, settings: &WriteSettings) -> Provenance {
    let files = settings.base_files.as_ref().unwrap_or(&plan.model.other_files).iter();
    Provenance {
        format_version: FORMAT_VERSION,
        gelora_version: env!("CARGO_PKG_VERSION").into(),
        onnx_sha256: plan.model.onnx_sha256.clone(),
        files: files.map(|(name, sha256)| BaseFile { name: name.clone(), sha256: sha256.clone() }).collect(),
        plan_sha256: sha256(&serde_json::to_vec(plan).unwrap_or_default()),
        method: None,
        flavour: settings.flavour,
        added_head: settings.added_head.map(|pooling| pooling.as_str().to_owned()),
        labels: settings.labels.clone(),
        problem_type: settings.problem_type.map(str::to_owned),
        thresholds: settings.thresholds.clone(),
    }
}

/// Checks that every planned module has its factors at its rank and alpha, and that there are no others.
fn check(plan: &Plan, adapter: &Adapter) -> Result<(), AdapterError> {
    let wrong = |module: &str, reason: String| Err(AdapterError::NotThePlan { module: module.into(), reason });
    let mut open = BTreeSet::new();
    for factors in &adapter.factors {
        if !open.insert(factors.module.as_str()) {
            return wrong(&factors.module, "was trained twice: blocks share it".into());
        }
    }
    for module in planned(plan) {
        let Some(factors) = adapter.factors.iter().find(|factors| factors.module == module.module) else {
            return wrong(&module.module, "is planned and was not trained".into());
        };
        open.remove(module.module.as_str());
        let expected = ([module.rank, module.in_features], [module.out_features, module.rank]);
        let found = (factors.a.dim().into(), factors.b.dim().into());
        if expected != found {
            return wrong(&module.module, format!("should have factors of shape {expected:?} and has {found:?}"));
        }
        if (factors.alpha - module.alpha).abs() > 1e-9 * module.alpha.abs() {
            return wrong(&module.module, format!("should have alpha {} and has {}", module.alpha, factors.alpha));
        }
        if factors.a.iter().chain(&factors.b).any(|value| !value.is_finite()) {
            return wrong(&module.module, "holds NaN or infinity: the training diverged".into());
        }
    }
    match open.first() {
        Some(module) => wrong(module, "was trained and is not planned".into()),
        None => Ok(()),
    }
}

/// Completes saved modules, because PEFT saves whole ones: what the export does not hold of one is taken from the checkpoint.
fn complete_modules(saved: &mut Vec<SavedTensor>, checkpoint: Option<&Checkpoint>) -> Result<(), AdapterError> {
    let Some(checkpoint) = checkpoint else { return Ok(()) };
    for module in head_modules(saved.iter().map(|tensor| tensor.name.as_str()).collect::<Vec<_>>()) {
        for tensor in checkpoint.tensors() {
            let inside = tensor.name.rsplit_once('.').is_some_and(|(stem, _)| stem == module);
            if inside && !saved.iter().any(|known| known.name == tensor.name) {
                let values = ArrayD::from_shape_vec(tensor.shape.clone(), checkpoint.to_f32(&tensor.name)?);
                let values = values.map_err(|error| AdapterError::Config { reason: error.to_string() })?;
                saved.push(SavedTensor { name: tensor.name.clone(), values });
            }
        }
    }
    Ok(())
}

/// All modules of a checkpoint that have a weight.
fn modules(checkpoint: &Checkpoint) -> Vec<String> {
    let names = checkpoint.tensors().iter();
    names.filter_map(|tensor| Some(tensor.name.strip_suffix(".weight")?.to_owned())).collect()
}

fn padded(factors: &LoraFactors, rank: usize) -> (Array2<f32>, Array2<f32>) {
    let more = rank.saturating_sub(factors.rank());
    let rows = Array2::zeros((more, factors.a.ncols()));
    let columns = Array2::zeros((factors.b.nrows(), more));
    let a = concatenate(Axis(0), &[factors.a.view(), rows.view()]).unwrap_or_else(|_| factors.a.clone());
    let b = concatenate(Axis(1), &[factors.b.view(), columns.view()]).unwrap_or_else(|_| factors.b.clone());
    (a, b)
}
