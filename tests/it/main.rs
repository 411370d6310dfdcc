//! The tests at the edges of the rooms, in one binary.

mod dimension;
mod graph;
mod python;
mod extraction;
mod runtime;
mod tiny;
mod tokenization;
