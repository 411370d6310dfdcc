//! Near-duplicates, detected by their effect on the dimension.
//!
//! With `r_k` the distance to the `k`-th neighbour and a constant density in `d` dimensions, the nearer neighbours are
//! uniform in the ball of that radius: the nearest one is within `x` with probability `1 − (1 − (x/r_k)^d)^(k−1)`. In
//! general position, one point in a thousand has a nearest neighbour so near that this is below 0.001. Among texts that
//! share most of their words there are far more, and TwoNN then measures how texts repeat, not how they spread.

use super::{Cloud, TwoNn};
use crate::neighbours::Scalar;

/// The neighbour whose distance sets the usual distance around a point.
const USUAL: usize = 16;
/// A nearest neighbour is too near if the probability of one so near is below this.
const CHANCE: f64 = 1e-3;

/// Points with a neighbour nearer than their surroundings explain.
#[derive(Debug, Clone, PartialEq)]
pub struct NearDuplicates {
    /// Number of points whose nearest neighbour is too near.
    pub points: usize,
    /// Number expected by chance.
    pub expected: f64,
    /// TwoNN without the later point of each such pair; `None` where too few are left.
    pub dimension_without: Option<f64>,
    /// Pairs of points that are too near, the least probable first.
    pub pairs: Vec<NearPair>,
}

/// Two points that are too near each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NearPair {
    /// Row indices, the smaller first.
    pub rows: (u32, u32),
    /// Euclidean distance of the pair.
    pub distance: f64,
    /// Probability of a pair so near by chance.
    pub probability: f64,
}

/// The points of a cloud that are too near each other for this dimension, which should be read at a scale beyond the
/// near-duplicates. `None` with fewer than 16 neighbours.
pub fn near_duplicates<T: Scalar>(cloud: &Cloud<'_, T>, dimension: f64, estimator: &TwoNn) -> Option<NearDuplicates> {
    let neighbours = &cloud.neighbours;
    if neighbours.distances.ncols() < USUAL || !dimension.is_finite() {
        return None;
    }
    let mut removed = vec![false; cloud.rows.len()];
    let mut pairs = Vec::new();
    let mut points = 0;
    for (point, (distances, indices)) in
        neighbours.distances.rows().into_iter().zip(neighbours.indices.rows()).enumerate()
    {
        let within = (distances[0] / distances[USUAL - 1]).powf(dimension);
        // 1 − (1 − w)^(k−1), accurate for tiny w too.
        let probability = -((USUAL - 1) as f64 * (-within).ln_1p()).exp_m1();
        if probability >= CHANCE {
            continue;
        }
        points += 1;
        let other = indices[0] as usize;
        let (first, second) = (point.min(other), point.max(other));
        let rows = (cloud.rows[first], cloud.rows[second]);
        pairs.push(NearPair { rows, distance: distances[0], probability });
        removed[second] = true;
    }
    // Two points that are each other's nearest neighbour form one pair.
    pairs.sort_unstable_by(|a, b| a.rows.cmp(&b.rows).then(a.probability.total_cmp(&b.probability)));
    pairs.dedup_by_key(|pair| pair.rows);
    pairs.sort_unstable_by(|a, b| a.probability.total_cmp(&b.probability).then(a.rows.cmp(&b.rows)));
    let expected = CHANCE * cloud.rows.len() as f64;
    Some(NearDuplicates { points, expected, dimension_without: without(cloud, &removed, estimator), pairs })
}

/// TwoNN without the removed points. Points with fewer than two remaining neighbours are left out.
fn without<T: Scalar>(cloud: &Cloud<'_, T>, removed: &[bool], estimator: &TwoNn) -> Option<f64> {
    let ratio = |point: usize| {
        let (distances, indices) = (cloud.neighbours.distances.row(point), cloud.neighbours.indices.row(point));
        let mut stay = distances.iter().zip(indices).filter(|&(_, &other)| !removed[other as usize]);
        Some(stay.next()?.0).zip(stay.next()).map(|(first, (second, _))| second / first)
    };
    let mut ratios: Vec<f64> = (0..removed.len()).filter(|&point| !removed[point]).filter_map(ratio).collect();
    if ratios.len() < super::MINIMUM_POINTS {
        return None;
    }
    estimator.method.dimension(&mut ratios).ok().filter(|dimension| dimension.is_finite())
}
