//! What can be wrong with an evaluation.

use std::path::PathBuf;

use crate::dataset::metric::MetricError;
use crate::files::FileError;
use crate::progress::Cancelled;
use crate::runtime::RuntimeError;

/// What can be wrong with an evaluation. Every text is one line that ends in the cure.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// A file cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The user asked to stop.
    #[error("{0}")]
    Cancelled(#[from] Cancelled),
    /// The model cannot be run.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// Predictions and labels cannot be compared.
    #[error(transparent)]
    Metric(#[from] MetricError),
    /// The model has no head.
    #[error(
        "the model has no output `logits` (it has {there}); evaluate a model with a head: one exported with it, or the \
         result of `gelora merge`; for span answers add --task squad"
    )]
    NoLogits {
        /// The outputs that are there.
        there: String,
    },
    /// The model has no head for span answers.
    #[error(
        "the model has no outputs `start_logits` and `end_logits` (it has {there}); evaluate a model with a head for question \
         answering: one exported with it, or the result of `gelora merge`"
    )]
    NoSpanLogits {
        /// The outputs that are there.
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
        /// Rows of the batch.
        rows: usize,
        /// Its length.
        tokens: usize,
    },
    /// The logits are not one row of numbers per row.
    #[error(
        "the model gives logits of shape {found:?} for {rows} rows; export it with a head that gives [rows, classes]"
    )]
    Shape {
        /// Shape of the logits.
        found: Vec<usize>,
        /// Rows of the batch.
        rows: usize,
    },
    /// The logits are not one line of numbers per token.
    #[error(
        "the model gives logits of shape {found:?} for {rows} rows of {length} tokens; export it with its language-model \
         head, which gives [rows, tokens, vocabulary]"
    )]
    TokenShape {
        /// Shape of the logits.
        found: Vec<usize>,
        /// Rows of the batch.
        rows: usize,
        /// Tokens in a row, padding included.
        length: usize,
    },
    /// A token that the logits have no place for.
    #[error(
        "token id {id} in row {row}, counted from 0, is outside the {vocabulary} tokens that the model predicts; use the \
         tokenizer.json that belongs to this model"
    )]
    Token {
        /// The row, from 0.
        row: usize,
        /// The token.
        id: u32,
        /// Width of the logits.
        vocabulary: usize,
    },
    /// Head and task do not fit.
    #[error(
        "the model gives {found} numbers per row and the task needs {expected} ({task}); choose the task that the model was \
         trained for, or export it with {expected} labels"
    )]
    Outputs {
        /// Width of the logits.
        found: usize,
        /// What the task needs.
        expected: usize,
        /// Why, e.g. `classes a, b, c`.
        task: String,
    },
    /// A logit is NaN or infinite.
    #[error(
        "the model gives {value} for row {row}, counted from 0; check the model with `gelora inspect`: in float16 it may \
         overflow"
    )]
    NotFinite {
        /// The row in the data set, from 0.
        row: usize,
        /// The value.
        value: f32,
    },
    /// The model counts its classes in another order than the data.
    #[error(
        "the model's classes are {model} and the data's are {data}, in another order; give the model's order \
         (--labels A,B,…)"
    )]
    LabelOrder {
        /// Names of the model's classes, in order.
        model: String,
        /// Names of the data's classes, in order.
        data: String,
    },
    /// The ending of a file name says nothing.
    #[error("{}: predictions are written as .csv, .tsv or .jsonl; give one of these endings", path.display())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
    },
    /// Different numbers of things that belong together.
    #[error("{found} {what} for {expected} rows; evaluate and write the same data set")]
    Lengths {
        /// What was counted.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// Rows.
        expected: usize,
    },
}
