//! The result of a run.

use serde::{Deserialize, Serialize};

use super::program::LinearChoice;
use crate::adapter::Adapter;
use crate::onnx::HeadPooling;

/// An evaluation on the validation data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Optimizer steps taken before.
    pub step: u64,
    /// Epochs before, with the fraction of the current one.
    pub epoch: f64,
    /// Mean loss per row; `None` where it is not finite.
    pub loss: Option<f64>,
    /// Metrics by name, the deciding one first; `None` where one is undefined.
    pub metrics: Vec<(String, Option<f64>)>,
}

impl Evaluation {
    /// Value of the deciding metric.
    pub fn decisive(&self) -> Option<f64> {
        self.metrics.first().and_then(|(_, value)| *value)
    }
}

/// The best evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Optimizer steps taken before.
    pub step: u64,
    /// Value of the deciding metric.
    pub value: f64,
}

/// The result of a training run.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainOutcome {
    /// The trained factors and head: those of the best evaluation, or the last where nothing was evaluated.
    pub adapter: Adapter,
    /// For an export without a head: which vector the new head (`classifier.weight`, `classifier.bias`) reads.
    pub new_head: Option<HeadPooling>,
    /// All evaluations in order.
    pub evaluations: Vec<Evaluation>,
    /// The best evaluation; the adapter is its state.
    pub best: Option<Best>,
    /// Optimizer steps taken.
    pub steps: u64,
    /// Whether training ended early, because the metric no longer improved.
    pub stopped_early: bool,
    /// The step from which an earlier run was resumed.
    pub resumed_from: Option<u64>,
    /// Training rows per second, evaluation left out.
    pub examples_per_second: f64,
    /// Number of trained parameters.
    pub trained_parameters: usize,
    /// The device that computed it (`cpu`, `cuda:0`).
    pub device: String,
    /// Number of CPU threads.
    pub threads: usize,
    /// Which kernels computed the linear layers.
    pub linear: Vec<LinearChoice>,
}
