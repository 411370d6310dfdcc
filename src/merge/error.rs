use std::path::PathBuf;

use super::weights::NotFinite;
use crate::adapter::AdapterError;
use crate::checkpoint::{CheckpointError, FoldedProduct};
use crate::files::FileError;
use crate::hint::Hint;
use crate::onnx::OnnxError;
use crate::progress::Cancelled;

/// Why an adapter cannot be merged.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// The adapter was trained on another model.
    #[error(
        "the adapter was trained on another base: {files} differs from what it was trained with; name the model folder it was trained on, or accept the difference with {}",
        Hint::BaseChanged
    )]
    OtherBase {
        /// The files that differ.
        files: String,
    },
    /// A weight that merging touches is infinite or not a number, or would become so.
    #[error("{} cannot be merged: {what} `{tensor}` {found}", file.display())]
    NotFinite {
        /// Checkpoint or export.
        file: PathBuf,
        /// `tensor` or `initializer`.
        what: &'static str,
        /// Its name.
        tensor: String,
        /// What was found, and what to do.
        found: NotFinite,
    },
    /// A weight cannot take its change.
    #[error("{} cannot be merged: {what} `{tensor}` {reason}", file.display())]
    NotMergeable {
        /// Checkpoint or export.
        file: PathBuf,
        /// `tensor` or `initializer`.
        what: &'static str,
        /// Its name.
        tensor: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The base has no such module, or one of another shape.
    #[error("the adapter does not fit {}: {reason}; name the model folder it was trained on", base.display())]
    DoesNotFit {
        /// The base.
        base: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// The export holds the weight in a form that merging cannot reach.
    #[error("cannot merge into {}: {found}", onnx.display())]
    Folded {
        /// The `.onnx` file.
        onnx: PathBuf,
        /// What was found.
        found: FoldedProduct,
    },
    /// A tensor that was trained whole has no constant of its own.
    #[error("cannot merge into {}: {reason}", onnx.display())]
    Saved {
        /// The `.onnx` file.
        onnx: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// The weight is used for something else as well.
    #[error(
        "module `{module}` shares its weight with {with}: merging would change both; leave the module out of the plan, or untie the weights in the base model"
    )]
    Tied {
        /// The adapted module.
        module: String,
        /// What else uses the weight.
        with: String,
    },
    /// The result would overwrite the base or the adapter.
    #[error("{} is the folder of {what}; write the merged model to another one", out.display())]
    SameFolder {
        /// The folder.
        out: PathBuf,
        /// The base model or the adapter.
        what: &'static str,
    },
    /// The result cannot take the place of what is there.
    #[error("{} cannot become the merged model: {reason}", out.display())]
    NotReplaceable {
        /// The folder.
        out: PathBuf,
        /// What is there, and what to do.
        reason: String,
    },
    /// The adapter's files do not belong together.
    #[error("{} cannot be merged: {reason}", adapter.display())]
    Incomplete {
        /// The adapter.
        adapter: PathBuf,
        /// What is missing, and what to do.
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
