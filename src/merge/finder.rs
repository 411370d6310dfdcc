//! The base that an adapter is merged into, and checks that the adapter is complete and was made for it.

use std::path::Path;

use super::MergeError;
use super::completeness::{Called, is_under, refuse_changed};
use super::{Base, saved};
use crate::adapter::{Adapter, AdapterFolder};
use crate::checkpoint::{
    MatchedBy, ModelTask, TensorInfo, WeightMatch, equal_tensors, initializers_of, model_class, same_values, to_f32,
};
use crate::onnx::{LinearLayer, Transformer, WeightLayout};

/// The base, with its linear layers and their names in the checkpoint.
pub(super) struct Finder<'b> {
    pub base: Base<'b>,
    pub model: &'b Transformer,
    pub layers: &'b [LinearLayer],
    pub matches: &'b [Option<WeightMatch>],
}

impl Finder<'_> {
    /// Checks that every module that the configuration adapts or saves has its tensors in the file.
    pub fn refuse_incomplete(&self, place: &Path, folder: &AdapterFolder, adapter: &Adapter) -> Result<(), MergeError> {
        let incomplete = |reason: String| MergeError::Incomplete { adapter: place.into(), reason };
        let called = Called::new(folder, adapter);
        for (layer, found) in self.layers.iter().zip(self.matches) {
            let module = match found {
                Some(found) if !found.tensor.ends_with(".weight") => continue,
                Some(found) => found.module(),
                None if self.base.checkpoint.is_some() => continue,
                None => layer.module.as_deref().unwrap_or_default(),
            };
            let adapted = folder.config.adapts(&called.by_peft(module)).map_err(&incomplete)? == Some(true);
            if adapted && !adapter.factors.iter().any(|factors| saved::is_called(module, &factors.module)) {
                return Err(incomplete(format!(
                    "its configuration adapts `{module}`, and its tensors are not in the file; copy the folder again"
                )));
            }
        }
        for tensor in self.base.checkpoint.iter().flat_map(|checkpoint| checkpoint.tensors()) {
            let name = called.by_peft(&tensor.name);
            let adapted =
                adapter.factors.iter().any(|factors| tensor.name.starts_with(&format!("{}.", factors.module)));
            if adapted || adapter.saved.iter().any(|saved| saved.name == tensor.name) {
                continue;
            }
            // Checkpoints keep heads of pre-training that only one class has (`mask_predictions.classifier`): where the
            // file has a module that a name means, others with the same ending count only if the model has them.
            let elsewhere = |name: &str| folder.adapter.saved.iter().any(|saved| is_under(&saved.name, name));
            let mut names = folder.config.saved().iter().filter(|wanted| is_under(&name, wanted));
            let saves = names.clone().any(|name| !elsewhere(name));
            if saves || names.next().is_some() && self.has_tensor(&tensor.name, &name)? {
                return Err(incomplete(format!(
                    "its `modules_to_save` names the module of `{}`, which is not in the file; copy the folder again",
                    tensor.name
                )));
            }
        }
        Ok(())
    }

    /// Checks that a base weight that came with the adapter is that of this base.
    pub fn refuse_changed(&self, place: &Path, folder: &AdapterFolder, adapter: &Adapter) -> Result<(), MergeError> {
        let is_base_weight =
            |module: &str, tensor: &TensorInfo, bytes: &[u8]| self.is_base_weight(module, tensor, bytes);
        refuse_changed(self.base.folder, place, folder, adapter, is_base_weight)
    }

    /// Whether this is the weight of a module: of the checkpoint, or of the export if there is none.
    fn is_base_weight(&self, module: &str, tensor: &TensorInfo, bytes: &[u8]) -> Result<bool, MergeError> {
        if let Some(checkpoint) = self.base.checkpoint {
            let known = self.layers_of(module).find_map(|(_, found)| found);
            let name = known.map_or_else(|| format!("{module}.weight"), |found| found.tensor.clone());
            let Some(stored) = checkpoint.tensor(&name) else { return Ok(false) };
            return Ok(stored.shape == tensor.shape
                && same_values((bytes, &tensor.element_type), (checkpoint.bytes(&name)?, &stored.element_type)));
        }
        let Some((layer, _)) = self.layers_of(module).next() else { return Ok(false) };
        let stored = self.model.to_f32(&self.model.graph.initializers[layer.weight_index])?;
        let shape = [layer.out_features, layer.in_features];
        let at = |row: usize, column: usize| match layer.layout {
            WeightLayout::InOut => stored[column * shape[0] + row],
            WeightLayout::OutIn => stored[row * shape[1] + column],
        };
        let own = to_f32(bytes, &tensor.element_type).unwrap_or_default();
        Ok(tensor.shape == shape && own.iter().enumerate().all(|(i, value)| *value == at(i / shape[1], i % shape[1])))
    }

    /// Whether the export, or the class of the model, has the module of a checkpoint tensor. `by_peft` is PEFT's name for it.
    fn has_tensor(&self, tensor: &str, by_peft: &str) -> Result<bool, MergeError> {
        let Some(checkpoint) = self.base.checkpoint else { return Ok(false) };
        let in_class = |task| {
            let class = self.base.config.and_then(|config| model_class(config, task));
            class.is_some_and(|class| class.head.iter().any(|known| known == by_peft))
        };
        if ModelTask::ALL.into_iter().any(in_class) {
            return Ok(true);
        }
        // The weight distinguishes modules: biases are often zeros.
        let module = tensor.rsplit_once('.').map_or(tensor, |(module, _)| module);
        let weight = format!("{module}.weight");
        let judged = if checkpoint.tensor(&weight).is_some() { weight.as_str() } else { tensor };
        let called = |path: &str, name: &str| saved::is_called(path, name);
        let in_layers = self.layers.iter().zip(self.matches).any(|(layer, found)| {
            let same = |found: &WeightMatch| found.tensor == judged && found.how == MatchedBy::Content;
            found.as_ref().is_some_and(same) || layer.module.as_deref().is_some_and(|path| called(path, module))
        });
        if in_layers || self.model.graph.initializers.iter().any(|constant| called(&constant.name, judged)) {
            return Ok(true);
        }
        Ok(equal_tensors(checkpoint, judged)?.is_empty()
            && !initializers_of(self.model, checkpoint, judged)?.is_empty())
    }

    /// The linear layers of a module, with their checkpoint names where there is a checkpoint.
    pub fn layers_of<'s>(
        &'s self,
        module: &'s str,
    ) -> impl Iterator<Item = (&'s LinearLayer, Option<&'s WeightMatch>)> {
        let all = self.layers.iter().zip(self.matches).map(|(layer, found)| (layer, found.as_ref()));
        all.filter(move |(layer, found)| match found {
            Some(found) => found.module() == module,
            None => layer.module.as_deref().is_some_and(|path| path == module || path.ends_with(&format!(".{module}"))),
        })
    }
}
