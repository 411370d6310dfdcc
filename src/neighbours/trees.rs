//! The trees of linfa-nn, made exact: identical rows are stored once (many of them degenerate a tree), they work on
//! centred float64 values, and near-ties are settled by distances measured on the points as given.

use std::sync::atomic::{AtomicU64, Ordering};

use linfa_nn::distance::L2Dist;
use linfa_nn::{BallTree, KdTree, NearestNeighbour, NearestNeighbourIndex};
use ndarray::Array2;
use rayon::prelude::*;

use super::duplicates::Duplicates;
use super::exact_distance::{Best, Points};
use super::normalization::Centring;
use super::{Found, NeighbourError, Scalar, Work};
use crate::progress::{Event, Observer};

/// Rows handled between two checks of the cancel flag.
const ROWS: usize = 64;
/// Rounding inside the tree may misjudge a distance by this share of the largest centred norm, or of the distance.
const TREE_ERROR: f64 = 1e-12;

/// Which of the two trees is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Ball,
    Kd,
}

pub(super) fn search<T: Scalar>(
    kind: Kind,
    points: &Points<'_, T>,
    centring: &Centring,
    k: usize,
    observer: &dyn Observer,
) -> Result<Found, NeighbourError> {
    let rows = points.rows();
    let duplicates = Duplicates::of(points);
    let distinct = centred(&duplicates, points, centring);
    observer.observe(Event::Begin { stage: "searching neighbours", total: Some(rows as u64), done: 0, unit: "rows" });
    let tree = match kind {
        Kind::Ball => BallTree::new().from_batch(&distinct, L2Dist),
        Kind::Kd => KdTree::new().from_batch(&distinct, L2Dist),
    };
    let tree = tree.map_err(failed)?;
    let largest = distinct.rows().into_iter().map(|row| row.dot(&row).sqrt()).fold(0.0, f64::max);
    let query =
        Query { points, duplicates: &duplicates, distinct: &distinct, tree: &*tree, slack: TREE_ERROR * largest, k };
    let mut found = Found { squared: vec![0.0; rows * k], indices: vec![0; rows * k], work: Work::default() };
    let done = AtomicU64::new(0);
    let chunks = found.squared.par_chunks_mut(ROWS * k).zip(found.indices.par_chunks_mut(ROWS * k)).enumerate();
    chunks.try_for_each(|(chunk, (squared, indices))| {
        observer.check()?;
        for (row, (squared, indices)) in squared.chunks_mut(k).zip(indices.chunks_mut(k)).enumerate() {
            for (place, (distance, neighbour)) in query.row(chunk * ROWS + row)?.into_sorted().into_iter().enumerate() {
                (squared[place], indices[place]) = (distance, neighbour);
            }
        }
        let done = done.fetch_add((squared.len() / k) as u64, Ordering::Relaxed) + (squared.len() / k) as u64;
        observer.observe(Event::Advance { done, detail: "" });
        Ok::<_, NeighbourError>(())
    })?;
    observer.observe(Event::End);
    Ok(found)
}

fn failed(error: impl std::fmt::Display) -> NeighbourError {
    NeighbourError::Tree { reason: error.to_string() }
}

/// One centred row per group.
fn centred<T: Scalar>(duplicates: &Duplicates, points: &Points<'_, T>, centring: &Centring) -> Array2<f64> {
    let mut distinct = Array2::zeros((duplicates.groups(), points.columns()));
    for (mut row, members) in distinct.rows_mut().into_iter().zip(&duplicates.rows) {
        row.iter_mut().zip(centring.row(points.row(members[0] as usize))).for_each(|(to, from)| *to = from);
    }
    distinct
}

struct Query<'a, T> {
    points: &'a Points<'a, T>,
    duplicates: &'a Duplicates,
    distinct: &'a Array2<f64>,
    tree: &'a dyn NearestNeighbourIndex<f64>,
    /// Absolute error that the tree may make in a distance.
    slack: f64,
    k: usize,
}

impl<T: Scalar> Query<'_, T> {
    fn row(&self, row: usize) -> Result<Best, NeighbourError> {
        let group = self.duplicates.group[row] as usize;
        let centre = self.distinct.row(group);
        // The group itself, k others, and one more to see where the ties end.
        let wanted = self.k + 2;
        let near = self.tree.k_nearest(centre, wanted).map_err(failed)?;
        let best = self.measure(row, near.iter().map(|&(_, group)| group));
        let Some((_, last)) = near.last().filter(|_| near.len() == wanted) else {
            return Ok(best);
        };
        let radius = self.points.squared_distance(row, self.duplicates.rows[*last][0] as usize, f64::INFINITY).sqrt();
        let limit = best.limit().sqrt();
        if limit + self.error(limit) < radius - self.error(radius) {
            return Ok(best);
        }
        // Equally near groups may lie outside: take all that are not clearly farther.
        let near = self.tree.within_range(centre, limit + 2.0 * self.error(limit)).map_err(failed)?;
        Ok(self.measure(row, near.iter().map(|&(_, group)| group)))
    }

    fn error(&self, distance: f64) -> f64 {
        2.0 * (self.slack + TREE_ERROR * distance)
    }

    fn measure(&self, row: usize, groups: impl Iterator<Item = usize>) -> Best {
        let mut best = Best::new(self.k);
        // Duplicates are equally near: only the first k others of each group can count.
        let members = groups.flat_map(|group| self.duplicates.rows[group].iter().take(self.k + 1));
        for other in members.filter(|&&other| other as usize != row) {
            best.offer(self.points.squared_distance(row, *other as usize, best.limit()), *other);
        }
        best
    }
}
