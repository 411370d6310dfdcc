//! The tasks of GLUE and ANLI, and language modelling: columns, classes, objective and metrics.

use super::{LoadSettings, Metric, ObjectiveKind, Template};

/// What is known of a task.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preset {
    /// Its name, e.g. `cola`.
    pub name: &'static str,
    /// Column of the text, or of the first text of a pair.
    pub text: &'static str,
    /// Column of the second text of a pair; of the input that belongs to an instruction.
    pub pair: Option<&'static str>,
    /// Column of the label, or of the output that an instruction asks for; `None` for plain text.
    pub label: Option<&'static str>,
    /// What is learnt.
    pub objective: ObjectiveKind,
    /// Names of the classes in the order that GLUE and Hugging Face use; empty where there are none.
    pub labels: &'static [&'static str],
    /// The metrics; the first one decides which state of a training is the best.
    pub metrics: &'static [Metric],
    /// Usual name of the training file.
    pub train_file: &'static str,
    /// Usual name of the development file.
    pub dev_file: &'static str,
}

const ONE: (&str, Option<&str>) = ("sentence", None);
const TWO: (&str, Option<&str>) = ("sentence1", Some("sentence2"));
const BINARY: &[&str] = &["0", "1"];
const ENTAILMENT: &[&str] = &["entailment", "not_entailment"];
const INFERENCE: &[&str] = &["entailment", "neutral", "contradiction"];

const fn task(
    name: &'static str,
    (text, pair): (&'static str, Option<&'static str>),
    labels: &'static [&'static str],
    metrics: &'static [Metric],
    dev_file: &'static str,
) -> Preset {
    let objective = if labels.is_empty() { ObjectiveKind::Regression } else { ObjectiveKind::Classification };
    Preset { name, text, pair, label: Some("label"), objective, labels, metrics, train_file: "train.tsv", dev_file }
}

/// Text that a language model learns, or what it is to answer.
const fn language(
    name: &'static str,
    text: &'static str,
    pair: Option<&'static str>,
    label: Option<&'static str>,
) -> Preset {
    let (objective, metrics) = (ObjectiveKind::CausalLm, &[Metric::Perplexity]);
    Preset {
        name,
        text,
        pair,
        label,
        objective,
        labels: &[],
        metrics,
        train_file: "train.jsonl",
        dev_file: "dev.jsonl",
    }
}

/// All presets.
pub const PRESETS: &[Preset] = &[
    task("cola", ONE, BINARY, &[Metric::Matthews, Metric::Accuracy], "dev.tsv"),
    task("sst2", ONE, BINARY, &[Metric::Accuracy], "dev.tsv"),
    task("mrpc", TWO, BINARY, &[Metric::Accuracy, Metric::F1], "dev.tsv"),
    task("qqp", TWO, BINARY, &[Metric::Accuracy, Metric::F1], "dev.tsv"),
    task("stsb", TWO, &[], &[Metric::Pearson, Metric::Spearman], "dev.tsv"),
    task("mnli", TWO, INFERENCE, &[Metric::Accuracy], "dev_matched.tsv"),
    task("qnli", TWO, ENTAILMENT, &[Metric::Accuracy], "dev.tsv"),
    task("rte", TWO, ENTAILMENT, &[Metric::Accuracy], "dev.tsv"),
    task("anli", TWO, INFERENCE, &[Metric::Accuracy], "dev.tsv"),
    language("causal-lm", "text", None, None),
    language("instruct", "instruction", Some("input"), Some("output")),
];

/// The preset of a task; upper and lower case, `-` and `_` do not matter (`STS-B` is `stsb`).
pub fn preset(name: &str) -> Option<Preset> {
    let plain =
        |name: &str| -> String { name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect() };
    PRESETS.iter().find(|preset| plain(preset.name) == plain(name)).copied()
}

impl Preset {
    /// How to read a file of this task.
    pub fn settings(&self) -> LoadSettings {
        LoadSettings {
            text: self.text.into(),
            pair: self.pair.map(Into::into),
            label: self.label.map(Into::into),
            objective: Some(self.objective),
            labels: (!self.labels.is_empty()).then(|| self.labels.iter().map(|&label| label.into()).collect()),
            accept_class_numbers: true,
            template: (self.objective == ObjectiveKind::CausalLm && self.label.is_some()).then(Template::default),
            ..LoadSettings::default()
        }
    }
}
