//! Intrinsic dimension: TwoNN and its relatives, with their uncertainty.
//!
//! **TwoNN** ([`TwoNn`]) decides the ranks. Facco, d'Errico, Rodriguez, Laio (2017), *Estimating the intrinsic dimension of datasets by a minimal neighborhood
//! information*, Scientific Reports 7:12140. With `r₁ < r₂` the distances of a point to its two nearest neighbours and
//! `μ = r₂/r₁`, a locally constant density in `d` dimensions gives `F(μ) = 1 − μ^(−d)`: `ln μ` is exponential with rate `d`.
//!
//! **GRIDE** ([`gride_scan`]) estimates the dimension at growing scale, **Levina and Bickel's** likelihood
//! ([`levina_bickel`]) from several neighbours at once, and **persistent homology** ([`PersistentHomology`]) from the growth
//! of spanning trees. [`Manifold`] generates points of known dimension to test them on.

mod cloud;
mod fit;
mod gride;
mod levina_bickel;
mod manifold;
mod measure;
mod mini_batches;
mod near_duplicates;
mod persistent_homology;
mod representation;
mod scale;
mod two_nn;

#[cfg(test)]
mod tests;

pub use cloud::{Cloud, Prepared, prepare};
pub use fit::{Fit, Method, MethodKind, NORMAL_QUANTILE};
use gride::dimension_of;
pub use gride::{GRIDE_NEIGHBOURS, ScaleEstimate, gride, gride_scan};
pub use levina_bickel::{LocalLikelihood, levina_bickel};
pub use manifold::{Manifold, ManifoldError, Shape};
pub use measure::{Decimated, MeasureSettings, Measurement, Reading, measure, measure_cloud, standard_error};
pub use mini_batches::{FEWEST_BATCHES, MiniBatches};
pub use near_duplicates::{NearDuplicates, NearPair, near_duplicates};
pub use persistent_homology::{PersistentHomology, TreeEstimate, TreeLength};
pub use representation::{DistanceMetric, Preprocessing, Representation};
pub use scale::{Plateau, Scale, plateau};
pub use two_nn::{Counts, Estimate, LayerDimension, TwoNn, two_nn};

use crate::hint::Hint;
use crate::neighbours::NeighbourError;
use crate::progress::Cancelled;

/// Number of distinct rows that an estimate needs.
pub const MINIMUM_POINTS: usize = 50;

/// Why a dimension could not be estimated.
#[derive(Debug, thiserror::Error)]
pub enum DimensionError {
    /// Too few rows are left.
    #[error(
        "{distinct} distinct rows are left of {rows} ({non_finite} with NaN or infinity, {duplicates} repeated), but an estimate \
         needs {MINIMUM_POINTS}; use more data, a larger {} if texts were cut, or another pooling if the rows should not be \
         equal",
        Hint::MaximumLength
    )]
    TooFewRows {
        /// Number of rows given.
        rows: usize,
        /// Rows with NaN or infinity.
        non_finite: usize,
        /// Rows equal to an earlier one, to float precision.
        duplicates: usize,
        /// Number of rows left.
        distinct: usize,
    },
    /// There are too few points for trees of different sizes.
    #[error("{points} points are too few for trees of different size; give at least 100")]
    TooFewSizes {
        /// Number of points given.
        points: usize,
    },
    /// The share of ratios to discard is out of range.
    #[error("the share of ratios to discard is {found}; give a number from 0 up to, but not including, 1")]
    Discard {
        /// The share given.
        found: f64,
    },
    /// An unknown method name.
    #[error("unknown method {found:?}; use linear, mle or censored-mle")]
    UnknownMethod {
        /// The name given.
        found: String,
    },
    /// The search for neighbours failed.
    #[error(transparent)]
    Neighbours(NeighbourError),
    /// The user asked to stop.
    #[error("{0}")]
    Cancelled(#[from] Cancelled),
}

impl From<NeighbourError> for DimensionError {
    fn from(error: NeighbourError) -> Self {
        match error {
            NeighbourError::Cancelled(cancelled) => Self::Cancelled(cancelled),
            other => Self::Neighbours(other),
        }
    }
}
