//! A data set: the rows of a table with their texts and labels.

use std::path::{Path, PathBuf};

use super::example::{Example, LoadSettings};
use super::label_column::{self, RawLabel};
use super::labels::{Label, Objective, ObjectiveKind};
use super::table::{self, Format, Row, Wanted};
use super::{DatasetError, documents, parquet};
use crate::files::{read_file, sha256, sha256_file};

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
        let language = settings.objective == Some(ObjectiveKind::CausalLm);
        let packed = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gz"));
        if format_of(path, settings)? == Format::Parquet && !language && !packed {
            // Never in memory as a whole.
            let wanted = wanted(settings);
            let rows = parquet::read_file(path, &wanted, settings.row_limit())?;
            return Dataset::of_rows(path, settings, rows, sha256_file(path)?);
        }
        let bytes = read_file(path)?;
        Dataset::from_bytes(path, &bytes, settings)
    }

    /// Reads a file that is in memory; `path` names it in messages, and its ending tells the format where the settings do
    /// not.
    ///
    /// # Errors
    /// As [`Dataset::load`].
    pub fn from_bytes(path: &Path, bytes: &[u8], settings: &LoadSettings) -> Result<Self, DatasetError> {
        let format = format_of(path, settings)?;
        let content = table::unpacked(path, bytes)?;
        if settings.objective == Some(ObjectiveKind::CausalLm) {
            let examples = documents::read(path, &content, format, settings)?;
            let (objective, mut warnings) = (Some(Objective::CausalLm), Vec::new());
            if (format, settings.quoting, &settings.template) == (Format::Tsv, None, &None) {
                let texts = examples.iter().map(|example| example.text.as_str());
                warnings.extend(quoted_fields(path, &settings.text, texts));
            }
            return Ok(Dataset { path: path.into(), sha256: sha256(bytes), objective, examples, warnings });
        }
        let rows = table::read(path, &content, format, settings.quoting, &wanted(settings))?;
        Dataset::of_rows(path, settings, rows, sha256(bytes))
    }

    fn of_rows(path: &Path, settings: &LoadSettings, mut rows: Vec<Row>, sha256: String) -> Result<Self, DatasetError> {
        if rows.is_empty() {
            return Err(DatasetError::NoRows { path: path.into() });
        }
        rows.truncate(settings.row_limit());
        let texts = 1 + usize::from(settings.pair.is_some());
        for row in &rows {
            if let Some(empty) = row.values[..texts].iter().position(|text| text.trim().is_empty()) {
                let column = wanted(settings)[empty].name.to_owned();
                return Err(DatasetError::EmptyText { path: path.into(), place: row.place, column });
            }
        }
        let (objective, labels) = match &settings.label {
            None => (None, vec![None; rows.len()]),
            Some(column) => {
                let raw: Vec<_> =
                    rows.iter().map(|row| RawLabel { place: row.place, text: &row.values[texts] }).collect();
                let (objective, labels) = label_column::read(path, settings, column, &raw)?;
                (Some(objective), labels.into_iter().map(Some).collect())
            }
        };
        let warnings = match (format_of(path, settings)?, settings.quoting) {
            (Format::Tsv, None) => {
                let columns = wanted(settings);
                let of_column = |(at, column): (usize, &Wanted<'_>)| {
                    quoted_fields(path, column.name, rows.iter().map(|row| row.values[at].as_str()))
                };
                columns.iter().enumerate().filter_map(of_column).collect()
            }
            _ => Vec::new(),
        };
        let examples = rows.into_iter().zip(labels).map(|(row, label)| {
            let mut values = row.values.into_iter();
            let text = values.next().unwrap_or_default();
            Example {
                line: row.place.number(),
                text,
                pair: settings.pair.is_some().then(|| values.next()).flatten(),
                label,
            }
        });
        Ok(Dataset { path: path.into(), sha256, objective, examples: examples.collect(), warnings })
    }

    /// The labels in the order of the rows; `None` where there are none.
    pub fn labels(&self) -> Option<Vec<Label>> {
        self.examples.iter().map(|example| example.label).collect()
    }
}

fn format_of(path: &Path, settings: &LoadSettings) -> Result<Format, DatasetError> {
    settings.format.or_else(|| Format::of(path)).ok_or_else(|| DatasetError::UnknownFormat { path: path.into() })
}

/// Text, second text where there is one, label where it is read.
fn wanted(settings: &LoadSettings) -> Vec<Wanted<'_>> {
    let mut wanted = vec![Wanted::text(&settings.text)];
    wanted.extend(settings.pair.iter().map(|name| Wanted::text(name)));
    wanted.extend(settings.label.iter().map(|name| Wanted { scalar: true, ..Wanted::text(name) }));
    wanted
}

/// A file written with quotes and read without them keeps its quotes silently. It gives itself away where every value of a
/// column stands between quotes; or where all that have a `"` do, and double those inside: `"a ""b"" c"`.
fn quoted_fields<'a>(path: &Path, column: &str, values: impl Iterator<Item = &'a str>) -> Option<String> {
    let (mut all, mut quoted, mut doubled) = (0, 0, 0);
    for value in values {
        all += 1;
        if !value.contains('"') {
            continue;
        }
        let inner = value.strip_prefix('"')?.strip_suffix('"')?;
        if inner.replace("\"\"", "").contains('"') {
            return None;
        }
        quoted += 1;
        doubled += usize::from(inner.contains("\"\""));
    }
    (quoted > 0 && (quoted == all || doubled > 0)).then(|| {
        format!(
            "{}: {quoted} of {all} values of `{column}` look as if `\"` quoted them, but it is read as an ordinary character; if it \
             does quote, say so (--quoting true; in a configuration quoting = true)",
            path.display()
        )
    })
}
