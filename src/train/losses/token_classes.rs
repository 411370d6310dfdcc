//! Cross entropy over the classes of the tokens that count, averaged over these as in transformers' models for token
//! classification; with class weights, a weighted mean.

use tch::{Reduction, Tensor};

use super::super::error::TrainError;
use super::{Loss, tensor_of};

/// Target that libtorch's cross entropy ignores (its `ignore_index`).
const LEFT_OUT: i64 = -100;

/// For every row and token the index of its class, or [`LEFT_OUT`].
#[derive(Debug)]
pub(super) struct TokenClasses {
    classes: Vec<Vec<i64>>,
    weights: Option<Vec<f64>>,
}

impl TokenClasses {
    /// Checks the classes against `width`, the number of classes, where known.
    pub fn new(
        what: &'static str,
        rows: &[Vec<Option<usize>>],
        width: Option<usize>,
        weights: Option<&[f64]>,
    ) -> Result<Self, TrainError> {
        let outside = |class: &usize| width.is_some_and(|width| *class >= width);
        for (row, classes) in rows.iter().enumerate() {
            if let Some(class) = classes.iter().flatten().find(|class| outside(class)) {
                return Err(TrainError::LabelDoesNotFit {
                    what,
                    row,
                    found: format!("class {class}"),
                    expected: format!("one of {} classes", width.unwrap_or_default()),
                });
            }
        }
        let class = |class: &Option<usize>| class.map_or(LEFT_OUT, |class| class as i64);
        let classes = rows.iter().map(|row| row.iter().map(class).collect()).collect();
        Ok(TokenClasses { classes, weights: weights.map(<[f64]>::to_vec) })
    }

    /// Sum of the class weights of a row's tokens; without weights, the number of tokens that count.
    fn weight_of(&self, row: &[i64]) -> f64 {
        let counted = row.iter().filter_map(|&class| usize::try_from(class).ok());
        match &self.weights {
            None => counted.count() as f64,
            Some(weights) => counted.filter_map(|class| weights.get(class)).sum(),
        }
    }
}

impl Loss for TokenClasses {
    fn weight(&self, rows: &[usize]) -> f64 {
        rows.iter().filter_map(|&row| self.classes.get(row)).map(|row| self.weight_of(row)).sum()
    }

    fn total_weight(&self) -> f64 {
        self.classes.iter().map(|row| self.weight_of(row)).sum()
    }

    fn sum(&self, logits: &Tensor, rows: &[usize]) -> Result<Tensor, TrainError> {
        let (_, length, labels) = logits.size3()?;
        let mut targets = Vec::with_capacity(rows.len() * length as usize);
        for &row in rows {
            let end = targets.len() + length as usize;
            targets.extend_from_slice(self.classes.get(row).map_or(&[], Vec::as_slice));
            targets.resize(end, LEFT_OUT);
        }
        let targets = Tensor::f_from_slice(&targets)?.f_to_device(logits.device())?;
        let logits = logits.f_reshape([-1, labels])?;
        let weights = tensor_of(self.weights.as_deref(), &logits)?;
        Ok(logits.f_cross_entropy_loss(&targets, weights, Reduction::Sum, LEFT_OUT, 0.0)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_that_do_not_count_and_padding_are_left_out() {
        let rows = [vec![None, Some(1), Some(0)], vec![Some(1)]];
        let loss = TokenClasses::new("training", &rows, Some(2), None).unwrap();
        // Two rows of three tokens with two classes; the last two tokens of the second row are padding.
        let values: [f32; 12] = [9.0, -9.0, 0.5, 1.5, 2.0, 0.0, 0.0, 1.0, 7.0, 7.0, -7.0, 7.0];
        let logits = Tensor::from_slice(&values).view([2, 3, 2]);
        let found = f64::try_from(loss.sum(&logits, &[0, 1]).unwrap()).unwrap();
        let term = |own: f64, other: f64| (1.0 + (other - own).exp()).ln();
        let expected = term(1.5, 0.5) + term(2.0, 0.0) + term(1.0, 0.0);
        assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        assert_eq!((loss.weight(&[0]), loss.weight(&[1]), loss.total_weight()), (2.0, 1.0, 3.0));
        assert!(TokenClasses::new("training", &[vec![Some(2)]], Some(2), None).is_err());
        let loss = TokenClasses::new("training", &rows, Some(2), Some(&[4.0, 0.5])).unwrap();
        let found = f64::try_from(loss.sum(&logits, &[0, 1]).unwrap()).unwrap();
        let expected = 0.5 * term(1.5, 0.5) + 4.0 * term(2.0, 0.0) + 0.5 * term(1.0, 0.0);
        assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        assert_eq!((loss.weight(&[0]), loss.weight(&[1]), loss.total_weight()), (4.5, 0.5, 5.0));
    }
}
