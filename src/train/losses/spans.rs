//! The ends of a span: the mean of the cross entropies of start and end, each over all positions of the batch, padding included.

use tch::{Reduction, Tensor};

use super::super::error::TrainError;
use super::{Loss, select};

/// Target that cross entropy ignores (its `ignore_index`).
const UNKNOWN: i64 = -100;

/// Positions of the first and the last token of every row's answer, as targets of cross entropy.
#[derive(Debug)]
pub(super) struct Ends {
    starts: Vec<i64>,
    ends: Vec<i64>,
}

impl Ends {
    pub fn new(places: &[Option<(usize, usize)>]) -> Self {
        let end = |place: Option<usize>| place.map_or(UNKNOWN, |place| place as i64);
        let ends = |place: &Option<(usize, usize)>| (end(place.map(|ends| ends.0)), end(place.map(|ends| ends.1)));
        let (starts, ends) = places.iter().map(ends).unzip();
        Ends { starts, ends }
    }
}

impl Loss for Ends {
    /// Number of rows whose answer has known positions: the sum leaves the others out.
    fn weight(&self, rows: &[usize]) -> f64 {
        rows.iter().filter(|&&row| self.starts[row] != UNKNOWN).count() as f64
    }

    fn total_weight(&self) -> f64 {
        self.starts.iter().filter(|&&start| start != UNKNOWN).count() as f64
    }

    fn sum(&self, logits: &Tensor, rows: &[usize]) -> Result<Tensor, TrainError> {
        let parts = logits.f_chunk(2, 1)?;
        let mut sum: Option<Tensor> = None;
        for (logits, targets) in parts.iter().zip([&self.starts, &self.ends]) {
            let targets = select(targets, rows, logits.device())?;
            let part = logits.f_cross_entropy_loss::<Tensor>(&targets, None, Reduction::Sum, UNKNOWN, 0.0)?;
            sum = Some(match sum {
                Some(sum) => sum.f_add(&part)?,
                None => part,
            });
        }
        let sum = sum.ok_or_else(|| TrainError::Shape {
            value: "start_logits, end_logits".into(),
            found: logits.size(),
            expected: "[rows, 2 × tokens]",
        })?;
        Ok(sum.f_div_scalar(2.0)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_places_count_for_nothing() {
        let ends = Ends::new(&[Some((1, 2)), None]);
        let logits = Tensor::from_slice(&[0.0f32, 1.0, 2.0, 3.0, 2.0, 1.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0]).view([2, 6]);
        let sum =
            |rows: &[usize]| f64::try_from(ends.sum(&logits.narrow(0, 0, rows.len() as i64), rows).unwrap()).unwrap();
        assert_eq!(sum(&[0, 1]), sum(&[0]));
        assert_eq!((ends.weight(&[0, 1]), ends.weight(&[1]), ends.total_weight()), (1.0, 0.0, 1.0));
    }
}
