//! The tests at the boundaries of the rooms, in one binary.

#[cfg(unix)]
mod boundaries;
mod cli;
#[cfg(feature = "train")]
mod control;
mod dimension;
mod edited_plans;
mod evaluation;
mod extraction;
#[cfg(feature = "train")]
mod families;
mod graph;
mod inputs;
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
mod stores;
mod structure;
#[path = "../../src/testing.rs"]
mod testing;
mod tiny;
mod tokenization;
