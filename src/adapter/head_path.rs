//! What the graph of an export does between the last hidden state and the logits, and whether a class of transformers does the same.

use std::collections::HashSet;

use crate::checkpoint::{Checkpoint, CheckpointError, ModelClass, match_weights};
use crate::onnx::{Head, LinearLayer, Model, Trait};

/// The way from the last hidden state to the logits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeadPath {
    /// Its linear layers, by the names of the checkpoint where it knows them, else by those of the export.
    pub linears: Vec<String>,
    /// Whether there are layers whose names are not known.
    pub unnamed: bool,
    /// Whether it joins the vectors of all tokens.
    pools: Option<bool>,
    /// Whether training added it.
    pub added: bool,
    /// Whether it gives a label for every token.
    pub labels_tokens: bool,
}

impl HeadPath {
    /// The way through this head.
    ///
    /// # Errors
    /// When the export cannot be read.
    pub fn new(model: &Model, checkpoint: Option<&Checkpoint>, head: &Head) -> Result<Self, CheckpointError> {
        let layers: Vec<&LinearLayer> = head.linears.iter().collect();
        let found = match checkpoint {
            Some(checkpoint) => match_weights(model, checkpoint, &layers)?,
            None => vec![None; layers.len()],
        };
        let known: HashSet<usize> = layers.iter().map(|layer| layer.node).collect();
        // Products that ONNX Runtime fused with what follows are no linear layers here.
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

    /// What it does otherwise than the head of a class; `None` where nothing is seen. `prefix` is where the class has its base
    /// model.
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

/// Whether a path is this module, perhaps under other names.
fn is_called(path: &str, module: &str) -> bool {
    path.strip_suffix(module).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}
