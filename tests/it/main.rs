//! The tests at the edges of the rooms, in one binary.

mod extraction;
mod runtime;
mod tiny;
