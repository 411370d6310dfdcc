//! Answers that are pieces of a text: the loss over start and end, and the validation questions through the program.

use tch::{Kind, Reduction, Tensor};

use super::error::TrainError;
use super::evaluation::Measured;
use super::input::Rows;
use super::learner::Learner;
use super::objective::{Targets, select};
use super::parameters;
use crate::dataset::{Label, SpanLogits, SpanQuestions};
use crate::onnx::Head;
use crate::progress::Observer;

/// The outputs of a head for span answers.
pub(super) const OUTPUTS: [&str; 2] = ["start_logits", "end_logits"];

/// Cross entropy leaves out rows with this target.
const UNKNOWN: i64 = -100;

/// First and last token of every row's answer, as cross entropy takes them.
#[derive(Debug, Clone, PartialEq)]
pub struct SpanTargets {
    starts: Vec<i64>,
    ends: Vec<i64>,
}

impl SpanTargets {
    /// Takes the labels of all rows. `what` names the data in errors.
    pub(super) fn new(what: &'static str, labels: &[Label]) -> Result<Self, TrainError> {
        let mut targets =
            SpanTargets { starts: Vec::with_capacity(labels.len()), ends: Vec::with_capacity(labels.len()) };
        for (row, label) in labels.iter().enumerate() {
            let Label::Span { place } = label else {
                let (found, expected) = ("a class or a value".into(), "where an answer starts and ends".into());
                return Err(TrainError::LabelDoesNotFit { what, row, found, expected });
            };
            let (start, end) = place.map_or((UNKNOWN, UNKNOWN), |(start, end)| (start as i64, end as i64));
            targets.starts.push(start);
            targets.ends.push(end);
        }
        Ok(targets)
    }

    /// Number of rows.
    pub(super) fn len(&self) -> usize {
        self.starts.len()
    }

    /// Loss of a batch, summed over its rows: the mean of the cross entropies of start and end, each over all places of the
    /// batch, padding included, as Hugging Face's question answering models have it. `logits` is `[rows, 2 × length]`, the
    /// starts first.
    pub(super) fn loss(&self, logits: &Tensor, rows: &[usize]) -> Result<Tensor, TrainError> {
        let parts = logits.f_chunk(2, 1)?;
        let mut sum: Option<Tensor> = None;
        for (logits, targets) in parts.iter().zip([&self.starts, &self.ends]) {
            let targets = select(targets, rows, logits.device())?;
            let part = logits.f_cross_entropy_loss::<Tensor>(&targets, None, Reduction::Sum, UNKNOWN, 0.0)?;
            sum = Some(match sum {
                Some(sum) => sum.f_add(&part)?,
                None => part,
            });
        }
        let sum = sum.ok_or_else(|| TrainError::Shape {
            value: OUTPUTS.join(", "),
            found: logits.size(),
            expected: "[rows, 2 × tokens]",
        })?;
        Ok(sum.f_div_scalar(2.0)?)
    }
}

/// Whether a head is one for span answers.
pub(super) fn check_head(head: &Head) -> Result<(), TrainError> {
    if head.outputs != OUTPUTS {
        return Err(TrainError::NoSpanHead { found: head.outputs.join(", ") });
    }
    match head.linears.last() {
        Some(last) if last.out_features != OUTPUTS.len() => {
            Err(TrainError::HeadWidth { found: last.out_features, expected: OUTPUTS.len() })
        }
        _ => Ok(()),
    }
}

/// Evaluates questions with dropout off: loss per window, F1 and exact match.
pub(super) fn evaluate(
    learner: &mut Learner<'_>,
    questions: SpanQuestions<'_>,
    rows: Rows<'_>,
    targets: &Targets,
    budget_tokens: usize,
    observer: &dyn Observer,
) -> Result<Measured, TrainError> {
    learner.set_training(false);
    let _guard = tch::no_grad_guard();
    let mut loss = 0.0;
    let mut logits = vec![SpanLogits::default(); rows.encodings.len()];
    for batch in learner.batches(rows.encodings, budget_tokens) {
        observer.check()?;
        let tensor = learner.logits(rows.encodings, &batch)?;
        loss += targets.loss(&tensor, &batch)?.f_to_kind(Kind::Double)?.f_double_value(&[])?;
        let values = parameters::read(&tensor)?;
        let width = values.len() / batch.len().max(1);
        for (&row, values) in batch.iter().zip(values.chunks_exact(width.max(1))) {
            let (start, end) = values.split_at(width / 2);
            let real = rows.encodings[row].len().min(start.len());
            logits[row] = SpanLogits { start: start[..real].to_vec(), end: end[..real].to_vec() };
        }
    }
    let score = questions.score(&questions.answers(&logits));
    let figures = score.iter().flat_map(|score| score.figures());
    Ok(Measured {
        loss: loss / targets.total_weight().max(1) as f64,
        metrics: figures.map(|(name, value, _)| (name.to_owned(), Some(value))).collect(),
    })
}
