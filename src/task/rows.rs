//! The rows of a file, whatever the task.

use std::borrow::Cow;
use std::path::Path;

use super::{DataSettings, Figure, Objective, Outputs, Targets, TaskError};
use crate::dataset::{DatasetError, Encoding, Example, Metric, Tokenizer};
use crate::progress::{Observer, Silent};

/// The purpose for which rows are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Activations for a plan: targets need not be known.
    Plan,
    /// As `Plan`, for a sample in proportion to the labels.
    PlanByLabel,
    /// Training: every row has a target.
    Train,
    /// Evaluation: rows are predicted and, where targets are known, scored.
    Evaluate,
}

impl Purpose {
    /// The purpose for a plan, whose rows may be drawn by their labels.
    pub fn planning(stratified: bool) -> Self {
        if stratified { Purpose::PlanByLabel } else { Purpose::Plan }
    }
}

/// Which rows are requested, and for what purpose.
pub struct Request<'a> {
    /// Path of the file.
    pub path: &'a Path,
    /// Settings that say how the file is read.
    pub settings: &'a DataSettings,
    /// Purpose for which the rows are read.
    pub purpose: Purpose,
    /// Objective of the training rows: held-out rows are read with the same classes, and without a limit.
    pub like: Option<&'a Objective>,
    /// `config.json` of a model whose classes are the labels.
    pub model_config: Option<&'a serde_json::Value>,
    /// Whether predictions are requested, for which labels may be missing.
    pub predictions: bool,
    /// Tokenizer for tasks whose rows depend on tokens.
    pub tokenizer: &'a Tokenizer,
    /// Receives progress, and notices and warnings about the file.
    pub observer: &'a dyn Observer,
}

impl Request<'_> {
    /// Maximum number of rows to read; `None` reads all.
    pub fn limit(&self) -> Option<usize> {
        self.settings.limit.filter(|_| self.like.is_none())
    }
}

/// Input of the model.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// Texts, not tokenized yet.
    Examples(&'a [Example]),
    /// Token ids.
    Encodings(&'a [Encoding]),
}

/// Rows as token ids, with their targets.
#[derive(Debug, Clone)]
pub struct Encoded<'a> {
    /// Token ids of every row.
    pub encodings: Cow<'a, [Encoding]>,
    /// Targets of the rows; `None` where they are not known.
    pub targets: Option<Targets>,
}

/// The rows of a file.
pub trait Rows: Send + Sync {
    /// Path of the file.
    fn path(&self) -> &Path;

    /// SHA-256 of the file, in hex.
    fn sha256(&self) -> &str;

    /// Input of the model for a plan.
    fn source(&self) -> Source<'_>;

    /// Text of a row of the source, with a stroke between the texts of a pair.
    fn text(&self, row: usize) -> Option<String>;

    /// Names of the columns that the text is made from.
    fn columns(&self) -> Vec<String>;

    /// Objective of the rows; `None` where they have no labels.
    fn objective(&self) -> Option<&Objective>;

    /// What is missing to score predictions, as the rest of a sentence with its cure; `None` if nothing is.
    fn lacks(&self) -> Option<Cow<'static, str>> {
        None
    }

    /// The rows grouped by target, for stratified samples.
    ///
    /// # Errors
    /// Why stratification is not possible, as the rest of a sentence.
    fn strata(&self) -> Result<Vec<Vec<usize>>, String>;

    /// Token ids and targets, as used in training and evaluation.
    ///
    /// # Errors
    /// A text that the tokenizer cannot process; cancellation.
    fn encode(&self, tokenizer: &Tokenizer, observer: &dyn Observer) -> Result<Encoded<'_>, DatasetError>;

    /// Figures that score the outputs, the decisive one first. Empty where the targets are not known.
    ///
    /// # Errors
    /// Outputs or metrics of another task.
    fn score(&self, encoded: &Encoded<'_>, outputs: &Outputs, metrics: &[Metric]) -> Result<Vec<Figure>, TaskError>;

    /// Figures that score the outputs with the decision thresholds in a model's `config.json`.
    ///
    /// # Errors
    /// Those of [`Rows::score`]; a configuration of another model.
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

    /// Number of items that are scored, where these are not the rows that go through the model.
    fn judged(&self) -> Option<usize> {
        None
    }

    /// The judge for scores that need more than the targets of the rows.
    fn judge(&self) -> Option<&dyn super::Judge> {
        None
    }

    /// Number of rows that go through the model for a plan.
    fn len(&self) -> usize {
        match self.source() {
            Source::Examples(examples) => examples.len(),
            Source::Encodings(encodings) => encodings.len(),
        }
    }

    /// Whether there are no rows.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Token ids of the first `count` rows.
    ///
    /// # Errors
    /// A text that the tokenizer cannot process.
    fn first(&self, count: usize, tokenizer: &Tokenizer) -> Result<Vec<Encoding>, DatasetError> {
        let count = self.len().min(count);
        match self.source() {
            Source::Examples(examples) => tokenizer.encode(&examples[..count], &Silent),
            Source::Encodings(encodings) => Ok(encodings[..count].to_vec()),
        }
    }
}
