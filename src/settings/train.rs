//! `[train]`: the optimizer and its schedule, batches, evaluation, saving.

use std::fmt;
use std::path::Path;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::ClassWeights;
use crate::onnx::HeadPooling;
use crate::runtime::Device;
use crate::settings_value::{SettingError, at_least, number, word};

/// How the learning rate changes after the warm-up. The values are those of transformers' `get_*_schedule*` functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Linear decay to zero at the last step.
    #[default]
    Linear,
    /// Half a cosine, down to zero at the last step.
    Cosine,
    /// Constant after the warm-up.
    Constant,
}

impl Schedule {
    /// Name in a configuration: `linear`, `cosine` or `constant`.
    pub fn as_str(self) -> &'static str {
        match self {
            Schedule::Linear => "linear",
            Schedule::Cosine => "cosine",
            Schedule::Constant => "constant",
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// Which library multiplies matrices on the CPU. Their rounding differs: a run that must be reproducible bit by bit names one
/// (a resumed run keeps the one it began with).
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
    /// Name in a configuration: `auto`, `torch` or `onednn`.
    pub fn as_str(self) -> &'static str {
        match self {
            Kernels::Auto => "auto",
            Kernels::Torch => "torch",
            Kernels::OneDnn => "onednn",
        }
    }
}

impl fmt::Display for Kernels {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// The type in which frozen linear layers are multiplied while training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// bfloat16 where a short trial at the start finds it clearly faster, else as the export.
    Auto,
    /// As the export.
    #[default]
    Float32,
    /// Inputs and weights are rounded to bfloat16 and the products are summed in float32. Everything else keeps its type: adapters,
    /// head, optimizer.
    Bfloat16,
}

impl Precision {
    /// Name in a configuration: `auto`, `float32` or `bfloat16`.
    pub fn as_str(self) -> &'static str {
        match self {
            Precision::Auto => "auto",
            Precision::Float32 => "float32",
            Precision::Bfloat16 => "bfloat16",
        }
    }

    /// Whether this is the default, which is left out when settings are written.
    fn is_usual(&self) -> bool {
        *self == Precision::Float32
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// How rows are put into batches.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Batching {
    /// Shuffled for every epoch, each batch padded to its longest row.
    #[default]
    Shuffled,
    /// As `Shuffled`, but rows of similar length share a batch: less padding, somewhat less random.
    Bucketed,
    /// Exactly these batches: `[epoch][batch][row]`. The number of epochs is the length of the list.
    #[serde(skip_deserializing)]
    Given(Vec<Vec<Vec<usize>>>),
}

impl Batching {
    /// [`Batching::Given`] from JSON, `[epoch][batch][row]`. `file` is the path for errors.
    ///
    /// # Errors
    /// If the JSON has another form.
    pub fn from_json(json: &[u8], file: &Path) -> Result<Self, SettingError> {
        serde_json::from_slice(json).map(Batching::Given).map_err(|error| {
            let cure = "write JSON such as [[[0, 5], [3]]]: epochs of batches of row numbers";
            SettingError::new("batches", format!("in {} cannot be read ({error})", file.display()), cure)
        })
    }
}

impl fmt::Display for Batching {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Batching::Shuffled => "shuffled",
            Batching::Bucketed => "bucketed",
            Batching::Given(_) => "given",
        })
    }
}

const BETAS: (f64, f64) = (0.9, 0.999);
const EPSILON: f64 = 1e-8;

fn are_usual(betas: &(f64, f64)) -> bool {
    *betas == BETAS
}

fn is_usual(epsilon: &f64) -> bool {
    *epsilon == EPSILON
}

/// Which parameters of the model are trained, besides its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Low-rank factors at the planned ranks beside the planned weights (Hu et al. 2021).
    #[default]
    Lora,
    /// All biases (Ben Zaken, Goldberg and Ravfogel 2022).
    Bitfit,
    /// All parameters.
    Full,
}

impl Method {
    /// Name in a configuration: `lora`, `bitfit` or `full`.
    pub fn as_str(self) -> &'static str {
        match self {
            Method::Lora => "lora",
            Method::Bitfit => "bitfit",
            Method::Full => "full",
        }
    }

    /// Whether the method trains at the ranks of a plan.
    pub fn takes_plan(self) -> bool {
        matches!(self, Method::Lora)
    }

    /// Whether this is the default, which is left out when settings are written.
    fn is_usual(&self) -> bool {
        *self == Method::Lora
    }
}

impl fmt::Display for Method {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// How training goes. [`TrainSettings::check`] says whether the values make sense.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "Training")]
pub struct TrainSettings {
    /// What is trained beside the head: lora (at the ranks of a plan), bitfit (all biases) or full (all parameters)
    #[arg(long, value_name = "METHOD", default_value_t, value_parser = word::<Method>)]
    #[serde(skip_serializing_if = "Method::is_usual")]
    pub method: Method,

    /// Passes over the rows
    #[arg(long, value_name = "N", default_value_t = TrainSettings::default().epochs)]
    pub epochs: u64,

    /// Stop after so many steps, if the epochs have more
    // The schedule ends at that step too.
    #[arg(long, value_name = "N")]
    pub maximum_steps: Option<u64>,

    /// Rows in a batch
    #[arg(long, value_name = "N", default_value_t = TrainSettings::default().batch_size)]
    pub batch_size: usize,

    /// Batches in a step
    // The gradient is that of one large batch of all of them.
    #[arg(long, value_name = "N", default_value_t = TrainSettings::default().accumulation)]
    pub accumulation: usize,

    /// Highest learning rate
    #[arg(long, value_name = "RATE", default_value_t = TrainSettings::default().learning_rate)]
    pub learning_rate: f64,

    /// After the warm-up: linear, cosine or constant
    #[arg(long, value_name = "SCHEDULE", default_value_t, value_parser = word::<Schedule>)]
    pub schedule: Schedule,

    /// Share of the steps in which the learning rate rises [default: 0.06]
    #[arg(long, value_name = "SHARE", conflicts_with = "warmup_steps")]
    pub warmup_ratio: Option<f64>,

    /// Steps in which the learning rate rises
    #[arg(long, value_name = "N")]
    pub warmup_steps: Option<u64>,

    /// AdamW's weight decay
    #[arg(long, value_name = "DECAY", default_value_t = TrainSettings::default().weight_decay)]
    pub weight_decay: f64,

    /// Largest norm of the gradient; 0 for no clipping
    #[arg(long, value_name = "NORM", default_value_t = TrainSettings::default().clip_norm)]
    pub clip_norm: f64,

    /// Share of the adapters' input that is dropped
    #[arg(long, value_name = "SHARE", default_value_t = TrainSettings::default().dropout)]
    pub dropout: f64,

    /// Seed of the initial adapters, the order of rows, and dropout
    #[arg(long, value_name = "SEED", default_value_t = TrainSettings::default().seed)]
    pub seed: u64,

    /// How rows are put into batches: shuffled, or bucketed (similar lengths together)
    #[arg(long, value_name = "HOW", default_value_t, value_parser = word::<Batching>)]
    pub batching: Batching,

    /// For an export without a head: what the new head reads: first, mean or last token; for words with labels tokens (each by itself)
    #[arg(long, value_name = "POOLING", value_parser = word::<HeadPooling>)]
    pub head: Option<HeadPooling>,

    /// Weight of every class in the loss; for several labels per text, of the rows with a label against those without:
    /// balanced, or one for each [default: all the same]
    #[arg(long, value_name = "WEIGHTS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_weights: Option<ClassWeights>,

    /// For several labels per text: choose a threshold for every label, for the best F1 on this share of the training rows, which
    /// is not trained on [default: none, and every threshold is 0.5]
    #[arg(long, value_name = "SHARE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold_rows: Option<f64>,

    /// Library of the linear layers: auto, torch or onednn
    #[arg(long, value_name = "LIBRARY", default_value_t, value_parser = word::<Kernels>)]
    pub linear: Kernels,

    /// Type of the products with frozen weights: float32, bfloat16, or auto (bfloat16 where it is faster)
    #[arg(long, value_name = "TYPE", default_value_t, value_parser = word::<Precision>)]
    #[serde(skip_serializing_if = "Precision::is_usual")]
    pub precision: Precision,

    /// Tokens per batch of the evaluation, padding included
    #[arg(skip = TrainSettings::default().evaluation_tokens)]
    pub evaluation_tokens: usize,

    /// Evaluates before the first step too
    #[arg(skip)]
    pub evaluate_before: bool,

    /// Stop after so many epochs without a better metric
    #[arg(long, value_name = "EPOCHS")]
    pub patience: Option<u64>,

    /// Write a line to metrics.jsonl every so many steps
    #[arg(long, value_name = "STEPS", default_value_t = TrainSettings::default().log_every)]
    pub log_every: u64,

    /// Save the state every so many steps
    // It is also saved after every epoch.
    #[arg(long, value_name = "STEPS", default_value_t = TrainSettings::default().save_every)]
    pub save_every: u64,

    /// AdamW's β₁ and β₂.
    #[serde(skip_deserializing, skip_serializing_if = "are_usual")]
    #[arg(skip = TrainSettings::default().betas)]
    pub betas: (f64, f64),

    /// AdamW's ε.
    #[serde(skip_deserializing, skip_serializing_if = "is_usual")]
    #[arg(skip = TrainSettings::default().epsilon)]
    pub epsilon: f64,

    /// Where to compute.
    #[serde(skip)]
    #[arg(skip)]
    pub device: Device,

    /// CPU threads; `None` for one per core. The result is the same with any number.
    #[serde(skip)]
    #[arg(skip)]
    pub threads: Option<usize>,

    /// Ignores a saved state and starts anew.
    #[serde(skip)]
    #[arg(skip)]
    pub restart: bool,
}

impl Default for TrainSettings {
    fn default() -> Self {
        TrainSettings {
            method: Method::Lora,
            epochs: 3,
            maximum_steps: None,
            batch_size: 32,
            accumulation: 1,
            learning_rate: 5e-4,
            schedule: Schedule::Linear,
            warmup_ratio: None,
            warmup_steps: None,
            weight_decay: 0.0,
            clip_norm: 1.0,
            dropout: 0.0,
            seed: 0,
            batching: Batching::Shuffled,
            head: None,
            class_weights: None,
            threshold_rows: None,
            linear: Kernels::Auto,
            precision: Precision::Float32,
            evaluation_tokens: 4096,
            evaluate_before: false,
            patience: None,
            log_every: 10,
            save_every: 50,
            betas: BETAS,
            epsilon: EPSILON,
            device: Device::Auto,
            threads: None,
            restart: false,
        }
    }
}

impl TrainSettings {
    /// Default share of the steps in which the learning rate rises.
    const WARMUP_RATIO: f64 = 0.06;

    /// Number of optimizer steps, of `total`, in which the learning rate rises.
    pub fn warmup(&self, total: u64) -> u64 {
        let ratio = self.warmup_ratio.unwrap_or(Self::WARMUP_RATIO);
        self.warmup_steps.unwrap_or_else(|| (ratio * total as f64).ceil() as u64)
    }

    /// Description of the warm-up's length.
    pub fn warmup_in_words(&self) -> String {
        match self.warmup_steps {
            Some(steps) => format!("{steps} steps"),
            None => format!("{} of all steps", self.warmup_ratio.unwrap_or(Self::WARMUP_RATIO)),
        }
    }

    /// Largest norm of the gradient; `None` for no clipping.
    pub fn largest_norm(&self) -> Option<f64> {
        (self.clip_norm > 0.0).then_some(self.clip_norm)
    }

    /// Rejects values that make no sense.
    ///
    /// # Errors
    /// The first such value, with its key and what to do.
    pub fn check(&self) -> Result<(), SettingError> {
        for (key, value) in [
            ("epochs", Some(self.epochs)),
            ("maximum_steps", self.maximum_steps),
            ("batch_size", Some(self.batch_size as u64)),
            ("accumulation", Some(self.accumulation as u64)),
            ("evaluation_tokens", Some(self.evaluation_tokens as u64)),
            ("patience", self.patience),
            ("log_every", Some(self.log_every)),
            ("save_every", Some(self.save_every)),
            ("threads", self.threads.map(|threads| threads as u64)),
        ] {
            at_least(key, value, 1)?;
        }
        number("learning_rate", self.learning_rate, |v| v > 0.0, "give a number above 0, such as 5e-4")?;
        number("weight_decay", self.weight_decay, |v| v >= 0.0, "give 0 or more")?;
        number("clip_norm", self.clip_norm, |v| v >= 0.0, "give a number above 0, or 0 for no clipping")?;
        let share = |value: f64| (0.0..1.0).contains(&value);
        number("dropout", self.dropout, share, "give a share from 0 to below 1")?;
        for beta in [self.betas.0, self.betas.1] {
            number("betas", beta, share, "give numbers from 0 to below 1, such as 0.9 and 0.999")?;
        }
        number("epsilon", self.epsilon, |v| v > 0.0, "give a small number above 0, such as 1e-8")?;
        if let Some(rows) = self.threshold_rows {
            number("threshold_rows", rows, |v| 0.0 < v && v < 1.0, "give a share between 0 and 1, such as 0.1")?;
        }
        if let Some(ratio) = self.warmup_ratio {
            number("warmup_ratio", ratio, |v| (0.0..=1.0).contains(&v), "give a share from 0 to 1")?;
            if self.warmup_steps.is_some() {
                let found = "and `warmup_ratio` are both given".into();
                return Err(SettingError::new("warmup_steps", found, "keep one of them"));
            }
        }
        Ok(())
    }
}
