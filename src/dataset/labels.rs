//! The labels of a table's rows, all of one kind.

use serde::{Deserialize, Serialize};

/// The kind of labels that a table has.
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
        /// Names of the classes, in order.
        names: Vec<String>,
        /// The class of every row, an index into the names.
        rows: Vec<usize>,
    },
    /// One number per row.
    Values(Vec<f32>),
}

impl Labels {
    /// The kind of these labels.
    pub fn kind(&self) -> LabelKind {
        match self {
            Labels::Classes { .. } => LabelKind::Classes,
            Labels::Values(_) => LabelKind::Values,
        }
    }

    /// Number of rows.
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

    /// Names of the classes; `None` for numbers.
    pub fn names(&self) -> Option<&[String]> {
        match self {
            Labels::Classes { names, .. } => Some(names),
            Labels::Values(_) => None,
        }
    }
}
