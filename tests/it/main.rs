//! The tests at the edges of the rooms, in one binary.

mod cli;
mod dimension;
mod evaluation;
mod extraction;
#[cfg(feature = "train")]
mod families;
mod graph;
mod merge;
#[cfg(feature = "train")]
mod program;
mod python;
mod resuming;
mod runtime;
#[cfg(feature = "train")]
mod span_training;
mod spans;
mod tiny;
mod tokenization;
