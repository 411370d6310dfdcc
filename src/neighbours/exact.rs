//! All pairs by blocked matrix products in single precision; the winners are measured in float64.
//!
//! For centred, scaled rows a, b rounded to float32 and their product ĝ computed in float32,
//!
//! ```text
//! |x − y|² ≥ (1 − δ) (|a|² + |b|²) − 2 ĝ − ε      with δ = γ + 16 u,  u = 2⁻²⁴,
//! ```
//!
//! where γ bounds the error of a scalar product ([`Way::roundings`], with |a||b| ≤ (|a|² + |b|²) / 2), 16 u covers the
//! rounding of the rows, of the norms and of the sum, and ε = 2⁻¹⁰⁰ · columns what may underflow. So rows are ranked by
//! `s = (1 − δ)|b|²/2 − ĝ`, a few more than `k` are kept, and a row is done as soon as `k` of them, measured in float64,
//! are nearer than the lower bound of the next one. Rows where that never happens are searched directly.
//! Products are symmetric, so only half of the blocks are computed.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use rayon::prelude::*;

use super::candidates::Candidates;
use super::centred::Centring;
use super::direct::{self, Best, Points};
use super::product::{BLOCK, Blocks, Way, columns_below, rows_below};
use super::{Found, NeighbourError, Real};
use crate::progress::{Event, Observer};

/// Candidates kept beyond `k`.
const MARGIN: usize = 8;

/// Centred blocks and what bounds need of every row.
struct Prepared {
    blocks: Blocks,
    way: Way,
    /// `[blocks · BLOCK]`: (1 − δ)|a|²/2; infinite for the rows that only fill up the last block.
    halves: Vec<f64>,
    /// The same in float32.
    scores: Vec<f32>,
    /// δ
    delta: f64,
    /// ε: what may be lost to underflow in a squared distance.
    underflow: f64,
}

pub(super) fn search<T: Real>(
    points: &Points<'_, T>,
    centring: &Centring,
    k: usize,
    observer: &dyn Observer,
) -> Result<Found, NeighbourError> {
    search_in(Way::detect(), points, centring, k, observer)
}

pub(super) fn search_in<T: Real>(
    way: Way,
    points: &Points<'_, T>,
    centring: &Centring,
    k: usize,
    observer: &dyn Observer,
) -> Result<Found, NeighbourError> {
    let prepared = Prepared::new(way, points, centring);
    let capacity = (k + MARGIN).min(points.rows() - 1);
    let candidates = prepared.candidates(points.rows(), capacity, observer)?;
    measure(points, &prepared, &candidates, k, observer)
}

impl Prepared {
    fn new<T: Real>(way: Way, points: &Points<'_, T>, centring: &Centring) -> Self {
        let columns = points.columns;
        let unit = f64::from(f32::EPSILON) / 2.0;
        let roundings = way.roundings(columns) as f64 * unit;
        let delta = roundings / (1.0 - roundings) + 16.0 * unit;
        let mut blocks = Blocks::new(points.rows(), columns, way);
        let mut halves = vec![f64::INFINITY; blocks.count() * BLOCK];
        let chunks: Vec<_> = blocks.blocks_mut().zip(halves.chunks_exact_mut(BLOCK)).enumerate().collect();
        chunks.into_par_iter().for_each(|(index, (block, halves))| {
            for (row, half) in halves.iter_mut().enumerate().take(points.rows() - (index * BLOCK).min(points.rows())) {
                let mut square = 0.0;
                for (column, value) in centring.row(points.row(index * BLOCK + row)).enumerate() {
                    let value = value as f32;
                    square += f64::from(value) * f64::from(value);
                    block[Blocks::place(way, columns, row, column)] = value;
                }
                *half = (1.0 - delta) * square / 2.0;
            }
        });
        let scores = halves.iter().map(|&half| half as f32).collect();
        Self { blocks, way, halves, scores, delta, underflow: columns as f64 * 2f64.powi(-100) }
    }

    /// The rows of a block as numbers of points.
    fn first(block: usize) -> usize {
        block * BLOCK
    }

    /// Norms of the first rows in scaled units, for bounds by the triangle inequality.
    fn norms(&self, rows: usize) -> direct::Norms {
        let norms = self.halves[..rows].iter().map(|half| (2.0 * half / (1.0 - self.delta)).sqrt()).collect();
        direct::Norms { norms, relative_error: f64::from(f32::EPSILON), absolute_error: self.underflow.sqrt() }
    }

    /// For every block the candidates of its rows, out of all points.
    fn candidates(
        &self,
        rows: usize,
        capacity: usize,
        observer: &dyn Observer,
    ) -> Result<Vec<Mutex<Candidates>>, NeighbourError> {
        let count = self.blocks.count();
        let lists: Vec<_> = (0..count)
            .map(|block| Mutex::new(Candidates::new(BLOCK, (rows - Self::first(block)).min(BLOCK), capacity)))
            .collect();
        let pairs: Vec<(usize, usize)> = (0..count).flat_map(|a| (a..count).map(move |b| (a, b))).collect();
        let done = AtomicU64::new(0);
        observer.observe(Event::Begin {
            stage: "searching neighbours",
            total: Some(pairs.len() as u64),
            done: 0,
            unit: "blocks",
        });
        pairs.par_iter().with_max_len(1).try_for_each_init(
            || vec![0.0; BLOCK * BLOCK],
            |tile, &(a, b)| {
                observer.check()?;
                self.blocks.products(a, b, tile);
                self.select(a, b, tile, &lists);
                let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                observer.observe(Event::Advance { done, detail: "" });
                Ok::<_, NeighbourError>(())
            },
        )?;
        observer.observe(Event::End);
        Ok(lists)
    }

    /// Offers the pairs of a tile to the rows of both blocks.
    fn select(&self, a: usize, b: usize, tile: &[f32], lists: &[Mutex<Candidates>]) {
        let scores = |block| &self.scores[Self::first(block)..Self::first(block) + BLOCK];
        {
            let mut list = locked(&lists[a]);
            let limits = list.thresholds().to_vec();
            rows_below(self.way, tile, scores(b), &limits, |i, j| {
                if a != b || i != j {
                    list.offer(i, scores(b)[j] - tile[i * BLOCK + j], (Self::first(b) + j) as u32);
                }
            });
        }
        if a != b {
            let mut list = locked(&lists[b]);
            let limits = list.thresholds().to_vec();
            columns_below(self.way, tile, scores(a), &limits, |i, j| {
                list.offer(j, scores(a)[i] - tile[i * BLOCK + j], (Self::first(a) + i) as u32);
            });
        }
    }
}

/// A panic elsewhere ends the search anyway.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Distances of the candidates in float64, and a direct search where they do not prove the answer.
fn measure<T: Real>(
    points: &Points<'_, T>,
    prepared: &Prepared,
    candidates: &[Mutex<Candidates>],
    k: usize,
    observer: &dyn Observer,
) -> Result<Found, NeighbourError> {
    let rows = points.rows();
    let mut found = Found { squared: vec![0.0; rows * k], indices: vec![0; rows * k], searched_directly: 0 };
    let unproven = AtomicUsize::new(0);
    let norms = prepared.norms(rows);
    let blocks = found.squared.par_chunks_mut(BLOCK * k).zip(found.indices.par_chunks_mut(BLOCK * k));
    blocks.enumerate().try_for_each(|(block, (squared, indices))| {
        let list = locked(&candidates[block]);
        for (row, (squared, indices)) in squared.chunks_mut(k).zip(indices.chunks_mut(k)).enumerate() {
            let index = block * BLOCK + row;
            let best = nearest_candidates(points, prepared, &list, row, index, k).unwrap_or_else(|limit| {
                unproven.fetch_add(1, Ordering::Relaxed);
                direct::search_row(points, index, k, limit, &norms)
            });
            for (place, (distance, neighbour)) in best.into_sorted().into_iter().enumerate() {
                (squared[place], indices[place]) = (distance, neighbour);
            }
            observer.check()?;
        }
        Ok::<_, NeighbourError>(())
    })?;
    found.searched_directly = unproven.into_inner();
    Ok(found)
}

/// The `k` nearest of the candidates of a row. If a row that was turned away might be nearer: the squared distance that
/// the `k` nearest do not exceed.
fn nearest_candidates<T: Real>(
    points: &Points<'_, T>,
    prepared: &Prepared,
    list: &Candidates,
    row: usize,
    index: usize,
    k: usize,
) -> Result<Best, f64> {
    let (candidates, turned_away) = (list.row(row), list.capacity() < points.rows() - 1);
    let mut best = Best::new(k);
    for (score, neighbour) in candidates {
        let lower = 2.0 * (f64::from(score) + prepared.halves[index]) - prepared.underflow;
        if lower > best.limit() * (1.0 + 1e-12) {
            return Ok(best);
        }
        best.offer(points.squared_distance(index, neighbour as usize, best.limit()), neighbour);
    }
    if turned_away { Err(best.limit()) } else { Ok(best) }
}
