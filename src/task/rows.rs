//! The rows of a file, whatever the task.

use std::borrow::Cow;
use std::path::Path;

use super::{DataSettings, Figure, Objective, Outputs, Targets, TaskError};
use crate::dataset::{DatasetError, Encoding, Example, Metric, Tokenizer};
use crate::progress::{Observer, Silent};

/// What rows are read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Activations: what is to be predicted need not be known.
    Plan,
    /// The same for a sample in proportion to the labels.
    PlanByLabel,
    /// Training: every row says what is to be predicted.
    Train,
    /// Evaluation.
    Evaluate,
}

impl Purpose {
    /// For a plan, whose rows may be drawn by their labels.
    pub fn planning(stratified: bool) -> Self {
        if stratified { Purpose::PlanByLabel } else { Purpose::Plan }
    }
}

/// Which rows are wanted, and what for.
pub struct Request<'a> {
    /// The file.
    pub path: &'a Path,
    /// How it is read.
    pub settings: &'a DataSettings,
    /// What for.
    pub purpose: Purpose,
    /// What the training rows are: rows that are held out are read with their classes, and whole.
    pub like: Option<&'a Objective>,
    /// `config.json` of a model whose classes the labels are.
    pub model_config: Option<&'a serde_json::Value>,
    /// Whether predictions are wanted, for which labels need not be there.
    pub predictions: bool,
    /// Cuts texts into tokens, for tasks whose rows depend on that.
    pub tokenizer: &'a Tokenizer,
    /// Told of progress, and of what should be known of the file.
    pub observer: &'a dyn Observer,
}

impl Request<'_> {
    /// How many rows at most.
    pub fn limit(&self) -> Option<usize> {
        self.settings.limit.filter(|_| self.like.is_none())
    }
}

/// What goes through the model.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// Texts, not tokenized yet.
    Examples(&'a [Example]),
    /// Token ids.
    Encodings(&'a [Encoding]),
}

/// Rows as token ids, with what is to be predicted.
#[derive(Debug, Clone)]
pub struct Encoded<'a> {
    /// Token ids of every row.
    pub encodings: Cow<'a, [Encoding]>,
    /// What is to be predicted; `None` where nobody knows.
    pub targets: Option<Targets>,
}

/// The rows of a file.
pub trait Rows: Send + Sync {
    /// The file.
    fn path(&self) -> &Path;

    /// SHA-256 of the file.
    fn sha256(&self) -> &str;

    /// What goes through the model for a plan.
    fn source(&self) -> Source<'_>;

    /// What a row of the source says, pairs with a stroke between them.
    fn text(&self, row: usize) -> Option<String>;

    /// The columns that it is made of.
    fn columns(&self) -> Vec<String>;

    /// What is learnt from them; `None` where they have no labels.
    fn objective(&self) -> Option<&Objective>;

    /// What is missing to say which predictions are right, as the rest of a sentence with its cure; `None` where nothing is.
    fn lacks(&self) -> Option<Cow<'static, str>> {
        None
    }

    /// The rows by what is to be predicted, for samples in proportion.
    ///
    /// # Errors
    /// Why that is not possible, as the rest of a sentence.
    fn strata(&self) -> Result<Vec<Vec<usize>>, String>;

    /// Token ids, as they are learnt and evaluated.
    ///
    /// # Errors
    /// A text that the tokenizer cannot take; cancellation.
    fn encode(&self, tokenizer: &Tokenizer, observer: &dyn Observer) -> Result<Encoded<'_>, DatasetError>;

    /// What of the outputs is right: figures, the decisive one first. None where nobody knows what is right.
    ///
    /// # Errors
    /// Outputs or metrics of another task.
    fn score(&self, encoded: &Encoded<'_>, outputs: &Outputs, metrics: &[Metric]) -> Result<Vec<Figure>, TaskError>;

    /// The same by what the `config.json` of a model says of its decisions.
    ///
    /// # Errors
    /// As [`Rows::score`]; a configuration of another model.
    fn score_as(
        &self,
        _config: Option<&serde_json::Value>,
        encoded: &Encoded<'_>,
        outputs: &Outputs,
        metrics: &[Metric],
    ) -> Result<Vec<Figure>, TaskError> {
        self.score(encoded, outputs, metrics)
    }

    /// Writes a prediction for every row.
    ///
    /// # Errors
    /// Outputs of other rows; a file that cannot be written.
    fn write_predictions(&self, path: &Path, outputs: &Outputs) -> Result<(), TaskError>;

    /// How many things are judged, where these are not the rows that go through the model.
    fn judged(&self) -> Option<usize> {
        None
    }

    /// Scores that need more than the targets of the rows.
    fn judge(&self) -> Option<&dyn super::Judge> {
        None
    }

    /// Rows that go through the model for a plan.
    fn len(&self) -> usize {
        match self.source() {
            Source::Examples(examples) => examples.len(),
            Source::Encodings(encodings) => encodings.len(),
        }
    }

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Token ids of the first so many rows.
    ///
    /// # Errors
    /// A text that the tokenizer cannot take.
    fn first(&self, count: usize, tokenizer: &Tokenizer) -> Result<Vec<Encoding>, DatasetError> {
        let count = self.len().min(count);
        match self.source() {
            Source::Examples(examples) => tokenizer.encode(&examples[..count], &Silent),
            Source::Encodings(encodings) => Ok(encodings[..count].to_vec()),
        }
    }
}
