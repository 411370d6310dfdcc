//! What is trained, one file per method: what is inserted beside weights, which tensors of the base are trained as a whole, and
//! what happens after every step.

mod bitfit;
mod full;
mod lora;
mod whole;

use std::collections::HashSet;
use std::fmt;

use super::error::TrainError;
use super::input::{SavedName, TrainInput};
use super::lora::AdapterSpec;
use super::parameters::Parameters;
use crate::settings::{Method as Kind, TrainSettings};

/// Tensors of the base that are trained as a whole.
#[derive(Debug, Default)]
pub(super) struct Whole {
    pub tensors: Vec<SavedName>,
    /// Names of checkpoint tensors that the method would train and the export does not hold.
    pub missing: Vec<String>,
}

/// A way to train.
pub(super) trait Method: fmt::Debug {
    /// Factors that are inserted beside weights.
    fn adapters(&self, _input: &TrainInput<'_>, _settings: &TrainSettings) -> Result<Vec<AdapterSpec>, TrainError> {
        Ok(Vec::new())
    }

    /// Tensors of the base that are trained as a whole, beside those of the head, which are given by name.
    fn whole(&self, _input: &TrainInput<'_>, _head: &HashSet<String>) -> Result<Whole, TrainError> {
        Ok(Whole::default())
    }

    /// Called after every step of the optimizer, with the number of steps taken.
    fn after_step(&mut self, _step: u64, _parameters: &mut Parameters) -> Result<(), TrainError> {
        Ok(())
    }
}

/// The implementation of a method.
pub(super) fn method(kind: Kind) -> Box<dyn Method> {
    match kind {
        Kind::Lora => Box::new(lora::Lora),
        Kind::Bitfit => Box::new(bitfit::BitFit),
        Kind::Full => Box::new(full::Full),
    }
}
