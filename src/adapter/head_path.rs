//! The graph of an export between the last hidden state and the logits, compared with the head of a transformers class.

use std::collections::HashSet;

use crate::checkpoint::{Checkpoint, CheckpointError, ModelClass, match_weights};
use crate::onnx::{Head, LinearLayer, Model, Trait};

/// The path from the last hidden state to the logits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeadPath {
    /// Names of its linear layers, those of the checkpoint where known, else those of the export.
    pub linears: Vec<String>,
    /// Whether there are layers without a known name.
    pub unnamed: bool,
    /// Whether it pools the vectors of all tokens; `None` where unknown.
    pools: Option<bool>,
    /// Whether the head was added in training.
    pub added: bool,
    /// Whether it gives logits for every token.
    pub labels_tokens: bool,
}

impl HeadPath {
    /// The path through the head of an export.
    ///
    /// # Errors
    /// If the export cannot be read.
    pub fn new(model: &Model, checkpoint: Option<&Checkpoint>, head: &Head) -> Result<Self, CheckpointError> {
        let layers: Vec<&LinearLayer> = head.linears.iter().collect();
        let found = match checkpoint {
            Some(checkpoint) => match_weights(model, checkpoint, &layers)?,
            None => vec![None; layers.len()],
        };
        let known: HashSet<usize> = layers.iter().map(|layer| layer.node).collect();
        // Products that ONNX Runtime fused with the following operation are not linear layers here.
        let fused = |&node: &usize| {
            let kind = &model.graph.nodes[node];
            !known.contains(&node) && !kind.domain.is_empty() && kind.has(Trait::Product)
        };
        let named = layers.iter().zip(found);
        let names =
            named.map(|(layer, found)| found.map(|found| found.module().to_owned()).or_else(|| layer.module.clone()));
        let names: Vec<Option<String>> = names.collect();
        Ok(Self {
            unnamed: names.contains(&None)
                || layers.iter().any(|layer| layer.quantized)
                || head.nodes.iter().any(fused),
            linears: names.into_iter().flatten().collect(),
            pools: head.pools,
            added: head.added,
            labels_tokens: head.labels_tokens(),
        })
    }

    /// How the path differs from the head of a class; `None` if no difference is found. `prefix` is the path of the base model
    /// in the class.
    pub(super) fn differs_from(
        &self,
        class: &ModelClass,
        prefix: &str,
        checkpoint: Option<&Checkpoint>,
    ) -> Option<String> {
        let reads = |module: &str| self.linears.iter().any(|known| is_called(known, module));
        let inside = |name: &str| name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.')).map(str::to_owned);
        let name = &class.name;
        let matrix = |name: &&String| {
            let tensor = checkpoint.and_then(|checkpoint| checkpoint.tensor(name));
            tensor.is_some_and(|tensor| tensor.shape.len() == 2)
        };
        let own = class.head.iter().filter(matrix).cloned();
        let mut wanted = own.chain(class.pooler.iter().filter_map(|name| inside(name)));
        let lacking = wanted.find(|name| name.strip_suffix(".weight").is_some_and(|module| !reads(module)));
        if let Some(lacking) = lacking.filter(|_| !self.unnamed) {
            return Some(format!("the head of {name} reads through `{lacking}`, and that of the export does not"));
        }
        let of_class = |module: &str| {
            class.head.iter().any(|known| known.strip_suffix(".weight").is_some_and(|known| is_called(module, known)))
        };
        let is_pooler = |module: &&String| module.split('.').any(|part| part == "pooler") && !of_class(module);
        if let Some(pooler) = self.linears.iter().find(is_pooler).filter(|_| class.pooler.is_empty()) {
            return Some(format!("the head of the export reads through `{pooler}`, and that of {name} does not"));
        }
        match (self.pools, class.pools) {
            (Some(true), Some(false)) => {
                Some(format!("the head of the export reads all tokens, and that of {name} a single one"))
            }
            (Some(false), Some(true)) => {
                Some(format!("the head of the export reads a single token, and that of {name} all of them"))
            }
            _ => None,
        }
    }
}

/// Whether a path is that of this module, possibly below others.
fn is_called(path: &str, module: &str) -> bool {
    path.strip_suffix(module).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}
