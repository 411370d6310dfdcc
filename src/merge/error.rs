use std::path::PathBuf;

use super::weights::NotFinite;
use crate::adapter::AdapterError;
use crate::checkpoint::{CheckpointError, FoldedProduct};
use crate::files::FileError;
use crate::hint::Hint;
use crate::onnx::OnnxError;
use crate::progress::Cancelled;
use crate::settings_value::SettingError;

/// Why an adapter cannot be merged.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// The adapter was trained on another model.
    #[error(
        "the adapter was trained on another base: {files} differs from what it was trained with; name the model folder it was trained on, or accept the difference with {}",
        Hint::BaseChanged
    )]
    OtherBase {
        /// Names of the files that differ.
        files: String,
    },
    /// A weight that merging changes is infinite or NaN, or would become so.
    #[error("{} cannot be merged: {what} `{tensor}` {found}", file.display())]
    NotFinite {
        /// Path of the checkpoint or export.
        file: PathBuf,
        /// The kind of weight, `tensor` or `initializer`.
        what: &'static str,
        /// Name of the weight.
        tensor: String,
        /// Where the value was found, and the cure.
        found: NotFinite,
    },
    /// A change cannot be applied to a weight.
    #[error("{} cannot be merged: {what} `{tensor}` {reason}", file.display())]
    NotMergeable {
        /// Path of the checkpoint or export.
        file: PathBuf,
        /// The kind of weight, `tensor` or `initializer`.
        what: &'static str,
        /// Name of the weight.
        tensor: String,
        /// The reason, and the cure.
        reason: String,
    },
    /// The base has no such module, or one of another shape.
    #[error("the adapter does not fit {}: {reason}; name the model folder it was trained on", base.display())]
    DoesNotFit {
        /// Path of the base.
        base: PathBuf,
        /// The reason.
        reason: String,
    },
    /// The export holds the weight in a form that merging cannot reach.
    #[error("cannot merge into {}: {found}", onnx.display())]
    Folded {
        /// Path of the `.onnx` file.
        onnx: PathBuf,
        /// The product that holds the weight.
        found: FoldedProduct,
    },
    /// A tensor that was trained as a whole has no constant of its own.
    #[error("cannot merge into {}: {reason}", onnx.display())]
    Saved {
        /// Path of the `.onnx` file.
        onnx: PathBuf,
        /// The reason, and the cure.
        reason: String,
    },
    /// The weight has another use as well.
    #[error(
        "module `{module}` shares its weight with {with}: merging would change both; leave the module out of the plan, or untie the weights in the base model"
    )]
    Tied {
        /// Path of the adapted module.
        module: String,
        /// The other use of the weight.
        with: String,
    },
    /// The result would overwrite the base or the adapter.
    #[error("{} is the folder of {what}; write the merged model to another one", out.display())]
    SameFolder {
        /// Path of the output folder.
        out: PathBuf,
        /// Whose folder it is, that of the base model or of the adapter.
        what: &'static str,
    },
    /// What was read again differs from what was written.
    #[error("{} is damaged: {reason}; check the disk, and merge again", path.display())]
    NotAsWritten {
        /// Path of the file.
        path: PathBuf,
        /// What differs.
        reason: String,
    },
    /// A setting makes no sense.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// The result cannot replace the existing folder.
    #[error("{} cannot become the merged model: {reason}", out.display())]
    NotReplaceable {
        /// Path of the output folder.
        out: PathBuf,
        /// What it contains, and the cure.
        reason: String,
    },
    /// Files or tensors of the adapter are missing or do not belong together.
    #[error("{} cannot be merged: {reason}", adapter.display())]
    Incomplete {
        /// Path of the adapter.
        adapter: PathBuf,
        /// What is missing, and the cure.
        reason: String,
    },
    /// The adapter cannot be read.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// The checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The export cannot be read or changed.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The user asked to stop.
    #[error("{0}")]
    Cancelled(#[from] Cancelled),
}
