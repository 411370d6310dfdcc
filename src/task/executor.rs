//! A single loop over rows: in batches, with progress and cancellation, whatever computes the logits.

use super::{HeadSpec, Lines};
use crate::progress::{Cancelled, Event, Observer};

/// Computes the logits of rows.
pub trait Executor {
    /// Error of the computation.
    type Error: From<Cancelled>;

    /// All rows, in batches that are computed at once: of similar length, within a budget of tokens.
    fn batches(&self) -> Vec<Vec<usize>>;

    /// Computes the logits of some rows. `take` is called once per row, in any order, with the row's index and its part of
    /// every output of the head, padding left out: `[outputs]`, or `[tokens]` for each end of a span.
    ///
    /// # Errors
    /// Logits of another shape, and errors of the computation.
    fn logits(
        &mut self,
        rows: &[usize],
        head: &HeadSpec,
        take: &mut dyn FnMut(usize, &[&[f32]]),
    ) -> Result<(), Self::Error>;

    /// The loss over the counted tokens of some rows: logits over a vocabulary are too many to be handed out.
    ///
    /// # Errors
    /// Logits of another shape, and errors of the computation.
    fn token_loss(&mut self, rows: &[usize]) -> Result<TokenLoss, Self::Error>;
}

/// The loss over all tokens that count.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct TokenLoss {
    /// Sum of the negative natural logarithms of the probabilities that the model gives to the tokens.
    pub sum: f64,
    /// Number of these tokens.
    pub tokens: u64,
}

impl TokenLoss {
    /// Mean loss per token.
    pub fn mean(&self) -> f64 {
        self.sum / self.tokens.max(1) as f64
    }

    fn add(&mut self, other: TokenLoss) {
        self.sum += other.sum;
        self.tokens += other.tokens;
    }
}

/// Outputs of a model for rows.
#[derive(Debug, Clone, PartialEq)]
pub enum Outputs {
    /// The logits of every row, outputs concatenated, in the order of the rows.
    Rows(Vec<Vec<f32>>),
    /// The loss over the tokens of all rows.
    Loss(TokenLoss),
}

impl Outputs {
    /// The logits of every row; empty for a language model.
    pub fn rows(&self) -> &[Vec<f32>] {
        match self {
            Outputs::Rows(rows) => rows,
            Outputs::Loss(_) => &[],
        }
    }
}

/// Computes the outputs of all rows. `unit` names the rows in progress reports: `rows`, or `windows`.
///
/// # Errors
/// Those of the executor; cancellation.
pub fn predict<E: Executor>(
    executor: &mut E,
    rows: usize,
    head: &HeadSpec,
    unit: &'static str,
    observer: &dyn Observer,
) -> Result<Outputs, E::Error> {
    observer.observe(Event::Begin { stage: "evaluating", total: Some(rows as u64), done: 0, unit });
    let whole = head.lines == Lines::Vocabulary;
    let (mut logits, mut loss, mut done) = (vec![Vec::new(); if whole { 0 } else { rows }], TokenLoss::default(), 0);
    for batch in executor.batches() {
        observer.check()?;
        match whole {
            true => loss.add(executor.token_loss(&batch)?),
            false => executor.logits(&batch, head, &mut |row, parts| logits[row] = parts.concat())?,
        }
        done += batch.len();
        observer.observe(Event::Advance { done: done as u64, detail: "" });
    }
    observer.observe(Event::End);
    Ok(if whole { Outputs::Loss(loss) } else { Outputs::Rows(logits) })
}
