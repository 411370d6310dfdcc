//! Merges an adapter and its base into a deployable model folder: the implementation of `gelora merge`.

use std::path::Path;

use crate::checkpoint::ModelFolder;
use crate::merge::{MergeReport, MergeSettings, merge};
use crate::progress::Event;

use super::{Session, WorkflowError};

/// Merges an adapter folder into its base, a model folder or an `.onnx` file, and writes a checkpoint folder and an `.onnx`
/// to `out`, each file only once it is complete.
///
/// # Errors
/// Returns an error for an adapter of another base, one that cannot be merged exactly, an output that is an input, and files
/// that cannot be read or written.
pub fn merge_adapter(
    session: &Session<'_>,
    model: &Path,
    adapter: &Path,
    out: &Path,
    settings: &MergeSettings,
) -> Result<MergeReport, WorkflowError> {
    session.take_folder(out, &[])?;
    let base = ModelFolder::open(model)?;
    let merged = merge(&base, adapter, out, settings, session.observer())?;
    for warning in &merged.warnings {
        session.observer().observe(Event::Warning(warning));
    }
    if base.checkpoint.is_none() {
        let text = "the base has no checkpoint (safetensors): only the export is merged";
        session.observer().observe(Event::Notice(text));
    }
    Ok(merged)
}
