//! The tests at the edges of the rooms, in one binary.

mod evaluation;
mod cli;
mod dimension;
mod extraction;
mod graph;
mod merge;
#[cfg(feature = "train")]
mod program;
mod python;
mod runtime;
mod tiny;
mod tokenization;
