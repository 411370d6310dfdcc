//! What was found of a constant of the export in the checkpoint.

use std::ops::Range;

use super::TensorInfo;

/// How a match was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MatchedBy {
    /// The values are the same.
    Content,
    /// Only the names agree: the values differ, so export and checkpoint are not of the same training state.
    Name,
    /// Only the names can be compared: the export holds integers that stand for the values.
    Quantized,
}

/// The checkpoint tensor of a constant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightMatch {
    /// Its name.
    pub tensor: String,
    /// Whether the constant of the export is the transposed tensor.
    pub transposed: bool,
    /// How it was found.
    pub how: MatchedBy,
    /// The rows of the tensor that the constant is, where the checkpoint stores several matrices as one.
    pub rows: Option<Range<usize>>,
    /// The module, where the checkpoint stores its tensors under other names than the model's.
    pub renamed: Option<String>,
}

impl WeightMatch {
    pub(super) fn whole(tensor: &TensorInfo, transposed: bool, how: MatchedBy) -> Self {
        WeightMatch { tensor: tensor.name.clone(), transposed, how, rows: None, renamed: None }
    }

    /// The module as the model calls it: the name of the tensor without `.weight`, if the checkpoint has the model's names.
    pub fn module(&self) -> &str {
        let stored = || self.tensor.strip_suffix(".weight").unwrap_or(&self.tensor);
        self.renamed.as_deref().unwrap_or_else(stored)
    }

    /// The tensor, and which rows of it.
    pub fn place(&self) -> String {
        match &self.rows {
            Some(rows) => format!("{} [{}..{}]", self.tensor, rows.start, rows.end),
            None => self.tensor.clone(),
        }
    }
}
