use std::path::PathBuf;

use crate::hint::Hint;

/// What can be wrong with an ONNX model.
#[derive(Debug, thiserror::Error)]
pub enum OnnxError {
    /// The file cannot be read.
    #[error("cannot open {}: {source}; check the path and its permissions", path.display())]
    Open {
        /// The file that cannot be read.
        path: PathBuf,
        /// The underlying I/O error.
        source: std::io::Error,
    },
    /// The bytes are not an ONNX model.
    #[error("{} is not a readable ONNX model: {reason}", path.display())]
    Malformed {
        /// The file that cannot be parsed.
        path: PathBuf,
        /// What was found, and where.
        reason: String,
    },
    /// An external file that the model refers to cannot be opened.
    #[error("{} keeps weights in {}, which cannot be opened: {source}; copy that file beside the model", model.display(), path.display())]
    ExternalMissing {
        /// The `.onnx` file.
        model: PathBuf,
        /// The external file it refers to.
        path: PathBuf,
        /// The underlying I/O error.
        source: std::io::Error,
    },
    /// An external file is shorter than the model says.
    #[error("{} is truncated: tensor `{tensor}` ends at byte {needed}, the file at {found}; copy it again", path.display())]
    ExternalTooShort {
        /// The external file.
        path: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// End of the tensor in the file, in bytes.
        needed: usize,
        /// Length of the file, in bytes.
        found: usize,
    },
    /// The export has no hidden-state outputs, and none were found in the graph.
    #[error(
        "{} has no hidden-state outputs (its outputs are {outputs}), and its graph shows none: {reason}; name them with {}, or export it with output_hidden_states=True and outputs hidden_states.0, hidden_states.1 …",
        path.display(), Hint::Expose
    )]
    NoHiddenStates {
        /// The `.onnx` file.
        path: PathBuf,
        /// Names of the outputs that exist.
        outputs: String,
        /// Why none can be found in the graph.
        reason: String,
    },
    /// The values named as hidden states cannot be used as such.
    #[error("cannot take hidden states of {} as named: {reason}", path.display())]
    Tap {
        /// The `.onnx` file.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// Some hidden states are outputs and others are not.
    #[error(
        "{} has hidden-state outputs up to number {last}, but number {missing} is missing; export all of them, 0 (embeddings) to {last}",
        path.display()
    )]
    HiddenStatesIncomplete {
        /// The `.onnx` file.
        path: PathBuf,
        /// The highest number that is an output.
        last: usize,
        /// The lowest number that is not.
        missing: usize,
    },
    /// One hidden state does not depend on the one before it.
    #[error(
        "{}: hidden state `{to}` does not depend on `{from}`, so there is no block between them; export the hidden states of one stack in order",
        path.display()
    )]
    NoBlock {
        /// The `.onnx` file.
        path: PathBuf,
        /// The earlier hidden state.
        from: String,
        /// The later hidden state.
        to: String,
    },
    /// The requested change cannot be made.
    #[error("cannot change {}: {reason}", path.display())]
    Edit {
        /// The `.onnx` file.
        path: PathBuf,
        /// The reason, and how to fix it.
        reason: String,
    },
    /// The changed copy cannot be written, or a file it needs is only a Git LFS pointer.
    #[error(transparent)]
    File(#[from] crate::files::FileError),
}
