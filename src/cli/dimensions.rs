//! What `gelora dimension` found: as JSON, and in words.

use anyhow::bail;
use serde::Serialize;

use crate::dimension::{
    Frame, LayerDimension, LocalLikelihood, Measurement, Metric, NORMAL_QUANTILE, Scale, ScaleEstimate, TreeEstimate,
};
use crate::rank::{PlanScale, choose_scale};
use crate::report::{self, DimensionRow};

use crate::settings::PlanSettings;

/// With fewer points, noise is worth a word.
const FEW_POINTS: usize = 500;

#[derive(Debug, Serialize)]
pub(crate) struct Dimensions {
    #[serde(flatten)]
    pub(crate) origin: Origin,
    pub(crate) representation: Frame,
    pub(crate) metric: Metric,
    pub(crate) method: String,
    /// Share of the largest ratios that the methods `linear` and `censored-mle` leave out.
    pub(crate) discard: f64,
    pub(crate) scale: PlanScale,
    pub(crate) layers: Vec<Layer>,
}

/// From what the dimensions come.
#[derive(Debug, Serialize)]
pub(crate) struct Origin {
    pub(crate) gelora_version: &'static str,
    pub(crate) source: String,
    /// Of the file, or of the manifest of a store.
    pub(crate) source_sha256: String,
    pub(crate) seed: u64,
    pub(crate) subsamples: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sample: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mini_batch: Option<usize>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Layer {
    /// Number of the hidden state, name of the tensor, or name of the file.
    pub(crate) layer: String,
    pub(crate) width: usize,
    pub(crate) dimension: Option<f64>,
    pub(crate) interval: Option<(f64, f64)>,
    pub(crate) standard_error: Option<f64>,
    pub(crate) rows: usize,
    pub(crate) points: usize,
    pub(crate) duplicates: usize,
    pub(crate) near_duplicates: usize,
    pub(crate) non_finite: usize,
    pub(crate) engine: Option<String>,
    pub(crate) degenerate: Option<String>,
    /// TwoNN, at the nearest neighbours.
    pub(crate) two_nn: Option<f64>,
    /// TwoNN at 1:2, GRIDE at 2:4, 4:8 …
    pub(crate) neighbour_scale: Vec<ScaleEstimate>,
    /// TwoNN with fewer points: (points, dimension, standard deviation over disjoint parts).
    pub(crate) decimation: Vec<(usize, f64, Option<f64>)>,
    /// Points whose nearest neighbour is nearer than chance explains once in a thousand.
    pub(crate) near_neighbours: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) gride: Option<Vec<ScaleEstimate>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) levina_bickel: Option<LocalLikelihood>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) persistent_homology: Option<TreeEstimate>,
}

/// What was found of one layer, before the scale is chosen.
pub(crate) struct Found {
    /// Points that there are.
    pub(crate) all: usize,
    pub(crate) layer: Layer,
    pub(crate) measurement: Measurement,
}

impl Dimensions {
    /// Chooses the scale, one for all layers, and reads the dimensions there.
    pub(crate) fn new(origin: Origin, settings: &PlanSettings, found: Vec<Found>) -> anyhow::Result<Self> {
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
                bail!("layer {}: the points have no dimension at the neighbours {scale}", layer.layer);
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
            layers: layers.collect::<anyhow::Result<_>>()?,
        })
    }

    /// Tables, and what to know before they are trusted.
    pub(crate) fn describe(&self) -> String {
        let rows: Vec<DimensionRow> = self
            .layers
            .iter()
            .map(|layer| DimensionRow {
                layer: layer.layer.clone(),
                scales: layer.neighbour_scale.iter().map(|at| at.dimension).collect(),
                dimension: layer.dimension.ok_or_else(|| layer.degenerate.clone().unwrap_or_default()),
                interval: layer.interval,
                points: layer.points as u64,
                duplicates: (layer.duplicates + layer.near_duplicates) as u64,
                non_finite: layer.non_finite as u64,
            })
            .collect();
        let mut table = report::dimension_table(&rows);
        if self.layers.iter().any(|layer| layer.dimension.is_some()) {
            table += &format!("\n\n{}", report::scale_in_words(&self.scale));
        }
        for remark in self.remarks() {
            table += &format!("\n{remark}");
        }
        match self.further() {
            Some(further) => format!("{table}\n\n{further}"),
            None => table,
        }
    }

    /// What to know before the numbers are trusted.
    fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        let least = self.layers.iter().filter(|layer| layer.dimension.is_some()).min_by_key(|layer| layer.points);
        if let Some(layer) = least.filter(|layer| layer.points < FEW_POINTS) {
            remarks.push(format!(
                "with only {} points (layer {}) dimensions are noisy, and low",
                layer.points, layer.layer
            ));
        }
        let near = |layer: &&Layer| layer.near_neighbours.map_or(0.0, |near| near as f64 / layer.points.max(1) as f64);
        let most = self.layers.iter().max_by(|a, b| near(a).total_cmp(&near(b)));
        if let Some(layer) = most.filter(|layer| near(layer) > 0.01) {
            remarks.push(format!(
                "{:.0} % of the points of layer {} are nearer to another point than chance explains (0.1 % would be): the \
                 nearest neighbours read near-duplicates there",
                100.0 * near(&layer),
                layer.layer
            ));
        }
        remarks
    }

    /// What the further estimators say, one line per layer.
    fn further(&self) -> Option<String> {
        let gride: Option<usize> = self.layers.iter().filter_map(|layer| Some(layer.gride.as_ref()?.len())).max();
        let mle = self.layers.iter().any(|layer| layer.levina_bickel.is_some());
        let ph = self.layers.iter().any(|layer| layer.persistent_homology.is_some());
        if gride.is_none() && !mle && !ph {
            return None;
        }
        let mut header = vec!["layer".to_owned()];
        for pair in 0..gride.unwrap_or(0) {
            header.push(format!("GRIDE {}:{}", 1 << pair, 2 << pair));
        }
        header.extend(mle.then(|| "MLE".to_owned()));
        header.extend(ph.then(|| "PH".to_owned()));
        let lines: Vec<Vec<String>> = self
            .layers
            .iter()
            .map(|layer| {
                let mut line = vec![layer.layer.clone()];
                for pair in 0..gride.unwrap_or(0) {
                    let found = layer.gride.as_ref().and_then(|scan| scan.get(pair));
                    line.push(with_error(found.map(|at| (at.dimension, Some(at.standard_error)))));
                }
                let likelihood = layer.levina_bickel.map(|found| (found.dimension, Some(found.standard_error)));
                line.extend(mle.then(|| with_error(likelihood)));
                let trees = layer.persistent_homology.as_ref();
                let trees = trees.and_then(|found| Some((found.dimension?, found.standard_error)));
                line.extend(ph.then(|| with_error(trees)));
                line
            })
            .collect();
        let header: Vec<&str> = header.iter().map(String::as_str).collect();
        let table = report::table(&header, &(0..header.len()).collect::<Vec<_>>(), &lines);
        Some(format!("{table}\n\n±: standard errors, as if points shared no neighbours; of PH over random subsets"))
    }
}

/// `7.39 ± 0.12`, with the standard error.
fn with_error(found: Option<(f64, Option<f64>)>) -> String {
    match found {
        Some((dimension, Some(error))) if error.is_finite() => {
            format!("{} ± {}", report::dimension(dimension), report::dimension(error))
        }
        Some((dimension, _)) => report::dimension(dimension),
        None => "–".to_owned(),
    }
}
