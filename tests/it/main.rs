//! The tests at the edges of the rooms, in one binary.

mod graph;
#[cfg(feature = "train")]
mod program;
mod python;
mod runtime;
mod tiny;
mod tokenization;
