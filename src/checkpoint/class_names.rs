//! What transformers calls the modules of a model, by `model_type`: the table `transformers_names.json`, which
//! `scripts/transformers_names.py` writes.

use std::sync::OnceLock;

use serde_json::Value;

use super::Checkpoint;

/// A kind of class in transformers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelTask {
    /// `AutoModelForSequenceClassification`.
    SequenceClassification,
    /// `AutoModelForQuestionAnswering`.
    QuestionAnswering,
}

impl ModelTask {
    /// PEFT's name of it.
    pub fn task_type(self) -> &'static str {
        match self {
            Self::SequenceClassification => "SEQ_CLS",
            Self::QuestionAnswering => "QUESTION_ANS",
        }
    }
}

/// A class of transformers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelClass {
    /// Its name, e.g. `BertForSequenceClassification`.
    pub name: String,
    /// The tensors of its head, e.g. `classifier.weight`.
    pub head: Vec<String>,
}

/// The class of a model type for a task; `None` where transformers 5.23 has none.
pub fn model_class(config: &Value, task: ModelTask) -> Option<ModelClass> {
    let class = entry(config)?.get(task.task_type())?;
    let head = class.get("head")?.as_array()?.iter();
    Some(ModelClass {
        name: class.get("class")?.as_str()?.to_owned(),
        head: head.filter_map(Value::as_str).map(str::to_owned).collect(),
    })
}

/// Where a class with a head keeps the base model (`bert`); `None` for types that are not known.
pub fn base_model_prefix(config: &Value) -> Option<&'static str> {
    entry(config)?.get("prefix")?.as_str()
}

/// Whether the tensors of the base model lie under its prefix, as a model with a head is saved. `None` where the type of the
/// model is not known.
pub fn is_prefixed(checkpoint: &Checkpoint, config: &Value) -> Option<bool> {
    let prefix = base_model_prefix(config)?;
    let inside = |name: &str| name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.'));
    Some(checkpoint.tensors().iter().any(|tensor| inside(&tensor.name)))
}

fn entry(config: &Value) -> Option<&'static Value> {
    static TABLE: OnceLock<Value> = OnceLock::new();
    let table = TABLE.get_or_init(|| serde_json::from_str(include_str!("transformers_names.json")).unwrap_or_default());
    table.get(config.get("model_type")?.as_str()?)
}
