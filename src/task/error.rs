//! What can be wrong with rows, labels and predictions of a task.

use std::path::PathBuf;

use crate::dataset::metric::MetricError;
use crate::dataset::{DatasetError, TagScheme};
use crate::files::FileError;
use crate::hint::Hint;

/// What can be wrong with rows, labels and predictions of a task. Every text is one line that ends in the cure.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// The rows.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// A metric.
    #[error(transparent)]
    Metric(#[from] MetricError),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Head and task do not fit.
    #[error(
        "the model gives {found} numbers per row and the task needs {expected} ({task}); choose the task that the model was \
         trained for, or export it with {expected} labels"
    )]
    Width {
        /// Width of the logits.
        found: usize,
        /// What the task needs.
        expected: usize,
        /// Why, e.g. `classes a, b, c`.
        task: String,
    },
    /// The model counts its classes in another order than the data.
    #[error(
        "the model's classes are {model} and the data's are {data}, in another order; give the model's order ({})",
        Hint::Labels.with("A,B,…")
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
    /// Predictions that cannot be written so.
    #[error("{0}")]
    Predictions(String),
    /// Thresholds of other labels.
    #[error(
        "the model's config.json has a `{key}` that is not a list of {labels} numbers from 0 to 1, one for each label; merge the adapter \
         again, or remove it"
    )]
    Thresholds {
        /// The key.
        key: &'static str,
        /// How many labels there are.
        labels: usize,
    },
    /// What is to be predicted is another task's.
    #[error("the rows have {found} to predict and the task has {expected}; evaluate the rows with their own task")]
    Targets {
        /// What a target of the rows is.
        found: &'static str,
        /// What one of the task's is.
        expected: &'static str,
    },
    /// Logits where the loss over tokens is needed.
    #[error(
        "a language model is scored by its loss over tokens, not by logits of rows; predict with the head of the task"
    )]
    NoTokenLoss,
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
    /// Questions that are to be learnt from have no answers.
    #[error("{} has no answers to learn from; name a file that has", path.display())]
    NoAnswers {
        /// The file.
        path: PathBuf,
    },
    /// No word gives a token.
    #[error("{}: the tokenizer makes no token of any word; use the tokenizer.json that belongs to the model", path.display())]
    NoTokens {
        /// The file.
        path: PathBuf,
    },
    /// Nothing says what the logits stand for.
    #[error(
        "{}: nothing says in which order the model counts the tags (its config.json names none); name them in that order \
         ({})",
        path.display(),
        Hint::Labels.with("O,B-…,I-…")
    )]
    TagOrder {
        /// The file.
        path: PathBuf,
    },
    /// A class that entities cannot be counted with.
    #[error(
        "the class `{tag}` is no tag of {scheme}, by which entities are counted strictly; give another {}, or leave out {}",
        Hint::Scheme,
        Hint::Strict
    )]
    TagOfOtherScheme {
        /// The class.
        tag: String,
        /// The scheme.
        scheme: TagScheme,
    },
    /// Tags that are numbers, without names.
    #[error("{}: its tags are numbers; name them in their order ({})", path.display(), Hint::Labels.with("O,B-…,I-…"))]
    NumberedTags {
        /// The file.
        path: PathBuf,
    },
    /// No answer stands where the file says.
    #[error("{}: no answer stands where answer_start says; count characters, not bytes", path.display())]
    MisplacedAnswers {
        /// The file.
        path: PathBuf,
    },
}
