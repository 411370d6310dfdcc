//! What an inspection finds, in its parts.

use serde::{Serialize, Serializer};

use crate::checkpoint::{Checkpoint, MatchedBy, WeightMatch};
use crate::onnx::{Dimension, LinearLayer, Role, Transformer, ValueInfo};

/// The checkpoint beside an export, and how many adaptable weights are found in it.
#[derive(Debug, Clone, Serialize)]
pub struct CheckpointFacts {
    /// Its files.
    pub files: Vec<String>,
    /// Tensors in them.
    pub tensors: usize,
    /// Adaptable weights whose tensor was found by their values.
    pub matched_by_content: usize,
    /// … by their names only.
    pub matched_by_name: usize,
    /// … by their names, because the export holds integers.
    pub quantized: usize,
    /// Adaptable weights without a tensor.
    pub unmatched: usize,
}

/// An input or output.
#[derive(Debug, Clone, Serialize)]
pub struct ValueFacts {
    /// Its name.
    pub name: String,
    /// The type of its elements, such as `float` or `int64`, where the export says.
    pub data_type: Option<String>,
    /// Its axes: sizes, or names of those that are free.
    pub shape: Option<String>,
}

/// A hidden state.
#[derive(Debug, Clone, Serialize)]
pub struct StateFacts {
    /// Counted from 0, the embeddings.
    pub index: usize,
    /// The value of the graph that it is.
    pub tensor: String,
    /// Elements per token, where the graph says.
    pub width: Option<usize>,
}

/// A block.
#[derive(Debug, Clone, Serialize)]
pub struct BlockFacts {
    /// Counted from 1. Block i lies between hidden states i − 1 and i.
    pub block: usize,
    /// How many nodes it has.
    pub nodes: usize,
    /// Its adaptable weights.
    pub weights: Vec<WeightFacts>,
}

/// An adaptable weight.
#[derive(Debug, Clone, Serialize)]
pub struct WeightFacts {
    /// The module that it belongs to, where checkpoint or export name it.
    pub module: Option<String>,
    /// Its tensor in the checkpoint, and which rows of it.
    pub checkpoint_tensor: Option<String>,
    /// What the linear layer is for.
    #[serde(serialize_with = "role_name")]
    pub role: Role,
    /// Its input width.
    pub in_features: usize,
    /// Its output width.
    pub out_features: usize,
    /// The node that multiplies with it.
    pub node: String,
    /// The constant of the export.
    pub weight: String,
    /// How many products elsewhere use the same constant.
    pub shared: usize,
}

/// The head that an export has.
#[derive(Debug, Clone, Serialize)]
pub struct HeadFacts {
    /// Its outputs.
    pub outputs: Vec<String>,
    /// Tensors of its own that can be trained.
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
