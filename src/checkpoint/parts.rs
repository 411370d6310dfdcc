//! An export together with its checkpoint and its configuration.

use serde_json::Value;

use super::{Checkpoint, CheckpointError, WeightMatch};
use crate::onnx::{Block, HiddenStates, LinearLayer, Transformer};

/// Everything known about a model before it is run.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// The export.
    pub model: &'a Transformer,
    /// Its hidden states, embeddings first.
    pub states: &'a HiddenStates,
    /// The blocks between the hidden states.
    pub blocks: &'a [Block],
    /// All linear layers ([`Transformer::linears`]), in blocks or not.
    pub linears: &'a [LinearLayer],
    /// Checkpoint tensors of the linear layers, in the same order.
    pub matches: &'a [Option<WeightMatch>],
    /// The checkpoint, if present.
    pub checkpoint: Option<&'a Checkpoint>,
    /// Contents of `config.json`, if present.
    pub config: Option<&'a Value>,
}

impl<'a> Parts<'a> {
    /// Combines an export, its checkpoint and its configuration; `matches` are the tensors of its linear layers.
    ///
    /// # Errors
    /// When hidden states or blocks cannot be found.
    pub fn new(
        model: &'a Transformer,
        matches: &'a [Option<WeightMatch>],
        checkpoint: Option<&'a Checkpoint>,
        config: Option<&'a Value>,
    ) -> Result<Self, CheckpointError> {
        let (states, blocks, linears) = (model.states()?, model.blocks()?, model.linears());
        Ok(Parts { model, states, blocks, linears, matches, checkpoint, config })
    }
}
