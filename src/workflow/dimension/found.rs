//! The results for some layers, and the neighbours at which their dimensions are read.

use serde::Serialize;

use crate::dimension::{
    DistanceMetric, LayerDimension, LocalLikelihood, Measurement, NORMAL_QUANTILE, Preprocessing, Scale, ScaleEstimate,
    TreeEstimate,
};
use crate::rank::{PlanScale, choose_scale};
use crate::settings::PlanSettings;
use crate::workflow::WorkflowError;

/// The dimensions of all layers.
#[derive(Debug, Serialize)]
pub struct Dimensions {
    /// The source of the points and the sampling settings.
    #[serde(flatten)]
    pub origin: Origin,
    /// Preprocessing of the vectors.
    pub representation: Preprocessing,
    /// Distance metric.
    pub metric: DistanceMetric,
    /// The TwoNN fitting method.
    pub method: String,
    /// Share of the largest ratios left out by the methods `linear` and `censored-mle`.
    pub discard: f64,
    /// The neighbours at which all layers are read.
    pub scale: PlanScale,
    /// The layers, in the order of the file.
    pub layers: Vec<Layer>,
}

/// The source of the dimensions and the sampling settings.
#[derive(Debug, Serialize)]
pub struct Origin {
    /// The version of gelora that measured.
    pub gelora_version: &'static str,
    /// Path of the store or file.
    pub source: String,
    /// SHA-256 of the file, or of the manifest of a store, in hex.
    pub source_sha256: String,
    /// Seed of all random choices.
    pub seed: u64,
    /// Number of random halves behind every interval.
    pub subsamples: usize,
    /// Maximum number of points drawn; `None` if not limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<usize>,
    /// The widest interval allowed; `None` if not requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<f64>,
    /// Points per mini-batch; `None` without mini-batches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mini_batch: Option<usize>,
}

/// The results for one layer.
#[derive(Debug, Serialize)]
pub struct Layer {
    /// Index of the hidden state, name of the tensor, or name of the file.
    pub layer: String,
    /// Number of columns of its points.
    pub width: usize,
    /// Intrinsic dimension; `None` where the layer has none.
    pub dimension: Option<f64>,
    /// 95 % interval of the dimension.
    pub interval: Option<(f64, f64)>,
    /// Standard error of the dimension.
    pub standard_error: Option<f64>,
    /// Number of rows read.
    pub rows: usize,
    /// Number of points measured: distinct, finite rows.
    pub points: usize,
    /// Rows left out because they equal an earlier row.
    pub duplicates: usize,
    /// Rows left out because they equal an earlier row up to float noise.
    pub near_duplicates: usize,
    /// Rows left out because they hold NaN or infinity.
    pub non_finite: usize,
    /// The neighbour engine used.
    pub engine: Option<String>,
    /// Why the layer has no dimension.
    pub degenerate: Option<String>,
    /// The TwoNN estimate, at the nearest neighbours.
    pub two_nn: Option<f64>,
    /// TwoNN at 1:2, then GRIDE at 2:4, 4:8 …
    pub dimension_by_scale: Vec<ScaleEstimate>,
    /// TwoNN with fewer points: (points, dimension, standard deviation over disjoint parts).
    pub decimation: Vec<(usize, f64, Option<f64>)>,
    /// Number of points whose nearest neighbour is nearer than happens by chance once in a thousand.
    pub near_neighbours: Option<usize>,
    /// GRIDE at growing scale.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gride: Option<Vec<ScaleEstimate>>,
    /// The maximum likelihood estimate of Levina and Bickel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub levina_bickel: Option<LocalLikelihood>,
    /// The estimate from the growth of spanning trees.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistent_homology: Option<TreeEstimate>,
}

/// The results for one layer, before the scale is chosen.
pub struct Found {
    /// Total number of points available.
    pub all: usize,
    /// The results so far.
    pub layer: Layer,
    /// Readings at all scales.
    pub measurement: Measurement,
}

impl Dimensions {
    /// Chooses the scale, one for all layers, and reads the dimensions there.
    ///
    /// # Errors
    /// Returns an error if a layer has no dimension at that scale.
    pub fn new(origin: Origin, settings: &PlanSettings, found: Vec<Found>) -> Result<Self, WorkflowError> {
        let (scale, chosen) = choose_scale(found.iter().map(|found| &found.measurement), settings.scale.0);
        let layers = found.into_iter().map(|Found { mut layer, measurement, .. }| {
            if let Some(reading) = measurement.at(scale) {
                let (dimension, error) = (reading.dimension, reading.standard_error());
                let reach = NORMAL_QUANTILE * error;
                layer.dimension = Some(dimension);
                layer.standard_error = Some(error);
                layer.interval = match &measurement.dimension {
                    // Without subsamples TwoNN has its own interval, which is not symmetric.
                    LayerDimension::Estimate(two_nn) if reading.deviations.is_empty() && scale == Scale::NEAREST => {
                        Some(two_nn.interval)
                    }
                    _ => Some(((dimension - reach).max(0.0), dimension + reach)),
                };
            } else if layer.degenerate.is_none() {
                let text = format!("layer {}: the points have no dimension at the neighbours {scale}", layer.layer);
                return Err(WorkflowError::Points(text));
            }
            Ok(layer)
        });
        Ok(Self {
            origin,
            representation: settings.representation,
            metric: settings.metric,
            method: settings.method.to_string(),
            discard: settings.discard,
            scale: chosen,
            layers: layers.collect::<Result<_, WorkflowError>>()?,
        })
    }
}
