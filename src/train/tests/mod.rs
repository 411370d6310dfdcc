//! Tests of training from outside. Expected numbers come from PyTorch 2.11 and transformers 5.23, computed once.

pub(crate) mod gradients;
mod mixed;
mod numbers;
mod operators;
mod order;
mod reference;
mod resume;
mod runs;
pub(crate) mod support;
