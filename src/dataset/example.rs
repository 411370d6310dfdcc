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
    /// Column of the label; `None` reads the texts alone.
    pub label: Option<String>,
    /// Classes or numbers; `None` infers it from the labels.
    pub kind: Option<LabelKind>,
    /// Names of the classes in their order; `None` uses the sorted words, or the integers themselves.
    pub labels: Option<Vec<String>>,
    /// Whether the file may give the index of a class instead of its name. On in the presets, whose order is known.
    pub accept_class_numbers: bool,
    /// Format of the file; `None` infers it from the extension.
    pub format: Option<Format>,
    /// Whether `"` quotes fields; `None` means no in TSV and yes in CSV.
    pub quoting: Option<bool>,
    /// Number of rows to read, from the first; `None` reads all.
    pub limit: Option<usize>,
}

impl Default for LoadSettings {
    /// Reads the columns `text` and `label`.
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
    /// These settings with the classes of another data set: a development set is read with those of the training set.
    pub fn with_labels_of(&self, other: &Labels) -> LoadSettings {
        LoadSettings { kind: Some(other.kind()), labels: other.names().map(<[String]>::to_vec), ..self.clone() }
    }

    /// These settings without labels.
    pub fn without_labels(&self) -> LoadSettings {
        LoadSettings { label: None, ..self.clone() }
    }

    /// Maximum number of rows to read.
    pub(super) fn row_limit(&self) -> usize {
        self.limit.unwrap_or(usize::MAX).max(1)
    }
}

/// One row of a data set.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// Line of the file on which the row begins, from 1; for Parquet, which has no lines, the row.
    pub line: usize,
    /// The text, or the first of a pair.
    pub text: String,
    /// The second text of a pair.
    pub pair: Option<String>,
}
