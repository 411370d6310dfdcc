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
    /// Rows nearer than this many units in the last place of their norm are taken as equal; 0 keeps all but exactly
    /// equal rows apart.
    pub noise: f64,
}

impl Default for TwoNn {
    fn default() -> Self {
        Self { method: Method::default(), engine: Engine::default(), noise: 32.0 }
    }
}

/// How many rows were given and how many were left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Rows given.
    pub rows: usize,
    /// Left out: NaN or infinity in the row.
    pub non_finite: usize,
    /// Left out: equal to an earlier row.
    pub duplicates: usize,
    /// Left out: equal to an earlier row but for float noise.
    pub near_duplicates: usize,
}

impl Counts {
    /// What is left.
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
    /// The estimate.
    pub dimension: f64,
    /// 95 % interval, assuming independent ratios (a little narrow).
    pub interval: (f64, f64),
    /// Asymptotic standard error under the same assumption.
    pub standard_error: f64,
    /// Points used.
    pub points: usize,
    /// Rows given and left out.
    pub counts: Counts,
    /// Mean distance to the nearest and to the second nearest neighbour: the scale at which the dimension was read.
    pub mean_distances: (f64, f64),
    /// How the dimension was fitted.
    pub method: Method,
    /// The neighbour engine that was used.
    pub engine: Engine,
    /// What the search for neighbours did.
    pub work: Work,
}

/// What a layer turned out to be.
#[derive(Debug, Clone, PartialEq)]
pub enum LayerDimension {
    /// It has a dimension.
    Estimate(Estimate),
    /// It has none.
    Degenerate {
        /// In plain words.
        reason: String,
        /// Rows given and left out.
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

    /// Rows given and left out.
    pub fn counts(&self) -> Counts {
        match self {
            LayerDimension::Estimate(Estimate { counts, .. }) | LayerDimension::Degenerate { counts, .. } => *counts,
        }
    }
}

/// The intrinsic dimension of points `[points, columns]` by TwoNN, with near-duplicates left out as [`TwoNn::default`]
/// does.
///
/// # Errors
/// Fewer than 50 distinct finite rows; a share to discard outside 0..1; a cancelled search.
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

    /// The same for points whose neighbours are known already.
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
