//! Errors of an evaluation.

use crate::hint::Hint;
use crate::progress::Cancelled;
use crate::runtime::RuntimeError;

/// Why an evaluation failed. Every text is one line that ends in the cure.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// The user asked to stop.
    #[error("{0}")]
    Cancelled(#[from] Cancelled),
    /// The model cannot be run.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The model has no output of logits.
    #[error(
        "the model has no output `logits` (it has {there}); evaluate a model with a head: one exported with it, or the \
         result of `gelora merge`; for span answers add {}",
        Hint::Task.with("squad")
    )]
    NoLogits {
        /// Names of its outputs.
        there: String,
    },
    /// The model lacks the two outputs of a head for span answers.
    #[error(
        "the model has no outputs `start_logits` and `end_logits` (it has {there}); evaluate a model with a head for question \
         answering: one exported with it, or the result of `gelora merge`"
    )]
    NoSpanLogits {
        /// Names of its outputs.
        there: String,
    },
    /// The logits are not one number per token.
    #[error(
        "the model gives start or end logits of shape {found:?} for {rows} rows of {tokens} tokens; export it with a head that \
         gives [rows, tokens]"
    )]
    SpanShape {
        /// Shape of the logits.
        found: Vec<usize>,
        /// Number of rows in the batch.
        rows: usize,
        /// Tokens in a row, padding included.
        tokens: usize,
    },
    /// The logits are not one vector per token.
    #[error(
        "the model gives logits of shape {found:?} for {rows} rows of {tokens} tokens; export it with a head for token \
         classification, which gives [rows, tokens, labels]"
    )]
    LabelShape {
        /// Shape of the logits.
        found: Vec<usize>,
        /// Number of rows in the batch.
        rows: usize,
        /// Tokens in a row, padding included.
        tokens: usize,
    },
    /// The logits are not one vector per row.
    #[error(
        "the model gives logits of shape {found:?} for {rows} rows; export it with a head that gives [rows, classes]"
    )]
    Shape {
        /// Shape of the logits.
        found: Vec<usize>,
        /// Number of rows in the batch.
        rows: usize,
    },
    /// The logits are not one vector per token.
    #[error(
        "the model gives logits of shape {found:?} for {rows} rows of {length} tokens; export it with its language-model \
         head, which gives [rows, tokens, vocabulary]"
    )]
    TokenShape {
        /// Shape of the logits.
        found: Vec<usize>,
        /// Number of rows in the batch.
        rows: usize,
        /// Tokens in a row, padding included.
        length: usize,
    },
    /// Nothing marks which tokens count.
    #[error(
        "{found} of {rows} rows say which of their tokens count; make the rows with the tokenizer's `encode_texts`"
    )]
    NoTokens {
        /// Number of rows that mark them.
        found: usize,
        /// Number of rows.
        rows: usize,
    },
    /// A token id is outside the logits.
    #[error(
        "token id {id} in row {row}, counted from 0, is outside the {vocabulary} tokens that the model predicts; use the \
         tokenizer.json that belongs to this model"
    )]
    Token {
        /// Index of the row, from 0.
        row: usize,
        /// The token id.
        id: u32,
        /// Width of the logits.
        vocabulary: usize,
    },
    /// A logit is NaN or infinite.
    #[error(
        "the model gives {value} for row {row}, counted from 0; check the model with `gelora inspect`: in float16 it may \
         overflow"
    )]
    NotFinite {
        /// Index of the row in the data set, from 0.
        row: usize,
        /// The value: NaN or an infinity.
        value: f32,
    },
}
