//! Tensors of the base that are trained as they are, with their places in the export.

use super::super::error::TrainError;
use super::super::input::{SavedName, TrainInput};
use super::Whole;
use crate::checkpoint::{ElementType, NotAlone, StoredTensor, stored};

/// The tensors of the base with a name that is wanted, each with all constants that hold it. What the export does not use is
/// left out: a pooler that its head does not read, say.
pub(super) fn tensors(input: &TrainInput<'_>, wanted: impl Fn(&str) -> bool) -> Result<Whole, TrainError> {
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for name in names(input).into_iter().filter(|name| wanted(name)) {
        let refuse = |reason: String| TrainError::Weight { weight: name.clone(), reason };
        let places = stored(input.model, input.checkpoint, &name)?.map_err(|reason| match reason {
            NotAlone::Shared { others, first } => refuse(format!(
                "the export stores it under one constant with {others} others of the same values ({first} …), and training would \
                 change all of them; export the model without removing duplicates, or train with --method lora"
            )),
            NotAlone::Tied => refuse(
                "the model uses it as embeddings and as the output layer, and the export may hold it once or twice; untie the \
                 weights (`tie_word_embeddings` = false) and export it again, or train with --method lora"
                    .into(),
            ),
        })?;
        let Some((first, others)) = places.split_first() else {
            missing.push(name.clone());
            continue;
        };
        let turned = |place: &StoredTensor| place.transposed != first.transposed;
        if let Some(other) = others.iter().find(|place| turned(place)) {
            return Err(refuse(format!(
                "the export stores it twice, once turned (`{}`); train with --method lora",
                other.initializer
            )));
        }
        found.push(SavedName {
            initializer: first.initializer.clone(),
            copies: others.iter().map(|place| place.initializer.clone()).collect(),
            transposed: first.transposed,
            name,
        });
    }
    match found.is_empty() {
        true => Err(TrainError::NoTensors { model: input.model.path().to_owned() }),
        false => Ok(Whole { tensors: found, missing }),
    }
}

/// The tensors of the checkpoint; without one, the constants that are named as parameters are.
fn names(input: &TrainInput<'_>) -> Vec<String> {
    match input.checkpoint {
        Some(checkpoint) => {
            let floats =
                checkpoint.tensors().iter().filter(|tensor| !matches!(tensor.element_type, ElementType::Other(_)));
            floats.map(|tensor| tensor.name.clone()).collect()
        }
        None => {
            let constants = input.model.graph.initializers.iter().filter(|tensor| tensor.data_type.is_float());
            let is_parameter = |name: &&String| name.ends_with(".weight") || name.ends_with(".bias");
            constants.map(|tensor| &tensor.name).filter(is_parameter).cloned().collect()
        }
    }
}
