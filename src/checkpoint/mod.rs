//! Hugging Face folders: safetensors, configuration, tokenizer files; which checkpoint tensor an ONNX weight is.

mod class_names;
mod error;
mod folded;
mod folder;
mod found;
mod matching;
mod own_head;
mod parts;
mod safetensors;
mod slices;
mod stored;
mod structure;
#[cfg(test)]
mod tests;
mod values;

pub use class_names::{ModelClass, ModelTask, base_model_prefix, is_prefixed, model_class};
pub use error::CheckpointError;
pub use folded::{FoldedProduct, folded_products};
pub use folder::{CheckpointFolder, ModelFolder};
pub use found::{MatchedBy, WeightMatch};
pub use matching::{equal_tensors, initializers_of, match_head, match_weights};
pub use own_head::{own_head, trained_head, with_own_head};
pub use parts::Parts;
pub use safetensors::{Checkpoint, CheckpointFile, ElementType, TensorInfo, from_f32, to_f32, write_safetensors};
pub use stored::{NotAlone, StoredTensor, is_called, stored};
pub use structure::{Structure, structure};
pub use values::same_values;
