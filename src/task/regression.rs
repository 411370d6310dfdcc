//! A number for a text, or for a pair of texts.

use super::head::ROW_HEAD;
use super::preset::TABLE_KEYS;
use super::{Figure, HeadSpec, Outputs, Preset, Targets, Task, TaskError};
use crate::dataset::{LabelKind, Metric};

/// The task of predicting a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Regression;

/// The preset of STS-B.
pub(super) const PRESETS: [Preset; 1] = [Preset {
    name: "stsb",
    text: "sentence1",
    pair: Some("sentence2"),
    label: Some("label"),
    kind: Some(LabelKind::Values),
    labels: &[],
    metrics: &[Metric::Pearson, Metric::Spearman],
    keys: TABLE_KEYS,
    train_file: "train.tsv",
    dev_file: "dev.tsv",
}];

impl Regression {
    /// The predicted number of every row.
    ///
    /// # Errors
    /// If a row does not have exactly one number.
    pub fn predictions(outputs: &Outputs) -> Result<Vec<f32>, TaskError> {
        let one = |row: &Vec<f32>| match row.as_slice() {
            [value] => Ok(*value),
            other => Err(TaskError::Width { found: other.len(), expected: 1, task: "a regression".into() }),
        };
        outputs.rows().iter().map(one).collect()
    }
}

impl Task for Regression {
    fn head(&self) -> HeadSpec {
        HeadSpec { width: Some(1), ..ROW_HEAD }
    }

    fn target(&self) -> &'static str {
        "a value"
    }

    fn in_words(&self) -> String {
        "a regression".into()
    }

    fn fitting_metrics(&self) -> Vec<Metric> {
        Metric::OF_VALUES.to_vec()
    }

    fn usual_metrics(&self) -> &'static [Metric] {
        &Metric::OF_VALUES
    }

    fn score(&self, targets: &Targets, outputs: &Outputs, metrics: &[Metric]) -> Result<Vec<Figure>, TaskError> {
        let Targets::Values(truth) = targets else { return Err(self.other_targets(targets)) };
        let predictions = Regression::predictions(outputs)?;
        let chosen = if metrics.is_empty() { self.usual_metrics() } else { metrics };
        self.check_metrics(chosen)?;
        chosen.iter().map(|metric| Ok(metric.of_values(&predictions, truth)?.into())).collect()
    }
}
