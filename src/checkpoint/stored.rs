//! Finds in the export a tensor of the checkpoint that is not the weight of a linear layer: a bias, a norm, an embedding
//! table, a pooler, the output layer of a language model.

use super::{Checkpoint, CheckpointError, equal_tensors, initializers_of};
use crate::onnx::Model;

/// A constant of the export that holds a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTensor {
    /// Index into the initializers.
    pub index: usize,
    /// Name of the initializer.
    pub initializer: String,
    /// For factors: whether it is stored as `[in, out]`. For values: whether it is the checkpoint tensor transposed.
    pub transposed: bool,
    /// Whether its values are those of the checkpoint, perhaps in another type.
    pub of_checkpoint: bool,
}

/// Why a tensor cannot be changed alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotAlone {
    /// The export stores it in one constant together with others of the same values.
    Shared {
        /// Number of the others.
        others: usize,
        /// Name of the first of them.
        first: String,
    },
    /// It is both the embeddings and the output layer.
    Tied,
}

/// The constants of the export that hold this tensor of the checkpoint; without a checkpoint, those with its name. Empty
/// where the export does not hold its values.
///
/// # Errors
/// When the export or the checkpoint cannot be read.
pub fn stored(
    model: &Model,
    checkpoint: Option<&Checkpoint>,
    name: &str,
) -> Result<Result<Vec<StoredTensor>, NotAlone>, CheckpointError> {
    let Some(checkpoint) = checkpoint else { return Ok(Ok(by_name(model, name).into_iter().collect())) };
    let mut found = initializers_of(model, checkpoint, name)?;
    let equal = equal_tensors(checkpoint, name)?;
    if let Some(first) = equal.first() {
        // Its values match other tensors too: only the name decides.
        let constants = found.len();
        found.retain(|(index, _)| is_called(&model.graph.initializers[*index].name, name));
        let alone = found.first().is_some_and(|(index, _)| users(model, *index).len() <= 1);
        if constants > 0 && !alone {
            return Ok(Err(NotAlone::Shared { others: equal.len(), first: first.clone() }));
        }
    }
    if is_tied(checkpoint, model, name, &found) {
        return Ok(Err(NotAlone::Tied));
    }
    let place = |(index, transposed): (usize, bool)| StoredTensor {
        index,
        initializer: model.graph.initializers[index].name.clone(),
        transposed,
        of_checkpoint: true,
    };
    Ok(Ok(found.into_iter().map(place).collect()))
}

/// Whether a table is also the output layer: PEFT changes one of the two, and the export has one constant for both, or two that
/// look alike.
fn is_tied(checkpoint: &Checkpoint, model: &Model, name: &str, found: &[(usize, bool)]) -> bool {
    let mut uses: Vec<bool> = Vec::new();
    for (index, _) in found {
        let constant = &model.graph.initializers[*index].name;
        let lookup = |node: &usize| model.graph.nodes[*node].lookup().is_some_and(|(table, _)| table == constant);
        uses.extend(users(model, *index).iter().map(lookup));
    }
    let is_matrix = checkpoint.tensor(name).is_some_and(|tensor| tensor.shape.len() == 2);
    is_matrix && uses.contains(&true) && uses.contains(&false)
}

/// The nodes that use an initializer.
fn users(model: &Model, index: usize) -> Vec<usize> {
    let name = &model.graph.initializers[index].name;
    let uses = |(_, node): &(usize, &crate::onnx::Node)| node.inputs.contains(name);
    model.graph.nodes.iter().enumerate().filter(uses).map(|(node, _)| node).collect()
}

/// Without a checkpoint only the name of a constant decides.
fn by_name(model: &Model, name: &str) -> Option<StoredTensor> {
    let mut found = model.graph.initializers.iter().enumerate().filter(|(_, tensor)| is_called(&tensor.name, name));
    let (index, tensor) = found.next()?;
    found.next().is_none().then(|| StoredTensor {
        index,
        initializer: tensor.name.clone(),
        transposed: false,
        of_checkpoint: false,
    })
}

/// Whether a constant has this name, possibly after that of a wrapper.
pub fn is_called(constant: &str, name: &str) -> bool {
    constant.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}
