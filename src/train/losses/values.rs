//! The squared error of a number.

use tch::{Reduction, Tensor};

use super::super::error::TrainError;
use super::{Loss, select};

/// The target value of every row.
#[derive(Debug)]
pub(super) struct SquaredError {
    values: Vec<f32>,
}

impl SquaredError {
    pub fn new(values: &[f32]) -> Self {
        SquaredError { values: values.to_vec() }
    }
}

impl Loss for SquaredError {
    fn total_weight(&self) -> f64 {
        self.values.len() as f64
    }

    fn sum(&self, logits: &Tensor, rows: &[usize]) -> Result<Tensor, TrainError> {
        let targets = select(&self.values, rows, logits.device())?;
        Ok(logits.f_select(1, 0)?.f_mse_loss(&targets, Reduction::Sum)?)
    }
}
