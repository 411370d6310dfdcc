//! What a model can learn, one file per task: the names of its rows, how they are read, which head it needs, how logits
//! become predictions and scores. The losses, which need libtorch, are in `train/losses/`.
//!
//! A [`Reader`] turns a file into [`Rows`], according to [`DataSettings`]. Rows have an [`Objective`], which is a [`Task`].
//! An [`Executor`] computes logits, with ONNX Runtime or with libtorch, and [`predict`] loops over the rows.
//!
//! A new task is a file here, a line in [`Objective`] and in its `deref`, and one in the list of readers (a task with a
//! table of labels: a preset in its list); a new kind of target is a variant of [`Targets`] and a loss.

mod answers;
mod class_names;
mod classification;
mod entities;
mod error;
mod executor;
mod head;
mod language;
mod multi_label;
mod predictions;
mod preset;
mod regression;
mod rows;
mod settings;
mod spans;
mod table;
mod targets;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Deref;

use serde::{Deserialize, Serialize};

pub use answers::{AnswerSettings, SpanLogits, SpanQuestions};
pub use class_names::{check_label_order, class_count, label_names, other_problem};
pub use classification::Classification;
pub use entities::{Entities, EntityRows};
pub use error::TaskError;
pub use executor::{Executor, Outputs, TokenLoss, predict};
pub use head::{HeadSpec, Lines};
pub use language::CausalLm;
pub use multi_label::MultiLabel;
pub use predictions::predictions_format;
pub use preset::{Preset, missing_task, preset, presets};
pub use regression::Regression;
pub use rows::{Encoded, Purpose, Request, Rows, Source};
pub use settings::DataSettings;
pub use spans::{SpanRows, SpanSettings, Spans};
pub use targets::{Judge, Targets};

use crate::dataset::{Metric, metric::MetricError};
use crate::settings_value::SettingError;

/// What the model learns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Objective {
    /// One of several classes for a text.
    Classification(Classification),
    /// Several labels for a text.
    #[serde(rename = "multi-label")]
    MultiLabel(MultiLabel),
    /// A number for a text.
    Regression,
    /// The next token of a text.
    #[serde(rename = "causal-lm")]
    CausalLm,
    /// Where an answer starts and ends in a text.
    Spans(Spans),
    /// A tag for every word.
    Entities(Entities),
}

impl Deref for Objective {
    type Target = dyn Task;

    fn deref(&self) -> &Self::Target {
        match self {
            Objective::Classification(task) => task,
            Objective::MultiLabel(task) => task,
            Objective::Regression => &Regression,
            Objective::CausalLm => &CausalLm,
            Objective::Spans(task) => task,
            Objective::Entities(task) => task,
        }
    }
}

/// The readers of all tasks. The first is for rows without a task.
const READERS: [&dyn Reader; 5] =
    [&table::Tables, &multi_label::LabelledTables, &language::Texts, &spans::Questions, &entities::Words];

/// What a model learns, and how it is scored.
pub trait Task: fmt::Debug + Sync {
    /// The head that the task needs.
    fn head(&self) -> HeadSpec;

    /// What a target of a row is, as in [`Targets::in_words`]: `a class`.
    fn target(&self) -> &'static str;

    /// Whether these targets belong to the task.
    fn fits(&self, targets: &Targets) -> bool {
        targets.in_words() == self.target()
    }

    /// The error for targets of another task.
    fn other_targets(&self, targets: &Targets) -> TaskError {
        TaskError::Targets { found: targets.in_words(), expected: self.target() }
    }

    /// Description of the task, phrased to follow "cannot be computed for": `3 classes`.
    fn in_words(&self) -> String;

    /// The unit that is scored, as a word that follows a number.
    fn unit(&self) -> &'static str {
        "rows"
    }

    /// Names of the classes in the order of the logits.
    fn classes(&self) -> Option<&[String]> {
        None
    }

    /// `problem_type` of the task in transformers' `config.json`, where labels or numbers alone do not determine it.
    fn problem_type(&self) -> Option<&'static str> {
        None
    }

    /// Whether [`Task::thresholds`] applies to the task.
    fn has_thresholds(&self) -> bool {
        false
    }

    /// For every label, the smallest probability at which a row has it, chosen from outputs and targets of held-out rows.
    ///
    /// # Errors
    /// Targets or outputs of another task.
    fn thresholds(&self, targets: &Targets, _outputs: &Outputs) -> Result<Vec<f64>, TaskError> {
        Err(self.other_targets(targets))
    }

    /// Metrics that can be chosen. Empty where windows of a text are scored together, by the [`Judge`] of its rows.
    fn fitting_metrics(&self) -> Vec<Metric> {
        Vec::new()
    }

    /// Default metrics; the first decides which state is the best.
    fn usual_metrics(&self) -> &'static [Metric] {
        &[]
    }

    /// Scores of the outputs against the targets of all rows. Empty where targets alone are not enough.
    ///
    /// # Errors
    /// Metrics, targets or outputs of another task.
    fn score(&self, targets: &Targets, _outputs: &Outputs, _metrics: &[Metric]) -> Result<Vec<Figure>, TaskError> {
        if self.fits(targets) { Ok(Vec::new()) } else { Err(self.other_targets(targets)) }
    }

    /// Rejects a metric that does not fit.
    ///
    /// # Errors
    /// The first metric that does not fit, with those that do.
    fn check_metrics(&self, metrics: &[Metric]) -> Result<(), MetricError> {
        let (fitting, what) = (self.fitting_metrics(), self.in_words());
        metrics.iter().try_for_each(|metric| metric.check(&fitting, &what))
    }
}

/// How the rows of some tasks are named and read.
pub trait Reader: Sync {
    /// Presets of the tasks that this reader reads.
    fn presets(&self) -> &'static [Preset];

    /// Default maximum length of a row, in tokens.
    fn maximum_length(&self) -> usize {
        128
    }

    /// The head that its tasks need, regardless of the labels.
    fn head(&self) -> HeadSpec;

    /// Rejects values that make no sense together. Keys that do not belong to the task are rejected earlier.
    ///
    /// # Errors
    /// The first of these values, with its key and what to do.
    fn check(&self, settings: &DataSettings) -> Result<(), SettingError>;

    /// Reads a file.
    ///
    /// # Errors
    /// One line that names the file, the position, what was found and the cure.
    fn read(&self, request: &Request<'_>) -> Result<Box<dyn Rows>, TaskError>;

    /// Checks that predictions can be written to a file of this name, before anything is computed.
    ///
    /// # Errors
    /// If they cannot, with the reason.
    fn check_predictions(&self, path: &std::path::Path) -> Result<(), TaskError>;

    /// Whatever determines the rows, besides columns and files: a key and a value for the journal of a run. `learning`
    /// says whether it is for training and evaluation, or for a plan.
    fn identity(&self, _settings: &DataSettings, _learning: bool) -> Option<(&'static str, serde_json::Value)> {
        None
    }
}

/// A figure of an evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Name of the figure, e.g. `accuracy`.
    pub name: String,
    /// Value of the figure; `None` where it is undefined.
    pub value: Option<f64>,
    /// Why the value is undefined, what it hides, or what it is computed over.
    pub note: Option<String>,
}

impl From<crate::dataset::Score> for Figure {
    fn from(score: crate::dataset::Score) -> Self {
        Figure { name: score.metric.to_string(), value: score.value, note: score.note.map(str::to_owned) }
    }
}

impl Figure {
    /// The value with four decimals, as papers print it.
    pub fn show(&self) -> String {
        self.value.map_or_else(|| "undefined".to_owned(), |value| format!("{value:.4}"))
    }
}
