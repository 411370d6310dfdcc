//! The tests at the edges of the rooms, in one binary.

mod cli;
#[cfg(feature = "train")]
mod control;
mod dimension;
mod evaluation;
mod extraction;
#[cfg(feature = "train")]
mod families;
mod graph;
#[cfg(feature = "train")]
mod language;
mod merge;
#[cfg(feature = "train")]
mod operators;
mod plans;
#[cfg(feature = "train")]
mod program;
mod python;
mod resuming;
mod runtime;
#[cfg(feature = "train")]
mod span_training;
mod spans;
mod structure;
mod tiny;
mod tokenization;
