//! Makes a head trainable: every tensor that the checkpoint has gets an initializer of its own in the graph.

use serde_json::Value;

use super::{Checkpoint, CheckpointError, ModelTask, WeightMatch, match_head, match_weights, model_class};
use crate::onnx::{Edit, Head, HeadTensor, LinearLayer, Model, Transformer, own_bias, own_tensor};

/// The edit that gives tensors of the head their own initializers: those the export shares with other parts of the model,
/// and biases of zeros it left out. `value` returns the values by checkpoint name; where it returns `None` the tensor stays
/// unchanged. The edit is empty where the export has no such tensors.
///
/// # Errors
/// When a value does not fit, or a bias is missing at a layer that cannot have one.
pub fn own_head(
    model: &Transformer,
    checkpoint: &Checkpoint,
    value: &dyn Fn(&str) -> Option<Vec<f32>>,
) -> Result<Edit<'static>, CheckpointError> {
    let mut edit = Edit::new();
    let Some(head) = model.head()? else { return Ok(edit) };
    let matches = match_head(model, checkpoint, head)?;
    for (index, (tensor, found)) in head.tensors.iter().zip(&matches).enumerate() {
        let name = found.as_ref().map_or(&tensor.name, |found| &found.tensor);
        if let (true, Some(values)) = (tensor.shared, value(name)) {
            own_tensor(&mut edit, model, head, index, &values)?;
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

/// The model with every tensor of its head trainable: [`own_head`] with the values of the checkpoint, in memory. The model
/// itself where nothing is missing.
///
/// # Errors
/// As [`own_head`].
pub fn with_own_head(model: Transformer, checkpoint: &Checkpoint) -> Result<Transformer, CheckpointError> {
    let edit = own_head(&model, checkpoint, &|name| checkpoint.to_f32(name).ok())?;
    if edit.is_empty() {
        return Ok(model);
    }
    Ok(Transformer::new(Model::from_bytes(model.path(), edit.apply_to_bytes(&model)?)?))
}

/// The tensors of a head that are trained, each with its tensor in the checkpoint where that is known: all of
/// [`Head::tensors`] except what exporters filled in, a bias of zeros for a norm that has none.
///
/// # Errors
/// When the export cannot be read.
pub fn trained_head<'h>(
    model: &Model,
    checkpoint: Option<&Checkpoint>,
    config: Option<&Value>,
    head: &'h Head,
) -> Result<Vec<(&'h HeadTensor, Option<WeightMatch>)>, CheckpointError> {
    // If training added the head, whatever the checkpoint calls so is another head.
    let Some(checkpoint) = checkpoint.filter(|_| !head.added) else {
        return Ok(head.tensors.iter().map(|tensor| (tensor, None)).collect());
    };
    let mut trained = Vec::with_capacity(head.tensors.len());
    for (tensor, found) in head.tensors.iter().zip(match_head(model, checkpoint, head)?) {
        if found.is_some() || !is_filler(model, checkpoint, config, tensor)? {
            trained.push((tensor, found));
        }
    }
    Ok(trained)
}

/// Whether a tensor of the head that the checkpoint lacks is not part of the model: exporters write a bias of zeros for a
/// norm that has none. It must not be trained: no checkpoint can store it. The checkpoint decides where it has the weight
/// of that norm; where it lacks the head, the class of transformers does.
fn is_filler(
    model: &Model,
    checkpoint: &Checkpoint,
    config: Option<&Value>,
    tensor: &HeadTensor,
) -> Result<bool, CheckpointError> {
    let Some(module) = tensor.name.strip_suffix(".bias") else { return Ok(false) };
    let ends =
        |path: &str, name: &str| path.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    let weight = format!("{module}.weight");
    let in_checkpoint = || checkpoint.tensors().iter().any(|known| ends(&weight, &known.name));
    let in_class = |task| {
        let head = config.and_then(|config| model_class(config, task)).map(|class| class.head).unwrap_or_default();
        let has = |path: &str| head.iter().any(|known| ends(path, known));
        has(&weight) && !has(&tensor.name)
    };
    if !in_checkpoint() && !ModelTask::ALL.into_iter().any(in_class) {
        return Ok(false);
    }
    Ok(model.to_f32(&model.graph.initializers[tensor.index])?.iter().all(|value| *value == 0.0))
}
