//! An export with its checkpoint and its configuration, side by side.

use serde_json::Value;

use super::{Checkpoint, CheckpointError, WeightMatch};
use crate::onnx::{Block, HiddenStates, LinearLayer, Transformer};

/// All that is known of a model before it is run.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// The export.
    pub model: &'a Transformer,
    /// Its hidden states.
    pub states: &'a HiddenStates,
    /// What lies between them.
    pub blocks: &'a [Block],
    /// All linear layers ([`Transformer::linears`]), in blocks or not.
    pub linears: &'a [LinearLayer],
    /// Their tensors in the checkpoint, in the same order.
    pub matches: &'a [Option<WeightMatch>],
    /// The checkpoint, if there is one.
    pub checkpoint: Option<&'a Checkpoint>,
    /// `config.json`, if there is one.
    pub config: Option<&'a Value>,
}

impl<'a> Parts<'a> {
    /// What is known of an export, its checkpoint and its configuration; `matches` are the tensors of its linear layers.
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
