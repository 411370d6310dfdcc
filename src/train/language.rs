//! Language models: the token after every token is what is learnt, and the head stays as it is.
//!
//! The loss is that of transformers' causal models: the logits at a token predict the one after it, and what does not count
//! (padding, the first token of a row, everything but the output of an instruction) is left out of sum and mean.

use tch::{Kind, Reduction, Tensor};

use super::error::TrainError;
use super::evaluation::Measured;
use super::input::Rows;
use super::learner::Learner;
use super::objective::Targets;
use crate::dataset::{Metric, metric};
use crate::onnx::{HeadPooling, HiddenStates, Model, head};
use crate::progress::Observer;

/// What libtorch leaves out of a cross entropy.
const LEFT_OUT: i64 = -100;
/// Tokens whose logits are normalised at a time where no gradient is needed: the copy that this takes stays small.
const CHUNK: i64 = 512;

/// For every row and token the id of the token after it, or [`LEFT_OUT`].
#[derive(Debug, Clone, PartialEq)]
pub struct TokenTargets {
    next: Vec<Vec<i64>>,
    weights: Vec<u64>,
}

impl TokenTargets {
    /// Of rows that [`check`] found in order.
    pub fn new(rows: &Rows<'_>) -> Self {
        let counted = rows.counted.unwrap_or_default();
        let next = rows.encodings.iter().zip(counted).map(|(encoding, counted)| {
            let behind = encoding.ids.iter().zip(counted).skip(1);
            let targets = behind.map(|(&id, &counts)| if counts { i64::from(id) } else { LEFT_OUT });
            targets.chain([LEFT_OUT]).collect()
        });
        let next: Vec<Vec<i64>> = next.collect();
        let count = |row: &Vec<i64>| row.iter().filter(|&&id| id != LEFT_OUT).count() as u64;
        TokenTargets { weights: next.iter().map(count).collect(), next }
    }

    /// How many tokens of these rows count.
    pub fn weight(&self, rows: &[usize]) -> u64 {
        rows.iter().filter_map(|&row| self.weights.get(row)).sum()
    }

    /// How many tokens of all rows count.
    pub fn total_weight(&self) -> u64 {
        self.weights.iter().sum()
    }

    /// Loss summed over the tokens that count. `logits` is `[rows, tokens, vocabulary]`, of these rows in this order.
    ///
    /// Without gradients the logits are normalised piece by piece, so that they are held once and not twice.
    pub fn loss(&self, logits: &Tensor, rows: &[usize]) -> Result<Tensor, TrainError> {
        let (_, length, vocabulary) = logits.size3()?;
        let mut targets = Vec::with_capacity(rows.len() * length as usize);
        for &row in rows {
            let end = targets.len() + length as usize;
            targets.extend_from_slice(self.next.get(row).map_or(&[], Vec::as_slice));
            targets.resize(end, LEFT_OUT);
        }
        let targets = Tensor::f_from_slice(&targets)?.f_to_device(logits.device())?;
        let logits = logits.f_reshape([-1, vocabulary])?;
        if logits.requires_grad() {
            return cross_entropy(&logits, &targets);
        }
        let tokens = logits.size2()?.0;
        let mut sum = Tensor::f_zeros([0i64; 0], (Kind::Double, logits.device()))?;
        for start in (0..tokens).step_by(CHUNK as usize) {
            let count = CHUNK.min(tokens - start);
            let part = cross_entropy(&logits.f_narrow(0, start, count)?, &targets.f_narrow(0, start, count)?)?;
            sum = sum.f_add(&part.f_to_kind(Kind::Double)?)?;
        }
        Ok(sum)
    }
}

fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor, TrainError> {
    let logits = logits.f_to_kind(Kind::Float)?;
    Ok(logits.f_cross_entropy_loss::<Tensor>(targets, None, Reduction::Sum, LEFT_OUT, 0.0)?)
}

/// Every row says of each of its tokens whether it counts, and one of them does.
pub(super) fn check(what: &'static str, rows: &Rows<'_>) -> Result<(), TrainError> {
    let counted = rows.counted.unwrap_or_default();
    for (row, encoding) in rows.encodings.iter().enumerate() {
        let wrong = |found: &str| Err(TrainError::Tokens { what, row, found: found.into() });
        match counted.get(row) {
            None => return wrong("does not say which tokens count"),
            Some(counted) if counted.len() != encoding.len() => return wrong("counts other tokens than it has"),
            Some(counted) if !counted.iter().skip(1).any(|&counts| counts) => return wrong("has no token that counts"),
            Some(_) => {}
        }
    }
    Ok(())
}

/// The output of the export that predicts tokens.
pub(super) fn output(model: &Model, states: &HiddenStates, pooling: Option<HeadPooling>) -> Result<String, TrainError> {
    let refuse = |found: String| Err(TrainError::NoLanguageHead { model: model.path().to_owned(), found });
    match head(model, states)? {
        None => refuse("makes no logits".into()),
        Some(head) if !head.predicts_tokens => {
            let width = head.linears.last().map_or(0, |last| last.out_features);
            refuse(format!("makes {width} logits (`{}`), not one for every token of the vocabulary", head.output))
        }
        Some(head) if pooling.is_some() => {
            Err(TrainError::HasHead { model: model.path().to_owned(), output: head.output })
        }
        Some(head) => Ok(head.output),
    }
}

/// Loss per token and perplexity, with dropout off; batches of at most `budget_tokens` tokens.
pub(super) fn evaluate(
    learner: &mut Learner<'_>,
    rows: Rows<'_>,
    targets: &Targets,
    budget_tokens: usize,
    observer: &dyn Observer,
) -> Result<Measured, TrainError> {
    learner.set_training(false);
    let _guard = tch::no_grad_guard();
    let mut sum = 0.0;
    for batch in learner.batches(rows.encodings, budget_tokens) {
        observer.check()?;
        sum += learner.loss(rows.encodings, &batch, targets)?.f_to_kind(Kind::Double)?.f_double_value(&[])?;
    }
    let loss = sum / targets.total_weight().max(1) as f64;
    Ok(Measured { loss, metrics: vec![(Metric::Perplexity.name().to_owned(), metric::perplexity(loss))] })
}
