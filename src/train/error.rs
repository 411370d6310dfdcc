use tch::TchError;

use crate::onnx::OnnxError;
use crate::progress::Cancelled;

/// What can go wrong while a graph is turned into a program, run, or trained.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The graph uses an operator that the training program does not know.
    #[error("node `{node}` uses the operator {operator}, which cannot be trained here; {cure}")]
    UnsupportedOperator {
        /// Domain and name, for instance `com.microsoft.Attention`.
        operator: String,
        /// The node's name.
        node: String,
        /// What to export instead.
        cure: String,
    },
    /// An operator could not be executed.
    #[error("node `{node}` ({operator}) cannot be executed: {reason}; {cure}")]
    Operator {
        /// Domain and name.
        operator: String,
        /// The node's name.
        node: String,
        /// What was found.
        reason: String,
        /// What to do about it.
        cure: &'static str,
    },
    /// A value was asked for that the graph does not make.
    #[error("the graph has no value `{name}`; its outputs are {known}")]
    UnknownValue {
        /// The name asked for.
        name: String,
        /// The graph's outputs.
        known: String,
    },
    /// An input of the graph was not given.
    #[error("the graph needs its input `{name}` and got {given}; give it")]
    MissingInput {
        /// The input.
        name: String,
        /// The names that were given.
        given: String,
    },
    /// A weight cannot be adapted or trained.
    #[error("cannot adapt `{weight}`: {reason}")]
    Weight {
        /// The initializer.
        weight: String,
        /// Why not, and the cure.
        reason: String,
    },
    /// The model file.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// libtorch refused something.
    #[error("libtorch: {}", first_line(.0))]
    Torch(#[from] TchError),
    /// The user asked to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// The first line of libtorch's message: the rest is a C++ stack trace.
pub(crate) fn first_line(error: &TchError) -> String {
    let text = match error {
        TchError::Torch(text) => text.clone(),
        other => other.to_string(),
    };
    text.lines().next().unwrap_or_default().trim().to_owned()
}
