//! The parts of an inspection's results.

use serde::{Serialize, Serializer};

use crate::checkpoint::{Checkpoint, MatchedBy, WeightMatch};
use crate::onnx::{Dimension, LinearLayer, Role, Transformer, ValueInfo};

/// The checkpoint beside an export, and how many adaptable weights it contains.
#[derive(Debug, Clone, Serialize)]
pub struct CheckpointFacts {
    /// Paths of the checkpoint files.
    pub files: Vec<String>,
    /// Number of tensors in them.
    pub tensors: usize,
    /// Adaptable weights whose tensor was found by its values.
    pub matched_by_content: usize,
    /// Adaptable weights whose tensor was found by its name only.
    pub matched_by_name: usize,
    /// Adaptable weights whose tensor was found by its name, because the export holds integers.
    pub quantized: usize,
    /// Adaptable weights without a tensor.
    pub unmatched: usize,
}

/// An input or output of the graph.
#[derive(Debug, Clone, Serialize)]
pub struct ValueFacts {
    /// Name of the value.
    pub name: String,
    /// Element type, such as `float` or `int64`, if the export gives it.
    pub data_type: Option<String>,
    /// The axes: sizes, or names of free axes.
    pub shape: Option<String>,
}

/// A hidden state of the graph.
#[derive(Debug, Clone, Serialize)]
pub struct StateFacts {
    /// Index from 0, the embeddings.
    pub index: usize,
    /// Name of the value in the graph.
    pub tensor: String,
    /// Elements per token, if the graph gives them.
    pub width: Option<usize>,
}

/// A block and its weights.
#[derive(Debug, Clone, Serialize)]
pub struct BlockFacts {
    /// Index from 1. Block i is between hidden states i − 1 and i.
    pub block: usize,
    /// Number of nodes in the block.
    pub nodes: usize,
    /// Adaptable weights of the block.
    pub weights: Vec<WeightFacts>,
}

/// An adaptable weight.
#[derive(Debug, Clone, Serialize)]
pub struct WeightFacts {
    /// Path of the module that it belongs to, if checkpoint or export name it.
    pub module: Option<String>,
    /// Name of its tensor in the checkpoint, and which rows of it.
    pub checkpoint_tensor: Option<String>,
    /// Role of the linear layer.
    #[serde(serialize_with = "role_name")]
    pub role: Role,
    /// Input width of the layer.
    pub in_features: usize,
    /// Output width of the layer.
    pub out_features: usize,
    /// The node of the matrix product.
    pub node: String,
    /// Name of the initializer in the export.
    pub weight: String,
    /// Number of other matrix products that use the same initializer.
    pub shared: usize,
}

/// The head of an export.
#[derive(Debug, Clone, Serialize)]
pub struct HeadFacts {
    /// Names of its outputs.
    pub outputs: Vec<String>,
    /// Names of its own trainable tensors.
    pub tensors: Vec<String>,
}

fn role_name<S: Serializer>(role: &Role, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(role)
}

impl CheckpointFacts {
    pub(super) fn new<'w>(checkpoint: &Checkpoint, matches: impl Iterator<Item = Option<&'w WeightMatch>>) -> Self {
        let matches: Vec<Option<&WeightMatch>> = matches.collect();
        let count = |how| matches.iter().flatten().filter(|found| found.how == how).count();
        Self {
            files: checkpoint.files().iter().map(|file| file.path.display().to_string()).collect(),
            tensors: checkpoint.tensors().len(),
            matched_by_content: count(MatchedBy::Content),
            matched_by_name: count(MatchedBy::Name),
            quantized: count(MatchedBy::Quantized),
            unmatched: matches.iter().filter(|found| found.is_none()).count(),
        }
    }
}

impl ValueFacts {
    pub(super) fn new(value: &ValueInfo) -> Self {
        let dimension = |dimension: &Dimension| match dimension {
            Dimension::Fixed(size) => size.to_string(),
            Dimension::Named(name) => name.clone(),
            Dimension::Unknown => "?".to_owned(),
        };
        Self {
            name: value.name.clone(),
            data_type: value.data_type.map(|data_type| format!("{data_type:?}").to_lowercase()),
            shape: value.shape.as_ref().map(|shape| shape.iter().map(dimension).collect::<Vec<_>>().join(", ")),
        }
    }
}

impl StateFacts {
    pub(super) fn all(model: &Transformer, values: &[String]) -> Vec<Self> {
        let state =
            |(index, tensor): (usize, &String)| Self { index, tensor: tensor.clone(), width: model.width(tensor) };
        values.iter().enumerate().map(state).collect()
    }
}

impl WeightFacts {
    pub(super) fn new(linear: &LinearLayer, found: Option<&WeightMatch>) -> Self {
        Self {
            module: found.map(|found| found.module().to_owned()).or_else(|| linear.module.clone()),
            checkpoint_tensor: found.map(|found| found.place()),
            role: linear.role,
            in_features: linear.in_features,
            out_features: linear.out_features,
            node: linear.node_name.clone(),
            weight: linear.weight.clone(),
            shared: linear.shared_with.len(),
        }
    }
}
