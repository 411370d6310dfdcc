//! What was found of some layers, and at which neighbours their dimensions are read.

use serde::Serialize;

use crate::dimension::{
    Frame, LayerDimension, LocalLikelihood, Measurement, Metric, NORMAL_QUANTILE, Scale, ScaleEstimate, TreeEstimate,
};
use crate::rank::{PlanScale, choose_scale};
use crate::settings::PlanSettings;
use crate::workflow::WorkflowError;

/// The dimensions of all layers.
#[derive(Debug, Serialize)]
pub struct Dimensions {
    #[serde(flatten)]
    pub origin: Origin,
    pub representation: Frame,
    pub metric: Metric,
    pub method: String,
    /// Share of the largest ratios that the methods `linear` and `censored-mle` leave out.
    pub discard: f64,
    pub scale: PlanScale,
    pub layers: Vec<Layer>,
}

/// From what the dimensions come.
#[derive(Debug, Serialize)]
pub struct Origin {
    pub gelora_version: &'static str,
    pub source: String,
    /// Of the file, or of the manifest of a store.
    pub source_sha256: String,
    pub seed: u64,
    pub subsamples: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mini_batch: Option<usize>,
}

/// One layer.
#[derive(Debug, Serialize)]
pub struct Layer {
    /// Number of the hidden state, name of the tensor, or name of the file.
    pub layer: String,
    pub width: usize,
    pub dimension: Option<f64>,
    pub interval: Option<(f64, f64)>,
    pub standard_error: Option<f64>,
    pub rows: usize,
    pub points: usize,
    pub duplicates: usize,
    pub near_duplicates: usize,
    pub non_finite: usize,
    pub engine: Option<String>,
    pub degenerate: Option<String>,
    /// TwoNN, at the nearest neighbours.
    pub two_nn: Option<f64>,
    /// TwoNN at 1:2, GRIDE at 2:4, 4:8 …
    pub neighbour_scale: Vec<ScaleEstimate>,
    /// TwoNN with fewer points: (points, dimension, standard deviation over disjoint parts).
    pub decimation: Vec<(usize, f64, Option<f64>)>,
    /// Points whose nearest neighbour is nearer than chance explains once in a thousand.
    pub near_neighbours: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gride: Option<Vec<ScaleEstimate>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub levina_bickel: Option<LocalLikelihood>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistent_homology: Option<TreeEstimate>,
}

/// What was found of one layer, before the scale is chosen.
pub struct Found {
    /// Points that there are.
    pub all: usize,
    pub layer: Layer,
    pub measurement: Measurement,
}

impl Dimensions {
    /// Chooses the scale, one for all layers, and reads the dimensions there.
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
