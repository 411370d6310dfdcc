use std::path::PathBuf;

/// What can be wrong with an ONNX model.
#[derive(Debug, thiserror::Error)]
pub enum OnnxError {
    /// The file cannot be read.
    #[error("cannot open {}: {source}; check the path and its permissions", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The bytes are not a model.
    #[error("{} is not a readable ONNX model: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What was found, and where.
        reason: String,
    },
    /// A file that the model refers to is not there.
    #[error("{} keeps weights in {}, which cannot be opened: {source}; copy that file beside the model", model.display(), path.display())]
    ExternalMissing {
        /// The `.onnx` file.
        model: PathBuf,
        /// The file it refers to.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file that the model refers to is shorter than the model says.
    #[error("{} is truncated: tensor `{tensor}` ends at byte {needed}, the file at {found}; copy it again", path.display())]
    ExternalTooShort {
        /// The external file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// End of the tensor in the file.
        needed: usize,
        /// Length of the file.
        found: usize,
    },
}
