//! A data set: the rows of a table with their texts and labels.

use std::path::{Path, PathBuf};

use super::DatasetError;
use super::labels::{self, Label, Objective, ObjectiveKind, RawLabel};
use super::table::{self, Format, Wanted};
use crate::files::{FileError, sha256};

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
    pub objective: Option<ObjectiveKind>,
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
            objective: None,
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
    pub fn with_objective(&self, objective: &Objective) -> LoadSettings {
        let labels = match objective {
            Objective::Classification { labels } => Some(labels.clone()),
            Objective::Regression | Objective::Spans { .. } => None,
        };
        LoadSettings { objective: Some(objective.kind()), labels, ..self.clone() }
    }

    /// The same, without labels.
    pub fn without_labels(&self) -> LoadSettings {
        LoadSettings { label: None, ..self.clone() }
    }
}

/// One row.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// Where the row begins in the file, from 1.
    pub line: usize,
    /// The text, or the first of a pair.
    pub text: String,
    /// The second text of a pair.
    pub pair: Option<String>,
    /// Its label; `None` throughout where no label column was read.
    pub label: Option<Label>,
}

/// The rows of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// The file.
    pub path: PathBuf,
    /// SHA-256 of the file.
    pub sha256: String,
    /// What the labels stand for; `None` where no label column was read.
    pub objective: Option<Objective>,
    /// The rows in the order of the file.
    pub examples: Vec<Example>,
    /// What a user should look at before trusting the texts.
    pub warnings: Vec<String>,
}

impl Dataset {
    /// Reads a file.
    ///
    /// # Errors
    /// One line that names the file, the line, what was found and the cure: unreadable file, unknown format, invalid
    /// UTF-8, missing column, ragged row, empty text, empty or unknown label, no rows.
    pub fn load(path: &Path, settings: &LoadSettings) -> Result<Self, DatasetError> {
        if path.is_dir() {
            let (found, cure) = ("is a folder", "name a file in it");
            return Err(DatasetError::NotATable { path: path.into(), found, cure });
        }
        let bytes = std::fs::read(path).map_err(FileError::new("read", path))?;
        let format = settings
            .format
            .or_else(|| Format::of(path))
            .ok_or_else(|| DatasetError::UnknownFormat { path: path.into() })?;
        let mut wanted = vec![Wanted { name: &settings.text, scalar: false }];
        wanted.extend(settings.pair.iter().map(|name| Wanted { name, scalar: false }));
        let texts = wanted.len();
        wanted.extend(settings.label.iter().map(|name| Wanted { name, scalar: true }));
        let mut rows = table::read(path, &bytes, format, settings.quoting, &wanted)?;
        rows.truncate(settings.limit.unwrap_or(usize::MAX).max(1));

        for row in &rows {
            if let Some(empty) = row.values[..texts].iter().position(|text| text.trim().is_empty()) {
                let column = wanted[empty].name.to_owned();
                return Err(DatasetError::EmptyText { path: path.into(), line: row.line, column });
            }
        }
        let (objective, labels) = match &settings.label {
            None => (None, vec![None; rows.len()]),
            Some(column) => {
                let raw: Vec<_> =
                    rows.iter().map(|row| RawLabel { line: row.line, text: &row.values[texts] }).collect();
                let (objective, labels) = labels::read(path, settings, column, &raw)?;
                (Some(objective), labels.into_iter().map(Some).collect())
            }
        };
        let warnings = match (format, settings.quoting) {
            (Format::Tsv, None) => quoted_fields(path, &rows, texts),
            _ => Vec::new(),
        };
        let examples = rows.into_iter().zip(labels).map(|(row, label)| {
            let mut values = row.values.into_iter();
            let text = values.next().unwrap_or_default();
            Example { line: row.line, text, pair: settings.pair.is_some().then(|| values.next()).flatten(), label }
        });
        Ok(Dataset { path: path.into(), sha256: sha256(&bytes), objective, examples: examples.collect(), warnings })
    }

    /// The labels in the order of the rows; `None` where there are none.
    pub fn labels(&self) -> Option<Vec<Label>> {
        self.examples.iter().map(|example| example.label).collect()
    }
}

/// A file written with quotes and read without them keeps its quotes silently. It gives itself away where every text with
/// a `"` in it stands between quotes and doubles those inside: `"a ""b"" c"`.
fn quoted_fields(path: &Path, rows: &[table::Row], texts: usize) -> Vec<String> {
    let (mut quoted, mut doubled) = (0, 0);
    for text in rows.iter().flat_map(|row| &row.values[..texts]).filter(|text| text.contains('"')) {
        let Some(inner) = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else { return Vec::new() };
        if inner.replace("\"\"", "").contains('"') {
            return Vec::new();
        }
        quoted += 1;
        doubled += usize::from(inner.contains("\"\""));
    }
    if doubled == 0 {
        return Vec::new();
    }
    vec![format!(
        "{}: {quoted} texts look as if `\"` quoted them, but it is read as an ordinary character; if it does quote, say so \
         (quoting = true)",
        path.display()
    )]
}
