//! Merges adapters and their base into a deployable model folder: the implementation of `gelora merge`.

use std::path::Path;

use crate::checkpoint::{CheckpointError, CheckpointFolder, ModelFolder};
use crate::merge::{Base, MergeReport, MergeSettings, merge_several};
use crate::progress::Event;

use super::{Session, WorkflowError};

/// What of a model folder is merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MergedParts {
    /// The export and the checkpoint, or the checkpoint alone where the folder has no export.
    #[default]
    All,
    /// The checkpoint alone, also where there are exports.
    Checkpoint,
}

/// Merges adapter folders into their base, a model folder or an `.onnx` file, and writes a checkpoint folder and an `.onnx` to
/// `out`, each file only once it is complete.
///
/// # Errors
/// Returns an error for an adapter of another base, one that cannot be merged exactly, an output that is an input, and files
/// that cannot be read or written.
pub fn merge_adapters(
    session: &Session<'_>,
    model: &Path,
    parts: MergedParts,
    adapters: &[&Path],
    out: &Path,
    settings: &MergeSettings,
) -> Result<MergeReport, WorkflowError> {
    session.take_folder(out, &[])?;
    let merge = |base: Base<'_>| merge_several(base, adapters, out, settings, session.observer());
    let notice = |text: &str| session.observer().observe(Event::Notice(text));
    let opened = match parts {
        MergedParts::All => ModelFolder::open(model),
        MergedParts::Checkpoint => Err(CheckpointError::NoExport { folder: model.into(), others: String::new() }),
    };
    let merged = match opened {
        Ok(base) => {
            let merged = merge(Base::from(&base))?;
            if base.checkpoint.is_none() {
                notice("the base has no checkpoint (safetensors): only the export is merged");
            }
            merged
        }
        // Exports in other folders are not passed over in silence.
        Err(CheckpointError::NoExport { others, .. }) if others.is_empty() => {
            let base = match CheckpointFolder::open(model) {
                // With neither, the export is what gelora works with.
                Err(CheckpointError::NoWeights { folder }) if parts == MergedParts::All => {
                    return Err(CheckpointError::NoExport { folder, others }.into());
                }
                base => base?,
            };
            let merged = merge(Base::from(&base))?;
            if parts == MergedParts::All {
                notice("the base has no export (.onnx): only the checkpoint is merged");
            }
            merged
        }
        Err(error) => return Err(error.into()),
    };
    for warning in &merged.warnings {
        session.observer().observe(Event::Warning(warning));
    }
    Ok(merged)
}

/// Merges one adapter folder into its base; see [`merge_adapters`].
///
/// # Errors
/// As for [`merge_adapters`].
pub fn merge_adapter(
    session: &Session<'_>,
    model: &Path,
    adapter: &Path,
    out: &Path,
    settings: &MergeSettings,
) -> Result<MergeReport, WorkflowError> {
    merge_adapters(session, model, MergedParts::All, &[adapter], out, settings)
}
