//! Where an adapter is applied in a checkpoint without an export: the tensors that the names of its modules mean.
//!
//! An export shows what every weight is used for. Here names, shapes and the configuration have to say it, and what they leave
//! open is refused.

use std::collections::HashSet;
use std::path::Path;

use super::completeness::{Called, is_under, refuse_changed};
use super::several::{Named, leading};
use super::targets::{Change, Target, Targets};
use super::{Base, MergeError};
use crate::adapter::{Adapter, AdapterFolder, HEAD_FILE, Initialization, LoraFactors, SavedTensor};
use crate::checkpoint::{
    Checkpoint, ModelClass, ModelTask, TensorInfo, base_model_prefix, equal_tensors, is_prefixed, model_class,
    same_values,
};

/// Model types whose layers of these names are `Conv1D`, which stores `[in, out]`.
const CONV1D_TYPES: [&str; 5] = ["gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp"];
const CONV1D_MODULES: [&str; 4] = ["c_attn", "c_proj", "c_fc", "q_attn"];

/// Names of modules that use the embeddings as their weight, or are the embeddings, where the configuration ties them.
const TIED: [&str; 7] = ["lm_head", "embed_out", "embed_tokens", "wte", "word_embeddings", "tok_embeddings", "decoder"];

/// A base without an export, and what its adapters are for.
struct ByName<'b> {
    base: Base<'b>,
    checkpoint: &'b Checkpoint,
    /// The class of the adapter's task, which has a head in the place of the output layer.
    class: Option<ModelClass>,
    /// Whether the class of the adapter's task predicts tokens.
    generates: bool,
}

impl<'a> Targets<'a> {
    /// Finds where every change is applied in a checkpoint, and refuses those that do not fit.
    pub fn by_name(
        base: Base<'_>,
        checkpoint: &Checkpoint,
        adapters: &[Named<'_>],
        adapter: &'a Adapter,
    ) -> Result<Self, MergeError> {
        let leading = leading(adapters).map(|named| named.folder);
        let task_type = leading.and_then(|folder| folder.config.task_type.as_deref());
        let generates = matches!(task_type, Some("CAUSAL_LM" | "SEQ_2_SEQ_LM"));
        let task = task_type.and_then(ModelTask::of_task_type);
        let class = task.zip(base.config).and_then(|(task, config)| model_class(config, task));
        let names = ByName { base, checkpoint, class, generates };
        for Named { path: place, folder, adapter } in adapters {
            names.refuse_incomplete(place, folder, adapter)?;
            let is_base_weight = |module: &str, tensor: &TensorInfo, bytes: &[u8]| {
                let name = format!("{module}.weight");
                let Some(stored) = checkpoint.tensor(&name) else { return Ok(false) };
                Ok(stored.shape == tensor.shape
                    && same_values((bytes, &tensor.element_type), (checkpoint.bytes(&name)?, &stored.element_type)))
            };
            refuse_changed(base.folder, place, folder, adapter, is_base_weight)?;
        }
        let mut list = Vec::new();
        for factors in &adapter.factors {
            list.push(names.factors(factors, adapters)?);
        }
        let head_apart = adapters.iter().any(|named| named.folder.head_apart);
        for saved in &adapter.saved {
            list.push(names.saved(saved, head_apart)?);
        }
        let lacks = list.iter().any(|target| !target.is_in(checkpoint));
        let appended = lacks && !head_apart;
        let mut warnings = Vec::new();
        if appended && let Some(class) = &names.class {
            names.refuse_partial_head(class, adapter)?;
            warnings.extend(names.lacking_pooler(class, adapter));
        }
        if head_apart
            && let Some(target) = list.iter().find(|target| target.added && checkpoint.tensor(&target.name).is_some())
        {
            warnings.push(format!(
                "the checkpoint keeps a head of its own (`{}`), which is not the one that was trained: that lies in {HEAD_FILE}",
                target.name
            ));
        }
        // The last layer of a head is the narrowest.
        let rows = |target: &Target| match (target.change, target.is_in(checkpoint)) {
            (Change::Values(saved), false) if saved.values.ndim() == 2 => Some(saved.values.shape()[0]),
            _ => None,
        };
        let outputs = list.iter().filter_map(rows).min();
        let provenance = leading.and_then(|folder| folder.provenance.as_ref());
        let classes =
            provenance.and_then(|known| known.labels.as_ref()).map(|_| "single_label_classification".to_owned());
        Ok(Targets {
            prefix: base.new_prefix().filter(|_| appended),
            task,
            list,
            added_head: None,
            appended,
            problem: provenance.and_then(|known| known.problem_type.clone()).or(classes),
            thresholds: provenance.and_then(|known| known.thresholds.clone()),
            labels: super::labels(provenance),
            head_apart,
            outputs,
            warnings,
        })
    }
}

impl ByName<'_> {
    fn does_not_fit<T>(&self, reason: String) -> Result<T, MergeError> {
        Err(MergeError::DoesNotFit { base: self.base.folder.into(), reason })
    }

    fn factors<'a>(&self, factors: &'a LoraFactors, adapters: &[Named<'_>]) -> Result<Target<'a>, MergeError> {
        let module = &factors.module;
        let (inputs, outputs) = (factors.a.ncols(), factors.b.nrows());
        let name = format!("{module}.weight");
        let Some(tensor) = self.checkpoint.tensor(&name) else {
            if self.ties(module) {
                return self.tied(module, "the embeddings (`tie_word_embeddings`)");
            }
            return self.does_not_fit(format!(
                "the checkpoint has no tensor `{name}`; if its class gives its tensors other names when it loads them, save it again \
                 with transformers' `save_pretrained`"
            ));
        };
        let mut config = adapters.iter().map(|named| &named.folder.config);
        let initialization = super::initialization(adapters);
        let stored_in_out = match tensor.shape.as_slice() {
            [rows, columns] if rows == columns && (*rows, *columns) == (outputs, inputs) => {
                self.is_conv1d(module) || config.any(|config| config.fan_in_fan_out)
            }
            shape if *shape == [outputs, inputs] => false,
            shape if *shape == [inputs, outputs] => true,
            shape => {
                return self.does_not_fit(format!(
                    "`{name}` has shape {shape:?}, and the adapter's change [{outputs}, {inputs}]"
                ));
            }
        };
        if stored_in_out && initialization == Initialization::Olora {
            // PEFT decomposes the matrix as stored in the checkpoint, which does not give factors of these shapes.
            return self.does_not_fit(format!("`{name}` is stored as [in, out] (Conv1D), for which PEFT has no OLoRA"));
        }
        self.refuse_shared(module, &name)?;
        Ok(Target {
            name,
            change: Change::Factors(factors),
            initialization,
            stored_in_out,
            rows: None,
            places: Vec::new(),
            added: false,
        })
    }

    fn saved<'a>(&self, saved: &'a SavedTensor, head_apart: bool) -> Result<Target<'a>, MergeError> {
        let name = saved.name.clone();
        let module = name.rsplit_once('.').map_or(name.as_str(), |(module, _)| module);
        let added = head_apart && self.base.claims_a_head();
        match self.checkpoint.tensor(&name).filter(|_| !added) {
            Some(tensor) if tensor.shape != saved.values.shape() => {
                let found = saved.values.shape();
                return self
                    .does_not_fit(format!("`{name}` has shape {:?}, and the adapter's {found:?}", tensor.shape));
            }
            Some(_) => self.refuse_shared(module, &name)?,
            None if head_apart || self.class.as_ref().is_some_and(|class| class.head.contains(&name)) => {}
            None if self.ties(module) => return self.tied(module, "the embeddings (`tie_word_embeddings`)"),
            None => {
                return self.does_not_fit(format!(
                    "`{name}` was trained whole (modules_to_save), and neither the checkpoint nor the class of the adapter's task_type \
                     has it"
                ));
            }
        }
        Ok(Target {
            name,
            change: Change::Values(saved),
            initialization: Initialization::Plain,
            stored_in_out: false,
            rows: None,
            places: Vec::new(),
            added,
        })
    }

    /// Whether the configuration says that this module shares its weight with the embeddings.
    fn ties(&self, module: &str) -> bool {
        let Some(config) = self.base.config.filter(|_| self.class.is_none()) else { return false };
        let says = |config: &serde_json::Value| config.get("tie_word_embeddings").and_then(serde_json::Value::as_bool);
        let stated = says(config).or_else(|| config.get("text_config").and_then(says));
        // transformers ties them unless the configuration, or the class, says otherwise.
        let lacks_output =
            || !self.checkpoint.tensors().iter().any(|tensor| is_called_tied(&tensor.name, &["lm_head"]));
        is_called_tied(module, &TIED) && stated.unwrap_or_else(lacks_output)
    }

    fn tied<T>(&self, module: &str, with: &str) -> Result<T, MergeError> {
        Err(MergeError::Tied { module: module.into(), with: with.into() })
    }

    /// Refuses a weight that the model uses in two places: it is stored twice, or the configuration ties it.
    fn refuse_shared(&self, module: &str, name: &str) -> Result<(), MergeError> {
        if self.ties(module) {
            return self.tied(module, "the embeddings (`tie_word_embeddings`)");
        }
        let rows = self.checkpoint.tensor(name).and_then(|tensor| tensor.shape.first().copied());
        let vocabulary = self.base.config.and_then(|config| config.get("vocab_size"));
        let vocabulary = vocabulary.and_then(serde_json::Value::as_u64).and_then(|size| usize::try_from(size).ok());
        let is_table = is_called_tied(module, &TIED) || rows.is_some() && rows == vocabulary;
        if is_table && let Some(other) = equal_tensors(self.checkpoint, name)?.first() {
            return self.tied(module, &format!("`{other}`, which has the same values"));
        }
        Ok(())
    }

    fn is_conv1d(&self, module: &str) -> bool {
        let kind = self.base.config.and_then(|config| config.get("model_type")).and_then(serde_json::Value::as_str);
        let last = module.rsplit('.').next().unwrap_or(module);
        kind.is_some_and(|kind| CONV1D_TYPES.contains(&kind)) && CONV1D_MODULES.contains(&last)
    }

    /// Whether the class that PEFT opened for the adapter has this tensor of the checkpoint; `None` where the type of the model is not
    /// known. Checkpoints have heads of pre-training and poolers that another class lacks.
    fn is_in_class(&self, tensor: &str) -> Option<bool> {
        let config = self.base.config?;
        let prefix = base_model_prefix(config)?;
        let (inside, name) = match is_prefixed(self.checkpoint, config)? {
            true => (tensor.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.')), tensor.to_owned()),
            false => (true, format!("{prefix}.{tensor}")),
        };
        Some(match &self.class {
            Some(class) if name.split('.').any(|part| part == "pooler") => class.pooler.contains(&name),
            Some(class) => inside || class.head.iter().any(|head| head == tensor),
            None => inside || self.generates,
        })
    }

    /// Checks that every module that the configuration adapts or saves has its tensors in the file.
    fn refuse_incomplete(&self, place: &Path, folder: &AdapterFolder, adapter: &Adapter) -> Result<(), MergeError> {
        let incomplete = |reason: String| MergeError::Incomplete { adapter: place.into(), reason };
        let called = Called::new(folder, adapter);
        let has: HashSet<&str> = adapter.factors.iter().map(|factors| factors.module.as_str()).collect();
        let kinds: HashSet<String> = has.iter().map(|module| without_numbers(module)).collect();
        for tensor in self.checkpoint.tensors() {
            let Some(module) = tensor.name.strip_suffix(".weight").filter(|_| tensor.shape.len() >= 2) else {
                continue;
            };
            if has.contains(module) || adapter.saved.iter().any(|saved| saved.name == tensor.name) {
                continue;
            }
            let expected = kinds.contains(&without_numbers(module)) || self.is_in_class(&tensor.name) == Some(true);
            let adapted = || folder.config.adapts(&called.by_peft(module)).map_err(incomplete);
            if expected && adapted()? == Some(true) {
                return Err(incomplete(format!(
                    "its configuration adapts `{module}`, and its tensors are not in the file; copy the folder again"
                )));
            }
        }
        for tensor in self.checkpoint.tensors() {
            let name = called.by_peft(&tensor.name);
            let there = adapter.saved.iter().any(|saved| saved.name == tensor.name);
            let adapted = has.iter().any(|module| tensor.name.starts_with(&format!("{module}.")));
            let elsewhere = |wanted: &str| folder.adapter.saved.iter().any(|saved| is_under(&saved.name, wanted));
            let named = folder.config.saved().iter().any(|wanted| is_under(&name, wanted) && !elsewhere(wanted));
            if !there && !adapted && named && self.is_in_class(&tensor.name) != Some(false) {
                return Err(incomplete(format!(
                    "its `modules_to_save` names the module of `{}`, which is not in the file; copy the folder again",
                    tensor.name
                )));
            }
        }
        Ok(())
    }

    /// A head of which only a part is there would be filled with random values.
    fn refuse_partial_head(&self, class: &ModelClass, adapter: &Adapter) -> Result<(), MergeError> {
        let there =
            |name: &str| adapter.saved.iter().any(|saved| saved.name == name) || self.checkpoint.tensor(name).is_some();
        match class.head.iter().find(|name| !there(name)) {
            Some(name) => self.does_not_fit(format!(
                "{} has a tensor `{name}` in its head, which neither the checkpoint nor the adapter has: transformers would fill it with \
                 random values",
                class.name
            )),
            None => Ok(()),
        }
    }

    /// What the head reads through and nobody has.
    fn lacking_pooler(&self, class: &ModelClass, adapter: &Adapter) -> Option<String> {
        let prefix = self.base.config.and_then(base_model_prefix)?;
        let bare = |name: &str| name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.')).map(str::to_owned);
        let there = |name: &str| {
            let bare = bare(name);
            let has = |name: &str| {
                self.checkpoint.tensor(name).is_some() || adapter.saved.iter().any(|saved| saved.name == name)
            };
            has(name) || bare.is_some_and(|bare| has(&bare))
        };
        let lacking = class.pooler.iter().find(|name| !there(name))?;
        Some(format!(
            "the head of {} reads through `{lacking}`, which neither the checkpoint nor the adapter has: transformers fills it with \
             random values",
            class.name
        ))
    }
}

/// Whether the last part of a path, without `.weight` or `.bias`, is one of these names.
fn is_called_tied(path: &str, names: &[&str]) -> bool {
    let module = path.strip_suffix(".weight").or_else(|| path.strip_suffix(".bias")).unwrap_or(path);
    module.rsplit('.').next().is_some_and(|last| names.contains(&last))
}

/// The path with `#` in the place of every number: modules of one kind have the same.
fn without_numbers(module: &str) -> String {
    let part =
        |part: &str| if part.bytes().all(|byte| byte.is_ascii_digit()) { "#".to_owned() } else { part.to_owned() };
    module.split('.').map(part).collect::<Vec<_>>().join(".")
}
