//! The file of predictions: one line per row of the data set, as CSV, TSV or JSON lines.

use std::io::{self, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::{EvaluateError, Evaluation};
use crate::dataset::{Dataset, Example, Format, Label, Objective};
use crate::files::write_atomically;

/// The format that predictions are written in, by the ending of their file's name; asked before anything is computed.
///
/// # Errors
/// Another ending. What would be packed is refused too: predictions are written as plain text.
pub fn predictions_format(path: &Path) -> Result<Format, EvaluateError> {
    let packed = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gz"));
    Format::of(path)
        .filter(|format| !packed && !matches!(format, Format::Txt | Format::Parquet))
        .ok_or_else(|| EvaluateError::UnknownFormat { path: path.into() })
}

/// Writes the predictions of a data set: `line` in its file, `prediction`, `label` where there is one, and the logits.
///
/// Classes are written by name. The ending of the name decides between `.csv`, `.tsv` and `.jsonl`. In a table the logits are
/// the columns `logit:NAME` (or `logit` for a number), in JSON the list `logits`.
///
/// # Errors
/// Unknown ending; an evaluation of another data set; a file that cannot be written.
pub fn write_predictions(
    path: &Path,
    dataset: &Dataset,
    objective: &Objective,
    evaluation: &Evaluation,
) -> Result<(), EvaluateError> {
    let format = predictions_format(path)?;
    let (expected, found) = (dataset.examples.len(), evaluation.predictions.len());
    if found != expected {
        return Err(EvaluateError::Lengths { what: "predictions", found, expected });
    }
    Ok(write_atomically(path, |writer| match format {
        Format::Jsonl => write_json_lines(writer, dataset, objective, evaluation),
        Format::Csv => write_table(writer, b',', dataset, objective, evaluation),
        _ => write_table(writer, b'\t', dataset, objective, evaluation),
    })?)
}

type Row<'a> = ((&'a Example, &'a Label), ndarray::ArrayView1<'a, f32>);

fn rows<'a>(dataset: &'a Dataset, evaluation: &'a Evaluation) -> impl Iterator<Item = Row<'a>> {
    dataset.examples.iter().zip(&evaluation.predictions).zip(evaluation.logits.rows())
}

/// A class by its name, a number as it is.
fn value(label: Label, objective: &Objective) -> Value {
    match (label, objective) {
        (Label::Class(class), Objective::Classification { labels }) if class < labels.len() => json!(labels[class]),
        (Label::Class(class), _) => json!(class),
        (Label::Value(value), _) => json!(value),
        (Label::Learnt { start, end }, _) => json!([start, end]),
        (Label::Span { place }, _) => json!(place),
    }
}

fn write_json_lines(
    writer: &mut impl Write,
    dataset: &Dataset,
    objective: &Objective,
    evaluation: &Evaluation,
) -> io::Result<()> {
    for ((example, prediction), logits) in rows(dataset, evaluation) {
        let mut object = Map::new();
        object.insert("line".into(), json!(example.line));
        object.insert("prediction".into(), value(*prediction, objective));
        if let Some(label) = example.label {
            object.insert("label".into(), value(label, objective));
        }
        object.insert("logits".into(), json!(logits.to_vec()));
        writeln!(writer, "{}", Value::Object(object))?;
    }
    Ok(())
}

fn write_table(
    writer: &mut impl Write,
    separator: u8,
    dataset: &Dataset,
    objective: &Objective,
    evaluation: &Evaluation,
) -> io::Result<()> {
    let labelled = dataset.examples.iter().any(|example| example.label.is_some());
    let mut table = csv::WriterBuilder::new().delimiter(separator).from_writer(writer);
    let logits: Vec<String> = match objective {
        Objective::Classification { labels } => labels.iter().map(|label| format!("logit:{label}")).collect(),
        Objective::Regression | Objective::CausalLm => vec!["logit".into()],
        Objective::Spans { .. } => vec!["logit:start".into(), "logit:end".into()],
    };
    let label = labelled.then(|| "label".to_owned());
    table.write_record(["line".to_owned(), "prediction".to_owned()].into_iter().chain(label).chain(logits))?;
    for ((example, prediction), logits) in rows(dataset, evaluation) {
        let cell = |label: Label| match (label, value(label, objective)) {
            (Label::Value(number), _) => number.to_string(),
            (_, Value::String(text)) => text,
            (_, other) => other.to_string(),
        };
        let label = labelled.then(|| example.label.map(cell).unwrap_or_default());
        let record = [example.line.to_string(), cell(*prediction)].into_iter().chain(label);
        table.write_record(record.chain(logits.iter().map(f32::to_string)))?;
    }
    table.flush()
}
