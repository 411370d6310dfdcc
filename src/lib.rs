//! gelora gives every layer of a transformer the LoRA rank its data asks for.
//!
//! Data flows in one direction: [`onnx`] → [`runtime`] → [`activations`] → [`neighbours`] → [`dimension`] → [`rank`] →
//! [`adapter`] → `train` → [`merge`] → [`evaluate`]. [`workflow`] holds the steps that a user takes, with [`settings`]; the
//! command line is [`cli`]. A lower room never imports a higher one.

pub mod activations;
pub mod adapter;
pub mod checkpoint;
pub mod cli;
pub mod dataset;
pub mod dimension;
pub mod evaluate;
pub mod files;
pub mod merge;
pub mod neighbours;
pub mod onnx;
pub mod progress;
pub mod rank;
pub mod report;
pub mod runtime;
pub mod settings;
#[cfg(test)]
mod testing;
#[cfg(feature = "train")]
pub mod train;
pub mod workflow;
