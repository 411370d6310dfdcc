//! Neighbours of a few rows among many, by comparing all of these pairs.

use ndarray::ArrayView2;
use rayon::prelude::*;

use super::exact_distance::Best;
use super::{NeighbourError, Scalar, checked};

/// The distances of some rows to their `k` nearest neighbours among the given ones, ascending. `some` are indices into `rows`.
/// The values are those of [`nearest_in_rows`](super::nearest_in_rows) to the last bit.
///
/// # Errors
/// As for that function.
pub fn nearest_of_some<T: Scalar>(
    points: ArrayView2<'_, T>,
    rows: &[u32],
    some: &[usize],
    k: usize,
) -> Result<Vec<Vec<f64>>, NeighbourError> {
    checked(points, Some(rows), k, |points, centring| {
        let distances = |&row: &usize| {
            let mut best = Best::new(k);
            for other in (0..points.rows()).filter(|&other| other != row) {
                best.offer(points.squared_distance(row, other, best.limit()), other as u32);
            }
            best.into_sorted().into_iter().map(|(squared, _)| squared.sqrt() / centring.scale).collect()
        };
        Ok(some.par_iter().map(distances).collect())
    })
}
