//! The nearest neighbours of every point, exactly, with their distances in float64.
//!
//! Three engines give the same answer: a search of all pairs by codes ([`Engine::Exact`]) and the trees of linfa-nn
//! ([`Engine::BallTree`], [`Engine::KdTree`]). All use approximate arithmetic only to *exclude* pairs, with proven bounds;
//! the rest is measured by direct difference in float64. Ties go to the smaller index.

mod auto_engine;
mod block_index;
mod duplicates;
mod exact_distance;
mod few;
mod int12_codes;
mod normalization;
mod partition;
mod principal_axes;
mod projection;
mod quantized_blocks;
mod random_rotation;
mod row_hash;
mod rows;
mod scalar;
mod search;
mod search_plan;
mod search_radius;
mod simd;
mod spanning_tree;
mod trees;

#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use ndarray::{Array2, ArrayView2, CowArray};
use serde::{Deserialize, Serialize};

use crate::hint::Hint;
use crate::progress::{Cancelled, Observer};

pub use few::nearest_of_some;
pub use row_hash::first_equal_row;
pub use scalar::Scalar;
pub use spanning_tree::{Edge, spanning_tree, spanning_tree_in_rows};

/// How the neighbours are found. The answer does not depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// The fastest in a short trial where a tree may win; the exact search otherwise.
    #[default]
    Auto,
    /// linfa-nn's ball tree.
    BallTree,
    /// linfa-nn's kd-tree.
    KdTree,
    /// All pairs, compared by codes of at most 8 bits.
    Exact,
}

impl Engine {
    /// The name of the engine: `auto`, `ball-tree`, `kd-tree` or `exact`.
    pub fn as_str(self) -> &'static str {
        match self {
            Engine::Auto => "auto",
            Engine::BallTree => "ball-tree",
            Engine::KdTree => "kd-tree",
            Engine::Exact => "exact",
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Engine {
    type Err = NeighbourError;

    fn from_str(text: &str) -> Result<Self, NeighbourError> {
        [Engine::Auto, Engine::BallTree, Engine::KdTree, Engine::Exact]
            .into_iter()
            .find(|engine| engine.as_str() == text)
            .ok_or_else(|| NeighbourError::UnknownEngine { found: text.to_owned() })
    }
}

/// The `k` nearest neighbours of every point, nearest first.
#[derive(Debug, Clone, PartialEq)]
pub struct Neighbours {
    /// Euclidean distances `[points, k]`, ascending in every row.
    pub distances: Array2<f64>,
    /// Row numbers of the neighbours `[points, k]`; of equal distances the smaller row number comes first.
    pub indices: Array2<u32>,
    /// The engine used; never [`Engine::Auto`].
    pub engine: Engine,
    /// Pair counts of the exact search; zeros for other engines.
    pub work: Work,
}

/// How many pairs of points the exact search looked at, and how closely.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Work {
    /// Pairs compared by their codes; the others are in blocks that are too far apart.
    pub compared: u64,
    /// Pairs that the codes could not exclude and that were examined more closely: in float32, or for many neighbours by
    /// their own lower and upper bounds.
    pub measured: u64,
    /// Pairs that this could not exclude either: measured in float64, or for many neighbours kept to be measured at the end.
    pub settled: u64,
}

impl std::ops::Add for Work {
    type Output = Work;

    fn add(self, other: Work) -> Work {
        Work {
            compared: self.compared + other.compared,
            measured: self.measured + other.measured,
            settled: self.settled + other.settled,
        }
    }
}

/// Why there are no neighbours.
#[derive(Debug, thiserror::Error)]
pub enum NeighbourError {
    /// A row holds NaN or infinity.
    #[error("row {row}, column {column} is {value}; drop such rows, or find out why the model produced them")]
    NonFinite {
        /// Row index, from 0.
        row: usize,
        /// Column index, from 0.
        column: usize,
        /// The value found: `NaN`, `inf` or `-inf`.
        value: f64,
    },
    /// More neighbours were requested than there are other points.
    #[error("{wanted} neighbours of {points} points do not exist; give at least {} points", wanted + 1)]
    TooFewPoints {
        /// Number of points.
        points: usize,
        /// Number of neighbours requested.
        wanted: usize,
    },
    /// There are no columns, or no neighbours were requested.
    #[error("nothing to search: {columns} columns and {wanted} neighbours; both must be at least 1")]
    Nothing {
        /// Number of columns.
        columns: usize,
        /// Number of neighbours requested.
        wanted: usize,
    },
    /// There are more points than 32-bit row indices can number.
    #[error("{points} points are more than {} and cannot be searched at once; take a sample of the rows", u32::MAX)]
    TooManyPoints {
        /// Number of points.
        points: usize,
    },
    /// An unknown engine name.
    #[error("unknown neighbour engine {found:?}; use auto, ball-tree, kd-tree or exact")]
    UnknownEngine {
        /// The name given.
        found: String,
    },
    /// The environment names an instruction set that does not exist or that the processor lacks.
    #[error("{variable} is {found:?}; on this processor it can be one of {possible}")]
    InstructionSet {
        /// The environment variable.
        variable: &'static str,
        /// The name given.
        found: String,
        /// The possible names.
        possible: String,
    },
    /// A tree could not be built or queried.
    #[error("the tree failed: {reason}; use {}", Hint::Neighbours.with("exact"))]
    Tree {
        /// The message from linfa-nn.
        reason: String,
    },
    /// The user asked to stop.
    #[error("{0}")]
    Cancelled(#[from] Cancelled),
}

/// The `k` nearest neighbours of every row of `points` `[points, columns]` (not counting itself) in Euclidean distance.
///
/// Identical rows are neighbours at distance 0. Reports progress in rows.
///
/// # Errors
/// Returns an error for a NaN or infinite value (the first one is named), `k` not smaller than the number of points, no
/// columns, `k` = 0, a failed tree, or a cancelled search.
pub fn nearest<T: Scalar>(
    points: ArrayView2<'_, T>,
    k: usize,
    engine: Engine,
    observer: &dyn Observer,
) -> Result<Neighbours, NeighbourError> {
    nearest_in(points, None, k, engine, observer)
}

/// Like [`nearest`], among the given rows only, which are read in place: neighbours are indices into `rows`.
///
/// # Errors
/// As [`nearest`]; a NaN or infinite value is named by its row in `points`.
pub fn nearest_in_rows<T: Scalar>(
    points: ArrayView2<'_, T>,
    rows: &[u32],
    k: usize,
    engine: Engine,
    observer: &dyn Observer,
) -> Result<Neighbours, NeighbourError> {
    nearest_in(points, Some(rows), k, engine, observer)
}

fn nearest_in<T: Scalar>(
    points: ArrayView2<'_, T>,
    rows: Option<&[u32]>,
    k: usize,
    engine: Engine,
    observer: &dyn Observer,
) -> Result<Neighbours, NeighbourError> {
    checked(points, rows, k, |points, centring| {
        let engine = match engine {
            Engine::Auto => auto_engine::fastest(points, centring, k, observer)?,
            chosen => chosen,
        };
        let found = search_by(engine, points, centring, k, observer)?;
        Ok(found.into_neighbours(points.rows(), k, engine, centring.scale))
    })
}

fn search_by<T: Scalar>(
    engine: Engine,
    points: &exact_distance::Points<'_, T>,
    centring: &normalization::Centring,
    k: usize,
    observer: &dyn Observer,
) -> Result<Found, NeighbourError> {
    match engine {
        Engine::BallTree => trees::search(trees::Kind::Ball, points, centring, k, observer),
        Engine::KdTree => trees::search(trees::Kind::Kd, points, centring, k, observer),
        Engine::Exact | Engine::Auto => {
            search::radius::search(search_plan::SearchPlan::best()?, points, centring, k, observer)
        }
    }
}

/// Whether the instruction set that the environment variable `GELORA_SIMD` names is one that this processor has; without
/// the variable there is nothing to check.
///
/// # Errors
/// [`NeighbourError::InstructionSet`] names those that are possible.
pub fn check_instruction_set() -> Result<(), NeighbourError> {
    simd::isa::Isa::chosen().map(|_| ())
}

/// Checks the points and passes them to `search` together with their centring.
fn checked<T: Scalar, R>(
    points: ArrayView2<'_, T>,
    chosen: Option<&[u32]>,
    k: usize,
    search: impl FnOnce(&exact_distance::Points<'_, T>, &normalization::Centring) -> Result<R, NeighbourError>,
) -> Result<R, NeighbourError> {
    check_instruction_set()?;
    let (rows, columns) = (chosen.map_or(points.nrows(), <[u32]>::len), points.ncols());
    if columns == 0 || k == 0 {
        return Err(NeighbourError::Nothing { columns, wanted: k });
    }
    if rows <= k {
        return Err(NeighbourError::TooFewPoints { points: rows, wanted: k });
    }
    if u32::try_from(points.nrows()).is_err() {
        return Err(NeighbourError::TooManyPoints { points: points.nrows() });
    }
    let contiguous: CowArray<'_, T, _> = points.as_standard_layout();
    let values = contiguous.as_slice().expect("standard layout is contiguous");
    let rows = match chosen {
        Some(chosen) => rows::RowView::chosen(values, columns, chosen),
        None => rows::RowView::all(values, columns),
    };
    let centring = normalization::Centring::of(&rows)?;
    search(&exact_distance::Points { rows, scale: centring.scale }, &centring)
}

/// The result of an engine: squared distances in scaled units, row by row.
struct Found {
    squared: Vec<f64>,
    indices: Vec<u32>,
    work: Work,
}

impl Found {
    fn empty() -> Self {
        Self { squared: Vec::new(), indices: Vec::new(), work: Work::default() }
    }

    fn into_neighbours(self, rows: usize, k: usize, engine: Engine, scale: f64) -> Neighbours {
        let distances = self.squared.into_iter().map(|squared| squared.sqrt() / scale).collect();
        Neighbours {
            distances: Array2::from_shape_vec((rows, k), distances).expect("k distances per row"),
            indices: Array2::from_shape_vec((rows, k), self.indices).expect("k indices per row"),
            engine,
            work: self.work,
        }
    }
}
