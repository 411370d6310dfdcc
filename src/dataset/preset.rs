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

/// What to say of a task that is asked for by a name that other tools give it, and that is not there; upper and lower case,
/// `-` and `_` do not matter.
pub fn missing_task(name: &str) -> Option<&'static str> {
    let plain: String = name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
    Some(match plain.as_str() {
        "ner"
        | "tokenclassification"
        | "entities"
        | "pos"
        | "postagging"
        | "chunking"
        | "tagging"
        | "conll"
        | "conll2003"
        | "wnut17"
        | "wnut"
        | "namedentityrecognition"
        | "tokencls" => "a label per word (entities) cannot be learnt yet",
        "multilabel" | "multilabelclassification" | "goemotions" | "multilabeltextclassification" => {
            "several labels per text cannot be learnt yet"
        }
        "ranking" | "rerank" | "reranking" | "reranker" | "crossencoder" | "learningtorank" | "msmarco"
        | "rewardmodel" | "rewardmodeling" | "reward" => "an order of texts (ranking) cannot be learnt yet",
        "embedding"
        | "embeddings"
        | "featureextraction"
        | "sentencesimilarity"
        | "contrastive"
        | "simcse"
        | "retrieval"
        | "biencoder"
        | "sentencetransformers"
        | "pairs"
        | "pairswithoutlabels"
        | "triplets" => "pairs without labels (similarity, retrieval) cannot be learnt yet",
        "seq2seq"
        | "seq2seqlm"
        | "summarization"
        | "summarisation"
        | "translation"
        | "text2textgeneration"
        | "text2text" => {
            "a text made from a text by an encoder and a decoder cannot be learnt yet; for a decoder take instruct"
        }
        "fillmask" | "mlm" | "maskedlm" | "maskedlanguagemodeling" | "pretraining" => {
            "masked words cannot be learnt yet; causal-lm learns texts from left to right"
        }
        "multiplechoice" | "swag" | "hellaswag" | "race" => "a choice among several texts cannot be learnt yet",
        "dpo" | "orpo" | "kto" | "preference" | "preferences" | "rlhf" | "ppo" | "grpo" => {
            "preferences between answers cannot be learnt yet"
        }
        "imageclassification"
        | "objectdetection"
        | "automaticspeechrecognition"
        | "audioclassification"
        | "asr"
        | "vqa"
        | "visualquestionanswering" => "only texts can be learnt",
        "textclassification"
        | "sequenceclassification"
        | "classification"
        | "sentiment"
        | "sentimentanalysis"
        | "seqcls"
        | "binaryclassification"
        | "multiclass"
        | "multiclassclassification" => {
            "classes need no task: name the columns of text and label, and the objective classification"
        }
        "regression" | "textregression" => {
            "a number needs no task: name the columns of text and label, and the objective regression"
        }
        "questionanswering" | "qa" | "extractiveqa" | "spans" => "span answers are the tasks squad and squad2",
        "textgeneration" | "languagemodeling" | "clm" | "causallanguagemodeling" | "generation" | "sft" => {
            "language models are the tasks causal-lm and instruct"
        }
        _ => return None,
    })
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
