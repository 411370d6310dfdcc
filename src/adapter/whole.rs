//! A folder of tensors that were trained as a whole, without factors: those of the base and of the head. PEFT has no such
//! folder; merging accepts it.

use std::path::Path;

use super::provenance::FORMAT_VERSION;
use super::write::{remove, write_tensors};
use super::{
    AdapterError, BaseFile, CONFIG_FILE, Flavour, HEAD_FILE, Naming, PROVENANCE_FILE, Provenance, SavedTensor,
    TENSOR_FILE, WHOLE_FILE,
};
use crate::files::write_json;
use crate::onnx::HeadPooling;

/// Metadata that is written beside the tensors.
#[derive(Debug)]
pub struct WholeSettings {
    /// The training method: `bitfit` or `full`.
    pub method: String,
    /// SHA-256 of the `.onnx` file, in hex.
    pub onnx_sha256: String,
    /// The other files of the base: name and SHA-256 in hex.
    pub base_files: Vec<(String, String)>,
    /// The pooling of a head that training added.
    pub added_head: Option<HeadPooling>,
    /// PEFT's names for the head, and whether it is written to a file of its own.
    pub naming: Naming,
    /// Names of those `tensors` that belong to the head.
    pub head: Vec<String>,
    /// Names of the classes in the order of the logits.
    pub labels: Option<Vec<String>>,
    /// The kind of problem that the head solves (transformers' `problem_type`), where names or numbers alone do not show it.
    pub problem_type: Option<&'static str>,
    /// For every label the probability threshold from which a text has it, where thresholds were chosen.
    pub thresholds: Option<Vec<f64>>,
}

/// Writes `gelora.json` and `gelora_tensors.safetensors`, each atomically, the tensors last. A head that no transformers class
/// has is written to `gelora_head.safetensors`.
///
/// # Errors
/// If a value is not finite, or a file cannot be written.
pub fn write_whole(dir: &Path, tensors: &[SavedTensor], settings: &WholeSettings) -> Result<(), AdapterError> {
    if let Some(tensor) = tensors.iter().find(|tensor| tensor.values.iter().any(|value| !value.is_finite())) {
        let reason = "holds NaN or infinity: the training diverged".into();
        return Err(AdapterError::NotThePlan { module: tensor.name.clone(), reason });
    }
    let naming = &settings.naming;
    let (head, base): (Vec<_>, Vec<_>) =
        tensors.iter().cloned().partition(|tensor| settings.head.contains(&tensor.name));
    let mut all: Vec<_> = base.into_iter().map(|tensor| (tensor.name, tensor.values)).collect();
    // Files left by an earlier training of another kind do not belong to this one.
    remove(dir, &[WHOLE_FILE, CONFIG_FILE, TENSOR_FILE, HEAD_FILE, PROVENANCE_FILE])?;
    if naming.head_apart && !head.is_empty() {
        let head = head.into_iter().map(|tensor| (tensor.name, tensor.values)).collect();
        write_tensors(&dir.join(HEAD_FILE), head)?;
    } else {
        all.extend(head.into_iter().map(|tensor| (naming.tensor(&tensor.name), tensor.values)));
    }
    let files = settings.base_files.iter();
    let provenance = Provenance {
        format_version: FORMAT_VERSION,
        gelora_version: env!("CARGO_PKG_VERSION").into(),
        onnx_sha256: settings.onnx_sha256.clone(),
        files: files.map(|(name, sha256)| BaseFile { name: name.clone(), sha256: sha256.clone() }).collect(),
        plan_sha256: String::new(),
        method: Some(settings.method.clone()),
        flavour: Flavour::default(),
        added_head: settings.added_head.map(|pooling| pooling.as_str().to_owned()),
        labels: settings.labels.clone(),
        problem_type: settings.problem_type.map(str::to_owned),
        thresholds: settings.thresholds.clone(),
    };
    write_json(&dir.join(PROVENANCE_FILE), &provenance)?;
    // Last: this file makes the folder one that merging reads.
    write_tensors(&dir.join(WHOLE_FILE), all)
}
