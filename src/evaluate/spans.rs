//! Span answers of an export: windows in batches sorted by length, start and end logits, answers, and their file.

use std::io::Write;
use std::path::Path;

use ndarray::ArrayD;
use serde_json::{Map, Value};

use super::{EvaluateError, EvaluateSettings};
use crate::dataset::{Batch, Encoding, SpanLogits, SquadFile};
use crate::files::write_atomically;
use crate::onnx::{Model, ValueInfo};
use crate::progress::{Event, Observer};
use crate::runtime::{Feeder, InferenceSession, Tokens};

/// Names of the outputs that are evaluated.
const OUTPUTS: [&str; 2] = ["start_logits", "end_logits"];

/// Whether a model gives span answers, asked before anything is run.
///
/// # Errors
/// No outputs `start_logits` and `end_logits`.
pub fn check_span_outputs(model: &Model) -> Result<(), EvaluateError> {
    has_outputs(&model.graph.outputs)
}

fn has_outputs(outputs: &[ValueInfo]) -> Result<(), EvaluateError> {
    if OUTPUTS.iter().all(|name| outputs.iter().any(|output| output.name == *name)) {
        return Ok(());
    }
    let names: Vec<_> = outputs.iter().take(8).map(|output| output.name.as_str()).collect();
    Err(EvaluateError::NoSpanLogits { there: names.join(", ") })
}

/// Start and end logits of every window, through ONNX Runtime, in the order of the windows.
///
/// # Errors
/// No outputs `start_logits` and `end_logits`, or of another shape than `[rows, tokens]`; logits that are not finite;
/// cancellation.
pub fn span_logits(
    session: &mut InferenceSession,
    encodings: &[Encoding],
    settings: &EvaluateSettings,
    observer: &dyn Observer,
) -> Result<Vec<SpanLogits>, EvaluateError> {
    has_outputs(session.outputs())?;
    let feeder = Feeder::new(session.inputs(), &[])?;
    let lengths: Vec<usize> = encodings.iter().map(Encoding::len).collect();
    let rows: Vec<usize> = (0..lengths.len()).collect();
    observer.observe(Event::Begin { stage: "evaluating", total: Some(rows.len() as u64), done: 0, unit: "windows" });
    let mut logits = vec![SpanLogits::default(); lengths.len()];
    let mut done = 0;
    let sizes = feeder.sizes();
    for batch in sizes.batches(&lengths, &rows, settings.batch_tokens, settings.equal_lengths) {
        observer.check()?;
        let batch = sizes.batch(encodings, &batch, settings.padding)?;
        let [starts, ends] = run(session, &feeder, &batch)?;
        let lines = |values: &ArrayD<f32>| values.iter().copied().collect::<Vec<f32>>();
        let (starts, ends) = (lines(&starts), lines(&ends));
        let lines = starts.chunks_exact(batch.length).zip(ends.chunks_exact(batch.length));
        for (&row, (start, end)) in batch.rows.iter().zip(lines) {
            let found = SpanLogits { start: start[..lengths[row]].to_vec(), end: end[..lengths[row]].to_vec() };
            if let Some(&value) = found.start.iter().chain(&found.end).find(|value| !value.is_finite()) {
                return Err(EvaluateError::NotFinite { row, value });
            }
            logits[row] = found;
        }
        done += batch.rows.len();
        observer.observe(Event::Advance { done: done as u64, detail: "" });
    }
    observer.observe(Event::End);
    Ok(logits)
}

/// Start and end logits of a batch, each `[rows, length]`.
fn run(session: &mut InferenceSession, feeder: &Feeder, batch: &Batch) -> Result<[ArrayD<f32>; 2], EvaluateError> {
    let rows = batch.rows.len();
    let tokens = Tokens::from(batch);
    let feed = feeder.feed(&tokens);
    let outputs = session.run(&feed.tensors(), &OUTPUTS)?;
    let wanted = [rows, batch.length];
    if let Some(other) = outputs.iter().find(|values| values.shape() != wanted) {
        return Err(EvaluateError::SpanShape { found: other.shape().to_vec(), rows, tokens: batch.length });
    }
    let given = outputs.len();
    <[ArrayD<f32>; 2]>::try_from(outputs).map_err(|_| EvaluateError::Lengths {
        what: "outputs",
        found: given,
        expected: OUTPUTS.len(),
    })
}

/// Writes answers as the evaluation scripts of SQuAD read them: one JSON object, id → answer, in the order of the file.
///
/// # Errors
/// Answers of another file; a file that cannot be written.
pub fn write_answers(path: &Path, file: &SquadFile, answers: &[&str]) -> Result<(), EvaluateError> {
    let (expected, found) = (file.questions.len(), answers.len());
    if found != expected {
        return Err(EvaluateError::Lengths { what: "answers", found, expected });
    }
    let by_id: Map<String, Value> = file
        .questions
        .iter()
        .zip(answers)
        .map(|(question, answer)| (question.id.clone(), Value::from(*answer)))
        .collect();
    Ok(write_atomically(path, |writer| {
        serde_json::to_writer_pretty(&mut *writer, &by_id)?;
        writeln!(writer)
    })?)
}
