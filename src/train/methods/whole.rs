//! Tensors of the base that are trained as a whole, and where the export holds them.

use std::collections::HashSet;

use super::super::error::TrainError;
use super::super::input::{SavedName, TrainInput};
use super::Whole;
use crate::checkpoint::{ElementType, NotAlone, StoredTensor, TensorInfo, equal_tensors, is_called, stored};
use crate::hint::Hint;

/// Endings of the names of tensors that checkpoints hold beside parameters.
const BUFFERS: [&str; 4] = ["inv_freq", "masked_bias", "running_mean", "running_var"];

/// The tensors of the base whose names are wanted, each with all constants that hold it. Tensors that the export does not use
/// are left out: a pooler that its head does not read, say. Those of the head are trained in any case.
pub(super) fn tensors(
    input: &TrainInput<'_>,
    head: &HashSet<String>,
    wanted: impl Fn(&str) -> bool,
) -> Result<Whole, TrainError> {
    let lora = Hint::Method.with("lora");
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for name in names(input).into_iter().filter(|name| wanted(name) && !head.contains(name)) {
        let refuse = |reason: String| TrainError::Weight { weight: name.clone(), reason };
        let places = stored(input.model, input.checkpoint, &name)?.map_err(|reason| match reason {
            NotAlone::Shared { others, first } => refuse(format!(
                "the export stores it under one constant with {others} others of the same values ({first} …), and training would \
                 change all of them; export the model without removing duplicates, or train with {lora}"
            )),
            NotAlone::Tied => refuse(tied()),
        })?;
        if is_tied(input, &name)? {
            return Err(refuse(tied()));
        }
        // A tensor of one element often has the same value as unrelated constants.
        let single = input.checkpoint.and_then(|checkpoint| checkpoint.tensor(&name));
        let single = single.is_some_and(|tensor| tensor.shape.iter().product::<usize>() == 1);
        let places: Vec<_> =
            places.into_iter().filter(|place| !single || is_called(&place.initializer, &name)).collect();
        let Some((first, others)) = places.split_first() else {
            missing.push(name.clone());
            continue;
        };
        let turned = |place: &StoredTensor| place.transposed != first.transposed;
        if let Some(other) = others.iter().find(|place| turned(place)) {
            return Err(refuse(format!(
                "the export stores it twice, once turned (`{}`); train with {lora}",
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
    if found.is_empty() {
        return Err(TrainError::NoTensors { model: input.model.path().to_owned() });
    }
    refuse_left_out(input, &found, &wanted)?;
    Ok(Whole { tensors: found, missing })
}

fn tied() -> String {
    format!(
        "the model uses it as embeddings and as the output layer, and the export may hold it once or twice; untie the weights \
         (`tie_word_embeddings` = false) and export it again, or train with {}",
        Hint::Method.with("lora")
    )
}

/// Whether transformers ties this tensor to another one of the same values: embeddings and output layer.
fn is_tied(input: &TrainInput<'_>, name: &str) -> Result<bool, TrainError> {
    let Some(checkpoint) = input.checkpoint else { return Ok(false) };
    let untied = input.config.and_then(|config| config.get("tie_word_embeddings")?.as_bool()) == Some(false);
    let rows = checkpoint.tensor(name).and_then(|tensor| tensor.shape.first().copied());
    let is_table = rows.is_some() && rows == input.model.vocabulary() && name.ends_with(".weight");
    Ok(!untied && is_table && !equal_tensors(checkpoint, name)?.is_empty())
}

/// Refuses to call training full, or of all biases, if it leaves weights or biases of the blocks untrained because nothing shows
/// which tensors they are.
fn refuse_left_out(
    input: &TrainInput<'_>,
    found: &[SavedName],
    wanted: &impl Fn(&str) -> bool,
) -> Result<(), TrainError> {
    let trained: HashSet<&str> =
        found.iter().flat_map(|tensor| tensor.copies.iter().chain([&tensor.initializer])).map(String::as_str).collect();
    for linear in input.model.blocks()?.iter().flat_map(|block| &block.linears) {
        let weight = wanted(".weight").then_some(linear.weight.as_str());
        let bias = linear.bias.as_deref().filter(|_| wanted(".bias"));
        if let Some(left) = weight.into_iter().chain(bias).find(|constant| !trained.contains(constant)) {
            return Err(TrainError::Weight {
                weight: linear.module.clone().unwrap_or_else(|| left.to_owned()),
                reason: format!(
                    "it is unknown which tensor its `{left}` is, so it would not be trained; put the model.safetensors of the export \
                     beside it, export a float model, or train with {}",
                    Hint::Method.with("lora")
                ),
            });
        }
    }
    Ok(())
}

/// Names of the tensors of the checkpoint; without one, of the constants that are named like parameters.
fn names(input: &TrainInput<'_>) -> Vec<String> {
    match input.checkpoint {
        Some(checkpoint) => {
            let floats =
                checkpoint.tensors().iter().filter(|tensor| !matches!(tensor.element_type, ElementType::Other(_)));
            // A bias with several axes is a mask (GPT-2).
            let is_buffer = |tensor: &&TensorInfo| {
                BUFFERS.iter().any(|end| tensor.name.ends_with(end))
                    || tensor.name.ends_with(".bias") && tensor.shape.len() > 1
            };
            floats.filter(|tensor| !is_buffer(tensor)).map(|tensor| tensor.name.clone()).collect()
        }
        None => {
            let constants = input.model.graph.initializers.iter().filter(|tensor| tensor.data_type.is_float());
            let is_parameter = |name: &&String| name.ends_with(".weight") || name.ends_with(".bias");
            constants.map(|tensor| &tensor.name).filter(is_parameter).cloned().collect()
        }
    }
}
