//! Several labels for a text, or none: each label is decided by its own logit.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::class_names::{check_label_order, class_count, label_names};
use super::head::ROW_HEAD;
use super::predictions::{Predicted, write_table};
use super::table::{TableRows, lacking_labels};
use super::{
    DataSettings, Encoded, Figure, HeadSpec, Objective, Outputs, Preset, Purpose, Reader, Request, Rows, Source,
    Targets, Task, TaskError, predictions_format,
};
use crate::dataset::metric::multi_label::best_threshold;
use crate::dataset::{Dataset, DatasetError, LabelSets, LoadSettings, Metric, Tokenizer};
use crate::hint::Hint;
use crate::progress::{Event, Observer};
use crate::settings_value::SettingError;

/// A text has a label where its probability, the logistic function of its logit, is at least this, unless thresholds were chosen.
const THRESHOLD: f64 = 0.5;
/// The key of `config.json` that holds the thresholds.
const THRESHOLDS: &str = "gelora_thresholds";

fn probability(logit: f32) -> f64 {
    1.0 / (1.0 + (-f64::from(logit)).exp())
}

/// Multi-label classification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MultiLabel {
    /// The names of the labels in the order of the logits.
    pub labels: Vec<String>,
}

/// Default metrics.
const USUAL: &[Metric] = &[Metric::F1Micro, Metric::F1Macro, Metric::F1Samples, Metric::AveragePrecision];

const PRESETS: [Preset; 1] = [Preset {
    name: "multi-label",
    text: "text",
    pair: None,
    label: Some("labels"),
    kind: None,
    labels: &[],
    metrics: USUAL,
    keys: &["text", "pair", "label", "labels", "format", "quoting", "metrics"],
    train_file: "train.jsonl",
    dev_file: "dev.jsonl",
}];

impl MultiLabel {
    /// What transformers calls the task in `config.json` (`problem_type`).
    pub const PROBLEM_TYPE: &str = "multi_label_classification";

    /// The thresholds in a model's `config.json`; the default ones where it has none.
    ///
    /// # Errors
    /// Thresholds that do not match the labels.
    pub fn thresholds_of(&self, config: Option<&serde_json::Value>) -> Result<Vec<f64>, TaskError> {
        let Some(found) = config.and_then(|config| config.get(THRESHOLDS)) else {
            return Ok(vec![THRESHOLD; self.labels.len()]);
        };
        let numbers =
            found.as_array().and_then(|all| all.iter().map(serde_json::Value::as_f64).collect::<Option<Vec<_>>>());
        numbers
            .filter(|numbers| numbers.len() == self.labels.len())
            .filter(|numbers| numbers.iter().all(|number| (0.0..=1.0).contains(number)))
            .ok_or(TaskError::Thresholds { key: THRESHOLDS, labels: self.labels.len() })
    }

    /// The labels of every row: those whose probability is at least their threshold.
    ///
    /// # Errors
    /// If a row does not have one logit per label.
    pub fn predictions(&self, outputs: &Outputs, thresholds: &[f64]) -> Result<Vec<Vec<bool>>, TaskError> {
        let expected = self.labels.len();
        if let Some(row) = outputs.rows().iter().find(|row| row.len() != expected) {
            let task = format!("labels {}", self.labels.join(", "));
            return Err(TaskError::Width { found: row.len(), expected, task });
        }
        let has = |(&logit, &threshold): (&f32, &f64)| probability(logit) >= threshold;
        Ok(outputs.rows().iter().map(|row| row.iter().zip(thresholds).map(has).collect()).collect())
    }

    fn score_at(
        &self,
        thresholds: &[f64],
        targets: &Targets,
        outputs: &Outputs,
        metrics: &[Metric],
    ) -> Result<Vec<Figure>, TaskError> {
        let Targets::LabelSets(truth) = targets else { return Err(self.other_targets(targets)) };
        let predictions = self.predictions(outputs, thresholds)?;
        let chosen = if metrics.is_empty() { self.usual_metrics() } else { metrics };
        self.check_metrics(chosen)?;
        chosen.iter().map(|metric| Ok(metric.of_label_sets(&predictions, outputs.rows(), truth)?.into())).collect()
    }
}

impl Task for MultiLabel {
    fn head(&self) -> HeadSpec {
        HeadSpec { width: Some(self.labels.len()), ..ROW_HEAD }
    }

    fn target(&self) -> &'static str {
        "a set of labels"
    }

    fn in_words(&self) -> String {
        "several labels per text".into()
    }

    fn classes(&self) -> Option<&[String]> {
        Some(&self.labels)
    }

    fn problem_type(&self) -> Option<&'static str> {
        Some(MultiLabel::PROBLEM_TYPE)
    }

    fn fitting_metrics(&self) -> Vec<Metric> {
        Metric::OF_LABEL_SETS.to_vec()
    }

    fn usual_metrics(&self) -> &'static [Metric] {
        USUAL
    }

    fn score(&self, targets: &Targets, outputs: &Outputs, metrics: &[Metric]) -> Result<Vec<Figure>, TaskError> {
        self.score_at(&self.thresholds_of(None)?, targets, outputs, metrics)
    }

    fn has_thresholds(&self) -> bool {
        true
    }

    /// Thresholds with the best F1; a label that no row has keeps the default.
    fn thresholds(&self, targets: &Targets, outputs: &Outputs) -> Result<Vec<f64>, TaskError> {
        let Targets::LabelSets(truth) = targets else { return Err(self.other_targets(targets)) };
        let of_label = |label: usize| {
            let scores: Vec<f64> =
                outputs.rows().iter().filter_map(|row| row.get(label).copied().map(probability)).collect();
            let truth: Vec<bool> = truth.iter().filter_map(|row| row.get(label).copied()).collect();
            best_threshold(&scores, &truth).unwrap_or(THRESHOLD)
        };
        Ok((0..self.labels.len()).map(of_label).collect())
    }
}

/// Reader of tables with several labels per row.
#[derive(Debug)]
pub(super) struct LabelledTables;

impl Reader for LabelledTables {
    fn presets(&self) -> &'static [Preset] {
        &PRESETS
    }

    fn head(&self) -> HeadSpec {
        ROW_HEAD
    }

    fn check(&self, settings: &DataSettings) -> Result<(), SettingError> {
        if let Some(labels) = &settings.labels {
            let wrong = |found| Err(SettingError::new("labels", found, "name every label once"));
            if let Some(twice) = (1..labels.len()).find(|&i| labels[..i].contains(&labels[i])) {
                return wrong(format!("has `{}` twice", labels[twice]));
            }
            if labels.is_empty() || labels.iter().any(|label| label.trim().is_empty()) {
                return wrong("has a label without a name".into());
            }
        }
        let Some(metrics) = &settings.metrics else { return Ok(()) };
        if metrics.is_empty() {
            return Err(SettingError::new("metrics", "is empty".into(), "name at least one, or leave it out"));
        }
        let Some(misfit) = metrics.iter().find(|metric| !Metric::OF_LABEL_SETS.contains(metric)) else { return Ok(()) };
        let cure = format!("choose among {}", Metric::OF_LABEL_SETS.map(Metric::name).join(", "));
        Err(SettingError::new("metrics", format!("has `{misfit}`, which does not fit several labels per text"), cure))
    }

    fn read(&self, request: &Request<'_>) -> Result<Box<dyn Rows>, TaskError> {
        let known = Known::of(request);
        let load = LoadSettings {
            limit: request.limit(),
            accept_class_numbers: known.numbers,
            labels: known.labels.clone(),
            ..request.settings.load_settings()
        };
        let (dataset, sets) = match known.load(request, &load) {
            Err(DatasetError::MissingColumn { .. }) if known.may_lack_labels(request) => {
                let text = "there is no column of labels: predictions only, no metrics";
                request.observer.observe(Event::Notice(text));
                (Dataset::load(request.path, &load.without_labels())?, None)
            }
            other => other.map(|(dataset, sets)| (dataset, Some(sets)))?,
        };
        for warning in &dataset.warnings {
            request.observer.observe(Event::Warning(warning));
        }
        let labels = sets.as_ref().map(|sets| sets.names.clone()).or(known.labels);
        let task = labels.map(|labels| MultiLabel { labels });
        let thresholds =
            task.as_ref().map(|task| task.thresholds_of(evaluated(request))).transpose()?.unwrap_or_default();
        if thresholds.iter().any(|threshold| *threshold != THRESHOLD) {
            let text = "labels are decided by the thresholds of the model's config.json (gelora_thresholds)";
            request.observer.observe(Event::Notice(text));
        }
        let objective = task.map(Objective::MultiLabel);
        if let (Some(objective), Some(names)) = (&objective, request.model_config.and_then(label_names)) {
            check_label_order(&names, objective)?;
        }
        let columns = std::iter::once(load.text).chain(load.pair).collect();
        let rows = sets.map(|sets| sets.rows);
        Ok(Box::new(LabelledRows { table: TableRows { dataset, objective, columns }, rows, thresholds }))
    }

    fn check_predictions(&self, path: &Path) -> Result<(), TaskError> {
        predictions_format(path).map(|_| ())
    }
}

/// `config.json` of the model that is evaluated; training assigns its labels afresh.
fn evaluated<'a>(request: &Request<'a>) -> Option<&'a serde_json::Value> {
    request.model_config.filter(|_| request.purpose == Purpose::Evaluate)
}

/// The labels that are known before a file is read.
struct Known {
    labels: Option<Vec<String>>,
    /// Whether numbers in the file may be label indices: the labels are then in the order of the settings, or of the model.
    numbers: bool,
}

impl Known {
    fn of(request: &Request<'_>) -> Self {
        let given = request.settings.labels.is_some();
        if let Some(Objective::MultiLabel(task)) = request.like {
            return Known { labels: Some(task.labels.clone()), numbers: given };
        }
        let counted = |config| Some((0..class_count(config)?).map(|label| label.to_string()).collect());
        let of_model = evaluated(request).and_then(|config| label_names(config).or_else(|| counted(config)));
        Known { numbers: given || of_model.is_some(), labels: request.settings.labels.clone().or(of_model) }
    }

    /// Loads the label column if it is named; else one column of 0 and 1 per known label, if all of these columns exist;
    /// else the default label column.
    fn load(&self, request: &Request<'_>, load: &LoadSettings) -> Result<(Dataset, LabelSets), DatasetError> {
        let column = load.label.as_deref().unwrap_or_default();
        let named = request.settings.label.is_some();
        // A label with the same name as the text column is not a column of 0 and 1.
        if let Some(labels) = self.labels.as_ref().filter(|labels| !named && !labels.contains(&load.text)) {
            match LabelSets::load_columns(request.path, load, labels) {
                Err(DatasetError::MissingColumn { column, .. }) if labels.contains(&column) => {}
                other => return other,
            }
        }
        LabelSets::load(request.path, load, column).map_err(|error| match error {
            DatasetError::MissingColumn { path, line, column: missing, there, .. } if !named && missing == column => {
                let all = Hint::Labels.with("A,B,…");
                let cure =
                    format!("name the column of the labels ({}), or the columns of 0 and 1 ({all})", Hint::Label);
                let cure = cure.into();
                DatasetError::MissingColumn { path, line, column: missing, there, cure }
            }
            other => other,
        })
    }

    /// Whether the rows may lack labels: predictions are requested, and nothing says that there are labels.
    fn may_lack_labels(&self, request: &Request<'_>) -> bool {
        request.predictions && request.like.is_none() && request.settings.label.is_none()
    }
}

/// The rows of a table with their labels.
struct LabelledRows {
    table: TableRows,
    rows: Option<Vec<Vec<bool>>>,
    /// Thresholds of the model that is evaluated.
    thresholds: Vec<f64>,
}

impl LabelledRows {
    fn task(&self) -> Option<&MultiLabel> {
        match &self.table.objective {
            Some(Objective::MultiLabel(task)) => Some(task),
            _ => None,
        }
    }
}

impl Rows for LabelledRows {
    fn path(&self) -> &Path {
        self.table.path()
    }

    fn sha256(&self) -> &str {
        self.table.sha256()
    }

    fn source(&self) -> Source<'_> {
        self.table.source()
    }

    fn text(&self, row: usize) -> Option<String> {
        self.table.text(row)
    }

    fn columns(&self) -> Vec<String> {
        self.table.columns()
    }

    fn objective(&self) -> Option<&Objective> {
        self.table.objective()
    }

    fn lacks(&self) -> Option<Cow<'static, str>> {
        self.rows.is_none().then(lacking_labels)
    }

    /// Groups the rows by their set of labels.
    fn strata(&self) -> Result<Vec<Vec<usize>>, String> {
        let path = self.table.path().display();
        let sets =
            self.rows.as_ref().ok_or_else(|| format!("{path} has none; name their column with {}", Hint::Label))?;
        let mut strata: BTreeMap<&[bool], Vec<usize>> = BTreeMap::new();
        sets.iter().enumerate().for_each(|(row, set)| strata.entry(set).or_default().push(row));
        Ok(strata.into_values().collect())
    }

    fn encode(&self, tokenizer: &Tokenizer, observer: &dyn Observer) -> Result<Encoded<'_>, DatasetError> {
        let encodings = tokenizer.encode(&self.table.dataset.examples, observer)?;
        Ok(Encoded { encodings: Cow::Owned(encodings), targets: self.rows.clone().map(Targets::LabelSets) })
    }

    fn score(&self, encoded: &Encoded<'_>, outputs: &Outputs, metrics: &[Metric]) -> Result<Vec<Figure>, TaskError> {
        match (self.task(), &encoded.targets) {
            (Some(task), Some(targets)) => task.score_at(&self.thresholds, targets, outputs, metrics),
            _ => Ok(Vec::new()),
        }
    }

    fn score_as(
        &self,
        config: Option<&serde_json::Value>,
        encoded: &Encoded<'_>,
        outputs: &Outputs,
        metrics: &[Metric],
    ) -> Result<Vec<Figure>, TaskError> {
        match (self.task(), &encoded.targets) {
            (Some(task), Some(targets)) => task.score_at(&task.thresholds_of(config)?, targets, outputs, metrics),
            _ => Ok(Vec::new()),
        }
    }

    fn write_predictions(&self, path: &Path, outputs: &Outputs) -> Result<(), TaskError> {
        predictions_format(path)?;
        let Some(task) = self.task() else {
            let all = Hint::Labels.with("A,B,…");
            return Err(TaskError::Predictions(format!("nobody says what the labels are called; list them ({all})")));
        };
        let examples = &self.table.dataset.examples;
        let (expected, found) = (examples.len(), outputs.rows().len());
        if found != expected {
            return Err(TaskError::Lengths { what: "predictions", found, expected });
        }
        let sets = |rows| Predicted::LabelSets { names: &task.labels, rows };
        let predicted = sets(task.predictions(outputs, &self.thresholds)?);
        let labels = self.rows.clone().map(sets);
        write_table(path, examples.iter().map(|row| row.line).collect(), &predicted, labels.as_ref(), outputs.rows())
    }
}
