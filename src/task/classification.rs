//! One of several classes for a text, or for a pair of texts.

use serde::{Deserialize, Serialize};

use super::head::ROW_HEAD;
use super::preset::TABLE_KEYS;
use super::{Figure, HeadSpec, Outputs, Preset, Targets, Task, TaskError};
use crate::dataset::{LabelKind, Metric};

/// Classification into one of several classes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Classification {
    /// The names of the classes in the order of the logits.
    pub labels: Vec<String>,
}

const ONE: (&str, Option<&str>) = ("sentence", None);
const TWO: (&str, Option<&str>) = ("sentence1", Some("sentence2"));
const BINARY: &[&str] = &["0", "1"];
const ENTAILMENT: &[&str] = &["entailment", "not_entailment"];
const INFERENCE: &[&str] = &["entailment", "neutral", "contradiction"];

/// The preset of a GLUE or ANLI task.
const fn task(
    name: &'static str,
    (text, pair): (&'static str, Option<&'static str>),
    labels: &'static [&'static str],
    metrics: &'static [Metric],
    dev_file: &'static str,
) -> Preset {
    let (train_file, kind) = ("train.tsv", Some(LabelKind::Classes));
    Preset { name, text, pair, label: Some("label"), kind, labels, metrics, keys: TABLE_KEYS, train_file, dev_file }
}

/// Tasks with classes, with their names in the order that GLUE and Hugging Face use.
pub(super) const PRESETS: [Preset; 8] = [
    task("cola", ONE, BINARY, &[Metric::Matthews, Metric::Accuracy], "dev.tsv"),
    task("sst2", ONE, BINARY, &[Metric::Accuracy], "dev.tsv"),
    task("mrpc", TWO, BINARY, &[Metric::Accuracy, Metric::F1], "dev.tsv"),
    task("qqp", TWO, BINARY, &[Metric::Accuracy, Metric::F1], "dev.tsv"),
    task("mnli", TWO, INFERENCE, &[Metric::Accuracy], "dev_matched.tsv"),
    task("qnli", TWO, ENTAILMENT, &[Metric::Accuracy], "dev.tsv"),
    task("rte", TWO, ENTAILMENT, &[Metric::Accuracy], "dev.tsv"),
    task("anli", TWO, INFERENCE, &[Metric::Accuracy], "dev.tsv"),
];

impl Classification {
    /// The class with the largest logit of every row; of equal logits, the first.
    ///
    /// # Errors
    /// If a row does not have one logit per class.
    pub fn predictions(&self, outputs: &Outputs) -> Result<Vec<usize>, TaskError> {
        let expected = self.labels.len();
        if let Some(row) = outputs.rows().iter().find(|row| row.len() != expected) {
            let task = format!("classes {}", self.labels.join(", "));
            return Err(TaskError::Width { found: row.len(), expected, task });
        }
        let largest = |row: &Vec<f32>| (1..row.len()).fold(0, |best, at| if row[at] > row[best] { at } else { best });
        Ok(outputs.rows().iter().map(largest).collect())
    }
}

impl Task for Classification {
    fn head(&self) -> HeadSpec {
        HeadSpec { width: Some(self.labels.len()), ..ROW_HEAD }
    }

    fn target(&self) -> &'static str {
        "a class"
    }

    fn in_words(&self) -> String {
        format!("{} classes", self.labels.len())
    }

    fn classes(&self) -> Option<&[String]> {
        Some(&self.labels)
    }

    fn fitting_metrics(&self) -> Vec<Metric> {
        let fits = |metric: &Metric| *metric != Metric::F1 || self.labels.len() == 2;
        Metric::OF_CLASSES.into_iter().filter(fits).collect()
    }

    fn usual_metrics(&self) -> &'static [Metric] {
        &[Metric::Accuracy]
    }

    fn score(&self, targets: &Targets, outputs: &Outputs, metrics: &[Metric]) -> Result<Vec<Figure>, TaskError> {
        let Targets::Classes(truth) = targets else { return Err(self.other_targets(targets)) };
        let predictions = self.predictions(outputs)?;
        let chosen = if metrics.is_empty() { self.usual_metrics() } else { metrics };
        self.check_metrics(chosen)?;
        chosen.iter().map(|metric| Ok(metric.of_classes(&predictions, truth)?.into())).collect()
    }
}
