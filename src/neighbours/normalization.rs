//! Shift and scale that let single precision separate most neighbours: values around 0, the largest near 1.

use rayon::prelude::*;

use super::rows::RowView;
use super::simd::multiversion::for_widest_vectors;
use super::{NeighbourError, Scalar};

/// `centred = (value · prescale − mean) · rescale`; all scales are powers of two and cause no rounding.
pub(super) struct Centring {
    prescale: f64,
    rescale: f64,
    /// Column means in prescaled units.
    means: Vec<f64>,
    /// `prescale · rescale`: the factor from distances between points to distances between centred points.
    pub scale: f64,
}

/// Rows handled by one task.
const ROWS: usize = 256;

impl Centring {
    /// Reads all values; a NaN or an infinity is an error.
    pub fn of<T: Scalar>(rows: &RowView<'_, T>) -> Result<Self, NeighbourError> {
        let columns = rows.columns();
        // Sums of float32 values stay in the range of float64.
        let prescale = if T::as_single(&[]).is_some() { 1.0 } else { inverse_power_of_two(largest(rows)?) };
        // Partial sums are collected in order, so the mean does not depend on the number of threads.
        let parts: Vec<Columns> =
            (0..rows.len().div_ceil(ROWS)).into_par_iter().map(|part| Columns::of(rows, part, prescale)).collect();
        let mut all = Columns::none(columns);
        parts.iter().for_each(|part| all.add(part));
        if all.sums.iter().any(|sum| !sum.is_finite()) {
            return Err(first_non_finite(rows));
        }
        let means: Vec<f64> = all.sums.iter().map(|sum| sum / rows.len() as f64).collect();
        let spread = means.iter().zip(all.low.iter().zip(&all.high));
        let spread = spread.fold(0.0, |spread: f64, (mean, (low, high))| spread.max(mean - low).max(high - mean));
        let rescale = inverse_power_of_two(spread);
        // The product must stay in range too; then the values are a little smaller than they could be.
        let rescale = if prescale * rescale > 2f64.powi(1000) { 1.0 } else { rescale };
        Ok(Self { prescale, rescale, means, scale: prescale * rescale })
    }

    /// One row `[columns]`, centred and scaled, rounded to float32, and its squared length after rounding.
    pub fn centre<T: Scalar>(&self, row: &[T], centred: &mut [f32]) -> f64 {
        centre(row, &self.means, self.prescale, self.rescale, centred)
    }

    /// One row `[columns]`, centred and scaled.
    pub fn row<'a, T: Scalar>(&'a self, row: &'a [T]) -> impl Iterator<Item = f64> + 'a {
        row.iter().zip(&self.means).map(|(value, mean)| (value.to_f64() * self.prescale - mean) * self.rescale)
    }
}

for_widest_vectors! {
    fn centre<T: Scalar>(row: &[T], means: &[f64], prescale: f64, rescale: f64, centred: &mut [f32]) -> f64 {
        for ((to, value), mean) in centred.iter_mut().zip(row).zip(means) {
            *to = ((value.to_f64() * prescale - mean) * rescale) as f32;
        }
        square(centred)
    }
}

for_widest_vectors! {
    /// Squared length, summed in float64.
    pub(super) fn square(values: &[f32]) -> f64 {
        const LANES: usize = 8;
        let (whole, rest) = values.as_chunks::<LANES>();
        let mut sums = [0.0; LANES];
        for values in whole {
            for lane in 0..LANES {
                sums[lane] += f64::from(values[lane]) * f64::from(values[lane]);
            }
        }
        sums.iter().sum::<f64>() + rest.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>()
    }
}

/// Sum, smallest and largest value of every column, prescaled.
struct Columns {
    sums: Vec<f64>,
    low: Vec<f64>,
    high: Vec<f64>,
}

impl Columns {
    fn none(columns: usize) -> Self {
        Self { sums: vec![0.0; columns], low: vec![f64::INFINITY; columns], high: vec![f64::NEG_INFINITY; columns] }
    }

    fn of<T: Scalar>(rows: &RowView<'_, T>, part: usize, prescale: f64) -> Self {
        let mut all = Self::none(rows.columns());
        for row in part * ROWS..((part + 1) * ROWS).min(rows.len()) {
            include(rows.row(row), prescale, &mut all.sums, &mut all.low, &mut all.high);
        }
        all
    }

    fn add(&mut self, other: &Self) {
        self.sums.iter_mut().zip(&other.sums).for_each(|(sum, other)| *sum += other);
        self.low.iter_mut().zip(&other.low).for_each(|(low, other)| *low = low.min(*other));
        self.high.iter_mut().zip(&other.high).for_each(|(high, other)| *high = high.max(*other));
    }
}

for_widest_vectors! {
    fn include<T: Scalar>(row: &[T], prescale: f64, sums: &mut [f64], low: &mut [f64], high: &mut [f64]) {
        for (((value, sum), low), high) in row.iter().zip(sums).zip(low).zip(high) {
            let value = value.to_f64() * prescale;
            *sum += value;
            *low = if value < *low { value } else { *low };
            *high = if value > *high { value } else { *high };
        }
    }
}

fn largest<T: Scalar>(rows: &RowView<'_, T>) -> Result<f64, NeighbourError> {
    let of_row =
        |row: usize| rows.row(row).iter().fold(0.0, |largest: f64, value| larger_or_nan(largest, value.to_f64().abs()));
    let largest = (0..rows.len()).into_par_iter().map(of_row).reduce(|| 0.0, larger_or_nan);
    if largest.is_finite() { Ok(largest) } else { Err(first_non_finite(rows)) }
}

/// The larger of two values; NaN if either is NaN.
fn larger_or_nan(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

/// The power of two that scales `largest` to between 1 and 2, within ±2^1000.
fn inverse_power_of_two(largest: f64) -> f64 {
    if largest == 0.0 { 1.0 } else { 2f64.powi(-(largest.log2().floor().clamp(-1000.0, 1000.0) as i32)) }
}

fn first_non_finite<T: Scalar>(rows: &RowView<'_, T>) -> NeighbourError {
    let column = |row: usize| rows.row(row).iter().position(|value| !value.to_f64().is_finite());
    let (index, column) = (0..rows.len()).find_map(|row| Some((row, column(row)?))).unwrap_or((0, 0));
    NeighbourError::NonFinite { row: rows.number(index), column, value: rows.row(index)[column].to_f64() }
}
