//! The inner loops of the search, by instruction set, each beside a plain loop that gives the same results.

pub(super) mod fetch;
pub(super) mod int12_dot;
pub(super) mod int8_dot;
pub(super) mod isa;
pub(super) mod multiversion;
pub(super) mod projection_gemm;
