//! The model that an adapter is merged into.

use std::path::Path;

use serde_json::Value;

use super::MergeError;
use crate::adapter::Provenance;
use crate::checkpoint::{
    Checkpoint, CheckpointFolder, ModelFolder, ModelTask, base_model_prefix, is_prefixed, model_class,
};
use crate::files::{sha256, sha256_file};
use crate::onnx::Model;
use crate::progress::Observer;

/// What an adapter is merged into: an export with its checkpoint, either of them alone.
#[derive(Debug, Clone, Copy)]
pub struct Base<'b> {
    /// The folder of the checkpoint.
    pub folder: &'b Path,
    /// Path of the export.
    pub onnx: Option<&'b Path>,
    /// The checkpoint.
    pub checkpoint: Option<&'b Checkpoint>,
    /// Content of `config.json`.
    pub config: Option<&'b Value>,
}

impl<'b> From<&'b ModelFolder> for Base<'b> {
    fn from(model: &'b ModelFolder) -> Self {
        Base {
            folder: &model.folder,
            onnx: Some(&model.onnx),
            checkpoint: model.checkpoint.as_ref(),
            config: model.config.as_ref(),
        }
    }
}

impl<'b> From<&'b CheckpointFolder> for Base<'b> {
    fn from(model: &'b CheckpointFolder) -> Self {
        Base { folder: &model.folder, onnx: None, checkpoint: Some(&model.checkpoint), config: model.config.as_ref() }
    }
}

impl Base<'_> {
    /// Whether the base says that its head is that of a transformers class: a head trained as another one must not replace it.
    pub(super) fn claims_a_head(&self) -> bool {
        let Some(config) = self.config else { return false };
        let claimed = config.get("architectures").and_then(|names| names.get(0)).and_then(|name| name.as_str());
        claimed.is_some_and(|name| {
            ModelTask::ALL.into_iter().filter_map(|task| model_class(config, task)).any(|c| c.name == name)
        })
    }

    /// Prefix that the names of a checkpoint without a head need when tensors of a head are appended.
    pub(super) fn new_prefix(&self) -> Option<String> {
        let (checkpoint, config) = (self.checkpoint?, self.config?);
        let alone = is_prefixed(checkpoint, config) == Some(false);
        alone.then(|| base_model_prefix(config)).flatten().map(str::to_owned)
    }
}

/// The files of the base that differ from those the adapter was trained with: export, external data and checkpoint. An adapter
/// fits the weights it was trained beside; where weights other than the adapted ones changed, its result changes too.
pub(super) fn changed_files(
    base: Base<'_>,
    model: Option<&Model>,
    provenance: &Provenance,
    observer: &dyn Observer,
) -> Result<Vec<String>, MergeError> {
    let mut changed = Vec::new();
    if let Some(model) = model.filter(|model| sha256(model.file_bytes()) != provenance.onnx_sha256) {
        changed.push(model.path().display().to_string());
    }
    let known = |name: &str| provenance.files.iter().find(|known| file_name(Path::new(&known.name)) == name);
    let external = model.iter().flat_map(|model| model.external_files()).map(|file| file.path.clone());
    let checkpoint = base.checkpoint.iter().flat_map(|checkpoint| checkpoint.files()).map(|file| file.path.clone());
    for path in external.chain(checkpoint) {
        observer.check()?;
        let same = match known(&file_name(&path)) {
            Some(known) => sha256_file(&path)? == known.sha256,
            None => false,
        };
        if !same {
            changed.push(path.display().to_string());
        }
    }
    Ok(changed)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
