//! PEFT adapter folders, read and written.

mod config;
mod error;
mod fields;
mod head_path;
mod lora_config;
mod naming;
mod provenance;
mod read;
#[cfg(test)]
mod tests;
mod whole;
mod write;

use ndarray::{Array1, Array2, ArrayD};

use crate::files::sha256;

pub use config::{ConfigSettings, Flavour, adapter_config, head_modules};
pub use error::AdapterError;
pub use head_path::HeadPath;
pub use lora_config::{Initialization, LoraConfig};
pub use naming::{Naming, TrainedHead};
pub use provenance::{BaseFile, PROVENANCE_FILE, Provenance};
pub use read::{AdapterFolder, FrozenWeight, read, read_named};
pub use whole::{WholeSettings, write_whole};
pub use write::{WriteSettings, write};

/// Name of the configuration file in an adapter folder.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// Name of the tensor file in an adapter folder.
pub const TENSOR_FILE: &str = "adapter_model.safetensors";
/// Name of the tensor file of a head that no transformers class has: PEFT does not read it; merging does.
pub const HEAD_FILE: &str = "gelora_head.safetensors";
/// Name of the tensor file of a model trained without factors: PEFT has no file for them; merging reads it.
pub const WHOLE_FILE: &str = "gelora_tensors.safetensors";
/// The prefix that PEFT puts before module names.
const PREFIX: &str = "base_model.model.";

/// The trained factors of one weight: `ΔW = alpha / rank · B · A` in PEFT's orientation (`W` is `[out, in]`); with DoRA (Liu et al.
/// 2024) the rows of `W + ΔW` are then scaled to the lengths of `magnitude`.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraFactors {
    /// Module path as used by PEFT, without `base_model.model.`.
    pub module: String,
    /// Numerator of the scaling.
    pub alpha: f64,
    /// Factor A, `[rank, in]`.
    pub a: Array2<f32>,
    /// Factor B, `[out, rank]`.
    pub b: Array2<f32>,
    /// DoRA: the length of every row of the merged weight, `[out]`; `None` for LoRA.
    pub magnitude: Option<Array1<f32>>,
}

impl LoraFactors {
    /// The rank of the stored factors.
    pub fn rank(&self) -> usize {
        self.a.nrows()
    }

    /// The scaling `alpha / rank`, the factor of `B · A`.
    pub fn scaling(&self) -> f64 {
        self.alpha / self.rank().max(1) as f64
    }
}

/// A tensor that is trained as a whole (the head): PEFT's `modules_to_save`.
#[derive(Debug, Clone, PartialEq)]
pub struct SavedTensor {
    /// Name in the checkpoint, for instance `classifier.weight`.
    pub name: String,
    /// Values in the orientation of the checkpoint.
    pub values: ArrayD<f32>,
}

/// The trained tensors: the output of training and the input of merging.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Adapter {
    /// The trained factors, one entry per adapted weight.
    pub factors: Vec<LoraFactors>,
    /// The tensors that were trained as a whole, such as those of the head.
    pub saved: Vec<SavedTensor>,
}

impl Adapter {
    /// SHA-256 over names, scalings, shapes and all values.
    pub fn sha256(&self) -> String {
        let mut bytes = Vec::new();
        let mut enter = |name: &str, shape: &[usize], values: &mut dyn Iterator<Item = f32>| {
            for number in [name.len(), shape.len()].iter().chain(shape) {
                bytes.extend((*number as u64).to_le_bytes());
            }
            bytes.extend(name.as_bytes());
            values.for_each(|value| bytes.extend(value.to_le_bytes()));
        };
        for LoraFactors { module, alpha, a, b, magnitude } in &self.factors {
            enter(&format!("{module} {:016x}", alpha.to_bits()), a.shape(), &mut a.iter().copied());
            enter("", b.shape(), &mut b.iter().copied());
            if let Some(magnitude) = magnitude {
                enter("magnitude", magnitude.shape(), &mut magnitude.iter().copied());
            }
        }
        for SavedTensor { name, values } in &self.saved {
            enter(name, values.shape(), &mut values.iter().copied());
        }
        sha256(&bytes)
    }
}
