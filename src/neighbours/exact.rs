//! The exact search: every pair of points is excluded by a proven bound or measured.
//!
//! 1. Points become vectors with fewer coordinates that are never farther apart ([`super::embedding`]), these are put in an
//!    order in which neighbours are near ([`super::order`]) and written as 8-bit codes, block by block ([`super::codes`]).
//! 2. Of two blocks, every pair of rows is compared by its codes ([`super::kernel`]); each pair of blocks is looked at once,
//!    near ones first, and not at all where their boxes are too far apart.
//! 3. What the codes cannot exclude is measured: in float32 as far as that tells it to be too far, then in float64
//!    ([`super::direct`]). A row's reach, the distance of its k-th neighbour so far, shrinks while this goes on.
//!
//! How many coordinates a vector has is decided by a sample: few make comparing cheap, many leave little to measure.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use rayon::prelude::*;

use super::axes::Axes;
use super::centred::Centring;
use super::codes::{Codes, Frame, round_up};
use super::direct::{Best, Points};
use super::embedding::{Embedding, Space, centred_rows, shares, spread};
use super::kernel::{BLOCK, Pair, Scratch, Way, pairs_within, squared_distances};
use super::order::{Boxes, near_rows_together};
use super::product::{self, AXES};
use super::twins::Twins;
use super::{Found, NeighbourError, Real, Work};
use crate::progress::{Event, Observer};

/// With fewer columns than this, all of them are compared.
const FEW_COLUMNS: usize = 96;
/// Rows that axes are found from, and that the number of axes is decided by.
const SAMPLE: usize = 1024;
const QUERIES: usize = 16;
/// Reach is rounded to float32 after this factor, which covers the rounding of distances in float64.
const UP: f64 = 1.0 + 1e-9;

/// How the search is done; the answer does not depend on it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Means {
    pub codes: Way,
    pub products: product::Way,
    pub coordinates: Coordinates,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coordinates {
    /// As many as a sample says.
    Chosen,
    /// All of them.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests choose it"))]
    Whole,
    /// Those along so many axes less one, and the length of the rest.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests choose it"))]
    Along(usize),
}

impl Means {
    /// The fastest on this processor.
    pub fn best() -> Self {
        Self { codes: Way::detect(), products: product::Way::detect(), coordinates: Coordinates::Chosen }
    }
}

pub(super) fn search<T: Real>(
    means: Means,
    points: &Points<'_, T>,
    centring: &Centring,
    k: usize,
    observer: &dyn Observer,
) -> Result<Found, NeighbourError> {
    let twins = Twins::of(points);
    if twins.groups() == points.rows() {
        return search_distinct(means, points, centring, k, observer);
    }
    // Equal rows cannot be told apart by any bound: one of each is searched, the others have the same neighbours.
    let values = twins.distinct_rows(points);
    let distinct = Points { values: &values, columns: points.columns, scale: points.scale };
    let found = match twins.groups() {
        1 => Found::empty(),
        groups => search_distinct(means, &distinct, centring, k.min(groups - 1), observer)?,
    };
    Ok(twins.expand(&found, k))
}

fn search_distinct<T: Real>(
    means: Means,
    points: &Points<'_, T>,
    centring: &Centring,
    k: usize,
    observer: &dyn Observer,
) -> Result<Found, NeighbourError> {
    let start = Instant::now();
    let embedding = match means.coordinates {
        Coordinates::Chosen => chosen_embedding(means, points, centring, k),
        Coordinates::Whole => Embedding::whole(points, centring),
        Coordinates::Along(count) => {
            let sample = centred_rows(points, centring, &spread(points.rows(), SAMPLE));
            match Axes::of(sample.view(), count) {
                Some(axes) => Embedding::with_axes(points, centring, &axes, count, means.products),
                None => Embedding::whole(points, centring),
            }
        }
    };
    tracing::debug!(coordinates = embedding.width, seconds = start.elapsed().as_secs_f64(), "coordinates chosen");
    let search = Search::new(means.codes, points, &embedding, k);
    tracing::debug!(seconds = start.elapsed().as_secs_f64(), "points coded");
    search.seed();
    tracing::debug!(seconds = start.elapsed().as_secs_f64(), "first neighbours found");
    let found = search.run(observer)?;
    tracing::debug!(seconds = start.elapsed().as_secs_f64(), work = ?found.work, "neighbours found");
    Ok(found)
}

/// Chooses how many coordinates the vectors have.
fn chosen_embedding<'a, T: Real>(
    means: Means,
    points: &'a Points<'a, T>,
    centring: &'a Centring,
    k: usize,
) -> Embedding<'a, T> {
    let (rows, columns) = (points.rows(), points.columns);
    let pairs = rows as f64 * rows as f64 / 2.0;
    let counts: Vec<usize> =
        [1, 2, 3, 4, 6].into_iter().map(|n| n * AXES).filter(|&count| 4 * count <= 3 * columns).collect();
    let saved = compare_cost(means.codes, columns) - compare_cost(means.codes, 3 * AXES);
    if columns < FEW_COLUMNS || pairs * saved < CHOICE_COST * columns as f64 {
        return Embedding::whole(points, centring);
    }
    let sample = centred_rows(points, centring, &spread(rows, SAMPLE));
    let (Some(&most), true) = (counts.last(), counts.len() > 1) else { return Embedding::whole(points, centring) };
    let Some(axes) = Axes::of(sample.view(), most) else { return Embedding::whole(points, centring) };

    let queries = spread(rows, QUERIES);
    let near = reaches(points, &queries, k);
    let query_rows = centred_rows(points, centring, &queries);
    let square = |rows: &ndarray::Array2<f32>| -> Vec<f64> {
        rows.rows().into_iter().map(|row| row.iter().map(|&value| f64::from(value) * f64::from(value)).sum()).collect()
    };
    let (query_squares, squares) = (square(&query_rows), square(&sample));
    let (query_coordinates, coordinates) = (query_rows.dot(&axes.values.t()), sample.dot(&axes.values.t()));
    let left =
        shares((query_coordinates.view(), &query_squares), (coordinates.view(), &squares), &near, &counts, CODES_LOSE);
    let cost =
        |coordinates: usize, left: f64| pairs * (compare_cost(means.codes, coordinates) + left * measure_cost(columns));
    let whole = cost(columns, (WHOLE_LEAVES * k as f64 / rows as f64).min(1.0));
    let few = counts.iter().zip(&left).map(|(&count, &left)| {
        let turning = rows as f64 * columns as f64 * (count as f64 * TURN_COST + 1.0);
        (cost(count, REACHES_ARE_LONGER * left) + turning, count)
    });
    match few.min_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((cost, count)) if cost < whole => Embedding::with_axes(points, centring, &axes, count, means.products),
        _ => Embedding::whole(points, centring),
    }
}

/// Reaches are longer while the search goes on than they are in the end: for the choice only.
const REACHES_ARE_LONGER: f64 = 1.5;
/// By how much codes shorten distances, as a share of the length of a vector: for the choice of coordinates only.
const CODES_LOSE: f64 = 0.008;
/// How many pairs per neighbour all coordinates leave to be measured: for the choice only.
const WHOLE_LEAVES: f64 = 12.0;
// Nanoseconds, measured on one processor; only their ratios matter.
/// Of finding axes and trying them, for every column.
const CHOICE_COST: f64 = 1e5;
/// Of turning one coordinate of one row, for every axis.
const TURN_COST: f64 = 0.02;

/// Of comparing one pair.
fn compare_cost(way: Way, coordinates: usize) -> f64 {
    let (fixed, each) = match way {
        #[cfg(target_arch = "x86_64")]
        Way::Avx512 => (0.35, 0.0021),
        #[cfg(target_arch = "x86_64")]
        Way::Avx2 => (1.5, 0.03),
        Way::Portable => (1.5, 0.06),
    };
    fixed + each * coordinates as f64
}

/// Of measuring one pair.
fn measure_cost(columns: usize) -> f64 {
    55.0 + 0.1 * columns as f64
}

/// The distance of the k-th neighbour of some rows, in scaled units.
fn reaches<T: Real>(points: &Points<'_, T>, queries: &[usize], k: usize) -> Vec<f64> {
    let nearest = |query: usize| {
        let mut best = Best::new(k);
        for other in (0..points.rows()).filter(|&other| other != query) {
            let reach = best.limit().sqrt();
            if let Some(squared) = points.squared_distance_within(query, other, reach) {
                best.offer(squared, other as u32);
            }
        }
        best.limit().sqrt()
    };
    queries.par_iter().map(|&query| nearest(query)).collect()
}

struct Search<'a, T> {
    points: &'a Points<'a, T>,
    k: usize,
    codes: Codes,
    /// `[rows]`: the row at a place. Everything below goes by places.
    order: Vec<u32>,
    boxes: Boxes,
    /// `[blocks]`: by how much a gap between boxes may be too large.
    gap_errors: Vec<f64>,
    /// `[blocks]`
    lists: Vec<Mutex<Lists>>,
    /// `[blocks · BLOCK]`: bits of a float32 that the distance of the k-th neighbour does not exceed.
    reach: Vec<AtomicU32>,
    /// `[blocks]`: the largest of a block.
    block_reach: Vec<AtomicU32>,
}

/// The nearest rows so far of every row of a block.
struct Lists {
    k: usize,
    /// `[BLOCK, k]`, ascending.
    nearest: Vec<(f64, u32)>,
    /// `[BLOCK]`
    lengths: Vec<u32>,
}

impl Lists {
    fn new(k: usize) -> Self {
        Self { k, nearest: vec![(f64::INFINITY, u32::MAX); BLOCK * k], lengths: vec![0; BLOCK] }
    }

    /// Keeps a neighbour if it is among the `k` nearest; says whether it is.
    fn offer(&mut self, row: usize, squared: f64, neighbour: u32) -> bool {
        let list = &mut self.nearest[row * self.k..(row + 1) * self.k];
        let length = self.lengths[row] as usize;
        let place = list[..length].partition_point(|&known| known < (squared, neighbour));
        if place == self.k {
            return false;
        }
        let end = length.min(self.k - 1);
        list.copy_within(place..end, place + 1);
        list[place] = (squared, neighbour);
        self.lengths[row] = (end + 1) as u32;
        true
    }

    /// The squared distance of the k-th.
    fn limit(&self, row: usize) -> f64 {
        self.nearest[(row + 1) * self.k - 1].0
    }
}

/// What a thread works with.
struct Workspace {
    frame: Box<Frame>,
    scratch: Scratch,
    pairs: Vec<Pair>,
    measured: Vec<(u8, u8, f64)>,
    work: Work,
}

impl Workspace {
    fn new() -> Self {
        Self {
            frame: Frame::new(),
            scratch: Scratch::default(),
            pairs: Vec::new(),
            measured: Vec::new(),
            work: Work::default(),
        }
    }
}

impl<'a, T: Real> Search<'a, T> {
    fn new(way: Way, points: &'a Points<'a, T>, embedding: &Embedding<'a, T>, k: usize) -> Self {
        let (rows, columns) = (points.rows(), embedding.leading_columns());
        let (mut leading, mut distances) = (vec![0.0; rows * columns], vec![0.0; rows]);
        let parts = leading.par_chunks_mut(BLOCK * columns).zip(distances.par_chunks_mut(BLOCK)).enumerate();
        parts.for_each_init(Space::default, |space, (block, (values, distances))| {
            embedding.leading(block * BLOCK, values, distances, space);
        });
        let order = near_rows_together(&leading, columns, BLOCK);
        let boxes = Boxes::of(&order, &leading, columns, BLOCK);
        let codes = Codes::of(embedding, &order, way);
        let blocks = codes.blocks();
        let gap_errors = order
            .par_chunks(BLOCK)
            .map(|rows| embedding.leading_error(rows.iter().map(|&row| distances[row as usize]).fold(0.0, f64::max)))
            .collect();
        let infinite = || AtomicU32::new(f32::INFINITY.to_bits());
        Self {
            points,
            k,
            codes,
            order,
            boxes,
            gap_errors,
            lists: (0..blocks).map(|_| Mutex::new(Lists::new(k))).collect(),
            reach: (0..blocks * BLOCK).map(|_| infinite()).collect(),
            block_reach: (0..blocks).map(|_| infinite()).collect(),
        }
    }

    fn reach(&self, place: usize) -> f64 {
        // Nobody looks for the neighbours of what only fills up the last block.
        if place < self.order.len() { load(&self.reach[place]) } else { f64::NEG_INFINITY }
    }

    /// First reaches: the distances of the rows of the same block that look nearest by their codes.
    fn seed(&self) {
        let space = || (Frame::new(), Scratch::default(), vec![0.0; BLOCK * BLOCK], Vec::new());
        (0..self.codes.blocks()).into_par_iter().for_each_init(space, |(frame, scratch, tile, likely), block| {
            let rows = BLOCK.min(self.order.len() - block * BLOCK);
            if rows <= self.k {
                return;
            }
            self.codes.frame(block, block, |_| f64::INFINITY, frame);
            let pair = self.codes.pair(block, block);
            squared_distances(self.codes.way, pair, self.codes.width, &frame.terms(), scratch, tile);
            let places = &self.order[block * BLOCK..block * BLOCK + rows];
            for (row, (squared, &own)) in tile.chunks_exact_mut(BLOCK).zip(places).enumerate() {
                squared[row] = f32::INFINITY;
                smallest(&squared[..rows], self.k, likely);
                let others = likely.iter().map(|&(_, other)| places[other as usize] as usize);
                let distances = others.map(|other| self.points.squared_distance(own as usize, other, f64::INFINITY));
                lower(&self.reach[block * BLOCK + row], distances.fold(0.0, f64::max).sqrt());
            }
            self.look_at_block(block);
        });
    }

    /// The largest reach of the rows of a block.
    fn look_at_block(&self, block: usize) {
        let rows = block * BLOCK..((block + 1) * BLOCK).min(self.order.len());
        lower(&self.block_reach[block], rows.map(|row| load(&self.reach[row])).fold(0.0, f64::max));
    }

    fn run(&self, observer: &dyn Observer) -> Result<Found, NeighbourError> {
        let blocks = self.codes.blocks();
        let total = (blocks * (blocks + 1) / 2) as u64;
        let next = Mutex::new((0, 0));
        let done = AtomicU64::new(0);
        observer.observe(Event::Begin { stage: "searching neighbours", total: Some(total), done: 0, unit: "blocks" });
        // Near blocks first: then reaches are short where most pairs are compared.
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
                    self.compare(a, b, &mut space);
                    let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                    observer.observe(Event::Advance { done, detail: "" });
                }
                Ok::<_, NeighbourError>(space.work)
            })
            .try_reduce(Work::default, |a, b| Ok(a + b))?;
        observer.observe(Event::End);
        Ok(self.found(work))
    }

    fn compare(&self, a: usize, b: usize, space: &mut Workspace) {
        let reach = load(&self.block_reach[a]).max(load(&self.block_reach[b]));
        if self.boxes.gap(a, b) > reach + self.gap_errors[a] + self.gap_errors[b] {
            return;
        }
        let Workspace { frame, scratch, pairs, measured, work } = space;
        self.codes.frame(a, b, |place| self.reach(place), frame);
        pairs.clear();
        let pair = self.codes.pair(a, b);
        pairs_within(self.codes.way, pair, self.codes.width, &frame.terms(), scratch, pairs);
        work.compared += (BLOCK * BLOCK) as u64;
        measured.clear();
        for pair in pairs.iter().filter(|pair| a != b || pair.first < pair.second) {
            let (i, j) = (a * BLOCK + usize::from(pair.first), b * BLOCK + usize::from(pair.second));
            let reach = self.reach(i).max(self.reach(j));
            if j >= self.order.len() || !self.codes.may_be_within(frame, (i, j), pair.squared, reach) {
                continue;
            }
            work.measured += 1;
            let (x, y) = (self.order[i] as usize, self.order[j] as usize);
            if let Some(squared) = self.points.squared_distance_within(x, y, reach) {
                measured.push((pair.first, pair.second, squared));
            }
        }
        if measured.is_empty() {
            return;
        }
        work.settled += measured.len() as u64;
        self.offer(a, measured.iter().map(|&(i, j, squared)| (i, self.order[b * BLOCK + usize::from(j)], squared)));
        self.offer(b, measured.iter().map(|&(i, j, squared)| (j, self.order[a * BLOCK + usize::from(i)], squared)));
    }

    /// Offers neighbours to rows of a block.
    fn offer(&self, block: usize, neighbours: impl Iterator<Item = (u8, u32, f64)>) {
        let mut lists = locked(&self.lists[block]);
        let mut changed = false;
        for (row, neighbour, squared) in neighbours {
            let row = usize::from(row);
            if lists.offer(row, squared, neighbour) {
                lower(&self.reach[block * BLOCK + row], lists.limit(row).sqrt());
                changed = true;
            }
        }
        drop(lists);
        if changed {
            self.look_at_block(block);
        }
    }

    fn found(&self, work: Work) -> Found {
        let (rows, k) = (self.order.len(), self.k);
        let mut found = Found { squared: vec![0.0; rows * k], indices: vec![0; rows * k], work };
        for (block, lists) in self.lists.iter().enumerate() {
            let lists = locked(lists);
            for (place, &row) in self.order[block * BLOCK..].iter().take(BLOCK).enumerate() {
                for (rank, &(squared, neighbour)) in lists.nearest[place * k..(place + 1) * k].iter().enumerate() {
                    let at = row as usize * k + rank;
                    (found.squared[at], found.indices[at]) = (squared, neighbour);
                }
            }
        }
        found
    }
}

/// The `k` smallest values and their places, ascending.
fn smallest(values: &[f32], k: usize, found: &mut Vec<(f32, u32)>) {
    found.clear();
    let mut limit = f32::INFINITY;
    for (place, &value) in values.iter().enumerate() {
        if value < limit || found.len() < k {
            let at = found.partition_point(|&(known, _)| known <= value);
            found.insert(at, (value, place as u32));
            found.truncate(k);
            limit = found[found.len() - 1].0;
        }
    }
}

fn load(reach: &AtomicU32) -> f64 {
    f64::from(f32::from_bits(reach.load(Ordering::Relaxed)))
}

/// Distances are not negative: their bits are in the same order as they are.
fn lower(reach: &AtomicU32, distance: f64) {
    reach.fetch_min(round_up(distance * UP).to_bits(), Ordering::Relaxed);
}

/// A panic elsewhere ends the search anyway.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
