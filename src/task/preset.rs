//! Tasks by name: what is known about their files, and hints for tasks that do not exist here.

use super::{READERS, Reader};
use crate::dataset::{LabelKind, LoadSettings, Metric};

/// What is known about a task.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preset {
    /// Name of the task, e.g. `cola`.
    pub name: &'static str,
    /// Column of the text, or of the first text of a pair.
    pub text: &'static str,
    /// Column of the second text of a pair, or of the input of an instruction.
    pub pair: Option<&'static str>,
    /// Column of the label, or of the output that an instruction asks for; `None` for plain text.
    pub label: Option<&'static str>,
    /// Kind of the labels; `None` where there are none.
    pub kind: Option<LabelKind>,
    /// Names of the classes in the order that GLUE and Hugging Face use; empty where there are none.
    pub labels: &'static [&'static str],
    /// Default metrics; the first decides which state of a training is the best. Empty where metrics cannot be chosen.
    pub metrics: &'static [Metric],
    /// The keys of `[data]` that the task accepts, besides those that all tasks accept.
    pub keys: &'static [&'static str],
    /// Default name of the training file.
    pub train_file: &'static str,
    /// Default name of the development file.
    pub dev_file: &'static str,
}

/// Keys accepted by tables with labels.
pub(super) const TABLE_KEYS: &[&str] =
    &["text", "pair", "label", "labels", "objective", "format", "quoting", "metrics"];

/// All presets.
pub fn presets() -> impl Iterator<Item = &'static Preset> {
    READERS.iter().flat_map(|reader| reader.presets())
}

/// The preset of a task; case, `-` and `_` are ignored (`STS-B` is `stsb`).
pub fn preset(name: &str) -> Option<&'static Preset> {
    presets().find(|preset| plain(preset.name) == plain(name))
}

/// The reader for the rows of a task; that of tables where there is no task.
pub(super) fn reader(task: Option<&str>) -> &'static dyn Reader {
    let reads = |reader: &&&dyn Reader| {
        task.is_some_and(|task| reader.presets().iter().any(|preset| plain(preset.name) == plain(task)))
    };
    READERS.iter().find(reads).copied().unwrap_or(READERS[0])
}

fn plain(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

impl Preset {
    /// How to read a file of this task.
    pub fn settings(&self) -> LoadSettings {
        LoadSettings {
            text: self.text.into(),
            pair: self.pair.map(Into::into),
            label: self.label.map(Into::into),
            kind: self.kind,
            labels: (!self.labels.is_empty()).then(|| self.labels.iter().map(|&label| label.into()).collect()),
            accept_class_numbers: true,
            ..LoadSettings::default()
        }
    }
}

/// A hint for a task name that other tools use and that does not exist here; case, `-` and `_` are ignored.
pub fn missing_task(name: &str) -> Option<&'static str> {
    Some(match plain(name).as_str() {
        "tokenclassification"
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
        | "tokencls" => "entities (a tag per word) are the task ner",
        "multilabelclassification"
        | "multilabeltextclassification"
        | "multilabelsequenceclassification"
        | "goemotions"
        | "multiplelabels"
        | "severallabels"
        | "tagsoftexts" => "several labels per text are the task multi-label",
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
