//! All parameters of the base.

use std::collections::HashSet;

use super::super::error::TrainError;
use super::super::input::TrainInput;
use super::{Method, Whole, whole};

/// Full fine-tuning.
#[derive(Debug)]
pub(super) struct Full;

impl Method for Full {
    fn whole(&self, input: &TrainInput<'_>, head: &HashSet<String>) -> Result<Whole, TrainError> {
        whole::tensors(input, head, |_| true)
    }
}
