//! The ONNX graph as a libtorch program, adapters, losses, optimizer, the loop and its state. The only room that names `tch`.

mod body;
mod device;
mod dropout;
mod error;
mod evaluation;
mod fingerprint;
mod head;
mod input;
mod journal;
mod learner;
mod lora;
mod losses;
mod methods;
mod once;
mod operators;
mod optimizer;
mod order;
mod outcome;
mod parameters;
mod pieces;
mod precision;
mod program;
mod rows;
mod run;
mod schedule;
mod state;
#[cfg(test)]
mod tests;
mod workers;

pub use crate::settings::{Batching, Kernels, Schedule, TrainSettings};
pub use device::{cuda_devices, libtorch_folder, open as open_device};
pub use error::TrainError;
pub use head::{HEAD_BIAS, HEAD_WEIGHT};
pub use input::{TrainInput, check_new_head, check_plan};
pub use lora::{AdapterSpec, LoraInit};
pub use losses::check_class_weights;
pub use once::{initial_adapter, logits, loss_and_gradient};
pub use operators::supported_operators;
pub use order::{all_batches, epoch_batches};
pub use outcome::{Best, Evaluation, TrainOutcome};
pub use program::{LinearBackend, LinearChoice, Precision, Program, ProgramOptions, Trainable, TrainableKind};
pub use rows::LabelledRows;
pub use run::train;
