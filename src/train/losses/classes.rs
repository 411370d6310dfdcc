//! Cross entropy over the classes of a row.

use tch::{Reduction, Tensor};

use super::super::error::TrainError;
use super::{Loss, select};

/// The class of every row.
#[derive(Debug)]
pub(super) struct CrossEntropy {
    classes: Vec<i64>,
}

impl CrossEntropy {
    /// `width` is the number of classes, where it is known.
    pub fn new(what: &'static str, classes: &[usize], width: Option<usize>) -> Result<Self, TrainError> {
        let outside = |class: usize| width.is_some_and(|width| class >= width);
        if let Some(row) = classes.iter().position(|&class| outside(class)) {
            return Err(TrainError::LabelDoesNotFit {
                what,
                row,
                found: format!("class {}", classes[row]),
                expected: format!("one of {} classes", width.unwrap_or_default()),
            });
        }
        Ok(CrossEntropy { classes: classes.iter().map(|&class| class as i64).collect() })
    }
}

impl Loss for CrossEntropy {
    fn total_weight(&self) -> u64 {
        self.classes.len() as u64
    }

    fn sum(&self, logits: &Tensor, rows: &[usize]) -> Result<Tensor, TrainError> {
        let targets = select(&self.classes, rows, logits.device())?;
        Ok(logits.f_cross_entropy_loss::<Tensor>(&targets, None, Reduction::Sum, -100, 0.0)?)
    }
}
