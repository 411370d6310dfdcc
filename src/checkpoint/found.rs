//! The match of a constant of the export in the checkpoint.

use std::ops::Range;

use super::TensorInfo;

/// How a match was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MatchedBy {
    /// The values are the same.
    Content,
    /// Only the names agree: the values differ, so export and checkpoint are from different training states.
    Name,
    /// Only the names can be compared: the export holds integers that encode the values.
    Quantized,
}

/// The checkpoint tensor of a constant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightMatch {
    /// Name of the tensor.
    pub tensor: String,
    /// Whether the constant of the export is the transposed tensor.
    pub transposed: bool,
    /// How the match was found.
    pub how: MatchedBy,
    /// The rows of the tensor that the constant holds, where the checkpoint stores several matrices as one.
    pub rows: Option<Range<usize>>,
    /// Module name in the model, where the checkpoint uses other names for its tensors.
    pub renamed: Option<String>,
}

impl WeightMatch {
    pub(super) fn whole(tensor: &TensorInfo, transposed: bool, how: MatchedBy) -> Self {
        WeightMatch { tensor: tensor.name.clone(), transposed, how, rows: None, renamed: None }
    }

    /// The module name in the model: the name of the tensor without `.weight`, if the checkpoint uses the model's names.
    pub fn module(&self) -> &str {
        let stored = || self.tensor.strip_suffix(".weight").unwrap_or(&self.tensor);
        self.renamed.as_deref().unwrap_or_else(stored)
    }

    /// The tensor, and which of its rows.
    pub fn place(&self) -> String {
        match &self.rows {
            Some(rows) => format!("{} [{}..{}]", self.tensor, rows.start, rows.end),
            None => self.tensor.clone(),
        }
    }
}
