use std::path::PathBuf;

use crate::adapter::AdapterError;
use crate::checkpoint::{CheckpointError, FoldedProduct};
use crate::files::FileError;
use crate::onnx::OnnxError;
use crate::progress::Cancelled;

/// Why an adapter cannot be merged.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// The adapter was trained on another model.
    #[error(
        "the adapter was trained on another base: {file} is not the one it was trained with (expected {expected}, found {found}); name the model folder it was trained on"
    )]
    OtherBase {
        /// The file that differs.
        file: String,
        /// Start of its hash by the adapter.
        expected: String,
        /// Start of its hash here.
        found: String,
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
    /// The result would overwrite the base.
    #[error("{} is the folder of the base model; write the merged model to another one", out.display())]
    SameFolder {
        /// The folder.
        out: PathBuf,
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
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}
