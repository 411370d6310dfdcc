//! The tests at the edges of the rooms, in one binary.

mod cli;
mod dimension;
mod evaluation;
mod extraction;
mod graph;
#[cfg(feature = "train")]
mod language;
mod merge;
#[cfg(feature = "train")]
mod program;
mod python;
mod resuming;
mod runtime;
mod tiny;
mod tokenization;
