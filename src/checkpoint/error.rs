use std::path::PathBuf;

use crate::files::FileError;
use crate::onnx::OnnxError;

/// What can be wrong with a model folder or its checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// Neither a folder nor a file.
    #[error("{} does not exist; check the path", path.display())]
    Missing {
        /// As given.
        path: PathBuf,
    },
    /// The folder holds no export.
    #[error("{} holds no .onnx file{others}; export the model there, or name the file itself", folder.display())]
    NoExport {
        /// The folder.
        folder: PathBuf,
        /// Which there are in folders inside of it, in words that follow.
        others: String,
    },
    /// The folder holds several exports and none is `model.onnx`.
    #[error("{} holds several .onnx files ({names}); name the one to use, like {}", folder.display(), first(folder, names))]
    SeveralExports {
        /// The folder.
        folder: PathBuf,
        /// Their names.
        names: String,
    },
    /// A safetensors file ends too early.
    #[error("{} is truncated: it should have {expected} bytes and has {found}; copy or download it again", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Length by its header.
        expected: u64,
        /// Length on disk.
        found: u64,
    },
    /// A file is not what its name says.
    #[error("{} cannot be read: {reason}; copy or download it again", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// A tensor is not in the checkpoint.
    #[error("the checkpoint in {} has no tensor `{tensor}`; is it the checkpoint of this model?", folder.display())]
    NoTensor {
        /// The folder.
        folder: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A tensor holds something other than floating-point numbers.
    #[error(
        "tensor `{tensor}` is stored as {found}, not as F32, F16, BF16 or F64; take the checkpoint before quantisation"
    )]
    NotFloat {
        /// The tensor.
        tensor: String,
        /// Its type.
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
