//! What was found of some layers, and at which neighbours their dimensions are read.

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
    /// From what they come.
    #[serde(flatten)]
    pub origin: Origin,
    /// What was done to the vectors first.
    pub representation: Preprocessing,
    /// Between which distances were measured.
    pub metric: DistanceMetric,
    /// How TwoNN was fitted.
    pub method: String,
    /// Share of the largest ratios that the methods `linear` and `censored-mle` leave out.
    pub discard: f64,
    /// At which neighbours all layers are read.
    pub scale: PlanScale,
    /// The layers, in the order of the file.
    pub layers: Vec<Layer>,
}

/// From what the dimensions come.
#[derive(Debug, Serialize)]
pub struct Origin {
    /// The version that measured.
    pub gelora_version: &'static str,
    /// The store or file.
    pub source: String,
    /// Of the file, or of the manifest of a store.
    pub source_sha256: String,
    /// Of everything random.
    pub seed: u64,
    /// Random halves behind every interval.
    pub subsamples: usize,
    /// At most so many points were drawn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<usize>,
    /// The widest interval asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<f64>,
    /// Points in a mini-batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mini_batch: Option<usize>,
}

/// One layer.
#[derive(Debug, Serialize)]
pub struct Layer {
    /// Number of the hidden state, name of the tensor, or name of the file.
    pub layer: String,
    /// Columns of its points.
    pub width: usize,
    /// Its intrinsic dimension; `None` where it has none.
    pub dimension: Option<f64>,
    /// Where it lies with 95 %.
    pub interval: Option<(f64, f64)>,
    /// Its standard error.
    pub standard_error: Option<f64>,
    /// Rows that were read.
    pub rows: usize,
    /// Points that were measured: distinct, finite rows.
    pub points: usize,
    /// Rows that repeat another.
    pub duplicates: usize,
    /// Rows left out because they are as good as another.
    pub near_duplicates: usize,
    /// Rows with NaN or infinity.
    pub non_finite: usize,
    /// What found the neighbours.
    pub engine: Option<String>,
    /// Why it has no dimension.
    pub degenerate: Option<String>,
    /// TwoNN, at the nearest neighbours.
    pub two_nn: Option<f64>,
    /// TwoNN at 1:2, GRIDE at 2:4, 4:8 …
    pub dimension_by_scale: Vec<ScaleEstimate>,
    /// TwoNN with fewer points: (points, dimension, standard deviation over disjoint parts).
    pub decimation: Vec<(usize, f64, Option<f64>)>,
    /// Points whose nearest neighbour is nearer than chance explains once in a thousand.
    pub near_neighbours: Option<usize>,
    /// GRIDE at growing scale.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gride: Option<Vec<ScaleEstimate>>,
    /// By the likelihood of Levina and Bickel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub levina_bickel: Option<LocalLikelihood>,
    /// By the growth of spanning trees.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistent_homology: Option<TreeEstimate>,
}

/// What was found of one layer, before the scale is chosen.
pub struct Found {
    /// Points that there are.
    pub all: usize,
    /// What is known of it.
    pub layer: Layer,
    /// All readings.
    pub measurement: Measurement,
}

impl Dimensions {
    /// Chooses the scale, one for all layers, and reads the dimensions there.
    ///
    /// # Errors
    /// A layer without a dimension at that scale.
    pub fn new(origin: Origin, settings: &PlanSettings, found: Vec<Found>) -> Result<Self, WorkflowError> {
        let (scale, chosen) = choose_scale(found.iter().map(|found| &found.measurement), settings.scale.0);
        let layers = found.into_iter().map(|Found { mut layer, measurement, .. }| {
            if let Some(reading) = measurement.at(scale) {
                let (dimension, error) = (reading.dimension, reading.standard_error());
                let reach = NORMAL_QUANTILE * error;
                layer.dimension = Some(dimension);
                layer.standard_error = Some(error);
                layer.interval = match &measurement.dimension {
                    // Without subsamples TwoNN has an interval of its own, which is not symmetric.
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
