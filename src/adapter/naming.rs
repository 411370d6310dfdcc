//! PEFT's names for the modules of the model that an adapter is trained on.
//!
//! PEFT opens the base folder with a transformers class and looks for the adapter's tensors among its modules; tensors that it
//! does not find there it skips silently. The names in a checkpoint are those of the class that saved it, which may be
//! another one: the base model alone (`encoder.layer.0…`), while a classifier calls the same module `bert.encoder.layer.0…`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::HeadPath;
use crate::checkpoint::{Checkpoint, ModelClass, ModelTask, base_model_prefix, is_prefixed, model_class};

/// What is trained beside the factors: no head, an added one, or the export's own.
#[derive(Debug, Clone, Copy)]
pub enum TrainedHead<'a> {
    /// Nothing: the model predicts tokens.
    Tokens,
    /// A head that training adds to an export without one, or none at all.
    Added,
    /// The head of the export: its tensors under their checkpoint names, or those of the export where the checkpoint lacks them.
    /// The second field is the path to the logits in the graph, where there is a graph.
    Own(&'a [String], Option<&'a HeadPath>),
}

/// The names in one adapter.
#[derive(Debug, Clone, Default)]
pub struct Naming {
    base: BaseNames,
    saved: BTreeMap<String, String>,
    /// Names in the head of the class: its tensors are not under the base model.
    head: Vec<String>,
    /// PEFT's `task_type`, which decides the class that opens the base folder.
    pub task_type: Option<&'static str>,
    /// Whether the head is written to a file of its own, because no transformers class has it.
    pub head_apart: bool,
    /// A notice for the user about what transformers cannot represent.
    pub notice: Option<String>,
}

/// How the names of the base model are changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum BaseNames {
    /// The names are those of the class.
    #[default]
    Kept,
    /// The class has this prefix before the names.
    Under(&'static str),
    /// The class has the names without this prefix.
    Without(&'static str),
    /// The names are those of the export: what a wrapper put before this part is dropped.
    From(&'static str),
}

impl Naming {
    /// The names in an adapter for the model of this checkpoint and `config.json`.
    pub fn new(checkpoint: Option<&Checkpoint>, config: Option<&Value>, head: TrainedHead<'_>) -> Self {
        let prefix = config.and_then(base_model_prefix);
        let prefixed = config.zip(checkpoint).and_then(|(config, checkpoint)| is_prefixed(checkpoint, config));
        let with_head = match (prefix, prefixed) {
            (Some(prefix), Some(false)) => BaseNames::Under(prefix),
            (Some(prefix), None) => BaseNames::From(prefix),
            _ => BaseNames::Kept,
        };
        let alone = match (prefix, prefixed) {
            (Some(prefix), Some(true) | None) => BaseNames::Without(prefix),
            _ => BaseNames::Kept,
        };
        let bare = |notice: String| Naming {
            base: alone,
            task_type: prefix.map(|_| "FEATURE_EXTRACTION"),
            head_apart: true,
            notice: Some(notice),
            ..Naming::default()
        };
        match head {
            TrainedHead::Own([], _) => Naming { base: with_head, ..Naming::default() },
            TrainedHead::Tokens => Naming { base: with_head, task_type: Some("CAUSAL_LM"), ..Naming::default() },
            TrainedHead::Added => bare(
                "no class of transformers has a head that training adds: the adapter is one of the base model (AutoModel), \
                 and the head lies beside it in gelora_head.safetensors, where gelora finds it"
                    .into(),
            ),
            TrainedHead::Own(_, Some(path)) if path.added => bare(
                "no class of transformers has the head of the export, which an earlier training added: the adapter is one of the \
                 base model (AutoModel), and the head lies beside it in gelora_head.safetensors, where gelora finds it"
                    .into(),
            ),
            TrainedHead::Own(tensors, path) => match own_head(checkpoint, config, prefix, tensors, path) {
                Ok((task, saved)) => {
                    let head = config.and_then(|config| model_class(config, task)).map(|class| class.head);
                    let (head, task_type) = (head.unwrap_or_default(), Some(task.task_type()));
                    Naming { base: with_head, saved, head, task_type, ..Naming::default() }
                }
                Err(reason) => bare(format!(
                    "{reason}: the adapter is one of the base model (AutoModel), and the head lies beside it in \
                     gelora_head.safetensors, where gelora finds it"
                )),
            },
        }
    }

    /// PEFT's name for a module of the base model.
    pub fn module(&self, name: &str) -> String {
        let under = |prefix: &str| {
            let inside = |rest: &str| rest.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.'));
            let starts = std::iter::once(0).chain(name.match_indices('.').map(|(at, _)| at + 1));
            starts.map(|at| &name[at..]).find(|rest| inside(rest)).map(str::to_owned)
        };
        match self.base {
            BaseNames::Kept => name.to_owned(),
            BaseNames::Under(prefix) if name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.')) => {
                name.to_owned()
            }
            BaseNames::Under(prefix) => format!("{prefix}.{name}"),
            BaseNames::From(prefix) => under(prefix).unwrap_or_else(|| name.to_owned()),
            BaseNames::Without(prefix) => match under(prefix) {
                Some(inside) => inside[prefix.len() + 1..].to_owned(),
                None => name.to_owned(),
            },
        }
    }

    /// PEFT's name for a tensor that is trained whole.
    pub fn tensor(&self, name: &str) -> String {
        match self.saved.get(name) {
            Some(known) => known.clone(),
            None if self.head.iter().any(|known| known == name) => name.to_owned(),
            None => self.module(name),
        }
    }
}

/// The class that has these tensors as its head, and its names for them.
fn own_head(
    checkpoint: Option<&Checkpoint>,
    config: Option<&Value>,
    prefix: Option<&str>,
    tensors: &[String],
    path: Option<&HeadPath>,
) -> Result<(ModelTask, BTreeMap<String, String>), String> {
    let answers = tensors.iter().any(|name| name.split('.').any(|part| part.ends_with("qa_outputs")));
    let task = match path.is_some_and(|path| path.labels_tokens) {
        true => ModelTask::TokenClassification,
        false if answers => ModelTask::QuestionAnswering,
        false => ModelTask::SequenceClassification,
    };
    let kept = || tensors.iter().map(|name| (name.clone(), name.clone())).collect();
    let in_checkpoint = |name: &str| checkpoint.is_some_and(|checkpoint| checkpoint.tensor(name).is_some());
    let class = config.and_then(|config| model_class(config, task));
    let (Some(class), Some(prefix)) = (class, prefix) else {
        // The checkpoint is of a class with this head, or there is none to open.
        if checkpoint.is_none() || tensors.iter().all(|name| in_checkpoint(name)) {
            return Ok((task, kept()));
        }
        return Err("the checkpoint lacks the head of the export, and config.json does not say whose it is".into());
    };
    let alone = config.zip(checkpoint).and_then(|(config, checkpoint)| is_prefixed(checkpoint, config)) == Some(false);
    let named = |name: &String| {
        let in_base = || (alone && in_checkpoint(name)).then(|| format!("{prefix}.{name}"));
        of_class(name, &class, prefix).or_else(in_base).map(|known| (name.clone(), known))
    };
    let saved: Option<BTreeMap<String, String>> = tensors.iter().map(named).collect();
    let complete = |saved: &BTreeMap<String, String>| {
        class.head.iter().all(|name| saved.values().any(|known| known == name) || in_checkpoint(name))
    };
    match saved.filter(complete) {
        // Names alone do not show what the head reads.
        Some(saved) => match path.and_then(|path| path.differs_from(&class, prefix, checkpoint)) {
            Some(reason) => Err(reason),
            None => Ok((task, saved)),
        },
        None if tensors.iter().all(|name| in_checkpoint(name)) => Ok((task, kept())),
        None => Err(format!(
            "{} has the head {}, and that of the export is another ({})",
            class.name,
            class.head.join(", "),
            tensors.join(", ")
        )),
    }
}

/// The class's name for a tensor of its head, or for one under its base model. Wrappers in an export put a name in front.
fn of_class(name: &str, class: &ModelClass, prefix: &str) -> Option<String> {
    let ends = |known: &str| name.strip_suffix(known).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    let own = class.head.iter().filter(|known| ends(known)).max_by_key(|known| known.len());
    let inside = || name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.'));
    own.cloned().or_else(|| inside().then(|| name.to_owned()))
}
