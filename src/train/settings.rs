//! What a training run is told: the optimizer and its schedule, batches, evaluation, saving.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::TrainError;
use super::program::LinearBackend;
use crate::files::read_file;
use crate::onnx::HeadPooling;
use crate::runtime::Device;

/// How the learning rate goes on after the warm-up. The values are those of transformers' `get_*_schedule*` functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Straight down to zero at the last step.
    #[default]
    Linear,
    /// Half a cosine down to zero at the last step.
    Cosine,
    /// Stays as it is.
    Constant,
}

impl std::str::FromStr for Schedule {
    type Err = TrainError;

    fn from_str(text: &str) -> Result<Self, TrainError> {
        match text {
            "linear" => Ok(Schedule::Linear),
            "cosine" => Ok(Schedule::Cosine),
            "constant" => Ok(Schedule::Constant),
            _ => Err(TrainError::Setting {
                name: "schedule",
                found: text.to_owned(),
                cure: "take linear, cosine or constant".into(),
            }),
        }
    }
}

/// How long the learning rate rises from zero.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WarmUp {
    /// This many optimizer steps.
    Steps(u64),
    /// This share of all optimizer steps, rounded up.
    Ratio(f64),
}

/// Which library multiplies matrices on the CPU. They round differently: a run that is to be repeated to the bit names one
/// (a run that resumes keeps what it began with).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kernels {
    /// The faster one for each shape, by a short trial at the start.
    #[default]
    Auto,
    /// libtorch's own choice (MKL).
    Torch,
    /// oneDNN.
    OneDnn,
}

impl Kernels {
    /// `auto`, `torch` or `onednn`.
    pub fn as_str(self) -> &'static str {
        match self {
            Kernels::Auto => "auto",
            Kernels::Torch => "torch",
            Kernels::OneDnn => "onednn",
        }
    }

    pub(super) fn backend(self) -> LinearBackend {
        match self {
            Kernels::Auto => LinearBackend::Auto,
            Kernels::Torch => LinearBackend::Torch,
            Kernels::OneDnn => LinearBackend::OneDnn,
        }
    }
}

impl std::str::FromStr for Kernels {
    type Err = TrainError;

    fn from_str(text: &str) -> Result<Self, TrainError> {
        match text {
            "auto" => Ok(Kernels::Auto),
            "torch" => Ok(Kernels::Torch),
            "onednn" => Ok(Kernels::OneDnn),
            _ => Err(TrainError::Setting {
                name: "kernels",
                found: text.to_owned(),
                cure: "take auto, torch or onednn".into(),
            }),
        }
    }
}

/// How rows are put into batches.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Batching {
    /// Shuffled anew for every epoch, each batch padded to its longest row.
    #[default]
    Shuffled,
    /// As `Shuffled`, but rows of similar length share a batch: less padding, somewhat less random.
    Bucketed,
    /// Exactly these: `[epoch][batch][row]`. The number of epochs is the length of the list.
    Given(Vec<Vec<Vec<usize>>>),
}

impl Batching {
    /// Reads [`Batching::Given`] from JSON, `[epoch][batch][row]`.
    ///
    /// # Errors
    /// When the file cannot be read or holds something else.
    pub fn read(path: &Path) -> Result<Self, TrainError> {
        let bytes = read_file(path)?;
        serde_json::from_slice(&bytes).map(Batching::Given).map_err(|error| TrainError::Setting {
            name: "batches",
            found: format!("in {} cannot be read ({error})", path.display()),
            cure: "write JSON such as [[[0, 5], [3]]]: epochs of batches of row numbers".into(),
        })
    }
}

/// Settings of a training run. [`TrainSettings::check`] says whether they make sense.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainSettings {
    /// Passes over the training rows.
    pub epochs: u64,
    /// Ends earlier, after so many optimizer steps; the schedule then ends there too.
    pub maximum_steps: Option<u64>,
    /// Rows in a batch.
    pub batch_size: usize,
    /// Batches in an optimizer step. The gradient is that of one large batch.
    pub accumulation: usize,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// AdamW's decoupled weight decay, on all trained parameters.
    pub weight_decay: f64,
    /// AdamW's β₁ and β₂.
    pub betas: (f64, f64),
    /// AdamW's ε.
    pub epsilon: f64,
    /// How the learning rate goes on after the warm-up.
    pub schedule: Schedule,
    /// How it gets there.
    pub warm_up: WarmUp,
    /// Largest norm of the gradient; `None` for no clipping.
    pub clip_norm: Option<f64>,
    /// Share of the adapters' input that is dropped.
    pub dropout: f64,
    /// Decides the initial adapters, the order of rows, and dropout.
    pub seed: u64,
    /// Where to compute.
    pub device: Device,
    /// CPU threads; `None` for libtorch's own choice. The bits of a result hold for one number of threads.
    pub threads: Option<usize>,
    /// Which library computes the linear layers on the CPU.
    pub kernels: Kernels,
    /// How rows are put into batches.
    pub batching: Batching,
    /// For an export without a head: which vector the new head reads.
    pub head: Option<HeadPooling>,
    /// Tokens (with padding) in a batch of the evaluation.
    pub evaluation_tokens: usize,
    /// Also evaluates before the first step.
    pub evaluate_before: bool,
    /// Ends after so many epochs without a better metric.
    pub patience: Option<u64>,
    /// Writes a line to `metrics.jsonl` every so many optimizer steps.
    pub log_every: u64,
    /// Saves the state every so many optimizer steps (and after every epoch).
    pub save_every: u64,
    /// Ignores a saved state and starts anew.
    pub restart: bool,
}

impl Default for TrainSettings {
    fn default() -> Self {
        TrainSettings {
            epochs: 3,
            maximum_steps: None,
            batch_size: 32,
            accumulation: 1,
            learning_rate: 5e-4,
            weight_decay: 0.0,
            betas: (0.9, 0.999),
            epsilon: 1e-8,
            schedule: Schedule::Linear,
            warm_up: WarmUp::Ratio(0.06),
            clip_norm: Some(1.0),
            dropout: 0.0,
            seed: 0,
            device: Device::Auto,
            threads: None,
            kernels: Kernels::Auto,
            batching: Batching::Shuffled,
            head: None,
            evaluation_tokens: 4096,
            evaluate_before: false,
            patience: None,
            log_every: 10,
            save_every: 50,
            restart: false,
        }
    }
}

impl TrainSettings {
    /// Refuses settings that cannot be meant.
    pub fn check(&self) -> Result<(), TrainError> {
        let refuse = |name, found: String, cure: &str| Err(TrainError::Setting { name, found, cure: cure.into() });
        let share = |value: f64| (0.0..1.0).contains(&value);
        if self.epochs == 0 {
            return refuse("epochs", "0".into(), "take at least 1");
        }
        if self.maximum_steps == Some(0) {
            return refuse("maximum steps", "0".into(), "take at least 1, or leave it out");
        }
        if self.batch_size == 0 {
            return refuse("batch size", "0".into(), "take at least 1");
        }
        if self.accumulation == 0 {
            return refuse("accumulation", "0".into(), "take at least 1");
        }
        if !(self.learning_rate.is_finite() && self.learning_rate > 0.0) {
            return refuse("learning rate", self.learning_rate.to_string(), "take a number above 0, such as 5e-4");
        }
        if !(self.weight_decay.is_finite() && self.weight_decay >= 0.0) {
            return refuse("weight decay", self.weight_decay.to_string(), "take 0 or a small number such as 0.01");
        }
        if !share(self.betas.0) || !share(self.betas.1) {
            let found = format!("{} and {}", self.betas.0, self.betas.1);
            return refuse("betas", found, "take numbers from 0 to below 1, such as 0.9 and 0.999");
        }
        if !(self.epsilon.is_finite() && self.epsilon > 0.0) {
            return refuse("epsilon", self.epsilon.to_string(), "take a small number above 0, such as 1e-8");
        }
        if let WarmUp::Ratio(ratio) = self.warm_up
            && !(0.0..=1.0).contains(&ratio)
        {
            return refuse("warm-up ratio", ratio.to_string(), "take a number from 0 to 1, such as 0.06");
        }
        if let Some(norm) = self.clip_norm
            && !(norm.is_finite() && norm > 0.0)
        {
            return refuse("clip norm", norm.to_string(), "take a number above 0, or leave it out");
        }
        if !share(self.dropout) {
            return refuse("dropout", self.dropout.to_string(), "take a number from 0 to below 1");
        }
        if self.threads == Some(0) {
            return refuse("threads", "0".into(), "take at least 1, or leave it out");
        }
        if self.log_every == 0 || self.save_every == 0 {
            return refuse("interval of logging or saving", "0".into(), "take at least 1");
        }
        Ok(())
    }
}
