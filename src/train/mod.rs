//! The ONNX graph as a libtorch program, adapters, objectives, optimizer, the loop and its state. The only room that names `tch`.

mod device;
mod error;
mod evaluation;
mod fingerprint;
mod head;
mod input;
mod journal;
mod language;
mod learner;
mod lora;
mod objective;
mod operators;
mod optimizer;
mod order;
mod outcome;
mod parameters;
mod program;
mod run;
mod schedule;
mod spans;
mod state;
#[cfg(test)]
mod tests;

pub use crate::settings::{Batching, Kernels, Schedule, TrainSettings};
pub use device::{cuda_devices, libtorch_folder, open as open_device};
pub use error::TrainError;
pub use head::{HEAD_BIAS, HEAD_WEIGHT};
pub use input::{Rows, TrainInput, check_plan};
pub use lora::{AdapterSpec, LoraInit};
pub use operators::supported_operators;
pub use order::{all_batches, epoch_batches};
pub use outcome::{Best, Evaluation, TrainOutcome};
pub use program::{LinearBackend, LinearChoice, Precision, Program, ProgramOptions, Trainable, TrainableKind};
pub use run::{initial_adapter, logits, loss_and_gradient, train};
