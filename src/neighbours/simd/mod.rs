//! The inner loops of the search, one file per instruction set with the plain loop beside it.

pub(super) mod int12_dot;
pub(super) mod int8_dot;
pub(super) mod multiversion;
pub(super) mod projection_gemm;
