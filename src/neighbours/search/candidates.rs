//! The exact search for many neighbours: the same pass as [`super::radius`], which is for few.
//!
//! For many neighbours, most of the time goes into candidates that do not stay. So they are collected unordered and with the
//! bounds of their codes only. When a row is full, candidates surely farther than the k-th are dropped. The rest is measured
//! in float64 at the end, nearest first, as long as it may count; only rows with very many equally far candidates are
//! measured earlier.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use rayon::prelude::*;

use crate::neighbours::block_index::{AHEAD, BlockIndex, Seeker, locked};
use crate::neighbours::exact_distance::{Best, Points};
use crate::neighbours::quantized_blocks::BlockPair;
use crate::neighbours::search::candidate_lists::{Candidate, Candidates, give_memory_back};
use crate::neighbours::search_radius::SearchRadii;
use crate::neighbours::simd::int8_dot::{BLOCK, Scratch, squared_distances};
use crate::neighbours::{Found, NeighbourError, Scalar, Work};
use crate::progress::Observer;

/// Number of blocks from which the first radii are taken.
const NEAR_BLOCKS: usize = 6;
/// Initial capacity of a row, in candidates per two neighbours.
const ROOM: usize = 3;
/// Largest capacity where bounds are wide, in the same unit: measuring candidates takes longer than keeping them.
const MOST_ROOM: usize = 12;
/// Approximate limit on the memory of all candidates together, in bytes.
const MEMORY: usize = 1 << 30;
/// Up to this many neighbours, sorted lists are faster.
pub(in crate::neighbours) const FEW: usize = 8;

/// The `k` nearest neighbours of every point, by codes that bound distances both ways.
pub(in crate::neighbours) fn nearest<T: Scalar>(
    block_index: BlockIndex<'_, T>,
    k: usize,
    observer: &dyn Observer,
) -> Result<Found, NeighbourError> {
    let start = Instant::now();
    let search = Search::new(&block_index, k);
    search.seed();
    tracing::debug!(seconds = start.elapsed().as_secs_f64(), "first radii");
    let work = block_index.pass(&search, observer, "searching neighbours")?;
    tracing::debug!(seconds = start.elapsed().as_secs_f64(), "candidates");
    let blocks = search.blocks;
    // Frees the codes: their memory is needed for the result.
    let (points, order) = block_index.into_points();
    Ok(found(Truth { points, order: &order, k }, blocks, work))
}

/// The points themselves, measured in float64.
#[derive(Clone, Copy)]
struct Truth<'a, T> {
    points: &'a Points<'a, T>,
    order: &'a [u32],
    k: usize,
}

impl<T: Scalar> Truth<'_, T> {
    /// The squared distance from the row at a position to another row; some value above the limit where it exceeds it.
    fn squared(self, place: usize, row: u32, limit: f64) -> f64 {
        self.points.squared_distance(self.order[place] as usize, row as usize, limit)
    }

    /// The nearest of the candidates, sorted.
    fn settle(self, place: usize, candidates: &mut [Candidate]) -> Best {
        candidates.sort_unstable_by(|a, b| a.lower().total_cmp(&b.lower()).then(a.row.cmp(&b.row)));
        let mut best = Best::new(self.k);
        for (number, candidate) in candidates.iter().enumerate() {
            if let Some(later) = candidates.get(number + AHEAD) {
                self.points.fetch(later.row as usize);
            }
            if f64::from(candidate.lower()).powi(2) > best.limit() {
                break;
            }
            best.offer(self.squared(place, candidate.row, best.limit()), candidate.row);
        }
        best
    }
}

struct Search<'a, T> {
    block_index: &'a BlockIndex<'a, T>,
    k: usize,
    /// Largest capacity of a row, in candidates.
    most_room: usize,
    truth: Truth<'a, T>,
    /// `[blocks]`: candidates of each block.
    blocks: Vec<Mutex<Block>>,
    /// Upper bounds of the distance to the k-th neighbour.
    radii: SearchRadii,
}

/// The neighbours of the rows of a block.
struct Block {
    candidates: Candidates,
    /// `[BLOCK]`: sorted neighbours of rows with so many ties that only float64 and the smaller index can decide which stay.
    settled: Vec<Option<Best>>,
}

impl<'a, T: Scalar> Search<'a, T> {
    fn new(block_index: &'a BlockIndex<'a, T>, k: usize) -> Self {
        let rows = block_index.order.len();
        let room = (k * ROOM / 2).max(k + 2);
        let most = MEMORY / (rows * size_of::<Candidate>());
        let most_room = most.clamp(room, room.max(k * MOST_ROOM / 2));
        let block = || Block {
            candidates: Candidates::new(room),
            settled: std::iter::repeat_with(|| None).take(BLOCK).collect(),
        };
        Self {
            block_index,
            k,
            most_room,
            truth: Truth { points: block_index.points, order: &block_index.order, k },
            blocks: (0..block_index.blocks()).map(|_| Mutex::new(block())).collect(),
            radii: SearchRadii::infinite(block_index.blocks()),
        }
    }

    /// Sets the first radii: upper bounds from the rows of the nearest blocks that look nearest by their codes.
    fn seed(&self) {
        let space = || (BlockPair::new(), Scratch::default(), vec![0.0; BLOCK * BLOCK], vec![Vec::new(); BLOCK]);
        let codes = &self.block_index.codes;
        (0..codes.blocks()).into_par_iter().for_each_init(space, |(block_pair, scratch, tile, likely), block| {
            likely.iter_mut().for_each(Vec::clear);
            let own = self.block_index.places(block);
            for other in codes.nearest_blocks(block, NEAR_BLOCKS) {
                codes.block_pair(block, other, |_| f64::INFINITY, block_pair);
                let pair = codes.pair(block, other);
                squared_distances(codes.isa, pair, codes.width, &block_pair.terms(), scratch, tile);
                let others = self.block_index.places(other);
                for ((place, squared), likely) in own.clone().zip(tile.chunks_exact(BLOCK)).zip(likely.iter_mut()) {
                    let look = |(&squared, other): (&f32, usize)| match &self.block_index.whole {
                        None => (codes.upper_bound(block_pair, (place, other), squared), other as u32),
                        Some(_) => (squared, other as u32),
                    };
                    likely.extend(squared.iter().zip(others.clone()).filter(|(_, other)| *other != place).map(look));
                }
            }
            for (place, likely) in own.zip(likely) {
                if likely.len() < self.k {
                    continue;
                }
                let (nearer, kth, _) = likely.select_nth_unstable_by(self.k - 1, |a, b| a.0.total_cmp(&b.0));
                let radius = match &self.block_index.whole {
                    None => kth.0,
                    Some(whole) => {
                        let chosen = nearer.iter().chain([&*kth]);
                        chosen.map(|&(_, other)| whole.bounds(place, other as usize).1).fold(0.0, f32::max)
                    }
                };
                self.radii.lower(place, f64::from(radius));
            }
            self.radii.look_at_block(block, self.block_index.places(block));
        });
    }

    /// Offers candidates to rows of a block.
    fn offer(&self, number: usize, neighbours: impl Iterator<Item = (u8, Candidate)>) {
        let mut block = locked(&self.blocks[number]);
        let mut changed = false;
        for (row, candidate) in neighbours {
            let row = usize::from(row);
            let place = number * BLOCK + row;
            if f64::from(candidate.lower()) > self.radii.of_place(place) {
                continue;
            }
            if let Some(best) = &mut block.settled[row] {
                best.offer(self.truth.squared(place, candidate.row, best.limit()), candidate.row);
                self.radii.lower(place, best.limit().sqrt());
                changed = true;
            } else if block.candidates.push(row, candidate) {
                self.thin_out(place, row, &mut block);
                changed = true;
            }
        }
        drop(block);
        if changed {
            self.radii.look_at_block(number, self.block_index.places(number));
        }
    }

    /// Drops candidates of a row that are surely farther than the k-th.
    fn thin_out(&self, place: usize, row: usize, block: &mut Block) {
        let Block { candidates, settled } = block;
        let few = |candidates: &Candidates| candidates.row(row).len() <= (self.k + candidates.room()) / 2;
        self.radii.lower(place, f64::from(candidates.drop_farther(row, self.k)));
        if few(candidates) {
            return;
        }
        if candidates.room() < self.most_room {
            candidates.widen((candidates.room() + self.k / 2).min(self.most_room));
            return;
        }
        for candidate in candidates.row_mut(row) {
            let distance = self.truth.squared(place, candidate.row, f64::INFINITY).sqrt();
            *candidate = Candidate::measured(candidate.row, distance);
        }
        self.radii.lower(place, f64::from(candidates.drop_farther(row, self.k)));
        if !few(candidates) {
            let best = self.truth.settle(place, candidates.row_mut(row));
            self.radii.lower(place, best.limit().sqrt());
            settled[row] = Some(best);
        }
    }
}

/// The neighbours of all rows. They first overwrite the candidates and are complete before they are put in the order of the
/// points: where memory is short, the rest of it serves reading the points.
fn found<T: Scalar>(truth: Truth<'_, T>, blocks: Vec<Mutex<Block>>, work: Work) -> Found {
    let (order, k) = (truth.order, truth.k);
    let rows = order.len();
    let kept = AtomicU64::new(0);
    // All threads work on blocks that are near each other, so that they read the same points.
    let next = AtomicUsize::new(0);
    (0..rayon::current_num_threads()).into_par_iter().with_max_len(1).for_each(|_| {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(block) = blocks.get(number) else { break };
            let Block { candidates, settled } = &mut *locked(block);
            for (row, (place, settled)) in (number * BLOCK..rows).zip(settled).enumerate() {
                let best = settled.take().unwrap_or_else(|| {
                    kept.fetch_add(candidates.row(row).len() as u64, Ordering::Relaxed);
                    truth.settle(place, candidates.row_mut(row))
                });
                let nearest = best.into_sorted();
                for (candidate, (squared, neighbour)) in candidates.row_mut(row).iter_mut().zip(nearest) {
                    *candidate = Candidate::neighbour(neighbour, squared);
                }
            }
        }
    });
    let mut found = Found { squared: vec![0.0; rows * k], indices: vec![0; rows * k], work };
    for (block, order) in blocks.into_iter().zip(order.chunks(BLOCK)) {
        let candidates = block.into_inner().unwrap_or_else(PoisonError::into_inner).candidates;
        for (number, &row) in order.iter().enumerate() {
            for (rank, nearest) in candidates.row(number)[..k].iter().enumerate() {
                let at = row as usize * k + rank;
                (found.squared[at], found.indices[at]) = (nearest.squared(), nearest.row);
            }
        }
    }
    give_memory_back();
    found.work.settled = kept.into_inner();
    found
}

impl<T: Scalar> Seeker for Search<'_, T> {
    type Seen = (f32, f32);

    fn radius(&self, place: usize) -> f64 {
        self.radii.of_place(place)
    }

    fn block_radius(&self, block: usize) -> f64 {
        self.radii.of_block(block)
    }

    fn counts(&self, _: usize, _: usize) -> bool {
        true
    }

    fn fetch(&self, _: (usize, usize)) {}

    fn look(&self, block_pair: &BlockPair, (i, j): (usize, usize), squared: f32, radius: f64) -> Option<(f32, f32)> {
        let bounds = self.block_index.bounds(block_pair, (i, j), squared);
        (f64::from(bounds.0) <= radius).then_some(bounds)
    }

    fn take(&self, a: usize, b: usize, pairs: &[(u8, u8, (f32, f32))]) {
        let order = &self.block_index.order;
        let candidate = |place: usize, bounds: (f32, f32)| Candidate::new(order[place], bounds);
        self.offer(a, pairs.iter().map(|&(i, j, bounds)| (i, candidate(b * BLOCK + usize::from(j), bounds))));
        self.offer(b, pairs.iter().map(|&(i, j, bounds)| (j, candidate(a * BLOCK + usize::from(i), bounds))));
    }
}
