//! The tests at the edges of the rooms, in one binary.

mod runtime;
mod tiny;
