//! Points in codes, and a pass over all pairs of them: each pair is excluded by a proven bound or measured.
//!
//! 1. Points become vectors with fewer coordinates that are never farther apart ([`super::projection`]). These are put in an
//!    order that keeps neighbours close together ([`super::partition`]) and written as 8-bit codes, block by block
//!    ([`super::quantized_blocks`]).
//! 2. For two blocks, every pair of rows is compared by its codes ([`super::simd::int8_dot`]). Each pair of blocks is visited
//!    once, near ones first, and skipped where their boxes are too far apart.
//! 3. What the codes cannot exclude is measured: in float32 until that proves it too far, then in float64
//!    ([`super::exact_distance`]). Or its distance is bounded from both sides, by these codes if they hold all coordinates, by
//!    finer ones ([`super::int12_codes`]) if not, and the seeker measures what it keeps.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use super::exact_distance::Points;
use super::int12_codes::Int12Codes;
use super::partition::{Boxes, near_rows_together};
use super::projection::{Projection, Space};
use super::quantized_blocks::{BlockPair, QuantizedBlocks};
use super::simd::int8_dot::{BLOCK, Pair, Scratch, pairs_within};
use super::simd::isa::Isa;
use super::{NeighbourError, Scalar, Work};
use crate::progress::{Event, Observer};

/// How many pairs before they are examined their rows are fetched from memory.
pub(super) const AHEAD: usize = 2;

pub(super) struct BlockIndex<'a, T> {
    pub points: &'a Points<'a, T>,
    pub codes: QuantizedBlocks,
    /// `[rows]`: the row at each position. Everything else is indexed by position, `block · BLOCK + row in the block`.
    pub order: Vec<u32>,
    boxes: Boxes,
    /// `[blocks]`: by how much a gap between boxes may be overestimated.
    gap_errors: Vec<f64>,
    /// Whether the codes of the blocks hold all coordinates.
    keeps_distances: bool,
    /// Finer codes for upper bounds of distances, where these are needed and the codes of the blocks do not give them.
    pub whole: Option<Int12Codes>,
}

/// What a pass over all pairs looks for.
pub(super) trait Seeker: Sync {
    /// What [`Seeker::look`] learns about a pair that the codes do not exclude.
    type Seen;

    /// The largest distance that may still count for a position. It may shrink during the pass.
    fn radius(&self, place: usize) -> f64;

    /// The largest radius of a block.
    fn block_radius(&self, block: usize) -> f64;

    /// Whether a pair of positions counts at all.
    fn counts(&self, one: usize, other: usize) -> bool;

    /// Has what [`Seeker::look`] will read of a pair of positions fetched from memory.
    fn fetch(&self, places: (usize, usize));

    /// Looks at a pair of positions, `squared` apart by their codes, that may be within `radius`; `None` where it is not.
    fn look(&self, block_pair: &BlockPair, places: (usize, usize), squared: f32, radius: f64) -> Option<Self::Seen>;

    /// Receives pairs (row in block `a`, row in block `b`, what was seen) that were within the radius of one of the two.
    fn take(&self, a: usize, b: usize, pairs: &[(u8, u8, Self::Seen)]);
}

impl<'a, T: Scalar> BlockIndex<'a, T> {
    pub fn new(isa: Isa, points: &'a Points<'a, T>, projection: &Projection<'a, T>) -> Self {
        let (rows, columns) = (points.rows(), projection.leading_columns());
        let (mut leading, mut distances) = (vec![0.0; rows * columns], vec![0.0; rows]);
        let parts = leading.par_chunks_mut(BLOCK * columns).zip(distances.par_chunks_mut(BLOCK)).enumerate();
        parts.for_each_init(Space::default, |space, (block, (values, distances))| {
            projection.leading(block * BLOCK, values, distances, space);
        });
        let order = near_rows_together(&leading, columns, BLOCK);
        let boxes = Boxes::of(&order, &leading, columns, BLOCK);
        let codes = QuantizedBlocks::of(projection, &order, isa);
        let gap_errors = order
            .par_chunks(BLOCK)
            .map(|rows| projection.leading_error(rows.iter().map(|&row| distances[row as usize]).fold(0.0, f64::max)))
            .collect();
        let keeps_distances = projection.keeps_distances();
        Self { points, codes, order, boxes, gap_errors, keeps_distances, whole: None }
    }

    /// An index that also bounds distances from above.
    pub fn with_bounds_both_ways(isa: Isa, points: &'a Points<'a, T>, projection: &Projection<'a, T>) -> Self {
        let block_index = Self::new(isa, points, projection);
        let whole = || Int12Codes::of(&projection.all_coordinates(), &block_index.order, isa);
        Self { whole: (!projection.keeps_distances()).then(whole), ..block_index }
    }

    /// Lower and upper bound of the distance of a pair, from its squared distance by the codes of the blocks; only for an
    /// index built [with bounds both ways](Self::with_bounds_both_ways).
    pub fn bounds(&self, block_pair: &BlockPair, (i, j): (usize, usize), squared: f32) -> (f32, f32) {
        match &self.whole {
            Some(whole) => whole.bounds(i, j),
            None => self.codes.bounds(block_pair, (i, j), squared),
        }
    }

    /// The squared distance between two positions in scaled units, measured in float64, if it is within `radius`. `squared`
    /// is what the codes of the blocks say, by which it is chosen how to measure.
    pub fn squared_distance_within(&self, (i, j): (usize, usize), squared: f32, radius: f64) -> Option<f64> {
        if self.whole.as_ref().is_some_and(|whole| whole.farther(i, j, radius)) {
            return None;
        }
        let (a, b) = (self.order[i] as usize, self.order[j] as usize);
        // A pair that seems to be within the radius is measured in float64 at once.
        if self.keeps_distances && f64::from(squared) < radius * radius {
            let squared = self.points.squared_distance(a, b, radius * radius);
            return (squared <= radius * radius).then_some(squared);
        }
        self.points.squared_distance_within(a, b, radius)
    }

    /// Has what [`BlockIndex::squared_distance_within`] will read fetched from memory.
    pub fn fetch(&self, (i, j): (usize, usize)) {
        if self.whole.is_none() {
            [i, j].iter().for_each(|&place| self.points.fetch(self.order[place] as usize));
        }
    }

    /// The points, and the row at each position.
    pub fn into_points(self) -> (&'a Points<'a, T>, Vec<u32>) {
        (self.points, self.order)
    }

    pub fn blocks(&self) -> usize {
        self.codes.blocks()
    }

    /// The positions in a block that hold points, without the padding.
    pub fn places(&self, block: usize) -> std::ops::Range<usize> {
        block * BLOCK..((block + 1) * BLOCK).min(self.order.len())
    }

    /// Shows the seeker every pair that may be within its radius.
    pub fn pass(&self, seeker: &impl Seeker, observer: &dyn Observer, stage: &str) -> Result<Work, NeighbourError> {
        let blocks = self.blocks();
        let total = (blocks * (blocks + 1) / 2) as u64;
        let next = Mutex::new((0, 0));
        let done = AtomicU64::new(0);
        observer.observe(Event::Begin { stage, total: Some(total), done: 0, unit: "blocks" });
        // Near blocks first: radii are then short when most pairs are compared.
        let take = || {
            let mut next = locked(&next);
            let (distance, first) = *next;
            *next = if first + distance + 1 < blocks { (distance, first + 1) } else { (distance + 1, 0) };
            (distance < blocks).then_some((first, first + distance))
        };
        let work = (0..rayon::current_num_threads())
            .into_par_iter()
            .with_max_len(1)
            .map(|_| {
                let mut space = Workspace::new();
                while let Some((a, b)) = take() {
                    observer.check()?;
                    self.compare(a, b, seeker, &mut space);
                    let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                    observer.observe(Event::Advance { done, detail: "" });
                }
                Ok::<_, NeighbourError>(space.work)
            })
            .try_reduce(Work::default, |a, b| Ok(a + b))?;
        observer.observe(Event::End);
        Ok(work)
    }

    fn compare<S: Seeker>(&self, a: usize, b: usize, seeker: &S, space: &mut Workspace<S::Seen>) {
        let radius = seeker.block_radius(a).max(seeker.block_radius(b));
        if self.boxes.gap(a, b) > radius + self.gap_errors[a] + self.gap_errors[b] {
            return;
        }
        let Workspace { block_pair, scratch, pairs, seen, work } = space;
        let rows = self.order.len();
        // The padding of the last block looks for no neighbours.
        let radius = |place: usize| if place < rows { seeker.radius(place) } else { f64::NEG_INFINITY };
        self.codes.block_pair(a, b, radius, block_pair);
        pairs.clear();
        let pair = self.codes.pair(a, b);
        pairs_within(self.codes.isa, pair, self.codes.width, &block_pair.terms(), scratch, pairs);
        work.compared += (BLOCK * BLOCK) as u64;
        seen.clear();
        let places = |pair: &Pair| (a * BLOCK + usize::from(pair.first), b * BLOCK + usize::from(pair.second));
        pairs.retain(|pair| {
            let (i, j) = places(pair);
            let radius = block_pair.sought(pair.first, pair.second);
            (a != b || pair.first < pair.second)
                && j < rows
                && seeker.counts(i, j)
                && self.codes.may_be_within(block_pair, (i, j), pair.squared, radius)
        });
        work.measured += pairs.len() as u64;
        for (number, pair) in pairs.iter().enumerate() {
            if let Some(later) = pairs.get(number + AHEAD) {
                seeker.fetch(places(later));
            }
            if let Some(found) =
                seeker.look(block_pair, places(pair), pair.squared, block_pair.sought(pair.first, pair.second))
            {
                seen.push((pair.first, pair.second, found));
            }
        }
        if !seen.is_empty() {
            work.settled += seen.len() as u64;
            seeker.take(a, b, seen);
        }
    }
}

/// Buffers of one thread.
struct Workspace<Seen> {
    block_pair: Box<BlockPair>,
    scratch: Scratch,
    pairs: Vec<Pair>,
    seen: Vec<(u8, u8, Seen)>,
    work: Work,
}

impl<Seen> Workspace<Seen> {
    fn new() -> Self {
        Self {
            block_pair: BlockPair::new(),
            scratch: Scratch::default(),
            pairs: Vec::new(),
            seen: Vec::new(),
            work: Work::default(),
        }
    }
}

/// Locks a mutex, poisoned or not: a panic elsewhere ends the search anyway.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
