//! Rows of a table with one label each: a class or a number.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use super::class_names::{check_label_order, class_count, label_names};
use super::classification;
use super::head::ROW_HEAD;
use super::predictions::{Predicted, write_table};
use super::{
    Classification, DataSettings, Encoded, Figure, HeadSpec, Objective, Outputs, Preset, Purpose, Reader, Regression,
    Request, Rows, Source, Targets, TaskError, predictions_format, regression,
};
use crate::dataset::{Dataset, DatasetError, LabelKind, Labels, LoadSettings, Metric, Tokenizer};
use crate::hint::Hint;
use crate::progress::{Event, Observer};
use crate::settings_value::SettingError;

/// Number of strata for labels that are numbers.
const QUANTILES: usize = 10;

const PRESETS: [Preset; 9] = {
    let [cola, sst2, mrpc, qqp, mnli, qnli, rte, anli] = classification::PRESETS;
    let [stsb] = regression::PRESETS;
    [cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte, anli]
};

/// The message for rows without labels where they are needed.
pub(super) fn lacking_labels() -> Cow<'static, str> {
    format!("was read without labels; name their column with {}", Hint::Label).into()
}

/// Reader of tables with labels.
#[derive(Debug)]
pub(super) struct Tables;

impl Reader for Tables {
    fn presets(&self) -> &'static [Preset] {
        &PRESETS
    }

    fn head(&self) -> HeadSpec {
        ROW_HEAD
    }

    fn check(&self, settings: &DataSettings) -> Result<(), SettingError> {
        let load = settings.load_settings();
        if let Some(labels) = &settings.labels {
            if let Some(twice) = (1..labels.len()).find(|&i| labels[..i].contains(&labels[i])) {
                let found = format!("has `{}` twice", labels[twice]);
                return Err(SettingError::new("labels", found, "name every class once"));
            }
            if labels.len() < 2 {
                return Err(SettingError::new("labels", "names fewer than two classes".into(), "name every class"));
            }
            if load.kind == Some(LabelKind::Values) {
                let found = "are given, but a regression has none".into();
                return Err(SettingError::new("labels", found, "leave them out"));
            }
        }
        check_metrics(settings, &load)
    }

    fn read(&self, request: &Request<'_>) -> Result<Box<dyn Rows>, TaskError> {
        let settings = request.settings;
        let load = LoadSettings { limit: request.limit(), ..settings.load_settings() };
        let load = match request.like {
            Some(Objective::Classification(task)) => {
                let classes = Labels::Classes { names: task.labels.clone(), rows: Vec::new() };
                load.with_labels_of(&classes)
            }
            Some(Objective::Regression) => load.with_labels_of(&Labels::Values(Vec::new())),
            // Other tasks do not use tables.
            _ => load,
        };
        let dataset = match request.purpose {
            // Named labels are checked, though activations need none: errors in them are reported now rather than by
            // the training after the plan.
            Purpose::Plan if !settings.names_labels() => Dataset::load(request.path, &load.without_labels())?,
            Purpose::Evaluate if request.like.is_none() => to_evaluate(request, &load)?,
            _ => Dataset::load(request.path, &load)?,
        };
        for warning in &dataset.warnings {
            request.observer.observe(Event::Warning(warning));
        }
        let classes = |names: &[String]| Objective::Classification(Classification { labels: names.to_vec() });
        let names = request.model_config.and_then(label_names);
        let objective = match &dataset.labels {
            Some(labels) => Some(labels.names().map_or(Objective::Regression, classes)),
            None if request.predictions && load.kind == Some(LabelKind::Values) => Some(Objective::Regression),
            // Predictions without labels use the given names, else those of the model's classes, else the task's. A
            // model with one output predicts a number.
            None if request.predictions => {
                let given = settings.labels.as_ref().or(names.as_ref()).or(load.labels.as_ref());
                given.map(|given| match given.len() {
                    1 => Objective::Regression,
                    _ => classes(given),
                })
            }
            None => None,
        };
        if let (Some(objective), Some(names)) = (&objective, &names) {
            check_label_order(names, objective)?;
        }
        let columns = std::iter::once(load.text).chain(load.pair).collect();
        Ok(Box::new(TableRows { dataset, objective, columns }))
    }

    fn check_predictions(&self, path: &Path) -> Result<(), TaskError> {
        predictions_format(path).map(|_| ())
    }
}

fn check_metrics(settings: &DataSettings, load: &LoadSettings) -> Result<(), SettingError> {
    let Some(metrics) = &settings.metrics else { return Ok(()) };
    if metrics.is_empty() {
        return Err(SettingError::new("metrics", "is empty".into(), "name at least one, or leave it out"));
    }
    let classes = load.labels.as_ref().map(Vec::len);
    let kind = load.kind.or(classes.map(|_| LabelKind::Classes));
    let of_classes = |metric: &Metric| *metric != Metric::F1 || classes.is_none_or(|classes| classes == 2);
    let of_classes = Metric::OF_CLASSES.into_iter().filter(of_classes);
    let (fitting, task): (Vec<Metric>, _) = match kind {
        Some(LabelKind::Values) => (Metric::OF_VALUES.to_vec(), "a regression".to_owned()),
        Some(LabelKind::Classes) => {
            (of_classes.collect(), classes.map_or("classes".to_owned(), |classes| format!("{classes} classes")))
        }
        None => (of_classes.chain(Metric::OF_VALUES).collect(), "rows with a label each".to_owned()),
    };
    let Some(misfit) = metrics.iter().find(|metric| !fitting.contains(metric)) else { return Ok(()) };
    let known: Vec<_> = fitting.iter().map(|metric| metric.name()).collect();
    let cure = format!("choose among {}", known.join(", "));
    Err(SettingError::new("metrics", format!("has `{misfit}`, which does not fit {task}"), cure))
}

/// Loads rows with labels in the order of the model's classes, or without labels where only predictions are requested.
fn to_evaluate(request: &Request<'_>, load: &LoadSettings) -> Result<Dataset, TaskError> {
    match as_named(request, load) {
        Err(TaskError::Dataset(DatasetError::MissingColumn { column, .. }))
            if request.predictions && request.settings.label.is_none() && Some(&column) == load.label.as_ref() =>
        {
            let text = "there is no column of labels: predictions only, no metrics";
            request.observer.observe(Event::Notice(text));
            Ok(Dataset::load(request.path, &load.without_labels())?)
        }
        other => other,
    }
}

/// Loads rows with labels in the order of the model's classes: by its names, where it has them and the data use them, or by
/// number. Some classes may not occur in the rows.
fn as_named(request: &Request<'_>, load: &LoadSettings) -> Result<Dataset, TaskError> {
    let (settings, config) = (request.settings, request.model_config);
    if settings.labels.is_some() || settings.task.is_some() || settings.objective == Some(LabelKind::Values) {
        return Ok(Dataset::load(request.path, load)?);
    }
    let names = config.and_then(label_names);
    let is_named = names.is_some();
    let numbers = config.and_then(class_count).map(|count| (0..count).map(|class| class.to_string()).collect());
    let mut unknown = None;
    for labels in [names, numbers].into_iter().flatten() {
        let named = LoadSettings { labels: Some(labels), ..load.clone() };
        match Dataset::load(request.path, &named) {
            Err(error @ DatasetError::UnknownLabel { .. }) => unknown = unknown.or(Some(error)),
            other => return Ok(other?),
        }
    }
    let dataset = Dataset::load(request.path, load)?;
    let of_classes = dataset.labels.as_ref().is_none_or(|labels| labels.kind() == LabelKind::Classes);
    match unknown.filter(|_| is_named && of_classes) {
        Some(unknown) => Err(unknown.into()),
        None => Ok(dataset),
    }
}

/// The rows of a table.
pub(super) struct TableRows {
    pub dataset: Dataset,
    pub objective: Option<Objective>,
    pub columns: Vec<String>,
}

impl Rows for TableRows {
    fn path(&self) -> &Path {
        &self.dataset.path
    }

    fn sha256(&self) -> &str {
        &self.dataset.sha256
    }

    fn source(&self) -> Source<'_> {
        Source::Examples(&self.dataset.examples)
    }

    fn text(&self, row: usize) -> Option<String> {
        let example = self.dataset.examples.get(row)?;
        Some(match &example.pair {
            Some(pair) => format!("{} | {pair}", example.text),
            None => example.text.clone(),
        })
    }

    fn columns(&self) -> Vec<String> {
        self.columns.clone()
    }

    fn objective(&self) -> Option<&Objective> {
        self.objective.as_ref()
    }

    fn lacks(&self) -> Option<Cow<'static, str>> {
        self.dataset.labels.is_none().then(lacking_labels)
    }

    fn strata(&self) -> Result<Vec<Vec<usize>>, String> {
        match &self.dataset.labels {
            None => Err(format!("{} has none; name their column with {}", self.dataset.path.display(), Hint::Label)),
            Some(Labels::Classes { rows, .. }) => {
                let mut classes: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
                rows.iter().enumerate().for_each(|(row, class)| classes.entry(*class).or_default().push(row));
                Ok(classes.into_values().collect())
            }
            // Numbers are grouped by deciles.
            Some(Labels::Values(values)) => {
                let mut order: Vec<usize> = (0..values.len()).collect();
                order.sort_by(|&a, &b| values[a].total_cmp(&values[b]).then(a.cmp(&b)));
                Ok(order.chunks(order.len().div_ceil(QUANTILES).max(1)).map(<[usize]>::to_vec).collect())
            }
        }
    }

    fn encode(&self, tokenizer: &Tokenizer, observer: &dyn Observer) -> Result<Encoded<'_>, DatasetError> {
        let targets = self.dataset.labels.as_ref().map(|labels| match labels {
            Labels::Classes { rows, .. } => Targets::Classes(rows.clone()),
            Labels::Values(values) => Targets::Values(values.clone()),
        });
        Ok(Encoded { encodings: Cow::Owned(tokenizer.encode(&self.dataset.examples, observer)?), targets })
    }

    fn score(&self, encoded: &Encoded<'_>, outputs: &Outputs, metrics: &[Metric]) -> Result<Vec<Figure>, TaskError> {
        match (&self.objective, &encoded.targets) {
            (Some(objective), Some(targets)) => objective.score(targets, outputs, metrics),
            _ => Ok(Vec::new()),
        }
    }

    fn write_predictions(&self, path: &Path, outputs: &Outputs) -> Result<(), TaskError> {
        predictions_format(path)?;
        let (expected, found) = (self.dataset.examples.len(), outputs.rows().len());
        if found != expected {
            return Err(TaskError::Lengths { what: "predictions", found, expected });
        }
        let predicted = match &self.objective {
            Some(Objective::Classification(task)) => {
                Predicted::Classes { names: &task.labels, rows: task.predictions(outputs)? }
            }
            _ => Predicted::Values(Regression::predictions(outputs)?),
        };
        let lines = self.dataset.examples.iter().map(|example| example.line).collect();
        let labels = self.dataset.labels.as_ref().map(|labels| match labels {
            Labels::Classes { names, rows } => Predicted::Classes { names, rows: rows.clone() },
            Labels::Values(values) => Predicted::Values(values.clone()),
        });
        write_table(path, lines, &predicted, labels.as_ref(), outputs.rows())
    }
}
