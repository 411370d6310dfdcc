//! Rows of a data set, and which columns of a file they are read from.

use super::labels::{LabelKind, Labels};
use super::table::Format;

/// Which columns of a file to read, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadSettings {
    /// Column of the text, or of the first text of a pair.
    pub text: String,
    /// Column of the second text of a pair.
    pub pair: Option<String>,
    /// Column of the label; `None` reads texts alone.
    pub label: Option<String>,
    /// Classes or numbers; `None` tells by the labels themselves.
    pub kind: Option<LabelKind>,
    /// Names of the classes in their order; `None` takes the sorted words, or integers as they are.
    pub labels: Option<Vec<String>>,
    /// Whether the number of a class may stand in the file instead of its name. On in the presets, whose order is known.
    pub accept_class_numbers: bool,
    /// How the file is written; `None` tells by the ending of its name.
    pub format: Option<Format>,
    /// Whether `"` quotes fields; `None` means no in TSV and yes in CSV.
    pub quoting: Option<bool>,
    /// Only so many rows, from the first; `None` takes all.
    pub limit: Option<usize>,
}

impl Default for LoadSettings {
    /// Columns `text` and `label`.
    fn default() -> Self {
        LoadSettings {
            text: "text".into(),
            pair: None,
            label: Some("label".into()),
            kind: None,
            labels: None,
            accept_class_numbers: false,
            format: None,
            quoting: None,
            limit: None,
        }
    }
}

impl LoadSettings {
    /// The same, with the classes of another data set: a development set is read with those of the training set.
    pub fn with_labels_of(&self, other: &Labels) -> LoadSettings {
        LoadSettings { kind: Some(other.kind()), labels: other.names().map(<[String]>::to_vec), ..self.clone() }
    }

    /// The same, without labels.
    pub fn without_labels(&self) -> LoadSettings {
        LoadSettings { label: None, ..self.clone() }
    }

    /// How many rows to take.
    pub(super) fn row_limit(&self) -> usize {
        self.limit.unwrap_or(usize::MAX).max(1)
    }
}

/// One row.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// The line in which the row begins in the file, from 1; in Parquet, which has no lines, the row.
    pub line: usize,
    /// The text, or the first of a pair.
    pub text: String,
    /// The second text of a pair.
    pub pair: Option<String>,
}
