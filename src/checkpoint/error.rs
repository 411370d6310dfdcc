use std::path::PathBuf;

use crate::files::FileError;
use crate::onnx::OnnxError;

/// What can be wrong with a model folder or its checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The path is neither a folder nor a file.
    #[error("{} does not exist; check the path", path.display())]
    Missing {
        /// The path as given.
        path: PathBuf,
    },
    /// The folder holds no export.
    #[error("{} holds no .onnx file{others}; export the model there, or name the file itself", folder.display())]
    NoExport {
        /// The folder without an export.
        folder: PathBuf,
        /// The exports found in its subfolders, as text that follows.
        others: String,
    },
    /// The folder holds no checkpoint.
    #[error(
        "{} holds no checkpoint (model.safetensors, or shards with model.safetensors.index.json); save the model there with \
         transformers' `save_pretrained`",
        folder.display()
    )]
    NoWeights {
        /// The folder without a checkpoint.
        folder: PathBuf,
    },
    /// The folder holds several exports and none is `model.onnx`.
    #[error("{} holds several .onnx files ({names}); name the one to use, like {}", folder.display(), first(folder, names))]
    SeveralExports {
        /// The folder with several exports.
        folder: PathBuf,
        /// Names of the exports.
        names: String,
    },
    /// A safetensors file ends too early.
    #[error("{} is truncated: it should have {expected} bytes and has {found}; copy or download it again", path.display())]
    Truncated {
        /// The truncated file.
        path: PathBuf,
        /// Length in bytes that the header implies.
        expected: u64,
        /// Length in bytes on disk.
        found: u64,
    },
    /// A file is not what its name says.
    #[error("{} cannot be read: {reason}; copy or download it again", path.display())]
    Malformed {
        /// The file that cannot be read.
        path: PathBuf,
        /// What was found instead.
        reason: String,
    },
    /// A tensor is not in the checkpoint.
    #[error("the checkpoint in {} has no tensor `{tensor}`; is it the checkpoint of this model?", folder.display())]
    NoTensor {
        /// The folder of the checkpoint.
        folder: PathBuf,
        /// Name of the missing tensor.
        tensor: String,
    },
    /// A tensor holds something other than floating-point numbers.
    #[error(
        "tensor `{tensor}` is stored as {found}, not as F32, F16, BF16 or F64; take the checkpoint before quantisation"
    )]
    NotFloat {
        /// Name of the tensor.
        tensor: String,
        /// Element type of the tensor.
        found: String,
    },
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The export cannot be read.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
}

/// The path of the first of several names.
fn first(folder: &std::path::Path, names: &str) -> String {
    folder.join(names.split(", ").next().unwrap_or_default()).display().to_string()
}
