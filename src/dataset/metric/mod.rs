//! Metrics: accuracy, F1, Matthews' correlation, Pearson's and Spearman's correlation, with the values of scikit-learn and
//! SciPy, degenerate cases included; F1 and average precision of label sets; perplexity.

mod classification;
mod correlation;
mod entities;
#[cfg(test)]
mod entity_tests;
pub mod multi_label;
pub mod squad;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

pub use classification::{accuracy, f1, matthews};
pub use correlation::{pearson, spearman};
pub use entities::{EntityScores, PrecisionRecall};

/// The metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// Share of right classes.
    Accuracy,
    /// Harmonic mean of precision and recall of class 1, of two classes.
    F1,
    /// Matthews' correlation coefficient.
    Matthews,
    /// Pearson's correlation coefficient.
    Pearson,
    /// Spearman's rank correlation coefficient.
    Spearman,
    /// e to the power of the mean loss per token: the number of equally likely tokens the model chooses among. Lower is
    /// better.
    Perplexity,
    /// F1 over all labels of all rows.
    #[serde(rename = "f1_micro")]
    F1Micro,
    /// Mean of the labels' F1.
    #[serde(rename = "f1_macro")]
    F1Macro,
    /// Mean of the rows' F1.
    #[serde(rename = "f1_samples")]
    F1Samples,
    /// Mean of the labels' average precisions.
    #[serde(rename = "average_precision")]
    AveragePrecision,
    /// Average precision over all labels of all rows.
    #[serde(rename = "average_precision_micro")]
    AveragePrecisionMicro,
    /// Share of rows whose label set is exactly right.
    #[serde(rename = "subset_accuracy")]
    SubsetAccuracy,
}

/// A metric and its value.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Score {
    /// The metric.
    pub metric: Metric,
    /// Value of the metric; `None` where it is undefined.
    pub value: Option<f64>,
    /// Why the value is undefined, or what it hides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<&'static str>,
}

/// Predictions and truth cannot be compared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetricError {
    /// Classes for a metric of numbers, or the reverse, or the wrong number of classes.
    #[error("{metric} cannot be computed for {what}; {cure}")]
    Misfit {
        /// The metric that does not fit.
        metric: Metric,
        /// What the metric was to be computed for, e.g. `3 classes`.
        what: String,
        /// What the user should do: the metrics that fit.
        cure: String,
    },
    /// The numbers of predictions and labels differ.
    #[error("{predictions} predictions for {labels} labels; give one for each")]
    Lengths {
        /// Number of predictions.
        predictions: usize,
        /// Number of labels.
        labels: usize,
    },
    /// A tag that the scheme of entities does not have.
    #[error(transparent)]
    Tag(#[from] crate::dataset::TagError),
}

impl Metric {
    /// All metrics.
    pub const ALL: [Metric; 12] = [
        Metric::Accuracy,
        Metric::F1,
        Metric::Matthews,
        Metric::Pearson,
        Metric::Spearman,
        Metric::Perplexity,
        Metric::F1Micro,
        Metric::F1Macro,
        Metric::F1Samples,
        Metric::AveragePrecision,
        Metric::AveragePrecisionMicro,
        Metric::SubsetAccuracy,
    ];

    /// Name of the metric in configurations and results.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Accuracy => "accuracy",
            Metric::F1 => "f1",
            Metric::Matthews => "matthews",
            Metric::Pearson => "pearson",
            Metric::Spearman => "spearman",
            Metric::Perplexity => "perplexity",
            Metric::F1Micro => "f1_micro",
            Metric::F1Macro => "f1_macro",
            Metric::F1Samples => "f1_samples",
            Metric::AveragePrecision => "average_precision",
            Metric::AveragePrecisionMicro => "average_precision_micro",
            Metric::SubsetAccuracy => "subset_accuracy",
        }
    }

    /// Whether a smaller value is better.
    pub fn less_is_better(self) -> bool {
        self == Metric::Perplexity
    }

    /// Metrics that compare classes.
    pub const OF_CLASSES: [Metric; 3] = [Metric::Accuracy, Metric::F1, Metric::Matthews];
    /// Metrics that compare numbers.
    pub const OF_VALUES: [Metric; 2] = [Metric::Pearson, Metric::Spearman];
    /// Metrics that compare label sets.
    pub const OF_LABEL_SETS: [Metric; 6] = [
        Metric::F1Micro,
        Metric::F1Macro,
        Metric::F1Samples,
        Metric::AveragePrecision,
        Metric::AveragePrecisionMicro,
        Metric::SubsetAccuracy,
    ];

    /// Checks that the metric is one of `fitting`.
    ///
    /// # Errors
    /// If it is not; `what` says what it was to be computed for.
    pub fn check(self, fitting: &[Metric], what: &str) -> Result<(), MetricError> {
        if fitting.contains(&self) {
            return Ok(());
        }
        let names: Vec<&str> = fitting.iter().map(|metric| metric.name()).collect();
        let cure = match names.as_slice() {
            [] => "leave it out".to_owned(),
            [one] => format!("choose {one}"),
            several => format!("choose one of {}", several.join(", ")),
        };
        Err(MetricError::Misfit { metric: self, what: what.into(), cure })
    }

    /// Compares predicted classes with the true ones.
    ///
    /// # Errors
    /// Different lengths, or a metric of numbers.
    pub fn of_classes(self, predictions: &[usize], truth: &[usize]) -> Result<Score, MetricError> {
        lengths(predictions.len(), truth.len())?;
        self.check(&Metric::OF_CLASSES, "classes")?;
        Ok(self.score_classes(predictions, truth))
    }

    /// Compares predicted numbers with the true ones.
    ///
    /// # Errors
    /// Different lengths, or a metric of classes.
    pub fn of_values(self, predictions: &[f32], truth: &[f32]) -> Result<Score, MetricError> {
        lengths(predictions.len(), truth.len())?;
        self.check(&Metric::OF_VALUES, "numbers")?;
        let wide = |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect::<Vec<_>>();
        Ok(self.score_numbers(&wide(predictions), &wide(truth)))
    }

    /// Compares predicted label sets with the true ones; average precision compares scores instead, one for every label
    /// of every row.
    ///
    /// # Errors
    /// Different lengths, or a metric that does not compare label sets.
    pub fn of_label_sets(
        self,
        predictions: &[Vec<bool>],
        scores: &[Vec<f32>],
        truth: &[Vec<bool>],
    ) -> Result<Score, MetricError> {
        lengths(predictions.len(), truth.len())?;
        lengths(scores.len(), truth.len())?;
        self.check(&Metric::OF_LABEL_SETS, "several labels per text")?;
        Ok(self.score_label_sets(predictions, scores, truth))
    }

    fn score_label_sets(self, predictions: &[Vec<bool>], scores: &[Vec<f32>], truth: &[Vec<bool>]) -> Score {
        use multi_label as of;
        let of_scores = |value: Option<f64>| {
            let hides = of::has_label_without_rows(truth) && self == Metric::AveragePrecision;
            (value, hides, "a label that no row has counts as 0")
        };
        let (value, hides, note) = match self {
            Metric::F1Macro => {
                let hides = of::has_unseen_label(predictions, truth);
                (of::f1_macro(predictions, truth), hides, "a label that is neither predicted nor true counts as 0")
            }
            Metric::F1Samples => {
                let hides = of::has_empty_row(predictions, truth);
                (of::f1_samples(predictions, truth), hides, "a row without labels, predicted or true, counts as 0")
            }
            Metric::AveragePrecision => of_scores(of::average_precision_macro(scores, truth)),
            Metric::AveragePrecisionMicro => of_scores(of::average_precision_micro(scores, truth)),
            Metric::SubsetAccuracy => (of::subset_accuracy(predictions, truth), false, ""),
            _ => {
                let hides = predictions.iter().flatten().all(|predicted| !predicted);
                (of::f1_micro(predictions, truth), hides, "no label is predicted for any row")
            }
        };
        let note = match value {
            Some(_) => hides.then_some(note),
            None if truth.is_empty() => Some("no rows"),
            None => Some("undefined: a logit is not a number"),
        };
        Score { metric: self, value, note }
    }

    fn score_classes(self, predictions: &[usize], truth: &[usize]) -> Score {
        let one_class = predictions.windows(2).all(|pair| pair[0] == pair[1]);
        let (value, note) = match self {
            Metric::F1 => (f1(predictions, truth), "no row of class 1, predicted or true: F1 counts as 0"),
            Metric::Matthews => (matthews(predictions, truth), "every prediction is the same class"),
            _ => (accuracy(predictions, truth), "every prediction is the same class"),
        };
        let hides = match self {
            Metric::F1 => predictions.iter().chain(truth).all(|&class| class != 1),
            _ => one_class && predictions.len() > 1,
        };
        let note = if value.is_none() { Some("no rows") } else { hides.then_some(note) };
        Score { metric: self, value, note }
    }

    fn score_numbers(self, predictions: &[f64], truth: &[f64]) -> Score {
        let value = if self == Metric::Pearson { pearson(predictions, truth) } else { spearman(predictions, truth) };
        let constant = |values: &[f64]| values.windows(2).all(|pair| pair[0] == pair[1]);
        let note = match value {
            Some(_) => None,
            None if truth.len() < 2 => Some("undefined: fewer than two rows"),
            None if constant(predictions) => Some("undefined: every prediction is the same"),
            None if constant(truth) => Some("undefined: every label is the same"),
            None => Some("undefined: a value is not finite"),
        };
        Score { metric: self, value, note }
    }
}

/// Perplexity for a mean loss per token in natural logarithms; `None` where it is not finite.
pub fn perplexity(loss: f64) -> Option<f64> {
    Some(loss.exp()).filter(|value| value.is_finite())
}

fn lengths(predictions: usize, labels: usize) -> Result<(), MetricError> {
    if predictions == labels { Ok(()) } else { Err(MetricError::Lengths { predictions, labels }) }
}

impl fmt::Display for Metric {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Metric {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Metric::ALL.into_iter().find(|metric| metric.name() == text);
        found.ok_or_else(|| {
            let names = Metric::ALL.map(Metric::name).join(", ");
            format!("unknown metric {}; choose one of {names}", super::error::quoted(text))
        })
    }
}
