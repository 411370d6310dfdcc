//! Shift and scale that make single precision enough to tell most neighbours apart: values around 0, the largest near 1.

use rayon::prelude::*;

use super::{NeighbourError, Real};

/// `centred = value · prescale − mean) · rescale`; all scales are powers of two, so they round nothing.
pub(super) struct Centring {
    prescale: f64,
    rescale: f64,
    /// Column means in prescaled units.
    means: Vec<f64>,
    /// `prescale · rescale`: distances between centred points are distances between points times this.
    pub scale: f64,
}

/// Rows handled by one task.
const ROWS: usize = 256;

impl Centring {
    /// Looks at all values `[rows, columns]`; a NaN or an infinity is an error.
    pub fn of<T: Real>(values: &[T], columns: usize) -> Result<Self, NeighbourError> {
        let largest = values
            .par_chunks(ROWS * columns)
            .map(|chunk| chunk.iter().fold(0.0, |largest: f64, value| larger_or_nan(largest, value.to_f64().abs())))
            .reduce(|| 0.0, larger_or_nan);
        if !largest.is_finite() {
            return Err(first_non_finite(values, columns));
        }
        let prescale = inverse_power_of_two(largest);
        let means = column_means(values, columns, prescale);
        let spread = values
            .par_chunks(ROWS * columns)
            .map(|chunk| {
                let rows = chunk.chunks_exact(columns);
                rows.fold(0.0, |largest: f64, row| {
                    row.iter().zip(&means).fold(largest, |l, (v, m)| l.max((v.to_f64() * prescale - m).abs()))
                })
            })
            .reduce(|| 0.0, f64::max);
        let rescale = inverse_power_of_two(spread);
        // The product must stay in range too; then the values are a little smaller than they could be.
        let rescale = if prescale * rescale > 2f64.powi(1000) { 1.0 } else { rescale };
        Ok(Self { prescale, rescale, means, scale: prescale * rescale })
    }

    /// One row `[columns]`, centred and scaled.
    pub fn row<'a, T: Real>(&'a self, row: &'a [T]) -> impl Iterator<Item = f64> + 'a {
        row.iter().zip(&self.means).map(|(value, mean)| (value.to_f64() * self.prescale - mean) * self.rescale)
    }
}

/// A maximum that remembers NaN.
fn larger_or_nan(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

/// A power of two that brings `largest` to between 1 and 2, within ±2^1000.
fn inverse_power_of_two(largest: f64) -> f64 {
    if largest == 0.0 { 1.0 } else { 2f64.powi(-(largest.log2().floor().clamp(-1000.0, 1000.0) as i32)) }
}

fn column_means<T: Real>(values: &[T], columns: usize, prescale: f64) -> Vec<f64> {
    let add = |mut sums: Vec<f64>, others: &[f64]| {
        sums.iter_mut().zip(others).for_each(|(sum, other)| *sum += other);
        sums
    };
    // Partial sums are collected in order, so the mean does not depend on the number of threads.
    let partial: Vec<Vec<f64>> = values
        .par_chunks(ROWS * columns)
        .map(|chunk| {
            let mut sums = vec![0.0; columns];
            for row in chunk.chunks_exact(columns) {
                row.iter().zip(&mut sums).for_each(|(value, sum)| *sum += value.to_f64() * prescale);
            }
            sums
        })
        .collect();
    let sums = partial.iter().fold(vec![0.0; columns], |sums, others| add(sums, others));
    let rows = (values.len() / columns) as f64;
    sums.into_iter().map(|sum| sum / rows).collect()
}

fn first_non_finite<T: Real>(values: &[T], columns: usize) -> NeighbourError {
    let place = values.iter().position(|value| !value.to_f64().is_finite()).unwrap_or(0);
    NeighbourError::NonFinite { row: place / columns, column: place % columns, value: values[place].to_f64() }
}
