//! The file of predictions: one line per row of a table, as CSV, TSV or JSON lines.

use std::io::{self, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::TaskError;
use crate::dataset::{Format, Labels};
use crate::files::write_atomically;

/// The format that predictions are written in, by the ending of their file's name; asked before anything is computed.
///
/// # Errors
/// Another ending. What would be packed is refused too: predictions are written as plain text.
pub fn predictions_format(path: &Path) -> Result<Format, TaskError> {
    let packed = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gz"));
    Format::of(path)
        .filter(|format| !packed && !matches!(format, Format::Txt | Format::Parquet))
        .ok_or_else(|| TaskError::UnknownFormat { path: path.into() })
}

/// A class by its name, or a number.
enum Cell<'a> {
    Class(&'a str),
    Value(f32),
}

impl Cell<'_> {
    fn json(&self) -> Value {
        match self {
            Cell::Class(name) => json!(name),
            Cell::Value(value) => json!(value),
        }
    }

    fn text(&self) -> String {
        match self {
            Cell::Class(name) => (*name).to_owned(),
            Cell::Value(value) => value.to_string(),
        }
    }
}

/// Predictions, labels and logits of all rows.
struct Written<'a> {
    lines: Vec<usize>,
    predictions: Vec<Cell<'a>>,
    labels: Option<Vec<Cell<'a>>>,
    logits: &'a [Vec<f32>],
    /// The names of the logits in a table.
    columns: Vec<String>,
}

/// What was predicted for every row.
pub(super) enum Predicted<'a> {
    /// Classes, as numbers of these names.
    Classes { names: &'a [String], rows: Vec<usize> },
    /// Numbers.
    Values(Vec<f32>),
}

/// Writes the predictions of a table: `line` in its file, `prediction`, `label` where there is one, and the logits.
///
/// Classes are written by name. The ending of the name decides between `.csv`, `.tsv` and `.jsonl`. In a table the logits are
/// the columns `logit:NAME` (or `logit` for a number), in JSON the list `logits`.
///
/// # Errors
/// Unknown ending; a file that cannot be written.
pub(super) fn write_table(
    path: &Path,
    lines: Vec<usize>,
    predicted: &Predicted<'_>,
    labels: Option<&Labels>,
    logits: &[Vec<f32>],
) -> Result<(), TaskError> {
    let format = predictions_format(path)?;
    let (predictions, columns) = match predicted {
        Predicted::Classes { names, rows } => {
            let columns = names.iter().map(|name| format!("logit:{name}")).collect();
            (rows.iter().map(|&class| Cell::Class(&names[class])).collect(), columns)
        }
        Predicted::Values(values) => (values.iter().map(|&value| Cell::Value(value)).collect(), vec!["logit".into()]),
    };
    let labels = labels.map(|labels| match labels {
        Labels::Classes { names, rows } => rows.iter().map(|&class| Cell::Class(&names[class])).collect(),
        Labels::Values(values) => values.iter().map(|&value| Cell::Value(value)).collect(),
    });
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
