//! The next token: the logits at a token predict the one after it, and what does not count (padding, the first token of a row,
//! everything but the output of an instruction) is left out of sum and mean.

use tch::{Kind, Reduction, Tensor};

use super::super::error::TrainError;
use super::Loss;
use crate::dataset::Encoding;

/// Target that libtorch's cross entropy ignores (its `ignore_index`).
const LEFT_OUT: i64 = -100;
/// Tokens whose logits are normalised at a time where no gradient is needed: the temporary copy stays small.
const CHUNK: i64 = 512;

/// For every row and token the id of the following token, or [`LEFT_OUT`].
#[derive(Debug)]
pub(super) struct NextToken {
    next: Vec<Vec<i64>>,
    weights: Vec<u64>,
}

impl NextToken {
    /// From rows with, for each of their tokens, whether it counts.
    pub fn new(encodings: &[Encoding], counted: &[Vec<bool>]) -> Self {
        let next = encodings.iter().zip(counted).map(|(encoding, counted)| {
            let behind = encoding.ids.iter().zip(counted).skip(1);
            let targets = behind.map(|(&id, &counts)| if counts { i64::from(id) } else { LEFT_OUT });
            targets.chain([LEFT_OUT]).collect()
        });
        let next: Vec<Vec<i64>> = next.collect();
        let count = |row: &Vec<i64>| row.iter().filter(|&&id| id != LEFT_OUT).count() as u64;
        NextToken { weights: next.iter().map(count).collect(), next }
    }
}

impl Loss for NextToken {
    fn weight(&self, rows: &[usize]) -> f64 {
        rows.iter().filter_map(|&row| self.weights.get(row)).sum::<u64>() as f64
    }

    fn total_weight(&self) -> f64 {
        self.weights.iter().sum::<u64>() as f64
    }

    /// Without gradients the logits are normalised chunk by chunk, so that they are held once and not twice.
    fn sum(&self, logits: &Tensor, rows: &[usize]) -> Result<Tensor, TrainError> {
        let (_, length, vocabulary) = logits.size3()?;
        let mut targets = Vec::with_capacity(rows.len() * length as usize);
        for &row in rows {
            let end = targets.len() + length as usize;
            targets.extend_from_slice(self.next.get(row).map_or(&[], Vec::as_slice));
            targets.resize(end, LEFT_OUT);
        }
        let targets = Tensor::f_from_slice(&targets)?.f_to_device(logits.device())?;
        let logits = logits.f_reshape([-1, vocabulary])?;
        if logits.requires_grad() {
            return cross_entropy(&logits, &targets);
        }
        let tokens = logits.size2()?.0;
        let mut sum = Tensor::f_zeros([0i64; 0], (Kind::Double, logits.device()))?;
        for start in (0..tokens).step_by(CHUNK as usize) {
            let count = CHUNK.min(tokens - start);
            let part = cross_entropy(&logits.f_narrow(0, start, count)?, &targets.f_narrow(0, start, count)?)?;
            sum = sum.f_add(&part.f_to_kind(Kind::Double)?)?;
        }
        Ok(sum)
    }
}

fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor, TrainError> {
    let logits = logits.f_to_kind(Kind::Float)?;
    Ok(logits.f_cross_entropy_loss::<Tensor>(targets, None, Reduction::Sum, LEFT_OUT, 0.0)?)
}
