//! The file of predictions: one line per row of a table, as CSV, TSV or JSON lines.

use std::io::{self, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::TaskError;
use crate::dataset::Format;
use crate::files::write_atomically;

/// The format of predictions, from the extension of their file's name; checked before anything is computed.
///
/// # Errors
/// Another extension. Compressed formats are rejected too: predictions are written as plain text.
pub fn predictions_format(path: &Path) -> Result<Format, TaskError> {
    let packed = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gz"));
    Format::of(path)
        .filter(|format| !packed && !matches!(format, Format::Txt | Format::Parquet))
        .ok_or_else(|| TaskError::UnknownFormat { path: path.into() })
}

/// A class by its name, a number, or the names of labels.
enum Cell<'a> {
    Class(&'a str),
    Value(f32),
    Labels(Vec<&'a str>),
}

impl Cell<'_> {
    fn json(&self) -> Value {
        match self {
            Cell::Class(name) => json!(name),
            Cell::Value(value) => json!(value),
            Cell::Labels(names) => json!(names),
        }
    }

    fn text(&self) -> String {
        match self {
            Cell::Class(name) => (*name).to_owned(),
            Cell::Value(value) => value.to_string(),
            // A JSON list where a name contains a comma, or looks like a list, and would be misread.
            Cell::Labels(names) if names.iter().any(|name| name.contains(',') || name.starts_with('[')) => {
                json!(names).to_string()
            }
            Cell::Labels(names) => names.join(","),
        }
    }
}

/// Predictions, labels and logits of all rows.
struct Written<'a> {
    lines: Vec<usize>,
    predictions: Vec<Cell<'a>>,
    labels: Option<Vec<Cell<'a>>>,
    logits: &'a [Vec<f32>],
    /// Column names of the logits in a table.
    columns: Vec<String>,
}

/// Predictions, or true labels, of all rows.
pub(super) enum Predicted<'a> {
    /// Classes, as indices into these names.
    Classes { names: &'a [String], rows: Vec<usize> },
    /// One number per row.
    Values(Vec<f32>),
    /// For every row, which of these labels it has.
    LabelSets { names: &'a [String], rows: Vec<Vec<bool>> },
}

impl Predicted<'_> {
    fn cells(&self) -> Vec<Cell<'_>> {
        match self {
            Predicted::Classes { names, rows } => rows.iter().map(|&class| Cell::Class(&names[class])).collect(),
            Predicted::Values(values) => values.iter().map(|&value| Cell::Value(value)).collect(),
            Predicted::LabelSets { names, rows } => {
                let had = |row: &Vec<bool>| {
                    names.iter().zip(row).filter(|(_, has)| **has).map(|(name, _)| name.as_str()).collect()
                };
                rows.iter().map(|row| Cell::Labels(had(row))).collect()
            }
        }
    }
}

/// Writes the predictions of a table: `line` in its file, `prediction`, `label` where there is one, and the logits.
///
/// Classes are written by name, several labels separated by commas, in JSON as a list. The extension decides between `.csv`,
/// `.tsv` and `.jsonl`. In a table the logits are the columns `logit:NAME` (or `logit` for a number), in JSON the list
/// `logits`.
///
/// # Errors
/// Unknown extension; a file that cannot be written.
pub(super) fn write_table(
    path: &Path,
    lines: Vec<usize>,
    predicted: &Predicted<'_>,
    labels: Option<&Predicted<'_>>,
    logits: &[Vec<f32>],
) -> Result<(), TaskError> {
    let format = predictions_format(path)?;
    let columns = match predicted {
        Predicted::Classes { names, .. } | Predicted::LabelSets { names, .. } => {
            names.iter().map(|name| format!("logit:{name}")).collect()
        }
        Predicted::Values(_) => vec!["logit".into()],
    };
    let (predictions, labels) = (predicted.cells(), labels.map(Predicted::cells));
    let written = Written { lines, predictions, labels, logits, columns };
    Ok(write_atomically(path, |writer| match format {
        Format::Jsonl => written.json_lines(writer),
        Format::Csv => written.table(writer, b','),
        _ => written.table(writer, b'\t'),
    })?)
}

impl Written<'_> {
    fn label(&self, row: usize) -> Option<&Cell<'_>> {
        self.labels.as_ref().and_then(|labels| labels.get(row))
    }

    fn json_lines(&self, writer: &mut impl Write) -> io::Result<()> {
        for (row, (line, prediction)) in self.lines.iter().zip(&self.predictions).enumerate() {
            let mut object = Map::new();
            object.insert("line".into(), json!(line));
            object.insert("prediction".into(), prediction.json());
            if let Some(label) = self.label(row) {
                object.insert("label".into(), label.json());
            }
            object.insert("logits".into(), json!(self.logits[row]));
            writeln!(writer, "{}", Value::Object(object))?;
        }
        Ok(())
    }

    fn table(&self, writer: &mut impl Write, separator: u8) -> io::Result<()> {
        let mut table = csv::WriterBuilder::new().delimiter(separator).from_writer(writer);
        let label = self.labels.as_ref().map(|_| "label".to_owned());
        let columns = self.columns.iter().cloned();
        table.write_record(["line".to_owned(), "prediction".to_owned()].into_iter().chain(label).chain(columns))?;
        for (row, (line, prediction)) in self.lines.iter().zip(&self.predictions).enumerate() {
            let label = self.label(row).map(Cell::text);
            let record = [line.to_string(), prediction.text()].into_iter().chain(label);
            table.write_record(record.chain(self.logits[row].iter().map(f32::to_string)))?;
        }
        table.flush()
    }
}
