//! The labels of a table's rows, all of one kind.

use serde::{Deserialize, Serialize};

/// What the labels of a table are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LabelKind {
    /// One of several classes.
    #[serde(rename = "classification")]
    Classes,
    /// A number.
    #[serde(rename = "regression")]
    Values,
}

/// A label for every row.
#[derive(Debug, Clone, PartialEq)]
pub enum Labels {
    /// One of several classes.
    Classes {
        /// The names of the classes in their order.
        names: Vec<String>,
        /// The class of every row, an index into the names.
        rows: Vec<usize>,
    },
    /// The number of every row.
    Values(Vec<f32>),
}

impl Labels {
    /// What they are.
    pub fn kind(&self) -> LabelKind {
        match self {
            Labels::Classes { .. } => LabelKind::Classes,
            Labels::Values(_) => LabelKind::Values,
        }
    }

    /// How many rows have one.
    pub fn len(&self) -> usize {
        match self {
            Labels::Classes { rows, .. } => rows.len(),
            Labels::Values(values) => values.len(),
        }
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The names of the classes.
    pub fn names(&self) -> Option<&[String]> {
        match self {
            Labels::Classes { names, .. } => Some(names),
            Labels::Values(_) => None,
        }
    }
}
