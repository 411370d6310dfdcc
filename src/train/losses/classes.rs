//! Cross entropy over the classes of a row; with class weights, the mean is weighted by the weights of the rows' classes.

use tch::{Reduction, Tensor};

use super::super::error::TrainError;
use super::{Loss, select, tensor_of};

/// The class of every row.
#[derive(Debug)]
pub(super) struct CrossEntropy {
    classes: Vec<i64>,
    weights: Option<Vec<f64>>,
}

impl CrossEntropy {
    /// Checks the classes against `width`, the number of classes, where known.
    pub fn new(
        what: &'static str,
        classes: &[usize],
        width: Option<usize>,
        weights: Option<&[f64]>,
    ) -> Result<Self, TrainError> {
        let outside = |class: usize| width.is_some_and(|width| class >= width);
        if let Some(row) = classes.iter().position(|&class| outside(class)) {
            return Err(TrainError::LabelDoesNotFit {
                what,
                row,
                found: format!("class {}", classes[row]),
                expected: format!("one of {} classes", width.unwrap_or_default()),
            });
        }
        let weights = weights.map(<[f64]>::to_vec);
        Ok(CrossEntropy { classes: classes.iter().map(|&class| class as i64).collect(), weights })
    }

    fn weight_of(&self, class: i64) -> f64 {
        let weight = |weights: &Vec<f64>| usize::try_from(class).ok().and_then(|class| weights.get(class).copied());
        self.weights.as_ref().and_then(weight).unwrap_or(1.0)
    }
}

impl Loss for CrossEntropy {
    fn weight(&self, rows: &[usize]) -> f64 {
        rows.iter().filter_map(|&row| self.classes.get(row)).map(|&class| self.weight_of(class)).sum()
    }

    fn total_weight(&self) -> f64 {
        self.classes.iter().map(|&class| self.weight_of(class)).sum()
    }

    fn sum(&self, logits: &Tensor, rows: &[usize]) -> Result<Tensor, TrainError> {
        let targets = select(&self.classes, rows, logits.device())?;
        let weights = tensor_of(self.weights.as_deref(), logits)?;
        Ok(logits.f_cross_entropy_loss(&targets, weights, Reduction::Sum, -100, 0.0)?)
    }
}
