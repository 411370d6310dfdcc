//! `[data]`: which rows, and what they are.

use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::RangedU64ValueParser;
use serde::{Deserialize, Serialize};

use super::value::{SettingError, at_least, did_you_mean, number, word};
use crate::dataset::{
    AnswerSettings, Format, LoadSettings, Metric, Objective, ObjectiveKind, PRESETS, Preset, SPAN_TASKS, Template,
    missing_task, preset, span_task,
};

/// Which rows, and what they are. Without `task`, the columns are `text` and `label` unless named here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
#[command(next_help_heading = "Data")]
pub struct DataSettings {
    /// The rows: .tsv, .csv, .jsonl or .parquet; for language models .txt too, with empty lines between the texts; for span
    /// answers the JSON of SQuAD
    #[arg(long = "data", value_name = "FILE")]
    pub train: PathBuf,

    /// Rows to evaluate on after every epoch, and to choose the best state with.
    #[arg(skip)]
    pub dev: Option<PathBuf>,

    /// Labelled rows that nothing is chosen with; evaluated at the end.
    #[arg(skip)]
    pub test: Option<PathBuf>,

    /// Preset for columns, objective and metric: cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte, anli; squad (v1.1) and
    /// squad2 (v2.0) for span answers; causal-lm (texts) and instruct (instructions with an output) for language models
    #[arg(long, value_name = "NAME", value_parser = known_task)]
    pub task: Option<String>,

    /// Column of the text, as the header line names it
    #[arg(long, value_name = "COLUMN")]
    pub text: Option<String>,

    /// Column of the second text of a pair
    #[arg(long, value_name = "COLUMN")]
    pub pair: Option<String>,

    /// Column of the label
    #[arg(long, value_name = "COLUMN")]
    pub label: Option<String>,

    /// The labels in the order of the model's classes, separated by commas
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub labels: Option<Vec<String>>,

    /// What the labels are: classification or regression [default: by the labels]
    #[arg(long, value_name = "KIND", value_parser = word::<ObjectiveKind>)]
    pub objective: Option<ObjectiveKind>,

    /// tsv, csv, jsonl, parquet or txt [default: by the name of the file]
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<Format>,

    /// Whether quotes enclose fields: true or false [default: by the format and the task]
    #[arg(long, value_name = "BOOL")]
    pub quoting: Option<bool>,

    /// With --task instruct: file with the text around {instruction}, {input} and {output} [default: Alpaca's]
    // In a configuration the text itself.
    #[arg(long, value_name = "FILE", value_parser = template)]
    pub template: Option<String>,

    /// The same for rows without input [default: Alpaca's, or --template]
    #[arg(long, value_name = "FILE", value_parser = template)]
    pub template_without_input: Option<String>,

    /// For language models: join the texts and cut them into rows of --max-length tokens (training and evaluation)
    #[arg(long)]
    #[serde(default)]
    pub packing: bool,

    /// Longest text in tokens; more is cut off [default: 128; 384 for span answers, which are cut into windows]
    #[arg(long, value_name = "TOKENS")]
    pub max_length: Option<usize>,

    /// Only the first so many rows, or questions [default: all]
    #[arg(long, value_name = "N", value_parser = one_or_more())]
    pub limit: Option<usize>,

    /// Tokens of the context that a window repeats of the one before [default: 128]
    #[arg(long, value_name = "TOKENS", help_heading = "Span answers")]
    pub stride: Option<usize>,

    /// Longest answer in tokens [default: 30]
    #[arg(long, value_name = "TOKENS", value_parser = one_or_more(), help_heading = "Span answers")]
    pub max_answer_length: Option<usize>,

    /// How many of the best starts and ends of a window are combined [default: 20]
    #[arg(long, value_name = "N", value_parser = one_or_more(), help_heading = "Span answers")]
    pub n_best: Option<usize>,

    /// squad2: no answer is given where its score exceeds that of the best answer by more than this [default: 0]
    #[arg(long, value_name = "SCORE", help_heading = "Span answers")]
    pub null_threshold: Option<f32>,

    /// `accuracy`, `f1`, `matthews`, `pearson`, `spearman`, `perplexity`; the first decides which state is the best.
    #[arg(skip)]
    pub metrics: Option<Vec<Metric>>,
}

fn one_or_more() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}

/// The content of a file, without the line end that editors put at its end.
fn template(file: &str) -> Result<String, String> {
    let text = crate::files::read_text(Path::new(file)).map_err(|error| error.to_string())?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

/// The names of all tasks that have a preset.
fn tasks() -> Vec<&'static str> {
    PRESETS.iter().map(|preset| preset.name).chain(SPAN_TASKS).collect()
}

/// A task that has a preset.
fn known_task(text: &str) -> Result<String, String> {
    match preset(text).map(|preset| preset.name).or(span_task(text)) {
        Some(name) => Ok(name.to_owned()),
        None => Err(missing_task(text).map_or_else(
            || {
                let names = tasks().join(", ");
                format!("there is no preset of that name; use one of {names}, or name the columns instead")
            },
            str::to_owned,
        )),
    }
}

/// How span answers are read and given.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct SpanSettings {
    /// Whether there may be no answer.
    pub null_answers: bool,
    /// Tokens that a window repeats of the one before.
    pub stride: usize,
    /// Longest answer in tokens.
    pub max_answer_length: usize,
    /// How many of the best starts and ends of a window are combined.
    pub n_best: usize,
    /// How much the score of no answer must exceed that of the best answer.
    pub null_threshold: f32,
}

impl SpanSettings {
    /// Which spans can be answers.
    pub fn answers(&self) -> AnswerSettings {
        AnswerSettings {
            maximum_tokens: self.max_answer_length,
            candidates: self.n_best,
            null_threshold: self.null_threshold,
        }
    }
}

impl DataSettings {
    /// The preset that `task` names.
    pub fn preset(&self) -> Option<Preset> {
        self.task.as_deref().and_then(preset)
    }

    /// Longest row, or window, in tokens.
    pub fn max_length(&self) -> usize {
        self.max_length.unwrap_or(if self.spans().is_some() { 384 } else { 128 })
    }

    /// How span answers are read and given, if that is the task.
    pub fn spans(&self) -> Option<SpanSettings> {
        let task = self.task.as_deref().and_then(span_task)?;
        let usual = AnswerSettings::default();
        Some(SpanSettings {
            null_answers: task == "squad2",
            stride: self.stride.unwrap_or(128),
            max_answer_length: self.max_answer_length.unwrap_or(usual.maximum_tokens),
            n_best: self.n_best.unwrap_or(usual.candidates),
            null_threshold: self.null_threshold.unwrap_or(usual.null_threshold),
        })
    }

    /// How to read the training file.
    pub fn load_settings(&self) -> LoadSettings {
        let base = self.preset().map(|preset| preset.settings()).unwrap_or_default();
        LoadSettings {
            text: self.text.clone().unwrap_or(base.text),
            pair: self.pair.clone().or(base.pair),
            label: self.label.clone().or(base.label),
            objective: self.objective.or(base.objective),
            accept_class_numbers: base.accept_class_numbers && self.labels.is_none(),
            labels: self.labels.clone().or(base.labels),
            format: self.format,
            quoting: self.quoting,
            template: base.template.map(|usual| self.template(usual)),
            limit: self.limit,
        }
    }

    /// Whether anything says what the labels are.
    pub fn names_labels(&self) -> bool {
        self.label.is_some() || self.labels.is_some() || self.objective.is_some() || self.task.is_some()
    }

    /// The template of this section, or the usual one.
    fn template(&self, usual: Template) -> Template {
        match &self.template {
            Some(text) => Template { text: text.clone(), without_input: self.template_without_input.clone() },
            None => Template { without_input: self.template_without_input.clone().or(usual.without_input), ..usual },
        }
    }

    /// How to read the development or test file: with the classes of the training file, and whole.
    pub fn held_out_settings(&self, objective: &Objective) -> LoadSettings {
        LoadSettings { limit: None, ..self.load_settings().with_objective(objective) }
    }

    /// What to measure; the first decides.
    pub fn metrics(&self, objective: &Objective) -> Vec<Metric> {
        match (&self.metrics, self.preset()) {
            (Some(metrics), _) => metrics.clone(),
            (None, Some(preset)) if preset.objective == objective.kind() => preset.metrics.to_vec(),
            _ => Metric::usual(objective).to_vec(),
        }
    }
}

impl DataSettings {
    /// The first key that does not belong to the task, and why.
    pub fn misfit(&self) -> Option<(&'static str, &'static str)> {
        let table = [
            ("text", self.text.is_some()),
            ("pair", self.pair.is_some()),
            ("label", self.label.is_some()),
            ("labels", self.labels.is_some()),
            ("objective", self.objective.is_some()),
            ("format", self.format.is_some()),
            ("quoting", self.quoting.is_some()),
        ];
        let spans = [
            ("stride", self.stride.is_some()),
            ("max_answer_length", self.max_answer_length.is_some()),
            ("n_best", self.n_best.is_some()),
        ];
        let threshold = [("null_threshold", self.null_threshold.is_some())];
        let given = |keys: &[(&'static str, bool)]| keys.iter().find(|(_, given)| *given).map(|(key, _)| *key);
        match self.spans() {
            Some(spans) => {
                let table = given(&table).map(|key| (key, "is for tables, and squad has none"));
                let metrics =
                    || self.metrics.is_some().then_some(("metrics", "cannot be chosen: squad has F1 and exact match"));
                let null = || given(&threshold).filter(|_| !spans.null_answers);
                table
                    .or_else(metrics)
                    .or_else(|| null().map(|key| (key, "is for questions without an answer (squad2)")))
            }
            None => given(&spans)
                .or(given(&threshold))
                .map(|key| (key, "is for span answers (task squad or squad2)"))
                .or_else(|| self.misfit_of_language_model()),
        }
    }

    fn misfit_of_language_model(&self) -> Option<(&'static str, &'static str)> {
        let preset = self.preset().filter(|preset| preset.objective == ObjectiveKind::CausalLm)?;
        let given = [
            ("metrics", self.metrics.is_some(), "cannot be chosen: a language model has its perplexity"),
            ("labels", self.labels.is_some(), "is for classes, and a language model has none"),
            (
                "label",
                self.label.is_some() && preset.label.is_none(),
                "is for tables with labels, and plain texts have none",
            ),
            (
                "pair",
                self.pair.is_some() && preset.pair.is_none(),
                "is for pairs of texts, and a language model takes one",
            ),
        ];
        given.into_iter().find(|(_, given, _)| *given).map(|(key, _, cure)| (key, cure))
    }
}

impl DataSettings {
    /// Refuses values that make no sense, and keys that do not belong to the task.
    ///
    /// # Errors
    /// The first of these, with its key and what to do.
    pub fn check(&self) -> Result<(), SettingError> {
        if let Some(task) = self.task.as_deref().filter(|task| preset(task).is_none() && span_task(task).is_none()) {
            let cure = missing_task(task).map(str::to_owned);
            let cure = cure.unwrap_or_else(|| did_you_mean(task, &tasks(), "choose one of"));
            return Err(SettingError::new("task", format!("is `{task}`"), cure));
        }
        at_least("max_length", Some(self.max_length() as u64), 2)?;
        at_least("limit", self.limit.map(|n| n as u64), 1)?;
        at_least("max_answer_length", self.max_answer_length.map(|n| n as u64), 1)?;
        at_least("n_best", self.n_best.map(|n| n as u64), 1)?;
        if let Some(threshold) = self.null_threshold {
            number("null_threshold", threshold.into(), |_| true, "give a number")?;
        }
        if let Some((key, reason)) = self.misfit() {
            return Err(SettingError::new(key, reason.into(), "leave it out"));
        }
        let settings = self.load_settings();
        if settings.pair.as_ref() == Some(&settings.text) {
            return Err(SettingError::new("pair", "is the column of the first text too".into(), "name two columns"));
        }
        self.check_language(&settings)?;
        if let Some(labels) = &self.labels {
            if let Some(twice) = (1..labels.len()).find(|&i| labels[..i].contains(&labels[i])) {
                let found = format!("has `{}` twice", labels[twice]);
                return Err(SettingError::new("labels", found, "name every class once"));
            }
            if labels.len() < 2 {
                let found = "names fewer than two classes".into();
                return Err(SettingError::new("labels", found, "name every class"));
            }
            if settings.objective == Some(ObjectiveKind::Regression) {
                let found = "are given, but a regression has none".into();
                return Err(SettingError::new("labels", found, "leave them out"));
            }
        }
        self.check_metrics(&settings)
    }

    /// What only language models have, and what they do not have.
    fn check_language(&self, settings: &LoadSettings) -> Result<(), SettingError> {
        let is_language = settings.objective == Some(ObjectiveKind::CausalLm);
        if self.packing && !is_language {
            let cure = "leave it out, or take `task = \"causal-lm\"` or \"instruct\"";
            return Err(SettingError::new("packing", "is for language models".into(), cure));
        }
        for (key, value) in [("template", &self.template), ("template_without_input", &self.template_without_input)] {
            if value.is_some() && settings.template.is_none() {
                let cure = "leave it out, or take `task = \"instruct\"`";
                return Err(SettingError::new(key, "is for instructions".into(), cure));
            }
        }
        if let Some(Err(error)) = settings.template.as_ref().map(Template::check) {
            let key = if self.template.is_some() { "template" } else { "template_without_input" };
            return Err(SettingError::new(key, "cannot be filled".into(), error.to_string()));
        }
        if is_language && self.labels.is_some() {
            let found = "are given, but a language model has none".into();
            return Err(SettingError::new("labels", found, "leave them out"));
        }
        Ok(())
    }

    fn check_metrics(&self, settings: &LoadSettings) -> Result<(), SettingError> {
        let classes = settings.labels.as_ref().map(Vec::len);
        let objective = settings.objective.or(classes.map(|_| ObjectiveKind::Classification));
        let Some(metrics) = &self.metrics else { return Ok(()) };
        if metrics.is_empty() {
            return Err(SettingError::new("metrics", "is empty".into(), "name at least one, or leave it out"));
        }
        let fits = |metric: &&Metric| {
            let classes_fit = **metric != Metric::F1 || classes.is_none_or(|classes| classes == 2);
            objective.is_none_or(|objective| metric.kind() == objective) && classes_fit
        };
        match metrics.iter().find(|metric| !fits(metric)) {
            Some(misfit) => {
                let known: Vec<_> = Metric::ALL.iter().filter(fits).map(|metric| metric.name()).collect();
                let task = match objective {
                    Some(ObjectiveKind::Regression) => "a regression".to_owned(),
                    Some(ObjectiveKind::CausalLm) => "a language model".to_owned(),
                    _ => classes.map_or("classes".to_owned(), |classes| format!("{classes} classes")),
                };
                let cure = format!("choose among {}", known.join(", "));
                Err(SettingError::new("metrics", format!("has `{misfit}`, which does not fit {task}"), cure))
            }
            None => Ok(()),
        }
    }
}
