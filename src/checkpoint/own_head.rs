//! Makes a head trainable: every tensor that the checkpoint knows gets a place of its own in the graph.

use super::{Checkpoint, CheckpointError, WeightMatch, match_head, match_weights};
use crate::onnx::{Edit, HeadTensor, HiddenStates, LinearLayer, Model, head, own_bias, own_tensor};

/// The edit that gives tensors of the head their own initializers: those the export shares with other parts of the model,
/// and biases of zeros it left out. `value` says what to put there, by checkpoint name; where it gives `None` the tensor
/// stays as it is. Empty where the export has nothing of the kind.
///
/// # Errors
/// When a value does not fit, or a bias is missing at a layer that cannot take one.
pub fn own_head(
    model: &Model,
    states: &HiddenStates,
    checkpoint: &Checkpoint,
    value: &dyn Fn(&str) -> Option<Vec<f32>>,
) -> Result<Edit<'static>, CheckpointError> {
    let mut edit = Edit::new();
    let Some(head) = head(model, states)? else { return Ok(edit) };
    let matches = match_head(model, checkpoint, &head)?;
    for (index, (tensor, found)) in head.tensors.iter().zip(&matches).enumerate() {
        let name = found.as_ref().map_or(&tensor.name, |found| &found.tensor);
        if let (true, Some(values)) = (tensor.shared, value(name)) {
            own_tensor(&mut edit, model, &head, index, &values)?;
        }
    }
    let trained = |linear: &&LinearLayer| head.tensors.iter().any(|tensor| tensor.index == linear.weight_index);
    let bare: Vec<&LinearLayer> = head.linears.iter().filter(|l| l.bias.is_none()).filter(trained).collect();
    for (linear, found) in bare.iter().zip(match_weights(model, checkpoint, &bare)?) {
        let Some(found) = found else { continue };
        let bias = format!("{}.bias", found.module());
        let known = checkpoint.tensor(&bias).is_some_and(|tensor| tensor.shape == [linear.out_features]);
        if let (true, Some(values)) = (known, value(&bias)) {
            own_bias(&mut edit, model, linear, &values)?;
        }
    }
    Ok(edit)
}

/// The model with a head whose every tensor can be trained: [`own_head`] with the values of the checkpoint, in memory.
/// The model itself where nothing is missing.
///
/// # Errors
/// As [`own_head`].
pub fn with_own_head(model: Model, states: &HiddenStates, checkpoint: &Checkpoint) -> Result<Model, CheckpointError> {
    let edit = own_head(&model, states, checkpoint, &|name| checkpoint.to_f32(name).ok())?;
    if edit.is_empty() {
        return Ok(model);
    }
    Ok(Model::from_bytes(model.path(), edit.apply_to_bytes(&model)?)?)
}

/// Whether a tensor of the head is none of the model's: exporters write a bias of zeros for a norm that has none. `found` is its
/// tensor in the checkpoint. It must not be trained: no checkpoint has a place for it.
///
/// # Errors
/// When the export cannot be read.
pub fn is_filler(
    model: &Model,
    checkpoint: &Checkpoint,
    tensor: &HeadTensor,
    found: Option<&WeightMatch>,
) -> Result<bool, CheckpointError> {
    let (None, Some(module)) = (found, tensor.name.strip_suffix(".bias")) else { return Ok(false) };
    let weight = format!("{module}.weight");
    let is_known = |name: &str| weight.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    if !checkpoint.tensors().iter().any(|known| is_known(&known.name)) {
        return Ok(false);
    }
    Ok(model.to_f32(&model.graph.initializers[tensor.index])?.iter().all(|value| *value == 0.0))
}
