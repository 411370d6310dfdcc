//! The inner loops of the search, by instruction set, each with the plain loop that gives the same answers beside it.

pub(super) mod int12_dot;
pub(super) mod int8_dot;
pub(super) mod multiversion;
pub(super) mod projection_gemm;
