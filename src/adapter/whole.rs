//! A folder of tensors that were trained as they are, without factors: those of the base and of the head. PEFT has no such
//! folder; merging takes it.

use std::path::Path;

use super::provenance::FORMAT_VERSION;
use super::write::{remove, write_tensors};
use super::{
    AdapterError, BaseFile, CONFIG_FILE, Flavour, HEAD_FILE, Naming, PROVENANCE_FILE, Provenance, SavedTensor,
    TENSOR_FILE, WHOLE_FILE,
};
use crate::files::write_json;
use crate::onnx::HeadPooling;

/// What is written beside the tensors.
#[derive(Debug)]
pub struct WholeSettings {
    /// How they were trained: `bitfit`, `full`.
    pub method: String,
    /// SHA-256 of the `.onnx` file.
    pub onnx_sha256: String,
    /// The other files of the base, by name and SHA-256.
    pub base_files: Vec<(String, String)>,
    /// The pooling of a head that training added.
    pub added_head: Option<HeadPooling>,
    /// What the head is called, and whether it lies apart.
    pub naming: Naming,
    /// The tensors of the head, under the names of `tensors`.
    pub head: Vec<String>,
    /// Names of the classes in the order of the logits.
    pub labels: Option<Vec<String>>,
    /// What the head is for (transformers' `problem_type`), where names or numbers alone do not say it.
    pub problem_type: Option<&'static str>,
    /// For every label the probability from which on a text has it, where that was chosen.
    pub thresholds: Option<Vec<f64>>,
}

/// Writes `gelora.json` and `gelora_tensors.safetensors`, each atomically, the tensors last. A head that no class of transformers has goes to
/// `gelora_head.safetensors`.
///
/// # Errors
/// When a value is not finite, or a file cannot be written.
pub fn write_whole(dir: &Path, tensors: &[SavedTensor], settings: &WholeSettings) -> Result<(), AdapterError> {
    if let Some(tensor) = tensors.iter().find(|tensor| tensor.values.iter().any(|value| !value.is_finite())) {
        let reason = "holds NaN or infinity: the training diverged".into();
        return Err(AdapterError::NotThePlan { module: tensor.name.clone(), reason });
    }
    let naming = &settings.naming;
    let (head, base): (Vec<_>, Vec<_>) =
        tensors.iter().cloned().partition(|tensor| settings.head.contains(&tensor.name));
    let mut all: Vec<_> = base.into_iter().map(|tensor| (tensor.name, tensor.values)).collect();
    // What an earlier training of another kind left is no part of this one.
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
    // The last: with it the folder is one that merging reads.
    write_tensors(&dir.join(WHOLE_FILE), all)
}
