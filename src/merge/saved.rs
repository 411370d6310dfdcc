//! Finds a tensor that was trained as a whole in the export, if it does not belong to the head.

use super::{Base, MergeError};
use crate::checkpoint::{NotAlone, StoredTensor, stored};
use crate::onnx::Model;

pub(super) use crate::checkpoint::is_called;

/// The constants of the export that hold this tensor of the checkpoint. Empty where none has its values.
pub(super) fn places(base: Base<'_>, model: &Model, name: &str) -> Result<Vec<StoredTensor>, MergeError> {
    let refused = |reason: String| MergeError::Saved { onnx: model.path().into(), reason };
    let checkpoint = base.checkpoint;
    if checkpoint.is_some_and(|checkpoint| checkpoint.tensor(name).is_none()) {
        return Err(refused(format!(
            "`{name}` was trained whole (modules_to_save), and neither the checkpoint nor the export's head has it; export the model \
             with that head, or, where the base model uses its embeddings in that place (tied weights), untie them \
             (`tie_word_embeddings` = false) first"
        )));
    }
    stored(model, checkpoint, name)?.map_err(|reason| {
        refused(match reason {
            NotAlone::Shared { others, first } => format!(
                "`{name}` was trained whole (modules_to_save), and the export stores it under one constant with {others} others \
                 of the same values ({first} …), which merging would change too; merge with PEFT (`merge_and_unload`) and export \
                 that model"
            ),
            NotAlone::Tied => format!(
                "`{name}` was trained whole, and the base model uses it as embeddings and as the output layer (tied): PEFT changes \
                 one of them; untie the weights in the base model (`tie_word_embeddings` = false) and export it again"
            ),
        })
    })
}
