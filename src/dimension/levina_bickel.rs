//! The maximum likelihood estimator of Levina and Bickel, averaged as MacKay and Ghahramani propose.
//!
//! Levina, Bickel (2004), *Maximum likelihood estimation of intrinsic dimension*, NIPS 17. The neighbours of a point within
//! `r_k` are a Poisson process, which gives the inverse dimension `Σ_{j<k} ln(r_k/r_j) / (k − 1)`. MacKay and Ghahramani
//! (2005, comment on the former) average these inverses over the points instead of the dimensions, whose mean is biased.

use crate::neighbours::Neighbours;

/// The estimate from `k` neighbours of every point, and its standard error over points.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct LocalLikelihood {
    /// Number of neighbours used.
    pub neighbours: usize,
    /// The estimate; infinite where all neighbours of all points are equally far.
    pub dimension: f64,
    /// `d / √(N (k − 1))`, as if points shared no neighbours: too small where they do.
    pub standard_error: f64,
}

/// The estimate from the first `k ≥ 2` of the neighbours `[points, ≥ k]`.
pub fn levina_bickel(neighbours: &Neighbours, k: usize) -> LocalLikelihood {
    let points = neighbours.distances.nrows() as f64;
    let inverse = |row: ndarray::ArrayView1<'_, f64>| {
        let farthest = row[k - 1];
        row.iter().take(k - 1).map(|near| (farthest / near).ln()).sum::<f64>()
    };
    let sum: f64 = neighbours.distances.rows().into_iter().map(inverse).sum();
    let dimension = points * (k as f64 - 1.0) / sum;
    let standard_error = dimension / (points * (k as f64 - 1.0)).sqrt();
    LocalLikelihood { neighbours: k, dimension, standard_error }
}
