//! GRIDE: the dimension as a function of scale, from ratios of distances to farther neighbours.
//!
//! Denti, Doimo, Laio, Mira (2022), *The generalized ratios intrinsic dimension estimator*, Scientific Reports 12:20005. With
//! `r_n` the distance to the n-th neighbour, `μ = r_{n2}/r_{n1}` has, where the density is constant up to `r_{n2}`, the
//! likelihood whose score in `d` is
//!
//! ```text
//! (N − 1)/d + (n2 − n1 − 1) Σ ln μ / (1 − μ^(−d)) − (n2 − 1) Σ ln μ,
//! ```
//!
//! which falls as `d` grows. `n1 = 1, n2 = 2` is TwoNN by maximum likelihood.
//!
//! Where two points nearly coincide, the ratio says nothing about the dimension. As in DADApy, ratios above
//! `m + 20 (q − m)`, with the median `m` and the 95 % quantile `q`, are left out of the estimate; they are counted. The
//! information is that of all ratios.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::neighbours::Neighbours;

/// The dimension at one scale.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ScaleEstimate {
    /// The two neighbours `(n1, n2)` whose distances are compared.
    pub neighbours: (usize, usize),
    /// The estimate; infinite where all ratios are 1.
    pub dimension: f64,
    /// `1/√I` with the observed information `I`, for independent ratios.
    pub standard_error: f64,
    /// Mean of the two distances, over all points: the scale of the estimate.
    pub distance: f64,
    /// Number of ratios left out because they are far above all others.
    pub left_out: usize,
}

/// Neighbours per point that a full scan needs: its last pair is 32:64.
pub const GRIDE_NEIGHBOURS: usize = 64;

/// GRIDE with `n2 = 2 n1` for `n1 = 1, 2, 4, …` as far as the neighbours `[points, k]` reach.
pub fn gride_scan(neighbours: &Neighbours) -> Vec<ScaleEstimate> {
    let k = neighbours.distances.ncols();
    let firsts = std::iter::successors(Some(1), |n| Some(2 * n)).take_while(|n| 2 * n <= k);
    firsts.map(|n1| gride(neighbours, n1, 2 * n1)).collect()
}

/// GRIDE for one pair of neighbours, `1 ≤ n1 < n2 ≤ k`.
pub fn gride(neighbours: &Neighbours, n1: usize, n2: usize) -> ScaleEstimate {
    let pairs = || neighbours.distances.rows().into_iter().map(|row| (row[n1 - 1], row[n2 - 1]));
    let all: Vec<f64> = pairs().map(|(near, far)| (far / near).ln()).collect();
    let (dimension, left_out) = dimension_of(&all, n1, n2);
    let sum: f64 = pairs().map(|(near, far)| (near + far) / 2.0).sum();
    ScaleEstimate {
        neighbours: (n1, n2),
        dimension,
        standard_error: standard_error(&all, n1, n2, dimension),
        distance: sum / all.len() as f64,
        left_out,
    }
}

/// The dimension from `ln μ` of every point, and the number of points left out as far above all others.
pub(super) fn dimension_of(logarithms: &[f64], n1: usize, n2: usize) -> (f64, usize) {
    let ratios: Vec<f64> = logarithms.iter().map(|log| log.exp()).collect();
    let limit = largest_plausible(&ratios);
    let kept: Vec<f64> =
        ratios.iter().zip(logarithms).filter(|&(&ratio, _)| ratio < limit).map(|(_, &log)| log).collect();
    // Where the quantiles are equal nothing is below the limit, and nothing is left out.
    if kept.is_empty() {
        return (solve(logarithms, n1, n2), 0);
    }
    (solve(&kept, n1, n2), logarithms.len() - kept.len())
}

/// The largest plausible ratio: `m + 20 (q − m)` with the median `m` and the 95 % quantile `q`, interpolated between order
/// statistics.
fn largest_plausible(ratios: &[f64]) -> f64 {
    let mut ratios = ratios.to_vec();
    let mut quantile = |share: f64| {
        let place = share * (ratios.len() - 1) as f64;
        let (below, rest) = (place as usize, place.fract());
        let (_, &mut low, above) = ratios.select_nth_unstable_by(below, f64::total_cmp);
        let high = above.iter().copied().min_by(f64::total_cmp).unwrap_or(low);
        low + rest * (high - low)
    };
    let median = quantile(0.5);
    median + 20.0 * (quantile(0.95) - median)
}

/// The root of the score, from `ln μ` of every point.
pub(super) fn solve(logarithms: &[f64], n1: usize, n2: usize) -> f64 {
    let points = logarithms.len() as f64;
    let sum: f64 = logarithms.iter().sum();
    if sum <= 0.0 {
        return f64::INFINITY;
    }
    // For two consecutive neighbours the score has no middle term.
    let between = (n2 - n1 - 1) as f64;
    if between == 0.0 && n1 == 1 {
        return (points - 1.0) / sum;
    }
    let score = |d: f64| {
        let value = (points - 1.0) / d + between * weighted(logarithms, d) - (n2 - 1) as f64 * sum;
        (value, -(points - 1.0) / (d * d) - between * curvature(logarithms, d))
    };
    root(score, points / sum)
}

/// `1/√I`, `I = N/d² + (n2 − n1 − 1) Σ (ln μ/(1 − μ^(−d)))² μ^(−d)`
fn standard_error(logarithms: &[f64], n1: usize, n2: usize, dimension: f64) -> f64 {
    if dimension.is_infinite() {
        return f64::INFINITY;
    }
    let between = (n2 - n1 - 1) as f64;
    let points = logarithms.len() as f64;
    (points / (dimension * dimension) + between * curvature(logarithms, dimension)).sqrt().recip()
}

/// `Σ ln μ / (1 − μ^(−d))`
fn weighted(logarithms: &[f64], d: f64) -> f64 {
    // As μ goes to 1, each term goes to 1/d.
    let term = |&l: &f64| if l > 0.0 { l / -(-d * l).exp_m1() } else { d.recip() };
    sum_of(logarithms, term)
}

/// `Σ (ln μ / (1 − μ^(−d)))² μ^(−d)`
fn curvature(logarithms: &[f64], d: f64) -> f64 {
    let term = |&l: &f64| {
        let weight = if l > 0.0 { l / -(-d * l).exp_m1() } else { d.recip() };
        weight * weight * (-d * l).exp()
    };
    sum_of(logarithms, term)
}

/// A sum that is independent of the number of threads.
fn sum_of(values: &[f64], term: impl Fn(&f64) -> f64 + Sync) -> f64 {
    let parts: Vec<f64> = values.par_chunks(4096).map(|part| part.iter().map(&term).sum()).collect();
    parts.into_iter().sum()
}

/// The root of a decreasing function, given with its slope: bracketed by doubling, then found by Newton's method, with
/// bisection where a step leaves the bracket.
fn root(falling: impl Fn(f64) -> (f64, f64), start: f64) -> f64 {
    let (mut low, mut high) = (start, start);
    while falling(low).0 < 0.0 && low > f64::MIN_POSITIVE {
        low /= 2.0;
    }
    while falling(high).0 > 0.0 && high < f64::MAX / 4.0 {
        high *= 2.0;
    }
    let mut at = low;
    for _ in 0..200 {
        let (value, slope) = falling(at);
        if value > 0.0 {
            low = at;
        } else {
            high = at;
        }
        let newton = at - value / slope;
        let next = if newton > low && newton < high { newton } else { low + (high - low) / 2.0 };
        if (next - at).abs() <= 1e-13 * at || high - low <= 1e-12 * high {
            return next;
        }
        at = next;
    }
    at
}
