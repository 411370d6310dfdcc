//! The ONNX graph as a libtorch program, adapters, objectives, optimizer, the loop and its state. The only room that names `tch`.

mod error;
mod lora;
mod operators;
mod program;

pub use error::TrainError;
pub use lora::{AdapterSpec, LoraInit};
pub use program::{LinearBackend, LinearChoice, Program, ProgramOptions, Trainable, TrainableKind};
