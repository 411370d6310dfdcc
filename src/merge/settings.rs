//! The settings of a merge.

use serde::{Deserialize, Serialize};

use super::Base;
use crate::checkpoint::ElementType;
use crate::settings_value::SettingError;

/// Settings of a merge.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct MergeSettings {
    /// Whether the base may differ from the one the adapter was trained with.
    pub base_changed: bool,
    /// The weight of every adapter, by which its change is multiplied; empty for 1 each.
    pub weights: Vec<f64>,
    /// Type of the floating-point tensors of the merged checkpoint; `None` for the types of the base. An export keeps its types.
    pub dtype: Option<StoredType>,
    /// Largest size of a file of the merged checkpoint, in bytes; `None` for the files of the base.
    pub shard_size: Option<u64>,
}

impl MergeSettings {
    /// The weight of each of this many adapters.
    ///
    /// # Errors
    /// If there are weights for another number of adapters, or a weight is not finite.
    pub(super) fn weights_of(&self, adapters: usize) -> Result<Vec<f64>, SettingError> {
        let wrong =
            |found: String| SettingError::new("weights", found, "give a number for every adapter, in their order");
        if !self.weights.is_empty() && self.weights.len() != adapters {
            return Err(wrong(format!("has {} numbers for {adapters} adapters", self.weights.len())));
        }
        if let Some(weight) = self.weights.iter().find(|weight| !weight.is_finite()) {
            return Err(wrong(format!("has {weight}")));
        }
        Ok(match self.weights.is_empty() {
            true => vec![1.0; adapters],
            false => self.weights.clone(),
        })
    }

    /// Checks what is asked for the files of the checkpoint.
    ///
    /// # Errors
    /// If files would be of no size, or the base has no checkpoint to which it applies.
    pub(super) fn check(&self, base: Base<'_>) -> Result<(), SettingError> {
        if self.shard_size == Some(0) {
            return Err(SettingError::new("shard_size", "is 0".into(), "give the largest size of a file, such as 5GB"));
        }
        let key = self.dtype.map(|_| "dtype").or(self.shard_size.map(|_| "shard_size"));
        match key.filter(|_| base.checkpoint.is_none()) {
            Some(key) => {
                let found = format!("is for a checkpoint, and {} has none (safetensors)", base.folder.display());
                Err(SettingError::new(key, found, "leave it out, or name the folder with the checkpoint"))
            }
            None => Ok(()),
        }
    }

    /// The type in which elements of this type are stored.
    pub(super) fn stored_as(&self, element_type: &ElementType) -> ElementType {
        match (self.dtype, element_type) {
            (Some(dtype), ElementType::F32 | ElementType::F16 | ElementType::Bf16 | ElementType::F64) => {
                dtype.element_type()
            }
            _ => element_type.clone(),
        }
    }
}

/// A floating-point type for a merged checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoredType {
    /// 32 bits.
    Float32,
    /// 16 bits with the range of float32 and 8 significant bits.
    Bfloat16,
    /// 16 bits with 11 significant bits, up to 65504.
    Float16,
}

impl StoredType {
    /// The name in PyTorch and in `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            StoredType::Float32 => "float32",
            StoredType::Bfloat16 => "bfloat16",
            StoredType::Float16 => "float16",
        }
    }

    fn element_type(self) -> ElementType {
        match self {
            StoredType::Float32 => ElementType::F32,
            StoredType::Bfloat16 => ElementType::Bf16,
            StoredType::Float16 => ElementType::F16,
        }
    }
}
