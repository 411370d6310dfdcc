//! TwoNN on the rows of a layer.

use ndarray::ArrayView2;

use super::{Cloud, DimensionError, Method, Prepared, prepare};
use crate::neighbours::{Engine, Neighbours, Scalar, Work};
use crate::progress::Observer;

/// Settings of a TwoNN estimate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TwoNn {
    /// How the dimension is fitted.
    pub method: Method,
    /// How the neighbours are found.
    pub engine: Engine,
    /// Rows nearer than this many units in the last place of their norm count as equal; with 0, only exactly equal rows do.
    pub noise: f64,
}

impl Default for TwoNn {
    fn default() -> Self {
        Self { method: Method::default(), engine: Engine::default(), noise: 32.0 }
    }
}

/// Number of rows given and left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Number of rows given.
    pub rows: usize,
    /// Rows left out because they hold NaN or infinity.
    pub non_finite: usize,
    /// Rows left out because they equal an earlier row.
    pub duplicates: usize,
    /// Rows left out because they equal an earlier row up to float noise.
    pub near_duplicates: usize,
}

impl Counts {
    /// Number of rows left.
    pub fn points(&self) -> usize {
        self.rows - self.non_finite - self.duplicates - self.near_duplicates
    }

    pub(super) fn too_few(&self, distinct: usize) -> DimensionError {
        let (rows, non_finite) = (self.rows, self.non_finite);
        DimensionError::TooFewRows { rows, non_finite, duplicates: rows - non_finite - distinct, distinct }
    }
}

/// The intrinsic dimension of one set of points.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimate {
    /// The estimated dimension.
    pub dimension: f64,
    /// 95 % interval, assuming independent ratios (a little narrow).
    pub interval: (f64, f64),
    /// Asymptotic standard error under the same assumption.
    pub standard_error: f64,
    /// Number of points used.
    pub points: usize,
    /// Numbers of rows given and left out.
    pub counts: Counts,
    /// Mean distance to the nearest and to the second nearest neighbour: the scale at which the dimension was read.
    pub mean_distances: (f64, f64),
    /// How the dimension was fitted.
    pub method: Method,
    /// The neighbour engine used.
    pub engine: Engine,
    /// Pair counts of the neighbour search.
    pub work: Work,
}

/// The dimension of a layer, or why it has none.
#[derive(Debug, Clone, PartialEq)]
pub enum LayerDimension {
    /// The layer has a dimension.
    Estimate(Estimate),
    /// The layer has no dimension.
    Degenerate {
        /// Why the layer has no dimension, as text.
        reason: String,
        /// Numbers of rows given and left out.
        counts: Counts,
    },
}

impl LayerDimension {
    /// The dimension, if there is one.
    pub fn dimension(&self) -> Option<f64> {
        match self {
            LayerDimension::Estimate(estimate) => Some(estimate.dimension),
            LayerDimension::Degenerate { .. } => None,
        }
    }

    /// Numbers of rows given and left out.
    pub fn counts(&self) -> Counts {
        match self {
            LayerDimension::Estimate(Estimate { counts, .. }) | LayerDimension::Degenerate { counts, .. } => *counts,
        }
    }
}

/// The intrinsic dimension of points `[points, columns]` by TwoNN, with near-duplicates left out as by [`TwoNn::default`].
///
/// # Errors
/// Returns an error for fewer than 50 distinct finite rows, a share to discard outside 0..1, and a cancelled search.
pub fn two_nn<T: Scalar>(
    points: ArrayView2<'_, T>,
    method: Method,
    engine: Engine,
    observer: &dyn Observer,
) -> Result<LayerDimension, DimensionError> {
    TwoNn { method, engine, ..TwoNn::default() }.estimate(points, observer)
}

impl TwoNn {
    /// The intrinsic dimension of points `[points, columns]`; see [`two_nn`].
    pub fn estimate<T: Scalar>(
        &self,
        points: ArrayView2<'_, T>,
        observer: &dyn Observer,
    ) -> Result<LayerDimension, DimensionError> {
        match prepare(points, 2, self, observer)? {
            Prepared::Cloud(cloud) => self.estimate_cloud(&cloud),
            Prepared::Degenerate { reason, counts } => Ok(LayerDimension::Degenerate { reason, counts }),
        }
    }

    /// Like [`TwoNn::estimate`], for points whose neighbours are already known.
    pub fn estimate_cloud<T: Scalar>(&self, cloud: &Cloud<'_, T>) -> Result<LayerDimension, DimensionError> {
        let (counts, neighbours) = (cloud.counts, &cloud.neighbours);
        let fit = self.method.fit(&mut ratios(neighbours))?;
        if !fit.dimension.is_finite() {
            let reason = format!(
                "the two nearest neighbours of all {} points are equally far: the points lie on a grid",
                counts.points()
            );
            return Ok(LayerDimension::Degenerate { reason, counts });
        }
        Ok(LayerDimension::Estimate(Estimate {
            dimension: fit.dimension,
            interval: fit.interval,
            standard_error: fit.standard_error,
            points: counts.points(),
            counts,
            mean_distances: (mean_distance(neighbours, 0), mean_distance(neighbours, 1)),
            method: self.method,
            engine: neighbours.engine,
            work: neighbours.work,
        }))
    }
}

/// `r₂/r₁` of every point; no distance is zero here.
pub(super) fn ratios(neighbours: &Neighbours) -> Vec<f64> {
    neighbours.distances.rows().into_iter().map(|row| row[1] / row[0]).collect()
}

fn mean_distance(neighbours: &Neighbours, place: usize) -> f64 {
    let column = neighbours.distances.column(place);
    column.sum() / column.len() as f64
}
