//! The exact search for many neighbours: the same pass as [`super::exact`], which is for few.
//!
//! Where many neighbours are wanted, most of the time goes into candidates that do not stay. So they are collected without order
//! and with bounds only: those of their codes where these bound distances both ways, or else those of a measurement in float32.
//! When there are three times as many as wanted, those go that are surely farther than the k-th. What is left at the end is
//! measured in float64, nearest first, as long as it may count.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use rayon::prelude::*;

use super::coded::{Coded, Seeker, locked};
use super::codes::{Frame, round_up};
use super::direct::{Best, Points};
use super::exact::{UP, load, lower};
use super::kernel::{BLOCK, Scratch, squared_distances};
use super::{Found, NeighbourError, Real, Work};
use crate::progress::Observer;

/// Blocks that first reaches come from.
const NEAR_BLOCKS: usize = 6;
/// Blocks that are put in order at once.
const BLOCKS_AT_ONCE: usize = 256;
/// Up to this many neighbours, lists in order are faster.
pub(super) const FEW: usize = 8;

/// The `k` nearest of every point.
pub(super) fn nearest<T: Real>(
    coded: &Coded<'_, T>,
    k: usize,
    observer: &dyn Observer,
) -> Result<Found, NeighbourError> {
    let start = Instant::now();
    let search = Search::new(coded, k);
    search.seed();
    tracing::debug!(seconds = start.elapsed().as_secs_f64(), "first reaches");
    let work = coded.pass(&search, observer, "searching neighbours")?;
    tracing::debug!(seconds = start.elapsed().as_secs_f64(), "candidates");
    Ok(search.found(work))
}

struct Search<'a, T> {
    coded: &'a Coded<'a, T>,
    k: usize,
    /// `[blocks]`, of the rows of a block.
    candidates: Vec<Mutex<Vec<Candidates>>>,
    /// `[blocks · BLOCK]`: bits of a float32 that the distance of the k-th neighbour does not exceed.
    reach: Vec<AtomicU32>,
    /// `[blocks]`: the largest of a block.
    block_reach: Vec<AtomicU32>,
    error: Error,
}

/// By how much a squared distance may be off that was measured in float32: a share of it, and what underflows.
#[derive(Debug, Clone, Copy)]
struct Error {
    share: f64,
    least: f64,
}

impl Error {
    /// Bounds of a distance, rounded down and up.
    fn bounds(self, squared: f32) -> (f32, f32) {
        let squared = f64::from(squared);
        let lower = (squared * (1.0 - self.share) - self.least).max(0.0).sqrt() * (1.0 - 1e-9);
        let upper = (squared * (1.0 + self.share) + self.least).sqrt() * UP;
        (-round_up(-lower), round_up(upper))
    }
}

/// A neighbour that may count.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    lower: f32,
    upper: f32,
    row: u32,
}

/// The neighbours of one row that may count.
enum Candidates {
    /// In any order.
    Collected(Vec<Candidate>),
    /// So many are equally far that only float64, and the smaller number, can tell which of them stay.
    Settled(Best),
}

impl<'a, T: Real> Search<'a, T> {
    fn new(coded: &'a Coded<'a, T>, k: usize) -> Self {
        let infinite = || AtomicU32::new(f32::INFINITY.to_bits());
        let room = 3 * k;
        let block = |_| Mutex::new((0..BLOCK).map(|_| Candidates::Collected(Vec::with_capacity(room))).collect());
        let (share, least) = coded.points.error_in_single();
        Self {
            coded,
            k,
            candidates: (0..coded.blocks()).map(block).collect(),
            reach: (0..coded.blocks() * BLOCK).map(|_| infinite()).collect(),
            block_reach: (0..coded.blocks()).map(|_| infinite()).collect(),
            error: Error { share, least },
        }
    }

    /// First reaches: the distances of rows of the nearest blocks that look nearest by their codes.
    fn seed(&self) {
        let space = || (Frame::new(), Scratch::default(), vec![0.0; BLOCK * BLOCK], vec![Vec::new(); BLOCK]);
        let codes = &self.coded.codes;
        (0..codes.blocks()).into_par_iter().for_each_init(space, |(frame, scratch, tile, likely), block| {
            likely.iter_mut().for_each(Vec::clear);
            let own = self.coded.places(block);
            for other in codes.nearest_blocks(block, NEAR_BLOCKS) {
                codes.frame(block, other, |_| f64::INFINITY, frame);
                let pair = codes.pair(block, other);
                squared_distances(codes.way, pair, codes.width, &frame.terms(), scratch, tile);
                let others = self.coded.places(other);
                for ((place, squared), likely) in own.clone().zip(tile.chunks_exact(BLOCK)).zip(likely.iter_mut()) {
                    let look = |(&squared, other): (&f32, usize)| match self.coded.bounds_both_ways {
                        true => (codes.upper_bound(frame, (place, other), squared), other as u32),
                        false => (squared, other as u32),
                    };
                    likely.extend(squared.iter().zip(others.clone()).filter(|(_, other)| *other != place).map(look));
                }
            }
            for (place, likely) in own.zip(likely) {
                if likely.len() < self.k {
                    continue;
                }
                let (nearer, kth, _) = likely.select_nth_unstable_by(self.k - 1, |a, b| a.0.total_cmp(&b.0));
                let reach = match self.coded.bounds_both_ways {
                    true => f64::from(kth.0),
                    false => self.farthest(place, nearer.iter().chain([&*kth]).map(|&(_, other)| other as usize)),
                };
                lower(&self.reach[place], reach);
            }
            self.look_at_block(block);
        });
    }

    /// The distance that none of some places exceeds.
    fn farthest(&self, place: usize, others: impl Iterator<Item = usize>) -> f64 {
        let Coded { points, order, .. } = self.coded;
        let own = order[place] as usize;
        let found = others.map(|other| points.squared_in_single(own, order[other] as usize, f64::INFINITY));
        found
            .map(|squared| squared.map_or(f64::INFINITY, |squared| self.error.bounds(squared).1.into()))
            .fold(0.0, f64::max)
    }

    /// The largest reach of the rows of a block.
    fn look_at_block(&self, block: usize) {
        lower(&self.block_reach[block], self.coded.places(block).map(|row| load(&self.reach[row])).fold(0.0, f64::max));
    }

    /// Offers neighbours to rows of a block.
    fn offer(&self, block: usize, neighbours: impl Iterator<Item = (u8, Candidate)>) {
        let mut candidates = locked(&self.candidates[block]);
        let mut changed = false;
        for (row, candidate) in neighbours {
            let row = usize::from(row);
            changed |= self.enter(block * BLOCK + row, &mut candidates[row], candidate);
        }
        drop(candidates);
        if changed {
            self.look_at_block(block);
        }
    }

    /// Keeps a candidate if it may count; says whether the reach of the row changed.
    fn enter(&self, place: usize, candidates: &mut Candidates, candidate: Candidate) -> bool {
        if f64::from(candidate.lower) > load(&self.reach[place]) {
            return false;
        }
        match candidates {
            Candidates::Collected(all) => {
                all.push(candidate);
                all.len() == 3 * self.k && self.thin_out(place, candidates)
            }
            Candidates::Settled(best) => {
                best.offer(self.squared(place, candidate.row, best.limit()), candidate.row);
                lower(&self.reach[place], best.limit().sqrt());
                true
            }
        }
    }

    /// Drops candidates that are surely farther than the k-th.
    fn thin_out(&self, place: usize, candidates: &mut Candidates) -> bool {
        let Candidates::Collected(all) = candidates else { return false };
        self.drop_farther(place, all);
        if all.len() > 2 * self.k + self.k / 2 {
            // The bounds are too wide here.
            for candidate in all.iter_mut() {
                let distance = self.squared(place, candidate.row, f64::INFINITY).sqrt();
                candidate.upper = round_up(distance * UP);
                candidate.lower = -round_up(-distance / UP);
            }
            self.drop_farther(place, all);
        }
        if all.len() > 2 * self.k {
            let settled = self.settle(place, all);
            lower(&self.reach[place], settled.limit().sqrt());
            *candidates = Candidates::Settled(settled);
        }
        true
    }

    fn drop_farther(&self, place: usize, all: &mut Vec<Candidate>) {
        let (_, kth, _) = all.select_nth_unstable_by(self.k - 1, |a, b| a.upper.total_cmp(&b.upper));
        let reach = kth.upper;
        all.retain(|candidate| candidate.lower <= reach);
        lower(&self.reach[place], f64::from(reach));
    }

    fn squared(&self, place: usize, row: u32, limit: f64) -> f64 {
        self.coded.points.squared_distance(self.coded.order[place] as usize, row as usize, limit)
    }

    /// The nearest of the candidates, in order, with their distances in float64.
    fn settle(&self, place: usize, candidates: &mut [Candidate]) -> Best {
        candidates.sort_unstable_by(|a, b| a.lower.total_cmp(&b.lower).then(a.row.cmp(&b.row)));
        let mut best = Best::new(self.k);
        for candidate in candidates {
            if f64::from(candidate.lower).powi(2) > best.limit() {
                break;
            }
            best.offer(self.squared(place, candidate.row, best.limit()), candidate.row);
        }
        best
    }

    fn found(mut self, work: Work) -> Found {
        let (rows, k) = (self.coded.order.len(), self.k);
        let mut candidates = std::mem::take(&mut self.candidates);
        let kept = AtomicU64::new(0);
        let settle_block = |block: usize, candidates: Mutex<Vec<Candidates>>| {
            let candidates = candidates.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
            let best = self.coded.places(block).zip(candidates).map(|(place, candidates)| match candidates {
                Candidates::Collected(mut all) => {
                    kept.fetch_add(all.len() as u64, Ordering::Relaxed);
                    self.settle(place, &mut all)
                }
                Candidates::Settled(best) => best,
            });
            best.map(Best::into_sorted).collect::<Vec<_>>()
        };
        let mut found = Found { squared: vec![0.0; rows * k], indices: vec![0; rows * k], work };
        // Some blocks at a time, from the last: their candidates go when their neighbours are there.
        while !candidates.is_empty() {
            let first = candidates.len().saturating_sub(BLOCKS_AT_ONCE);
            let part: Vec<_> = candidates.drain(first..).collect();
            let settled: Vec<_> =
                part.into_par_iter().enumerate().map(|(place, part)| settle_block(first + place, part)).collect();
            for (&row, best) in self.coded.order[first * BLOCK..].iter().zip(settled.into_iter().flatten()) {
                for (rank, (squared, neighbour)) in best.into_iter().enumerate() {
                    let at = row as usize * k + rank;
                    (found.squared[at], found.indices[at]) = (squared, neighbour);
                }
            }
        }
        found.work.settled = kept.into_inner();
        found
    }
}

impl<T: Real> Seeker<T> for Search<'_, T> {
    fn reach(&self, place: usize) -> f64 {
        load(&self.reach[place])
    }

    fn block_reach(&self, block: usize) -> f64 {
        load(&self.block_reach[block])
    }

    fn counts(&self, _: usize, _: usize) -> bool {
        true
    }

    fn measure(&self, points: &Points<'_, T>, a: usize, b: usize, reach: f64) -> Option<f64> {
        points.squared_in_single(a, b, reach).map(f64::from)
    }

    fn takes_bounds(&self) -> bool {
        self.coded.bounds_both_ways
    }

    fn take_bounds(&self, a: usize, b: usize, pairs: &[(u8, u8, (f32, f32))]) {
        let order = &self.coded.order;
        let candidate = |place: usize, (lower, upper): (f32, f32)| Candidate { lower, upper, row: order[place] };
        self.offer(a, pairs.iter().map(|&(i, j, bounds)| (i, candidate(b * BLOCK + usize::from(j), bounds))));
        self.offer(b, pairs.iter().map(|&(i, j, bounds)| (j, candidate(a * BLOCK + usize::from(i), bounds))));
    }

    fn take(&self, a: usize, b: usize, pairs: &[(u8, u8, f64)]) {
        // They were measured in float32, which float64 holds.
        let bounded = pairs.iter().map(|&(i, j, squared)| (i, j, self.error.bounds(squared as f32)));
        self.take_bounds(a, b, &bounded.collect::<Vec<_>>());
    }
}
