//! Runs the validation data through the program: loss and metrics.

use std::sync::Arc;

use tch::Kind;

use super::error::TrainError;
use super::input::TrainInput;
use super::learner::Learner;
use super::losses::Loss;
use super::parameters;
use super::rows::LabelledRows;
use crate::progress::{Observer, Unseen};
use crate::task::{Executor, HeadSpec, Lines, Outputs, TokenLoss, predict};

/// Loss and metrics of the validation data.
pub(super) struct Measured {
    /// Mean loss per row, or per token of a language model.
    pub loss: f64,
    /// Metrics by name; `None` where the value is not finite.
    pub metrics: Vec<(String, Option<f64>)>,
}

/// Evaluates with dropout off. `budget_tokens` bounds the size of a batch.
pub(super) fn evaluate(
    learner: &mut Learner<'_>,
    input: &TrainInput<'_>,
    rows: LabelledRows<'_>,
    loss: &Arc<dyn Loss>,
    budget_tokens: usize,
    observer: &dyn Observer,
) -> Result<Measured, TrainError> {
    let (outputs, sum) = outputs_and_loss(learner, input, rows, Some(loss), budget_tokens, observer)?;
    let figures = match input.judge {
        Some(judge) => judge.judge(&outputs)?,
        None => input.objective.score(rows.targets, &outputs, input.metrics)?,
    };
    let metrics = figures.into_iter().map(|figure| (figure.name, figure.value.filter(|value| value.is_finite())));
    let weight = loss.total_weight();
    Ok(Measured { loss: sum / if weight > 0.0 { weight } else { 1.0 }, metrics: metrics.collect() })
}

/// Outputs of the rows, and the sum of their losses (0 without a loss).
pub(super) fn outputs_and_loss(
    learner: &mut Learner<'_>,
    input: &TrainInput<'_>,
    rows: LabelledRows<'_>,
    loss: Option<&Arc<dyn Loss>>,
    budget_tokens: usize,
    observer: &dyn Observer,
) -> Result<(Outputs, f64), TrainError> {
    let _guard = tch::no_grad_guard();
    let mut program = Evaluated { learner, rows, loss, budget_tokens, sum: 0.0 };
    let outputs = predict(&mut program, rows.encodings.len(), &input.objective.head(), "rows", &Unseen(observer))?;
    Ok((outputs, program.sum))
}

/// The program as the executor of an evaluation.
struct Evaluated<'a, 'l> {
    learner: &'a mut Learner<'l>,
    rows: LabelledRows<'a>,
    loss: Option<&'a Arc<dyn Loss>>,
    budget_tokens: usize,
    /// Sum of the losses so far.
    sum: f64,
}

impl Executor for Evaluated<'_, '_> {
    type Error = TrainError;

    fn batches(&self) -> Vec<Vec<usize>> {
        self.learner.batches(self.rows.encodings, self.budget_tokens)
    }

    fn logits(
        &mut self,
        rows: &[usize],
        head: &HeadSpec,
        take: &mut dyn FnMut(usize, &[&[f32]]),
    ) -> Result<(), TrainError> {
        let logits = self.learner.logits(self.rows.encodings, rows)?;
        if let Some(loss) = self.loss {
            let logits = logits.f_to_kind(Kind::Float)?;
            self.sum += loss.sum(&logits, rows)?.f_to_kind(Kind::Double)?.f_double_value(&[])?;
        }
        let values = parameters::read(&logits)?;
        let width = values.len() / rows.len().max(1);
        for (&row, values) in rows.iter().zip(values.chunks_exact(width.max(1))) {
            match head.lines {
                Lines::Ends => {
                    let (start, end) = values.split_at(width / 2);
                    let real = self.rows.encodings[row].len().min(start.len());
                    take(row, &[&start[..real], &end[..real]]);
                }
                Lines::Token => {
                    let labels = logits.size().last().map_or(1, |labels| *labels as usize);
                    take(row, &[&values[..values.len().min(labels * self.rows.encodings[row].len())]]);
                }
                Lines::Row | Lines::Vocabulary => take(row, &[values]),
            }
        }
        Ok(())
    }

    fn token_loss(&mut self, rows: &[usize]) -> Result<TokenLoss, TrainError> {
        let Some(loss) = self.loss else {
            let expected = "a loss: that of tokens is all that is kept of their logits";
            return Err(TrainError::Shape { value: "logits".into(), found: Vec::new(), expected });
        };
        let sum = self.learner.loss(self.rows.encodings, rows, loss)?;
        self.sum += sum;
        Ok(TokenLoss { sum, tokens: loss.weight(rows) as u64 })
    }
}
