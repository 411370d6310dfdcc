//! The validation data through the program: loss and metrics.

use ndarray::Array2;
use tch::Kind;

use super::error::TrainError;
use super::input::{Rows, TrainInput};
use super::language;
use super::learner::Learner;
use super::objective::Targets;
use super::{parameters, spans};
use crate::dataset::{Label, Metric, Objective};
use crate::progress::Observer;

/// Loss, logits and metrics of the validation data.
pub(super) struct Measured {
    /// Mean loss per row, or per token of a language model.
    pub loss: f64,
    /// By name.
    pub metrics: Vec<(String, Option<f64>)>,
}

/// Evaluates with dropout off. `budget_tokens` bounds the size of a batch.
pub(super) fn evaluate(
    learner: &mut Learner<'_>,
    input: &TrainInput<'_>,
    rows: Rows<'_>,
    targets: &Targets,
    budget_tokens: usize,
    observer: &dyn Observer,
) -> Result<Measured, TrainError> {
    if let Some(questions) = input.questions {
        return spans::evaluate(learner, questions, rows, targets, budget_tokens, observer);
    }
    if *input.objective == Objective::CausalLm {
        return language::evaluate(learner, rows, targets, budget_tokens, observer);
    }
    let (logits, loss) = logits_and_loss(learner, rows, Some(targets), budget_tokens, observer)?;
    let predictions = predictions(input.objective, &logits);
    let chosen = if input.metrics.is_empty() { Metric::usual(input.objective) } else { input.metrics };
    let mut metrics = Vec::with_capacity(chosen.len());
    for metric in chosen {
        let score = metric.score(&predictions, rows.labels)?;
        metrics.push((metric.name().to_owned(), score.value.filter(|value| value.is_finite())));
    }
    Ok(Measured { loss: loss / targets.total_weight().max(1) as f64, metrics })
}

/// Logits `[rows, outputs]` in the order of the rows, and the sum of the loss (0 without targets).
pub(super) fn logits_and_loss(
    learner: &mut Learner<'_>,
    rows: Rows<'_>,
    targets: Option<&Targets>,
    budget_tokens: usize,
    observer: &dyn Observer,
) -> Result<(Array2<f32>, f64), TrainError> {
    learner.set_training(false);
    let _guard = tch::no_grad_guard();
    let mut loss = 0.0;
    let mut logits = Array2::zeros((rows.encodings.len(), 0));
    for batch in learner.batches(rows.encodings, budget_tokens) {
        observer.check()?;
        let tensor = learner.logits(rows.encodings, &batch)?;
        if let Some(targets) = targets {
            loss += targets.loss(&tensor, &batch)?.f_to_kind(Kind::Double)?.f_double_value(&[])?;
        }
        let values = parameters::read(&tensor)?;
        let width = values.len() / batch.len().max(1);
        if logits.ncols() != width {
            logits = Array2::zeros((rows.encodings.len(), width));
        }
        for (row, values) in batch.iter().zip(values.chunks_exact(width.max(1))) {
            logits.row_mut(*row).iter_mut().zip(values).for_each(|(place, value)| *place = *value);
        }
    }
    Ok((logits, loss))
}

/// The class with the largest logit (the first of equal ones), or the number in the first column.
fn predictions(objective: &Objective, logits: &Array2<f32>) -> Vec<Label> {
    let largest = |row: ndarray::ArrayView1<'_, f32>| {
        let mut best = 0;
        for (class, value) in row.iter().enumerate() {
            if *value > row[best] {
                best = class;
            }
        }
        best
    };
    let rows = logits.rows().into_iter();
    match objective {
        Objective::Classification { .. } => rows.map(|row| Label::Class(largest(row))).collect(),
        Objective::Regression | Objective::CausalLm => {
            rows.map(|row| Label::Value(row.first().copied().unwrap_or(f32::NAN))).collect()
        }
        // Questions are answered by `spans`; rows alone have no answer.
        Objective::Spans { .. } => rows.map(|_| Label::Span { place: None }).collect(),
    }
}
