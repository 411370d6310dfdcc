//! The persistent-homology dimension in degree 0, from minimum spanning trees of samples of different size.
//!
//! Adams et al. (2020), *A fractal dimension for measures via persistent homology*; Schweinhart (2021). With
//! `E_α(n) = Σ length^α` over the edges of the minimum spanning tree of `n` points, `E_α(n) ~ c n^((d − α)/d)`, so a straight
//! line of slope `m` through `ln E` against `ln n` gives `d = α/(1 − m)`.

use ndarray::ArrayView2;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::Serialize;

use super::{DimensionError, MINIMUM_POINTS};
use crate::neighbours::{Scalar, spanning_tree_in_rows};
use crate::progress::{Observer, Silent};

/// Settings of the estimate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PersistentHomology {
    /// The exponent of the lengths, above 0.
    pub alpha: f64,
    /// Number of sample sizes.
    pub sizes: usize,
    /// Samples of every size but the largest, which is all points.
    pub samples: usize,
    /// Seed of the samples.
    pub seed: u64,
}

impl Default for PersistentHomology {
    fn default() -> Self {
        Self { alpha: 1.0, sizes: 9, samples: 5, seed: 0 }
    }
}

/// Total length of the trees at one sample size.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct TreeLength {
    /// Number of points of the sample.
    pub points: usize,
    /// `E_α`: the median over the samples.
    pub length: f64,
}

/// The estimate from the growth of the trees.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TreeEstimate {
    /// `α/(1 − m)`; `None` where the slope is 1 or more, which gives no dimension.
    pub dimension: Option<f64>,
    /// Standard error from the residuals of the line, with the slope's error propagated.
    pub standard_error: Option<f64>,
    /// Slope `m` of `ln E` against `ln n`.
    pub slope: f64,
    /// The points through which the line is fitted.
    pub lengths: Vec<TreeLength>,
}

impl PersistentHomology {
    /// The dimension of points `[points, columns]`: trees of log-spaced sizes from the larger of 50 and a twentieth of the
    /// points up to all of them, with several random samples each.
    ///
    /// # Errors
    /// Returns an error for fewer than 100 points, for NaN or infinite values, and if cancelled.
    pub fn estimate<T: Scalar>(
        &self,
        points: ArrayView2<'_, T>,
        observer: &dyn Observer,
    ) -> Result<TreeEstimate, DimensionError> {
        let rows: Vec<u32> = (0..points.nrows() as u32).collect();
        self.estimate_in_rows(points, &rows, observer)
    }

    /// Like [`PersistentHomology::estimate`], for some rows of a matrix `[rows, columns]`.
    ///
    /// # Errors
    /// As [`PersistentHomology::estimate`].
    pub fn estimate_in_rows<T: Scalar>(
        &self,
        points: ArrayView2<'_, T>,
        rows: &[u32],
        observer: &dyn Observer,
    ) -> Result<TreeEstimate, DimensionError> {
        let mut samples = Vec::new();
        for size in sizes(rows.len(), self.sizes) {
            let repetitions = if size == rows.len() { 1 } else { self.samples };
            for repetition in 0..repetitions {
                let mut random = ChaCha8Rng::seed_from_u64(self.seed);
                random.set_stream(repetition as u64 + ((size as u64) << 16));
                let mut order = rows.to_vec();
                let (sample, _) = order.partial_shuffle(&mut random, size);
                sample.sort_unstable();
                samples.push(sample.to_vec());
            }
        }
        self.of_samples(points, &samples, observer)
    }

    /// Like [`PersistentHomology::estimate`], for samples given as lists of row indices; samples of equal size are combined.
    ///
    /// # Errors
    /// As [`PersistentHomology::estimate`]; fewer than two different sizes are an error, too.
    pub fn of_samples<T: Scalar>(
        &self,
        points: ArrayView2<'_, T>,
        samples: &[Vec<u32>],
        observer: &dyn Observer,
    ) -> Result<TreeEstimate, DimensionError> {
        let mut found: Vec<(usize, Vec<f64>)> = Vec::new();
        for sample in samples {
            observer.check()?;
            let tree = spanning_tree_in_rows(points, sample, &Silent)?;
            let length: f64 = tree.iter().map(|edge| edge.length.powf(self.alpha)).sum();
            match found.iter_mut().find(|(size, _)| *size == sample.len()) {
                Some((_, lengths)) => lengths.push(length),
                None => found.push((sample.len(), vec![length])),
            }
        }
        if found.len() < 2 {
            return Err(DimensionError::TooFewSizes { points: points.nrows() });
        }
        let lengths: Vec<TreeLength> =
            found.into_iter().map(|(points, lengths)| TreeLength { points, length: median(lengths) }).collect();
        let (slope, slope_error) = line(&lengths);
        let rest = 1.0 - slope;
        let dimension = (rest > 0.0).then(|| self.alpha / rest);
        let standard_error = dimension.map(|dimension| dimension * slope_error / rest);
        Ok(TreeEstimate { dimension, standard_error, slope, lengths })
    }
}

/// Log-spaced sizes up to `rows`, without repetitions.
fn sizes(rows: usize, count: usize) -> Vec<usize> {
    let smallest = MINIMUM_POINTS.max(rows / 20).min(rows);
    let ratio = (rows as f64 / smallest as f64).ln();
    let mut sizes: Vec<usize> = (0..count)
        .map(|at| (smallest as f64 * (ratio * at as f64 / (count.max(2) - 1) as f64).exp()).round() as usize)
        .collect();
    sizes.dedup();
    sizes
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) { (values[middle - 1] + values[middle]) / 2.0 } else { values[middle] }
}

/// Least-squares slope of `ln length` against `ln points`, and its standard error.
fn line(lengths: &[TreeLength]) -> (f64, f64) {
    let count = lengths.len() as f64;
    let values: Vec<(f64, f64)> = lengths.iter().map(|l| ((l.points as f64).ln(), l.length.ln())).collect();
    let (mean_x, mean_y) = values.iter().fold((0.0, 0.0), |(x, y), value| (x + value.0 / count, y + value.1 / count));
    let squares: f64 = values.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    let slope = values.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum::<f64>() / squares;
    let residuals: f64 = values.iter().map(|(x, y)| (y - mean_y - slope * (x - mean_x)).powi(2)).sum();
    let error = if lengths.len() > 2 { (residuals / (count - 2.0) / squares).sqrt() } else { f64::NAN };
    (slope, error)
}
