//! PEFT adapter folders, read and written.

use ndarray::{Array2, ArrayD};

/// The trained factors of one weight: `ΔW = alpha / rank · B · A` in PEFT's orientation (`W` is `[out, in]`).
#[derive(Debug, Clone, PartialEq)]
pub struct LoraFactors {
    /// Module path as PEFT knows it, without `base_model.model.`.
    pub module: String,
    /// Scaling numerator.
    pub alpha: f64,
    /// `[rank, in]`.
    pub a: Array2<f32>,
    /// `[out, rank]`.
    pub b: Array2<f32>,
}

/// A tensor that is trained as a whole (the head): PEFT's `modules_to_save`.
#[derive(Debug, Clone, PartialEq)]
pub struct SavedTensor {
    /// Checkpoint name, for instance `classifier.weight`.
    pub name: String,
    /// Values in the orientation of the checkpoint.
    pub values: ArrayD<f32>,
}

/// What training makes and merging takes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Adapter {
    /// One entry per adapted weight.
    pub factors: Vec<LoraFactors>,
    /// Trained heads.
    pub saved: Vec<SavedTensor>,
}
