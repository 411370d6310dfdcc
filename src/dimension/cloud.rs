//! Turns the rows of a layer into points that an estimator can use: finite, distinct, with their nearest neighbours.

use ndarray::{ArrayView1, ArrayView2};
use rayon::prelude::*;

use super::two_nn::Counts;
use super::{DimensionError, MINIMUM_POINTS, TwoNn};
use crate::neighbours::{Neighbours, Scalar, first_equal_row, nearest_in_rows};
use crate::progress::Observer;

/// The finite, distinct rows of a layer and the nearest neighbours of each among them.
pub struct Cloud<'a, T> {
    /// `[rows, columns]`: all rows given.
    pub points: ArrayView2<'a, T>,
    /// `[kept]`: indices of the rows that are kept, ascending.
    pub rows: Vec<u32>,
    /// Nearest neighbours among the kept rows, as indices into `rows`.
    pub neighbours: Neighbours,
    /// Numbers of rows given and left out.
    pub counts: Counts,
}

/// The prepared rows of a layer.
pub enum Prepared<'a, T> {
    /// The layer has enough distinct points.
    Cloud(Cloud<'a, T>),
    /// The same vector in every row, to float precision.
    Degenerate {
        /// Why the layer has no dimension, as text.
        reason: String,
        /// Numbers of rows given and left out.
        counts: Counts,
    },
}

/// Leaves out rows with NaN or infinity, then all but the first of equal rows, then all but the first of rows that differ
/// by no more than float noise, and finds the `k` nearest neighbours of the rest.
///
/// Rows `x`, `y` count as equal if `|x − y| ≤ noise · ε · |x|`, where ε is the precision of the number type: the same text
/// computed in batches of different shape gives such rows. A layer is degenerate if the ranges of all columns together are
/// within that noise.
///
/// # Errors
/// Returns an error if fewer than [`MINIMUM_POINTS`] rows are left, or if the search fails or is cancelled.
pub fn prepare<'a, T: Scalar>(
    points: ArrayView2<'a, T>,
    k: usize,
    settings: &TwoNn,
    observer: &dyn Observer,
) -> Result<Prepared<'a, T>, DimensionError> {
    let rows = points.nrows();
    let finite: Vec<u32> = (0..rows as u32).into_par_iter().filter(|&row| is_finite(points, row)).collect();
    let mut counts = Counts { rows, non_finite: rows - finite.len(), ..Counts::default() };
    if finite.len() < MINIMUM_POINTS {
        return Err(counts.too_few(finite.len()));
    }
    if let Some(reason) = degenerate(points, &finite, settings.noise) {
        return Ok(Prepared::Degenerate { reason, counts });
    }
    let first = first_equal_row(points);
    let mut kept: Vec<u32> = finite.iter().copied().filter(|&row| first[row as usize] == row).collect();
    counts.duplicates = finite.len() - kept.len();
    let mut engine = settings.engine;
    loop {
        if kept.len() < MINIMUM_POINTS {
            return Err(counts.too_few(kept.len()));
        }
        let neighbours = nearest_in_rows(points, &kept, k.min(kept.len() - 1), engine, observer)?;
        engine = neighbours.engine;
        let stays = not_within_noise(points, &kept, &neighbours, settings.noise);
        let near_duplicates = stays.iter().filter(|&&stays| !stays).count();
        if near_duplicates == 0 {
            return Ok(Prepared::Cloud(Cloud { points, rows: kept, neighbours, counts }));
        }
        // Rows that had one of them as a neighbour need another: search again.
        counts.near_duplicates += near_duplicates;
        kept = kept.into_iter().zip(stays).filter_map(|(row, stays)| stays.then_some(row)).collect();
    }
}

fn is_finite<T: Scalar>(points: ArrayView2<'_, T>, row: u32) -> bool {
    points.row(row as usize).iter().all(|value| value.to_f64().is_finite())
}

/// Euclidean norm of a row.
fn norm<T: Scalar>(row: ArrayView1<'_, T>) -> f64 {
    let square: f64 = row.iter().map(|value| value.to_f64() * value.to_f64()).sum();
    if square.is_normal() {
        return square.sqrt();
    }
    // The squares of float64 values may overflow or underflow.
    let largest = row.iter().fold(0.0, |largest: f64, value| largest.max(value.to_f64().abs()));
    if largest == 0.0 { 0.0 } else { largest * row.iter().map(|v| (v.to_f64() / largest).powi(2)).sum::<f64>().sqrt() }
}

/// Smallest and largest value of every column, and the largest norm of a row.
struct Extent {
    low: Vec<f64>,
    high: Vec<f64>,
    largest_norm: f64,
}

impl Extent {
    fn nothing(columns: usize) -> Self {
        Self { low: vec![f64::INFINITY; columns], high: vec![f64::NEG_INFINITY; columns], largest_norm: 0.0 }
    }

    fn with_row<T: Scalar>(mut self, row: ArrayView1<'_, T>) -> Self {
        for ((value, low), high) in row.iter().zip(&mut self.low).zip(&mut self.high) {
            *low = low.min(value.to_f64());
            *high = high.max(value.to_f64());
        }
        self.largest_norm = self.largest_norm.max(norm(row));
        self
    }

    fn with(mut self, other: Self) -> Self {
        self.low.iter_mut().zip(&other.low).for_each(|(a, b)| *a = a.min(*b));
        self.high.iter_mut().zip(&other.high).for_each(|(a, b)| *a = a.max(*b));
        self.largest_norm = self.largest_norm.max(other.largest_norm);
        self
    }
}

/// Compares the ranges of the columns with the precision of the values. Returns the reason if the layer is degenerate. (A
/// standard deviation would not do: that of a constant column, computed in floating point, is not zero.)
fn degenerate<T: Scalar>(points: ArrayView2<'_, T>, rows: &[u32], noise: f64) -> Option<String> {
    let nothing = || Extent::nothing(points.ncols());
    let extent = rows
        .par_iter()
        .fold(nothing, |extent, &row| extent.with_row(points.row(row as usize)))
        .reduce(nothing, Extent::with);
    let ranges: ndarray::Array1<f64> = extent.low.iter().zip(&extent.high).map(|(low, high)| high - low).collect();
    let (spread, largest) = (norm(ranges.view()), extent.largest_norm);
    (spread <= noise * T::PRECISION * largest).then(|| {
        let rows = rows.len();
        format!("all {rows} rows are the same vector to float precision (spread {spread:.1e}, norm {largest:.1e})")
    })
}

/// For every point, whether it stays: of points within noise of each other, only the first does.
fn not_within_noise<T: Scalar>(
    points: ArrayView2<'_, T>,
    rows: &[u32],
    neighbours: &Neighbours,
    noise: f64,
) -> Vec<bool> {
    let mut stays = vec![true; rows.len()];
    for (row, (distances, indices)) in
        neighbours.distances.rows().into_iter().zip(neighbours.indices.rows()).enumerate()
    {
        if !stays[row] {
            continue;
        }
        let limit = noise * T::PRECISION * norm(points.row(rows[row] as usize));
        let close = distances.iter().zip(indices).take_while(|&(&distance, _)| distance <= limit);
        close.filter(|&(_, &other)| other as usize > row).for_each(|(_, &other)| stays[other as usize] = false);
    }
    stays
}
