//! From token ids to logits, predictions and metrics.

use ndarray::{Array2, ArrayView1, Axis, Ix1, Ix2};

use super::{EvaluateError, Metric, Score};
use crate::dataset::{Batch, Encoding, Label, Objective, Padding};
use crate::onnx::{Model, ValueInfo};
use crate::progress::{Event, Observer};
use crate::runtime::{Feeder, FixedSizes, InferenceSession, Tokens};

/// Name of the output that is evaluated.
pub(super) const LOGITS: &str = "logits";

/// How an evaluation goes about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvaluateSettings {
    /// Tokens per batch, padding included.
    pub batch_tokens: usize,
    /// Only rows of equal length share a batch: for exports that ignore their attention mask.
    pub equal_lengths: bool,
    /// What rows are filled up with, and how the model counts positions.
    pub padding: Padding,
}

impl Default for EvaluateSettings {
    fn default() -> Self {
        EvaluateSettings { batch_tokens: 4096, equal_lengths: false, padding: Padding::default() }
    }
}

/// What an evaluation found.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// `[rows, outputs]`, in the order of the data set.
    pub logits: Array2<f32>,
    /// The class or the number of every row.
    pub predictions: Vec<Label>,
    /// The metrics; empty without labels.
    pub scores: Vec<Score>,
}

/// Whether a model gives what can be evaluated, asked before anything is run.
///
/// # Errors
/// No output `logits`.
pub fn check_outputs(model: &Model) -> Result<(), EvaluateError> {
    has_logits(&model.graph.outputs)
}

pub(super) fn has_logits(outputs: &[ValueInfo]) -> Result<(), EvaluateError> {
    if outputs.iter().any(|output| output.name == LOGITS) {
        return Ok(());
    }
    let names: Vec<_> = outputs.iter().take(8).map(|output| output.name.as_str()).collect();
    Err(EvaluateError::NoLogits { there: names.join(", ") })
}

/// Evaluates a model on token ids, through ONNX Runtime.
///
/// `labels` has one label per row; without labels there are only predictions. Without `metrics`, the usual ones of the
/// objective are taken.
///
/// # Errors
/// No output `logits`; a head that does not fit the objective; logits that are not finite; a metric that does not fit.
pub fn evaluate_export(
    session: &mut InferenceSession,
    encodings: &[Encoding],
    labels: Option<&[Label]>,
    objective: &Objective,
    metrics: &[Metric],
    settings: &EvaluateSettings,
    observer: &dyn Observer,
) -> Result<Evaluation, EvaluateError> {
    has_logits(session.outputs())?;
    for metric in metrics {
        metric.check(objective)?;
    }
    let feeder = Feeder::new(session.inputs(), &[])?;
    let logits = logits_of(encodings, settings, feeder.sizes(), observer, |batch| run(session, &feeder, batch))?;
    let predictions = predictions(&logits, objective)?;
    let scores = labels.map_or(Ok(Vec::new()), |labels| score(&predictions, labels, objective, metrics))?;
    Ok(Evaluation { logits, predictions, scores })
}

/// The logits of a batch, `[rows, outputs]`.
fn run(session: &mut InferenceSession, feeder: &Feeder, batch: &Batch) -> Result<Array2<f32>, EvaluateError> {
    let rows = batch.rows.len();
    let tokens = Tokens::from(batch);
    let feed = feeder.feed(&tokens);
    let outputs = session.run(&feed.tensors(), &[LOGITS])?;
    let Some(values) = outputs.into_iter().next() else { return Err(EvaluateError::Shape { found: vec![], rows }) };
    let found = values.shape().to_vec();
    match values.ndim() {
        2 => values.into_dimensionality::<Ix2>().ok(),
        1 => values.into_dimensionality::<Ix1>().ok().map(|values| values.insert_axis(Axis(1))),
        _ => None,
    }
    .filter(|values| values.nrows() == rows)
    .ok_or(EvaluateError::Shape { found, rows })
}

/// Runs rows in batches sorted by length; gives the logits `[rows, outputs]` in the order of the rows.
///
/// `run` gives the logits of a batch, `[rows, outputs]` in the order of the batch.
///
/// # Errors
/// Those of `run`; batches of different width; logits that are not finite; cancellation.
pub fn logits<E>(
    encodings: &[Encoding],
    settings: &EvaluateSettings,
    observer: &dyn Observer,
    run: impl FnMut(&Batch) -> Result<Array2<f32>, E>,
) -> Result<Array2<f32>, EvaluateError>
where
    EvaluateError: From<E>,
{
    logits_of(encodings, settings, FixedSizes::default(), observer, run)
}

/// The same in batches of the sizes that the export fixes.
fn logits_of<E>(
    encodings: &[Encoding],
    settings: &EvaluateSettings,
    sizes: FixedSizes,
    observer: &dyn Observer,
    mut run: impl FnMut(&Batch) -> Result<Array2<f32>, E>,
) -> Result<Array2<f32>, EvaluateError>
where
    EvaluateError: From<E>,
{
    let lengths: Vec<usize> = encodings.iter().map(Encoding::len).collect();
    let rows: Vec<usize> = (0..lengths.len()).collect();
    let total = Some(rows.len() as u64);
    observer.observe(Event::Begin { stage: "evaluating", total, done: 0, unit: "rows" });
    let mut logits = Array2::zeros((0, 0));
    let mut done = 0;
    for batch in sizes.batches(&lengths, &rows, settings.batch_tokens, settings.equal_lengths) {
        observer.check()?;
        let batch = sizes.batch(encodings, &batch, settings.padding)?;
        let values = run(&batch)?;
        if done == 0 {
            logits = Array2::zeros((rows.len(), values.ncols()));
        }
        if values.dim() != (batch.rows.len(), logits.ncols()) {
            return Err(EvaluateError::Shape { found: values.shape().to_vec(), rows: batch.rows.len() });
        }
        for (&row, values) in batch.rows.iter().zip(values.rows()) {
            if let Some(&value) = values.iter().find(|value| !value.is_finite()) {
                return Err(EvaluateError::NotFinite { row, value });
            }
            logits.row_mut(row).assign(&values);
        }
        done += batch.rows.len();
        observer.observe(Event::Advance { done: done as u64, detail: "" });
    }
    observer.observe(Event::End);
    Ok(logits)
}

/// The class with the largest logit (the first of equal ones), or the number.
///
/// # Errors
/// Logits whose width does not fit the objective.
pub fn predictions(logits: &Array2<f32>, objective: &Objective) -> Result<Vec<Label>, EvaluateError> {
    if logits.nrows() > 0 && logits.ncols() != objective.outputs() {
        let task = match objective {
            Objective::Classification { labels } => format!("classes {}", labels.join(", ")),
            Objective::Regression => "a regression".into(),
            Objective::CausalLm => "a language model, which predicts tokens and not rows".into(),
            Objective::Spans { .. } => "span answers".into(),
        };
        return Err(EvaluateError::Outputs { found: logits.ncols(), expected: objective.outputs(), task });
    }
    let label = |row: ArrayView1<'_, f32>| match objective {
        Objective::Classification { .. } => {
            Label::Class((1..row.len()).fold(0, |best, class| if row[class] > row[best] { class } else { best }))
        }
        Objective::Regression | Objective::CausalLm => Label::Value(row[0]),
        // Windows are answered together, by question.
        Objective::Spans { .. } => Label::Span { place: None },
    };
    Ok(logits.rows().into_iter().map(label).collect())
}

/// The metrics of predictions; the usual ones of the objective where none are named.
///
/// # Errors
/// Different lengths; a metric that does not fit the objective.
pub fn score(
    predictions: &[Label],
    labels: &[Label],
    objective: &Objective,
    metrics: &[Metric],
) -> Result<Vec<Score>, EvaluateError> {
    let metrics = if metrics.is_empty() { Metric::usual(objective) } else { metrics };
    metrics
        .iter()
        .map(|metric| {
            metric.check(objective)?;
            Ok(metric.score(predictions, labels)?)
        })
        .collect()
}
