//! What can be wrong with rows, labels and predictions of a task.

use std::path::PathBuf;

use crate::dataset::metric::MetricError;
use crate::dataset::{DatasetError, TagScheme};
use crate::files::FileError;
use crate::hint::Hint;

/// What can be wrong with rows, labels and predictions of a task. Every message is one line that ends in the cure.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// An error of the rows.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// An error of a metric.
    #[error(transparent)]
    Metric(#[from] MetricError),
    /// A file that cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The head does not fit the task.
    #[error(
        "the model gives {found} numbers per row and the task needs {expected} ({task}); choose the task that the model was \
         trained for, or export it with {expected} labels"
    )]
    Width {
        /// Width of the logits.
        found: usize,
        /// Width that the task needs.
        expected: usize,
        /// Why the task needs that width, e.g. `classes a, b, c`.
        task: String,
    },
    /// The model orders its classes differently from the data.
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
    /// The extension of a file name stands for no format of predictions.
    #[error("{}: predictions are written as .csv, .tsv or .jsonl; give one of these endings", path.display())]
    UnknownFormat {
        /// Path of the file of predictions.
        path: PathBuf,
    },
    /// Predictions that cannot be written in this format.
    #[error("{0}")]
    Predictions(String),
    /// Thresholds that do not belong to the task's labels.
    #[error(
        "the model's config.json has a `{key}` that is not a list of {labels} numbers from 0 to 1, one for each label; merge the adapter \
         again, or remove it"
    )]
    Thresholds {
        /// Key of the thresholds in `config.json`.
        key: &'static str,
        /// Number of labels.
        labels: usize,
    },
    /// The targets belong to another task.
    #[error("the rows have {found} to predict and the task has {expected}; evaluate the rows with their own task")]
    Targets {
        /// What a target of the rows is, e.g. `a class`.
        found: &'static str,
        /// What a target of the task is, e.g. `a number`.
        expected: &'static str,
    },
    /// Logits where the loss over tokens is needed.
    #[error(
        "a language model is scored by its loss over tokens, not by logits of rows; predict with the head of the task"
    )]
    NoTokenLoss,
    /// Numbers that should be equal and are not.
    #[error("{found} {what} for {expected} rows; evaluate and write the same data set")]
    Lengths {
        /// The items, e.g. `predictions`.
        what: &'static str,
        /// Number of items.
        found: usize,
        /// Number of rows.
        expected: usize,
    },
    /// Questions for training that have no answers.
    #[error("{} has no answers to learn from; name a file that has", path.display())]
    NoAnswers {
        /// Path of the file of questions.
        path: PathBuf,
    },
    /// No word yields a token.
    #[error("{}: the tokenizer makes no token of any word; use the tokenizer.json that belongs to the model", path.display())]
    NoTokens {
        /// Path of the file of words.
        path: PathBuf,
    },
    /// Nothing says which tags the logits belong to.
    #[error(
        "{}: nothing says in which order the model counts the tags (its config.json names none); name them in that order \
         ({})",
        path.display(),
        Hint::Labels.with("O,B-…,I-…")
    )]
    TagOrder {
        /// Path of the file of words.
        path: PathBuf,
    },
    /// A class whose entities cannot be counted.
    #[error(
        "the class `{tag}` is no tag of {scheme}, by which entities are counted strictly; give another {}, or leave out {}",
        Hint::Scheme,
        Hint::Strict
    )]
    TagOfOtherScheme {
        /// Name of the class.
        tag: String,
        /// Scheme of the tags.
        scheme: TagScheme,
    },
    /// Tags that are numbers, without names.
    #[error("{}: its tags are numbers; name them in their order ({})", path.display(), Hint::Labels.with("O,B-…,I-…"))]
    NumberedTags {
        /// Path of the file of words.
        path: PathBuf,
    },
    /// No answer is at its offset in the context.
    #[error("{}: no answer stands where answer_start says; count characters, not bytes", path.display())]
    MisplacedAnswers {
        /// Path of the file of questions.
        path: PathBuf,
    },
}
