//! A data set: the rows of a table with their texts and labels.

use std::path::{Path, PathBuf};

use super::example::{Example, LoadSettings};
use super::label_column::{self, RawLabel};
use super::labels::Labels;
use super::table::{self, Format, Row, Wanted};
use super::{DatasetError, parquet};
use crate::files::{read_file, sha256, sha256_file};
use crate::hint::Hint;

/// The rows of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// Path of the file.
    pub path: PathBuf,
    /// SHA-256 of the file, in hex.
    pub sha256: String,
    /// The rows in the order of the file.
    pub examples: Vec<Example>,
    /// Labels of the rows; `None` where no label column was read.
    pub labels: Option<Labels>,
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
        let (rows, sha256) = Dataset::read(path, settings, &wanted(settings))?;
        Dataset::of_rows(path, settings, rows, sha256)
    }

    /// Reads texts together with the values of other columns.
    pub(super) fn load_beside(
        path: &Path,
        settings: &LoadSettings,
        columns: &[Wanted<'_>],
    ) -> Result<(Self, Vec<Row>), DatasetError> {
        let settings = &settings.without_labels();
        let texts = wanted(settings);
        let (mut rows, sha256) = Dataset::read(path, settings, &[&texts, columns].concat())?;
        rows.truncate(settings.row_limit());
        let beside = |row: &mut Row| Row { place: row.place, values: row.values.split_off(texts.len()) };
        let beside = rows.iter_mut().map(beside).collect();
        Ok((Dataset::of_rows(path, settings, rows, sha256)?, beside))
    }

    /// Reads the wanted columns, and the hash of the file.
    fn read(path: &Path, settings: &LoadSettings, wanted: &[Wanted<'_>]) -> Result<(Vec<Row>, String), DatasetError> {
        if path.is_dir() {
            let (found, cure) = ("is a folder", "name a file in it".into());
            return Err(DatasetError::NotATable { path: path.into(), found, cure });
        }
        let packed = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gz"));
        if format_of(path, settings)? == Format::Parquet && !packed {
            // The file is never held in memory as a whole.
            let rows = parquet::read_file(path, wanted, settings.row_limit())?;
            return Ok((rows, sha256_file(path)?));
        }
        let bytes = read_file(path)?;
        Ok((rows_in(path, &bytes, settings, wanted)?, sha256(&bytes)))
    }

    /// Reads a file from memory; `path` names it in messages, and its extension gives the format where the settings do not.
    ///
    /// # Errors
    /// Those of [`Dataset::load`].
    pub fn from_bytes(path: &Path, bytes: &[u8], settings: &LoadSettings) -> Result<Self, DatasetError> {
        let rows = rows_in(path, bytes, settings, &wanted(settings))?;
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
        let labels = match &settings.label {
            None => None,
            Some(column) => {
                let raw: Vec<_> =
                    rows.iter().map(|row| RawLabel { place: row.place, text: &row.values[texts] }).collect();
                Some(label_column::read(path, settings, column, &raw)?)
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
        let examples = rows.into_iter().map(|row| {
            let mut values = row.values.into_iter();
            let text = values.next().unwrap_or_default();
            Example { line: row.place.number(), text, pair: settings.pair.is_some().then(|| values.next()).flatten() }
        });
        Ok(Dataset { path: path.into(), sha256, examples: examples.collect(), labels, warnings })
    }
}

fn rows_in(
    path: &Path,
    bytes: &[u8],
    settings: &LoadSettings,
    wanted: &[Wanted<'_>],
) -> Result<Vec<Row>, DatasetError> {
    let format = format_of(path, settings)?;
    let content = table::unpacked(path, bytes)?;
    table::read(path, &content, format, settings.quoting, wanted)
}

pub(super) fn format_of(path: &Path, settings: &LoadSettings) -> Result<Format, DatasetError> {
    settings.format.or_else(|| Format::of(path)).ok_or_else(|| DatasetError::UnknownFormat { path: path.into() })
}

/// The columns to read: text, second text if there is one, label if it is read.
fn wanted(settings: &LoadSettings) -> Vec<Wanted<'_>> {
    let mut wanted = vec![Wanted::text(&settings.text)];
    wanted.extend(settings.pair.iter().map(|name| Wanted::text(name)));
    wanted.extend(settings.label.iter().map(|name| Wanted { scalar: true, ..Wanted::text(name) }));
    wanted
}

/// A file written with quotes and read without them silently keeps its quotes. This is evident where every value of a column
/// is enclosed in quotes; or where all values that contain a `"` are, and double the quotes inside: `"a ""b"" c"`.
pub(super) fn quoted_fields<'a>(path: &Path, column: &str, values: impl Iterator<Item = &'a str>) -> Option<String> {
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
             does quote, say so ({})",
            path.display(),
            Hint::QuotingInWarning.with(true)
        )
    })
}
