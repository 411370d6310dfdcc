//! The Euclidean minimum spanning tree of all points, exact.
//!
//! Borůvka's algorithm: the shortest edge that leaves a component belongs to the tree, so all components are joined along
//! theirs, repeatedly. Most of these edges are among the nearest neighbours of a point. Where all neighbours of a point are
//! already in its own component and an edge as short as the best known one might lie beyond them, a pass over all pairs
//! looks for it, with the best edge of the component as radius.

use std::cmp::Ordering;
use std::sync::Mutex;

use ndarray::ArrayView2;
use rayon::prelude::*;

use super::block_index::{BlockIndex, Seeker, locked};
use super::duplicates::Duplicates;
use super::exact_distance::Points;
use super::quantized_blocks::BlockPair;
use super::rows::RowView;
use super::search::radius::nearest;
use super::search_plan::SearchPlan;
use super::search_radius::SearchRadius;
use super::simd::int8_dot::BLOCK;
use super::{NeighbourError, Scalar, checked};
use crate::progress::Observer;

/// Neighbours of each point whose edges are known from the start.
const NEIGHBOURS: usize = 10;

/// An edge of a tree.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Edge {
    /// Row indices of its ends, the smaller one first.
    pub ends: (u32, u32),
    /// Euclidean length.
    pub length: f64,
}

/// The minimum spanning tree of the rows of `points` `[points, columns]` in Euclidean distance: one edge fewer than rows,
/// shortest first. Identical rows are joined by edges of length 0.
///
/// # Errors
/// Returns an error for a NaN or infinite value (the first one is named), fewer than two rows, no columns, or a cancelled search.
pub fn spanning_tree<T: Scalar>(
    points: ArrayView2<'_, T>,
    observer: &dyn Observer,
) -> Result<Vec<Edge>, NeighbourError> {
    spanning_tree_in(points, None, observer)
}

/// Like [`spanning_tree`], over the given rows only, which are read in place; ends are indices into `rows`.
///
/// # Errors
/// As [`spanning_tree`]; a NaN or infinite value is named by its row in `points`.
pub fn spanning_tree_in_rows<T: Scalar>(
    points: ArrayView2<'_, T>,
    rows: &[u32],
    observer: &dyn Observer,
) -> Result<Vec<Edge>, NeighbourError> {
    spanning_tree_in(points, Some(rows), observer)
}

fn spanning_tree_in<T: Scalar>(
    points: ArrayView2<'_, T>,
    rows: Option<&[u32]>,
    observer: &dyn Observer,
) -> Result<Vec<Edge>, NeighbourError> {
    checked(points, rows, 1, |points, centring| {
        let plan = SearchPlan::best()?;
        let duplicates = Duplicates::of(points);
        let mut edges: Vec<Edge> = Vec::with_capacity(points.rows() - 1);
        for rows in &duplicates.rows {
            edges.extend(rows[1..].iter().map(|&row| Edge { ends: (rows[0], row), length: 0.0 }));
        }
        if duplicates.groups() > 1 {
            let rows = duplicates.distinct_rows(points);
            let rows = RowView::chosen(points.rows.values(), points.columns(), &rows);
            let distinct = Points { rows, scale: points.scale };
            let projection = plan.projection(&distinct, centring, NEIGHBOURS.min(duplicates.groups() - 1));
            let block_index = BlockIndex::new(plan.codes, &distinct, &projection);
            for (squared, a, b) in grow(&block_index, observer)? {
                let (a, b) = (duplicates.rows[a as usize][0], duplicates.rows[b as usize][0]);
                edges.push(Edge { ends: (a.min(b), a.max(b)), length: squared.sqrt() / points.scale });
            }
        }
        edges.sort_by(|a, b| a.length.total_cmp(&b.length).then(a.ends.cmp(&b.ends)));
        Ok(edges)
    })
}

/// Squared length and ends, the smaller row first: among equal lengths the order of the ends decides, everywhere, so that
/// joining along the shortest edges never closes a cycle.
type Candidate = (f64, u32, u32);

const NONE: Candidate = (f64::INFINITY, u32::MAX, u32::MAX);

fn candidate(squared: f64, a: u32, b: u32) -> Candidate {
    (squared, a.min(b), a.max(b))
}

fn order_of(a: &Candidate, b: &Candidate) -> Ordering {
    a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2)))
}

fn grow<T: Scalar>(block_index: &BlockIndex<'_, T>, observer: &dyn Observer) -> Result<Vec<Candidate>, NeighbourError> {
    let rows = block_index.order.len();
    let k = NEIGHBOURS.min(rows - 1);
    let near = nearest(block_index, k, observer)?;
    let mut components = Components::new(rows);
    let mut edges = Vec::with_capacity(rows - 1);
    while edges.len() + 1 < rows {
        let mut round = Round::new(block_index, &components);
        // The nearest neighbour outside the component, or a lower bound of its distance.
        let beyond: Vec<f64> = (0..rows)
            .into_par_iter()
            .map(|row| {
                let range = row * k..(row + 1) * k;
                let outside = range.clone().find(|&at| round.label[near.indices[at] as usize] != round.label[row]);
                if let Some(at) = outside {
                    round.offer(round.label[row], candidate(near.squared[at], row as u32, near.indices[at]));
                    return f64::INFINITY;
                }
                near.squared[range.end - 1]
            })
            .collect();
        let open: Vec<bool> =
            (0..rows).map(|row| k < rows - 1 && beyond[row] <= round.best(round.label[row]).0).collect();
        if open.contains(&true) {
            round.open = open;
            block_index.pass(&round, observer, "joining components")?;
        }
        for best in round.best {
            let (squared, a, b) = best.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
            if components.join(a, b) {
                edges.push((squared, a, b));
            }
        }
    }
    Ok(edges)
}

/// Which rows are joined (union by size with path halving).
struct Components {
    parent: Vec<u32>,
    size: Vec<u32>,
}

impl Components {
    fn new(rows: usize) -> Self {
        Self { parent: (0..rows as u32).collect(), size: vec![1; rows] }
    }

    fn find(&mut self, mut row: u32) -> u32 {
        while self.parent[row as usize] != row {
            let above = self.parent[row as usize];
            self.parent[row as usize] = self.parent[above as usize];
            row = self.parent[row as usize];
        }
        row
    }

    fn join(&mut self, a: u32, b: u32) -> bool {
        let (a, b) = (self.find(a), self.find(b));
        if a == b {
            return false;
        }
        let (large, small) = if self.size[a as usize] >= self.size[b as usize] { (a, b) } else { (b, a) };
        self.parent[small as usize] = large;
        self.size[large as usize] += self.size[small as usize];
        true
    }
}

/// One round: the shortest edge out of every component.
struct Round<'a, T> {
    block_index: &'a BlockIndex<'a, T>,
    /// `[rows]`: component of each row.
    label: Vec<u32>,
    /// `[components]`: the shortest edge out of each component so far.
    best: Vec<Mutex<Candidate>>,
    /// `[components]`: upper bound of the length of the best edge.
    radius: Vec<SearchRadius>,
    /// `[rows]`: whether a row may have a shorter edge than the best known one.
    open: Vec<bool>,
}

impl<'a, T: Scalar> Round<'a, T> {
    fn new(block_index: &'a BlockIndex<'a, T>, components: &Components) -> Self {
        let mut components = Components { parent: components.parent.clone(), size: Vec::new() };
        let mut numbers = vec![u32::MAX; components.parent.len()];
        let mut count = 0;
        let label: Vec<u32> = (0..components.parent.len() as u32)
            .map(|row| {
                let number = &mut numbers[components.find(row) as usize];
                if *number == u32::MAX {
                    (*number, count) = (count, count + 1);
                }
                *number
            })
            .collect();
        Self {
            block_index,
            label,
            best: (0..count).map(|_| Mutex::new(NONE)).collect(),
            radius: (0..count).map(|_| SearchRadius::infinite()).collect(),
            open: Vec::new(),
        }
    }
}

impl<T: Scalar> Round<'_, T> {
    fn best(&self, component: u32) -> Candidate {
        *locked(&self.best[component as usize])
    }

    fn offer(&self, component: u32, edge: Candidate) {
        let mut best = locked(&self.best[component as usize]);
        if order_of(&edge, &best).is_lt() {
            *best = edge;
            self.radius[component as usize].lower(edge.0.sqrt());
        }
    }

    fn row(&self, place: usize) -> usize {
        self.block_index.order[place] as usize
    }
}

impl<T: Scalar> Seeker for Round<'_, T> {
    type Seen = f64;

    fn radius(&self, place: usize) -> f64 {
        let row = self.row(place);
        if self.open[row] { self.radius[self.label[row] as usize].get() } else { f64::NEG_INFINITY }
    }

    fn block_radius(&self, block: usize) -> f64 {
        self.block_index.places(block).map(|place| self.radius(place)).fold(f64::NEG_INFINITY, f64::max)
    }

    fn counts(&self, one: usize, other: usize) -> bool {
        self.label[self.row(one)] != self.label[self.row(other)]
    }

    fn fetch(&self, places: (usize, usize)) {
        self.block_index.fetch(places);
    }

    fn look(&self, _: &BlockPair, places: (usize, usize), squared: f32, radius: f64) -> Option<f64> {
        self.block_index.squared_distance_within(places, squared, radius)
    }

    fn take(&self, a: usize, b: usize, pairs: &[(u8, u8, f64)]) {
        for &(i, j, squared) in pairs {
            let (i, j) = (self.row(a * BLOCK + usize::from(i)), self.row(b * BLOCK + usize::from(j)));
            let edge = candidate(squared, i as u32, j as u32);
            self.offer(self.label[i], edge);
            self.offer(self.label[j], edge);
        }
    }
}
