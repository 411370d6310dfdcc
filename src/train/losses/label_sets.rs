//! Binary cross entropy over the labels of a row: the mean over the labels, as transformers computes it for
//! `multi_label_classification`; with label weights, rows with a label are weighted by its weight (`pos_weight`).

use tch::{Reduction, Tensor};

use super::super::error::TrainError;
use super::{Loss, tensor_of};

/// For every row, which labels it has.
#[derive(Debug)]
pub(super) struct BinaryCrossEntropy {
    rows: Vec<Vec<f32>>,
    weights: Option<Vec<f64>>,
}

impl BinaryCrossEntropy {
    /// Checks the label sets against `width`, the number of labels, where known.
    pub fn new(
        what: &'static str,
        rows: &[Vec<bool>],
        width: Option<usize>,
        weights: Option<&[f64]>,
    ) -> Result<Self, TrainError> {
        let width = width.or(rows.first().map(Vec::len)).unwrap_or_default();
        if let Some(row) = rows.iter().position(|row| row.len() != width) {
            return Err(TrainError::LabelDoesNotFit {
                what,
                row,
                found: format!("a set of {} labels", rows[row].len()),
                expected: format!("one of {width} labels"),
            });
        }
        let numbers = |row: &Vec<bool>| row.iter().map(|&has| if has { 1.0 } else { 0.0 }).collect();
        Ok(BinaryCrossEntropy { rows: rows.iter().map(numbers).collect(), weights: weights.map(<[f64]>::to_vec) })
    }
}

impl Loss for BinaryCrossEntropy {
    fn total_weight(&self) -> f64 {
        self.rows.len() as f64
    }

    fn sum(&self, logits: &Tensor, rows: &[usize]) -> Result<Tensor, TrainError> {
        let (_, labels) = logits.size2()?;
        let targets: Vec<f32> = rows.iter().filter_map(|&row| self.rows.get(row)).flatten().copied().collect();
        let targets = Tensor::f_from_slice(&targets)?.f_reshape([-1, labels])?.f_to_device(logits.device())?;
        let weights = tensor_of(self.weights.as_deref(), logits)?;
        let sum = logits.f_binary_cross_entropy_with_logits(&targets, None, weights, Reduction::Sum)?;
        Ok(sum.f_div_scalar(labels.max(1) as f64)?)
    }
}
