//! Names that transformers gives the modules of a model, by `model_type`: the table `transformers_names.json`, which
//! `scripts/transformers_names.py` writes.

use std::sync::OnceLock;

use serde_json::Value;

use super::Checkpoint;

/// A kind of class in transformers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelTask {
    /// `AutoModelForSequenceClassification`.
    SequenceClassification,
    /// `AutoModelForTokenClassification`.
    TokenClassification,
    /// `AutoModelForQuestionAnswering`.
    QuestionAnswering,
}

impl ModelTask {
    /// Every kind, in declaration order.
    pub const ALL: [ModelTask; 3] = [Self::SequenceClassification, Self::TokenClassification, Self::QuestionAnswering];

    /// The kind with this `task_type` in PEFT.
    pub fn of_task_type(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|task| task.task_type() == name)
    }

    /// The `task_type` of the kind in PEFT.
    pub fn task_type(self) -> &'static str {
        match self {
            Self::SequenceClassification => "SEQ_CLS",
            Self::TokenClassification => "TOKEN_CLS",
            Self::QuestionAnswering => "QUESTION_ANS",
        }
    }
}

/// A class of transformers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelClass {
    /// Name of the class, e.g. `BertForSequenceClassification`.
    pub name: String,
    /// The tensors of its head, e.g. `classifier.weight`.
    pub head: Vec<String>,
    /// Names of the base model's weights through which its head reads, e.g. `bert.pooler.dense.weight`.
    pub pooler: Vec<String>,
    /// Whether its head pools the vectors of all tokens; `None` where that is not known.
    pub pools: Option<bool>,
}

/// The class of a model type for a task; `None` where transformers 5.23 has none.
pub fn model_class(config: &Value, task: ModelTask) -> Option<ModelClass> {
    let class = entry(config)?.get(task.task_type())?;
    let names = |key: &str| class.get(key).and_then(Value::as_array).into_iter().flatten();
    let names = |key: &str| names(key).filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>();
    // MobileBERT can be configured to have a pooler without weights.
    let bare = config.get("classifier_activation") == Some(&Value::Bool(false));
    Some(ModelClass {
        name: class.get("class")?.as_str()?.to_owned(),
        head: names("head"),
        pooler: if bare { Vec::new() } else { names("pooler") },
        pools: (task == ModelTask::SequenceClassification).then(|| pools(config)).flatten(),
    })
}

/// Whether a class for sequence classification pools the vectors of all tokens: few do, where their configuration says so.
fn pools(config: &Value) -> Option<bool> {
    let field = |name: &str| config.get(name).and_then(Value::as_str);
    match config.get("model_type")?.as_str()? {
        "eurobert" => field("classifier_pooling").map(|pooling| pooling != "bos"),
        "modernbert" | "modernvbert" | "ultrabert" | "ultravbert" => Some(field("classifier_pooling") == Some("mean")),
        "xlnet" | "xlm" | "flaubert" => Some(field("summary_type") == Some("mean")),
        // These read no token by its position, or what follows their last hidden state is not known.
        "canine" | "funnel" | "perceiver" | "layoutlmv3" => None,
        _ => Some(false),
    }
}

/// The prefix under which a class with a head keeps the base model (`bert`); `None` for unknown types.
pub fn base_model_prefix(config: &Value) -> Option<&'static str> {
    entry(config)?.get("prefix")?.as_str()
}

/// Whether the tensors of the base model have its prefix, as when a model with a head is saved. `None` where the type of
/// the model is not known.
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
