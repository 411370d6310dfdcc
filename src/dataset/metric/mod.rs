//! Metrics: accuracy, F1, Matthews' correlation, Pearson's and Spearman's correlation, with the values of scikit-learn and
//! SciPy, degenerate cases included; perplexity.

mod classification;
mod correlation;
pub mod squad;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

pub use classification::{accuracy, f1, matthews};
pub use correlation::{pearson, spearman};

use super::{Label, Objective, ObjectiveKind};

/// What is measured.
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
    /// e to the mean loss per token: among how many equally likely tokens the model chooses. Less is better.
    Perplexity,
}

/// A metric and its value.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Score {
    /// What was measured.
    pub metric: Metric,
    /// The value; `None` where it is undefined.
    pub value: Option<f64>,
    /// Why it is undefined, or what the value hides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<&'static str>,
}

/// Predictions and truth cannot be compared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetricError {
    /// Classes for a metric of numbers, or the other way round, or the wrong number of classes.
    #[error("{metric} cannot be computed for {objective}; {cure}")]
    Misfit {
        /// The metric.
        metric: Metric,
        /// What the task is.
        objective: String,
        /// What to do: metrics that fit.
        cure: String,
    },
    /// Not as many predictions as labels.
    #[error("{predictions} predictions for {labels} labels; give one for each")]
    Lengths {
        /// Number of predictions.
        predictions: usize,
        /// Number of labels.
        labels: usize,
    },
}

impl Metric {
    /// All of them.
    pub const ALL: [Metric; 6] =
        [Metric::Accuracy, Metric::F1, Metric::Matthews, Metric::Pearson, Metric::Spearman, Metric::Perplexity];

    /// Its name in configurations and results.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Accuracy => "accuracy",
            Metric::F1 => "f1",
            Metric::Matthews => "matthews",
            Metric::Pearson => "pearson",
            Metric::Spearman => "spearman",
            Metric::Perplexity => "perplexity",
        }
    }

    /// Whether of two values the smaller is the better one.
    pub fn less_is_better(self) -> bool {
        self == Metric::Perplexity
    }

    /// Whether it compares classes or numbers, or says how well tokens are predicted.
    pub fn kind(self) -> ObjectiveKind {
        match self {
            Metric::Accuracy | Metric::F1 | Metric::Matthews => ObjectiveKind::Classification,
            Metric::Pearson | Metric::Spearman => ObjectiveKind::Regression,
            Metric::Perplexity => ObjectiveKind::CausalLm,
        }
    }

    /// What to measure where nobody says; the first decides.
    pub fn usual(objective: &Objective) -> &'static [Metric] {
        match objective {
            Objective::Classification { .. } => &[Metric::Accuracy],
            Objective::Regression => &[Metric::Pearson, Metric::Spearman],
            Objective::CausalLm => &[Metric::Perplexity],
            // Those of `squad` belong to questions, not to rows.
            Objective::Spans { .. } => &[],
        }
    }

    /// Those that make sense for a task.
    pub fn fitting(objective: &Objective) -> Vec<Metric> {
        Metric::ALL.into_iter().filter(|metric| metric.fits(objective)).collect()
    }

    fn fits(self, objective: &Objective) -> bool {
        match objective {
            // Theirs belong to questions, not to rows.
            Objective::Spans { .. } => false,
            Objective::Classification { labels } if self == Metric::F1 => labels.len() == 2,
            other => self.kind() == other.kind(),
        }
    }

    /// Whether it makes sense for a task.
    ///
    /// # Errors
    /// A metric of another kind than the task, or F1 for more than two classes.
    pub fn check(self, objective: &Objective) -> Result<(), MetricError> {
        if self.fits(objective) {
            return Ok(());
        }
        let cure = match objective {
            Objective::Spans { .. } => "leave it out: they have F1 and exact match of their own".into(),
            _ => choose(&Metric::fitting(objective)),
        };
        let objective = match objective {
            Objective::Spans { .. } => "span answers".into(),
            Objective::Regression => "a regression".into(),
            Objective::Classification { labels } => format!("{} classes", labels.len()),
            Objective::CausalLm => "tokens".into(),
        };
        Err(MetricError::Misfit { metric: self, objective, cure })
    }

    /// Compares predictions with the truth. Perplexity is not made of predictions but of the loss: [`perplexity`].
    ///
    /// # Errors
    /// Different lengths, or labels of the wrong kind.
    pub fn score(self, predictions: &[Label], truth: &[Label]) -> Result<Score, MetricError> {
        if predictions.len() != truth.len() {
            return Err(MetricError::Lengths { predictions: predictions.len(), labels: truth.len() });
        }
        let misfit = |objective: &str| MetricError::Misfit {
            metric: self,
            objective: objective.into(),
            cure: match objective {
                "numbers" => choose(&[Metric::Pearson, Metric::Spearman]),
                _ if one_of_two(predictions) && one_of_two(truth) => {
                    choose(&[Metric::Accuracy, Metric::F1, Metric::Matthews])
                }
                _ => choose(&[Metric::Accuracy, Metric::Matthews]),
            },
        };
        match self.kind() {
            ObjectiveKind::Classification => {
                let predictions = classes(predictions).ok_or_else(|| misfit("numbers"))?;
                let truth = classes(truth).ok_or_else(|| misfit("numbers"))?;
                Ok(self.score_classes(&predictions, &truth))
            }
            ObjectiveKind::Regression | ObjectiveKind::Spans => {
                let predictions = numbers(predictions).ok_or_else(|| misfit("classes"))?;
                let truth = numbers(truth).ok_or_else(|| misfit("classes"))?;
                Ok(self.score_numbers(&predictions, &truth))
            }
            ObjectiveKind::CausalLm => Err(misfit("predictions")),
        }
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

/// Perplexity of a mean loss per token, natural logarithms; `None` where it is not finite.
pub fn perplexity(loss: f64) -> Option<f64> {
    Some(loss.exp()).filter(|value| value.is_finite())
}

/// The cure where a metric does not fit.
fn choose(metrics: &[Metric]) -> String {
    let names: Vec<&str> = metrics.iter().map(|metric| metric.name()).collect();
    let one_of = if names.len() > 1 { "one of " } else { "" };
    format!("choose {one_of}{}", names.join(", "))
}

fn one_of_two(labels: &[Label]) -> bool {
    labels.iter().all(|label| matches!(label, Label::Class(0 | 1)))
}

fn classes(labels: &[Label]) -> Option<Vec<usize>> {
    labels.iter().map(|label| if let Label::Class(class) = label { Some(*class) } else { None }).collect()
}

fn numbers(labels: &[Label]) -> Option<Vec<f64>> {
    labels.iter().map(|label| if let Label::Value(value) = label { Some(f64::from(*value)) } else { None }).collect()
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
