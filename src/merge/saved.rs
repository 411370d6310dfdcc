//! Where a tensor that was trained whole stands in the export, when it is not one of the head: a pooler, a norm, an embedding
//! table, the output layer of a language model.

use super::MergeError;
use crate::checkpoint::{Checkpoint, ModelFolder, equal_tensors, initializers_of};
use crate::onnx::Model;

/// An initializer of the export.
pub(super) struct Place {
    pub index: usize,
    pub initializer: String,
    /// Factors: whether it is stored as `[in, out]`. Values: whether it is the transposed checkpoint tensor.
    pub transposed: bool,
    /// Whether its values are those of the checkpoint, perhaps in another type.
    pub of_checkpoint: bool,
}

/// The constants of the export that are this tensor of the checkpoint. Empty where the export has none of its values.
pub(super) fn places(base: &ModelFolder, model: &Model, name: &str) -> Result<Vec<Place>, MergeError> {
    let refused = |reason: String| MergeError::Saved { onnx: model.path().into(), reason };
    let Some(checkpoint) = base.checkpoint.as_ref() else {
        return Ok(by_name(model, name).into_iter().collect());
    };
    if checkpoint.tensor(name).is_none() {
        return Err(refused(format!(
            "`{name}` was trained whole (modules_to_save), and neither the checkpoint nor the export's head has it; export the model \
             with that head, or, where the base model uses its embeddings in that place (tied weights), untie them \
             (`tie_word_embeddings` = false) first"
        )));
    }
    let mut found = initializers_of(model, checkpoint, name)?;
    let equal = equal_tensors(checkpoint, name)?;
    if !equal.is_empty() {
        // By its values it could be another one: only the name tells.
        let constants = found.len();
        found.retain(|(index, _)| is_called(&model.graph.initializers[*index].name, name));
        let alone = found.first().is_some_and(|(index, _)| users(model, *index).len() <= 1);
        if constants > 0 && !alone {
            return Err(refused(format!(
                "`{name}` was trained whole (modules_to_save), and the export stores it under one constant with {} others of the \
                 same values ({} …), which merging would change too; merge with PEFT (`merge_and_unload`) and export that model",
                equal.len(),
                equal[0]
            )));
        }
    }
    refuse_tied(checkpoint, model, name, &found).map_err(refused)?;
    let place = |(index, transposed): (usize, bool)| Place {
        index,
        initializer: model.graph.initializers[index].name.clone(),
        transposed,
        of_checkpoint: true,
    };
    Ok(found.into_iter().map(place).collect())
}

/// A table that is also the output layer: PEFT changes one of the two, and the export has one constant for both, or two that
/// look alike.
fn refuse_tied(checkpoint: &Checkpoint, model: &Model, name: &str, found: &[(usize, bool)]) -> Result<(), String> {
    let mut uses: Vec<bool> = Vec::new();
    for (index, _) in found {
        let constant = &model.graph.initializers[*index].name;
        let lookup = |node: &usize| model.graph.nodes[*node].lookup().is_some_and(|(table, _)| table == constant);
        uses.extend(users(model, *index).iter().map(lookup));
    }
    if checkpoint.tensor(name).is_some_and(|tensor| tensor.shape.len() == 2)
        && uses.contains(&true)
        && uses.contains(&false)
    {
        return Err(format!(
            "`{name}` was trained whole, and the base model uses it as embeddings and as the output layer (tied): PEFT changes \
             one of them; untie the weights in the base model (`tie_word_embeddings` = false) and export it again"
        ));
    }
    Ok(())
}

/// The nodes that use an initializer.
fn users(model: &Model, index: usize) -> Vec<usize> {
    let name = &model.graph.initializers[index].name;
    let uses = |(_, node): &(usize, &crate::onnx::Node)| node.inputs.contains(name);
    model.graph.nodes.iter().enumerate().filter(uses).map(|(node, _)| node).collect()
}

/// Without a checkpoint only the name of a constant tells.
fn by_name(model: &Model, name: &str) -> Option<Place> {
    let mut found = model.graph.initializers.iter().enumerate().filter(|(_, tensor)| is_called(&tensor.name, name));
    let (index, tensor) = found.next()?;
    found.next().is_none().then(|| Place {
        index,
        initializer: tensor.name.clone(),
        transposed: false,
        of_checkpoint: false,
    })
}

/// Whether a constant has this name, possibly behind that of a wrapper.
pub(super) fn is_called(constant: &str, name: &str) -> bool {
    constant.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}
