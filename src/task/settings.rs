//! `[data]`: which rows to read, and what they are.

use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::RangedU64ValueParser;
use serde::{Deserialize, Serialize};

use super::preset::{Preset, TABLE_KEYS, missing_task, preset, presets, reader};
use super::{Objective, Reader};
use crate::dataset::{Format, LabelKind, LoadSettings, Metric, TagScheme};
use crate::settings_value::{SettingError, at_least, did_you_mean, number, word};

/// Which rows, and what they are. Without `task`, the columns are `text` and `label` unless named here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
#[command(next_help_heading = "Data")]
pub struct DataSettings {
    /// The rows: .tsv, .csv, .jsonl or .parquet; for language models .txt too, with empty lines between the texts; for span
    /// answers the JSON of SQuAD; for entities CoNLL, .jsonl or .parquet
    #[arg(long = "data", value_name = "FILE")]
    pub train: PathBuf,

    /// Rows to evaluate on after every epoch, and to choose the best state with.
    #[arg(skip)]
    pub dev: Option<PathBuf>,

    /// Labelled rows that nothing is chosen with; evaluated at the end.
    #[arg(skip)]
    pub test: Option<PathBuf>,

    /// Preset for columns, objective and metric: cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte, anli; multi-label for several
    /// labels per text; squad (v1.1) and squad2 (v2.0) for span answers; ner (words with tags) for entities; causal-lm (texts)
    /// and instruct (instructions with an output) for language models
    #[arg(long, value_name = "NAME", value_parser = known_task)]
    pub task: Option<String>,

    /// Column of the text, as the header line names it
    #[arg(long, value_name = "COLUMN")]
    pub text: Option<String>,

    /// Column of the second text of a pair
    #[arg(long, value_name = "COLUMN")]
    pub pair: Option<String>,

    /// Column of the label; with --task multi-label of the list of labels
    #[arg(long, value_name = "COLUMN")]
    pub label: Option<String>,

    /// The labels in the order of the model's classes, separated by commas; with --task multi-label they may be columns of 0
    /// and 1
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub labels: Option<Vec<String>>,

    /// What the labels are: classification or regression [default: by the labels]
    #[arg(long, value_name = "KIND", value_parser = word::<LabelKind>)]
    pub objective: Option<LabelKind>,

    /// tsv, csv, jsonl, parquet or txt [default: by the name of the file]
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<Format>,

    /// Whether quotes enclose fields: true or false [default: by the format and the task]
    #[arg(long, value_name = "BOOL")]
    pub quoting: Option<bool>,

    /// With --task instruct: file with the text around {instruction}, {input} and {output} [default: Alpaca's]
    // In a configuration, the text itself.
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

    /// Use only the first so many rows, or questions [default: all]
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

    /// How tags mark entities: iob1, iob2, bilou or iobes [default: by the tags]
    #[arg(long, value_name = "SCHEME", value_parser = word::<TagScheme>, help_heading = "Entities")]
    pub scheme: Option<TagScheme>,

    /// Count entities strictly by the scheme, as seqeval's mode `strict` does; by default as its neighbours allow
    #[arg(long, help_heading = "Entities")]
    #[serde(default)]
    pub strict: bool,

    /// `accuracy`, `f1`, `matthews`, `pearson`, `spearman`, `perplexity`; `f1_micro`, `f1_macro`, `f1_samples`,
    /// `average_precision`, `average_precision_micro`, `subset_accuracy`; the first decides which state is the best.
    #[arg(skip)]
    pub metrics: Option<Vec<Metric>>,
}

fn one_or_more() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}

/// The content of a file, without the line end that editors add.
fn template(file: &str) -> Result<String, String> {
    let text = crate::files::read_text(Path::new(file)).map_err(|error| error.to_string())?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

/// Names of all tasks that have a preset.
fn tasks() -> Vec<&'static str> {
    presets().map(|preset| preset.name).collect()
}

/// Parses the name of a task that has a preset.
fn known_task(text: &str) -> Result<String, String> {
    match preset(text) {
        Some(preset) => Ok(preset.name.to_owned()),
        None => Err(missing_task(text).map_or_else(
            || {
                let names = tasks().join(", ");
                format!("there is no preset of that name; use one of {names}, or name the columns instead")
            },
            str::to_owned,
        )),
    }
}

impl DataSettings {
    /// Settings for the rows of this file, all else at the defaults.
    pub fn of(train: &Path) -> Self {
        DataSettings {
            train: train.to_owned(),
            dev: None,
            test: None,
            task: None,
            text: None,
            pair: None,
            label: None,
            labels: None,
            objective: None,
            format: None,
            quoting: None,
            template: None,
            template_without_input: None,
            packing: false,
            max_length: None,
            limit: None,
            stride: None,
            max_answer_length: None,
            n_best: None,
            null_threshold: None,
            scheme: None,
            strict: false,
            metrics: None,
        }
    }

    /// The preset named by `task`.
    pub fn preset(&self) -> Option<&'static Preset> {
        self.task.as_deref().and_then(preset)
    }

    /// The reader for these rows.
    pub fn reader(&self) -> &'static dyn Reader {
        reader(self.task.as_deref())
    }

    /// Maximum length of a row, or window, in tokens.
    pub fn max_length(&self) -> usize {
        self.max_length.unwrap_or(self.reader().maximum_length())
    }

    /// How to read the columns of a table.
    pub fn load_settings(&self) -> LoadSettings {
        let base = self.preset().map(Preset::settings).unwrap_or_default();
        LoadSettings {
            text: self.text.clone().unwrap_or(base.text),
            pair: self.pair.clone().or(base.pair),
            label: self.label.clone().or(base.label),
            kind: self.objective.or(base.kind),
            accept_class_numbers: base.accept_class_numbers && self.labels.is_none(),
            labels: self.labels.clone().or(base.labels),
            format: self.format,
            quoting: self.quoting,
            limit: self.limit,
        }
    }

    /// Whether any setting says what the labels are.
    pub fn names_labels(&self) -> bool {
        self.label.is_some() || self.labels.is_some() || self.objective.is_some() || self.task.is_some()
    }

    /// The metrics to compute; the first decides which state is the best.
    pub fn metrics(&self, objective: &Objective) -> Vec<Metric> {
        let fitting = objective.fitting_metrics();
        let of_preset = self
            .preset()
            .map(|preset| preset.metrics)
            .filter(|metrics| metrics.first().is_some_and(|metric| fitting.contains(metric)));
        self.metrics.clone().unwrap_or_else(|| of_preset.unwrap_or(objective.usual_metrics()).to_vec())
    }

    /// The keys that only some tasks accept, and whether each is given.
    fn keys(&self) -> [(&'static str, bool); 17] {
        [
            ("text", self.text.is_some()),
            ("pair", self.pair.is_some()),
            ("label", self.label.is_some()),
            ("labels", self.labels.is_some()),
            ("objective", self.objective.is_some()),
            ("format", self.format.is_some()),
            ("quoting", self.quoting.is_some()),
            ("metrics", self.metrics.is_some()),
            ("template", self.template.is_some()),
            ("template_without_input", self.template_without_input.is_some()),
            ("packing", self.packing),
            ("stride", self.stride.is_some()),
            ("max_answer_length", self.max_answer_length.is_some()),
            ("n_best", self.n_best.is_some()),
            ("null_threshold", self.null_threshold.is_some()),
            ("scheme", self.scheme.is_some()),
            ("strict", self.strict),
        ]
    }

    /// Rejects values that make no sense, and keys that do not belong to the task.
    ///
    /// # Errors
    /// The first of these, with its key and what to do.
    pub fn check(&self) -> Result<(), SettingError> {
        if let Some(task) = self.task.as_deref().filter(|task| preset(task).is_none()) {
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
        self.refuse_misfits()?;
        let settings = self.load_settings();
        if settings.pair.as_ref() == Some(&settings.text) {
            return Err(SettingError::new("pair", "is the column of the first text too".into(), "name two columns"));
        }
        self.reader().check(self)
    }

    /// Rejects a key that the task does not accept.
    fn refuse_misfits(&self) -> Result<(), SettingError> {
        const FEW: usize = 3;
        let taken = self.preset().map_or(TABLE_KEYS, |preset| preset.keys);
        let given = self.keys().into_iter().filter(|(_, given)| *given).map(|(key, _)| key);
        let Some(key) = given.into_iter().find(|key| !taken.contains(key)) else { return Ok(()) };
        let takers: Vec<&str> = presets().filter(|other| other.keys.contains(&key)).map(|other| other.name).collect();
        let found = match (takers.as_slice(), self.preset()) {
            ([one], _) => format!("is for the task {one}"),
            (few, _) if few.len() <= FEW => format!("is for the tasks {}", few.join(", ")),
            (_, Some(preset)) => format!("does not go with the task {}", preset.name),
            (_, None) => "is for another task".to_owned(),
        };
        Err(SettingError::new(key, found, "leave it out"))
    }
}
