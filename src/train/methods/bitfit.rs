//! All biases of the base (Ben Zaken, Goldberg and Ravfogel 2022, "BitFit").

use std::collections::HashSet;

use super::super::error::TrainError;
use super::super::input::TrainInput;
use super::{Method, Whole, whole};

/// BitFit.
#[derive(Debug)]
pub(super) struct BitFit;

impl Method for BitFit {
    fn whole(&self, input: &TrainInput<'_>, head: &HashSet<String>) -> Result<Whole, TrainError> {
        whole::tensors(input, head, |name| name.ends_with(".bias"))
    }
}
