//! An export in ONNX Runtime as the executor of an evaluation.

use ndarray::ArrayD;

use super::EvaluateError;
use super::perplexity::batch_loss;
use crate::dataset::{Batch, Encoding, Padding};
use crate::onnx::{Model, ValueInfo};
use crate::progress::Observer;
use crate::runtime::{Feeder, InferenceSession, Tokens};
use crate::task::{Executor, HeadSpec, Lines, Outputs, Targets, TokenLoss, predict};

/// Settings of an evaluation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvaluateSettings {
    /// Tokens per batch, padding included.
    pub batch_tokens: usize,
    /// Only rows of equal length share a batch: for exports that ignore their attention mask.
    pub equal_lengths: bool,
    /// How rows are padded, and how the model counts positions.
    pub padding: Padding,
}

impl Default for EvaluateSettings {
    fn default() -> Self {
        EvaluateSettings { batch_tokens: 4096, equal_lengths: false, padding: Padding::default() }
    }
}

/// Checks, before anything is run, that a model has the outputs that a task needs.
///
/// # Errors
/// If an output is missing.
pub fn check_outputs(model: &Model, head: &HeadSpec) -> Result<(), EvaluateError> {
    has_outputs(&model.graph.outputs, head)
}

fn has_outputs(outputs: &[ValueInfo], head: &HeadSpec) -> Result<(), EvaluateError> {
    if head.outputs.iter().all(|name| outputs.iter().any(|output| output.name == *name)) {
        return Ok(());
    }
    let names: Vec<_> = outputs.iter().take(8).map(|output| output.name.as_str()).collect();
    let there = names.join(", ");
    Err(match head.lines {
        Lines::Ends => EvaluateError::NoSpanLogits { there },
        Lines::Row | Lines::Token | Lines::Vocabulary => EvaluateError::NoLogits { there },
    })
}

/// The logits of rows for a task, in the order of the rows; for a language model the loss.
///
/// The logits over a vocabulary stay in ONNX Runtime's memory and are read once, so memory is that of one batch.
///
/// # Errors
/// If an output that the task needs is missing or has another shape; if a language model lacks targets for all its tokens; if
/// logits are not finite; or if the evaluation is cancelled.
pub fn evaluate_export(
    session: &mut InferenceSession,
    encodings: &[Encoding],
    targets: Option<&Targets>,
    head: &HeadSpec,
    settings: &EvaluateSettings,
    observer: &dyn Observer,
) -> Result<Outputs, EvaluateError> {
    let unit = if matches!(head.lines, Lines::Ends | Lines::Token) { "windows" } else { "rows" };
    let mut executor = OnnxExecutor::new(session, encodings, targets, head, settings)?;
    predict(&mut executor, encodings.len(), head, unit, observer)
}

/// An export in ONNX Runtime, with the rows that go through it.
pub struct OnnxExecutor<'a> {
    session: &'a mut InferenceSession,
    feeder: Feeder,
    encodings: &'a [Encoding],
    counted: &'a [Vec<bool>],
    settings: &'a EvaluateSettings,
}

impl<'a> OnnxExecutor<'a> {
    /// An executor for these rows. For a language model, `targets` mark which tokens count.
    ///
    /// # Errors
    /// If an output that the task needs is missing; if an input is unknown; if a language model lacks targets for all its tokens.
    pub fn new(
        session: &'a mut InferenceSession,
        encodings: &'a [Encoding],
        targets: Option<&'a Targets>,
        head: &HeadSpec,
        settings: &'a EvaluateSettings,
    ) -> Result<Self, EvaluateError> {
        has_outputs(session.outputs(), head)?;
        let feeder = Feeder::new(session.inputs(), &[])?;
        let counted = if let Some(Targets::Tokens(counted)) = targets { counted.as_slice() } else { &[] };
        let fits = counted.len() == encodings.len()
            && counted.iter().zip(encodings).all(|(counted, encoding)| counted.len() == encoding.len());
        if head.lines == Lines::Vocabulary && !fits {
            return Err(EvaluateError::NoTokens { found: counted.len(), rows: encodings.len() });
        }
        Ok(OnnxExecutor { session, feeder, encodings, counted, settings })
    }

    fn batch(&self, rows: &[usize]) -> Result<Batch, EvaluateError> {
        Ok(self.feeder.sizes().batch(self.encodings, rows, self.settings.padding)?)
    }
}

impl Executor for OnnxExecutor<'_> {
    type Error = EvaluateError;

    fn batches(&self) -> Vec<Vec<usize>> {
        let lengths: Vec<usize> = self.encodings.iter().map(Encoding::len).collect();
        let rows: Vec<usize> = (0..lengths.len()).collect();
        let EvaluateSettings { batch_tokens, equal_lengths, .. } = *self.settings;
        self.feeder.sizes().batches(&lengths, &rows, batch_tokens, equal_lengths)
    }

    fn logits(
        &mut self,
        rows: &[usize],
        head: &HeadSpec,
        take: &mut dyn FnMut(usize, &[&[f32]]),
    ) -> Result<(), EvaluateError> {
        let batch = self.batch(rows)?;
        let feed = self.feeder.feed(&Tokens::from(&batch));
        let outputs = self.session.run(&feed.tensors(), head.outputs)?;
        take_rows(&outputs, head, &batch, self.encodings, take)
    }

    fn token_loss(&mut self, rows: &[usize]) -> Result<TokenLoss, EvaluateError> {
        let batch = self.batch(rows)?;
        let feed = self.feeder.feed(&Tokens::from(&batch));
        let (encodings, counted) = (self.encodings, self.counted);
        let mut found = None;
        self.session.run_each(&feed.tensors(), &["logits"], |_, shape, logits| {
            found = Some(batch_loss(encodings, counted, &batch, shape, logits));
        })?;
        let none = EvaluateError::TokenShape { found: vec![], rows: batch.rows.len(), length: batch.length };
        found.unwrap_or(Err(none))
    }
}

/// Passes on the part of the outputs that belongs to each row of a batch.
pub(super) fn take_rows(
    outputs: &[ArrayD<f32>],
    head: &HeadSpec,
    batch: &Batch,
    encodings: &[Encoding],
    take: &mut dyn FnMut(usize, &[&[f32]]),
) -> Result<(), EvaluateError> {
    let (count, length) = (batch.rows.len(), batch.length);
    let mut parts = Vec::with_capacity(outputs.len());
    for output in outputs {
        let found = output.shape().to_vec();
        let width = match (head.lines, found.as_slice()) {
            (Lines::Row, &[rows, width]) if rows == count => width,
            (Lines::Row, &[rows]) if rows == count => 1,
            (Lines::Token, &[rows, tokens, width]) if (rows, tokens) == (count, length) => tokens * width,
            (Lines::Token, _) => return Err(EvaluateError::LabelShape { found, rows: count, tokens: length }),
            (Lines::Ends, &[rows, tokens]) if (rows, tokens) == (count, length) => tokens,
            (Lines::Ends, _) => return Err(EvaluateError::SpanShape { found, rows: count, tokens: length }),
            _ => return Err(EvaluateError::Shape { found, rows: count }),
        };
        parts.push((output.iter().copied().collect::<Vec<f32>>(), width));
    }
    if parts.len() != head.outputs.len() {
        return Err(EvaluateError::Shape { found: Vec::new(), rows: count });
    }
    for (place, &row) in batch.rows.iter().enumerate() {
        // Padding is cut from outputs per token.
        let kept = |width: usize| match head.lines {
            Lines::Ends | Lines::Token => width / length.max(1) * encodings[row].len().min(length),
            Lines::Row | Lines::Vocabulary => width,
        };
        let line = |(_, width): &'_ (Vec<f32>, usize)| place * width..place * width + kept(*width);
        let lines: Vec<&[f32]> = parts.iter().map(|part| &part.0[line(part)]).collect();
        if let Some(&value) = lines.iter().copied().flatten().find(|value| !value.is_finite()) {
            return Err(EvaluateError::NotFinite { row, value });
        }
        take(row, &lines);
    }
    Ok(())
}
