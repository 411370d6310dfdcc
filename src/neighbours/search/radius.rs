//! The exact search for the nearest neighbours: one pass over all pairs of blocks of the [block
//! index](crate::neighbours::block_index).
//!
//! This is for few neighbours; [`super::candidates`] is for many. The radius of a row, the distance of its k-th neighbour so
//! far, shrinks during the pass.

use std::sync::Mutex;
use std::time::Instant;

use rayon::prelude::*;

use crate::neighbours::block_index::{BlockIndex, Seeker, locked};
use crate::neighbours::duplicates::Duplicates;
use crate::neighbours::exact_distance::Points;
use crate::neighbours::normalization::Centring;
use crate::neighbours::quantized_blocks::BlockPair;
use crate::neighbours::rows::RowView;
use crate::neighbours::search::candidates;
use crate::neighbours::search_plan::{SearchPlan, looks_twice};
use crate::neighbours::search_radius::SearchRadii;
use crate::neighbours::simd::int8_dot::{BLOCK, Scratch, squared_distances};
use crate::neighbours::{Found, NeighbourError, Scalar, Work};
use crate::progress::Observer;

pub(in crate::neighbours) fn search<T: Scalar>(
    plan: SearchPlan,
    points: &Points<'_, T>,
    centring: &Centring,
    k: usize,
    observer: &dyn Observer,
) -> Result<Found, NeighbourError> {
    let duplicates = Duplicates::of(points);
    if duplicates.groups() == points.rows() {
        return search_distinct(plan, points, centring, k, observer);
    }
    // No bound can separate equal rows: one of each is searched, the others have the same neighbours.
    let rows = duplicates.distinct_rows(points);
    let rows = RowView::chosen(points.rows.values(), points.columns(), &rows);
    let distinct = Points { rows, scale: points.scale };
    let found = match duplicates.groups() {
        1 => Found::empty(),
        groups => search_distinct(plan, &distinct, centring, k.min(groups - 1), observer)?,
    };
    Ok(duplicates.expand(&found, k))
}

fn search_distinct<T: Scalar>(
    plan: SearchPlan,
    points: &Points<'_, T>,
    centring: &Centring,
    k: usize,
    observer: &dyn Observer,
) -> Result<Found, NeighbourError> {
    let start = Instant::now();
    let projection = plan.projection(points, centring, k);
    tracing::debug!(coordinates = projection.width, seconds = start.elapsed().as_secs_f64(), "coordinates chosen");
    let many = k > candidates::FEW;
    let both_ways = many || looks_twice(plan.codes, points.rows(), points.columns());
    let code = if both_ways { BlockIndex::with_bounds_both_ways } else { BlockIndex::new };
    let block_index = code(plan.codes, points, &projection);
    tracing::debug!(seconds = start.elapsed().as_secs_f64(), "points coded");
    let found = if many { candidates::nearest(block_index, k, observer)? } else { nearest(&block_index, k, observer)? };
    tracing::debug!(seconds = start.elapsed().as_secs_f64(), work = ?found.work, "neighbours found");
    Ok(found)
}

/// The `k` nearest neighbours of every point.
pub(in crate::neighbours) fn nearest<T: Scalar>(
    block_index: &BlockIndex<'_, T>,
    k: usize,
    observer: &dyn Observer,
) -> Result<Found, NeighbourError> {
    let search = Search::new(block_index, k);
    search.seed();
    let work = block_index.pass(&search, observer, "searching neighbours")?;
    Ok(search.found(work))
}

struct Search<'a, T> {
    block_index: &'a BlockIndex<'a, T>,
    k: usize,
    /// `[blocks]`: neighbour lists of each block.
    lists: Vec<Mutex<Lists>>,
    /// Upper bounds of the distance to the k-th neighbour.
    radii: SearchRadii,
}

/// The nearest rows so far of every row of a block.
struct Lists {
    k: usize,
    /// `[BLOCK, k]`: squared distances and rows, ascending.
    nearest: Vec<(f64, u32)>,
    /// `[BLOCK]`: number of neighbours of each row so far.
    lengths: Vec<u32>,
}

impl Lists {
    fn new(k: usize) -> Self {
        Self { k, nearest: vec![(f64::INFINITY, u32::MAX); BLOCK * k], lengths: vec![0; BLOCK] }
    }

    /// Keeps a neighbour if it is among the `k` nearest; returns whether it is.
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

    /// The squared distance of the k-th neighbour.
    fn limit(&self, row: usize) -> f64 {
        self.nearest[(row + 1) * self.k - 1].0
    }
}

impl<'a, T: Scalar> Search<'a, T> {
    fn new(block_index: &'a BlockIndex<'a, T>, k: usize) -> Self {
        Self {
            block_index,
            k,
            lists: (0..block_index.blocks()).map(|_| Mutex::new(Lists::new(k))).collect(),
            radii: SearchRadii::infinite(block_index.blocks()),
        }
    }

    /// Sets the first radii: the distances to the rows of the same block that look nearest by their codes.
    fn seed(&self) {
        let space = || (BlockPair::new(), Scratch::default(), vec![0.0; BLOCK * BLOCK], Vec::new());
        let BlockIndex { points, codes, order, .. } = self.block_index;
        (0..codes.blocks()).into_par_iter().for_each_init(space, |(block_pair, scratch, tile, likely), block| {
            let places = self.block_index.places(block);
            let rows = places.len();
            if rows <= self.k {
                return;
            }
            let places = &order[places];
            codes.block_pair(block, block, |_| f64::INFINITY, block_pair);
            let pair = codes.pair(block, block);
            squared_distances(codes.isa, pair, codes.width, &block_pair.terms(), scratch, tile);
            for (row, (squared, &own)) in tile.chunks_exact_mut(BLOCK).zip(places).enumerate() {
                squared[row] = f32::INFINITY;
                smallest(&squared[..rows], self.k, likely);
                let others = likely.iter().map(|&(_, other)| places[other as usize] as usize);
                let distances = others.map(|other| points.squared_distance(own as usize, other, f64::INFINITY));
                self.radii.lower(block * BLOCK + row, distances.fold(0.0, f64::max).sqrt());
            }
            self.radii.look_at_block(block, self.block_index.places(block));
        });
    }

    /// Offers neighbours to rows of a block.
    fn offer(&self, block: usize, neighbours: impl Iterator<Item = (u8, u32, f64)>) {
        let mut lists = locked(&self.lists[block]);
        let mut changed = false;
        for (row, neighbour, squared) in neighbours {
            let row = usize::from(row);
            if lists.offer(row, squared, neighbour) {
                self.radii.lower(block * BLOCK + row, lists.limit(row).sqrt());
                changed = true;
            }
        }
        drop(lists);
        if changed {
            self.radii.look_at_block(block, self.block_index.places(block));
        }
    }

    fn found(&self, work: Work) -> Found {
        let (rows, k) = (self.block_index.order.len(), self.k);
        let mut found = Found { squared: vec![0.0; rows * k], indices: vec![0; rows * k], work };
        for (block, lists) in self.lists.iter().enumerate() {
            let lists = locked(lists);
            for (place, &row) in self.block_index.order[block * BLOCK..].iter().take(BLOCK).enumerate() {
                for (rank, &(squared, neighbour)) in lists.nearest[place * k..(place + 1) * k].iter().enumerate() {
                    let at = row as usize * k + rank;
                    (found.squared[at], found.indices[at]) = (squared, neighbour);
                }
            }
        }
        found
    }
}

impl<T: Scalar> Seeker for Search<'_, T> {
    type Seen = f64;

    fn radius(&self, place: usize) -> f64 {
        self.radii.of_place(place)
    }

    fn block_radius(&self, block: usize) -> f64 {
        self.radii.of_block(block)
    }

    fn counts(&self, _: usize, _: usize) -> bool {
        true
    }

    fn fetch(&self, places: (usize, usize)) {
        self.block_index.fetch(places);
    }

    fn look(&self, _: &BlockPair, places: (usize, usize), squared: f32, radius: f64) -> Option<f64> {
        self.block_index.squared_distance_within(places, squared, radius)
    }

    fn take(&self, a: usize, b: usize, pairs: &[(u8, u8, f64)]) {
        let order = &self.block_index.order;
        self.offer(a, pairs.iter().map(|&(i, j, squared)| (i, order[b * BLOCK + usize::from(j)], squared)));
        self.offer(b, pairs.iter().map(|&(i, j, squared)| (j, order[a * BLOCK + usize::from(i)], squared)));
    }
}

/// The `k` smallest values and their indices, ascending.
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
