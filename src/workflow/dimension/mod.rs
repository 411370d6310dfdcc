//! The intrinsic dimension of every layer of a store, or of the points of a file: the implementation of `gelora dimension`.

mod found;
mod points;

use std::path::Path;

use ndarray::{ArrayView2, Axis};
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::dimension::{
    Cloud, DimensionError, FEWEST_BATCHES, GRIDE_NEIGHBOURS, LayerDimension, MeasureSettings, Measurement, MiniBatches,
    PersistentHomology, Prepared, Representation, gride_scan, levina_bickel, measure_cloud, prepare,
};
use crate::neighbours::Scalar;
use crate::progress::{Event, Observer};
use crate::settings::PlanSettings;
use crate::settings_value::at_least;

use super::sampling::{Growth, widest};
use super::{Session, WorkflowError};
use points::{Points, Source};

pub use found::{Dimensions, Found, Layer, Origin};

/// Which points are measured, and how.
#[derive(Debug, Clone)]
pub struct DimensionRequest<'a> {
    /// A store of activations; or one point per row, float32 or float64, in a `.npy` file or in the matrices of a
    /// `.safetensors` file.
    pub points: &'a Path,
    /// Name of one matrix of a `.safetensors` file; all of them where `None`.
    pub tensor: Option<&'a str>,
    /// Maximum number of points, drawn at random; all where `None`.
    pub sample: Option<usize>,
    /// Draws points until no 95 % interval is wider than this, where given.
    pub until: Option<f64>,
    /// Averages over mini-batches of this many points, where given.
    pub mini_batch: Option<usize>,
    /// Representation, metric, method, scale and engine; the other fields of this struct override their counterparts here.
    pub settings: PlanSettings,
    /// Number of random halves of the points, from which the uncertainty is estimated.
    pub subsamples: usize,
    /// Seed of all random choices.
    pub seed: u64,
    /// Whether to run GRIDE at growing scale too.
    pub gride: bool,
    /// Number of neighbours for Levina and Bickel's likelihood; `None` to skip it.
    pub mle: Option<usize>,
    /// Settings of the estimate from spanning trees; `None` to skip it.
    pub persistent_homology: Option<PersistentHomology>,
}

impl<'a> DimensionRequest<'a> {
    /// TwoNN and its scales for these points, with default settings.
    pub fn of(points: &'a Path) -> Self {
        DimensionRequest {
            points,
            tensor: None,
            sample: None,
            until: None,
            mini_batch: None,
            settings: PlanSettings::default(),
            subsamples: 40,
            seed: 0,
            gride: false,
            mle: None,
            persistent_homology: None,
        }
    }
}

/// Measures the intrinsic dimension of every layer, and chooses one pair of neighbours at which all are read.
///
/// # Errors
/// Returns an error if the points cannot be read, if fewer than 50 are distinct and finite, or if the search is cancelled.
pub fn measure_dimensions(session: &Session<'_>, request: &DimensionRequest<'_>) -> Result<Dimensions, WorkflowError> {
    at_least("mini_batch", request.mini_batch.map(|rows| rows as u64), 100)?;
    let estimators = Estimators {
        mini_batch: request.mini_batch,
        representation: request.settings.representation(),
        measuring: MeasureSettings {
            estimator: request.settings.two_nn(),
            scale: request.settings.scale.0,
            subsamples: request.subsamples,
            seed: request.seed,
        },
        gride: request.gride,
        mle: request.mle,
        ph: request.persistent_homology,
    };
    let source = Source::open(request.points, request.tensor)?;
    let origin = Origin {
        gelora_version: env!("CARGO_PKG_VERSION"),
        source: request.points.display().to_string(),
        source_sha256: source.sha256(session.observer())?,
        seed: request.seed,
        subsamples: request.subsamples,
        sample: request.sample,
        until: request.until,
        mini_batch: request.mini_batch,
    };
    let found = match request.until {
        Some(width) => measure_until(session, &source, &estimators, request.sample, width)?,
        None => measure_layers(session, &source, &estimators, request.sample)?,
    };
    Dimensions::new(origin, &request.settings, found)
}

/// The estimates to compute for every layer.
struct Estimators {
    mini_batch: Option<usize>,
    representation: Representation,
    measuring: MeasureSettings,
    gride: bool,
    mle: Option<usize>,
    ph: Option<PersistentHomology>,
}

impl Estimators {
    /// The indices of `points` points in random order: the same for all layers with that many points.
    fn order(&self, points: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..points).collect();
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(self.measuring.seed));
        order
    }

    /// The average over mini-batches of `rows` points, drawn at random.
    fn averaged<T: Scalar>(
        &self,
        layer: &str,
        points: ArrayView2<'_, T>,
        rows: usize,
        observer: &dyn Observer,
    ) -> Result<Measurement, WorkflowError> {
        let batches = points.nrows() / rows;
        if batches < FEWEST_BATCHES {
            return Err(WorkflowError::Points(format!(
                "layer {layer}: {} points make {batches} mini-batches of {rows}, but {FEWEST_BATCHES} are needed to tell how certain their \
                 average is; give smaller ones (100 points at least) or more points",
                points.nrows()
            )));
        }
        let mut average = MiniBatches::new(self.measuring, points.ncols());
        for batch in self.order(points.nrows()).chunks_exact(rows) {
            observer.check()?;
            let pushed = average.push(points.select(Axis(0), batch).view(), &Watched(observer));
            pushed.map_err(|source| of_layer(layer, source))?;
        }
        Ok(average.finish())
    }

    /// Number of neighbours that all estimators together need.
    fn neighbours(&self) -> usize {
        let gride = if self.gride { GRIDE_NEIGHBOURS } else { 2 };
        self.measuring.neighbours().max(gride).max(self.mle.unwrap_or(2))
    }
}

/// Measures all layers, on a random sample of the points or on all of them.
fn measure_layers(
    session: &Session<'_>,
    source: &Source,
    estimators: &Estimators,
    sample: Option<usize>,
) -> Result<Vec<Found>, WorkflowError> {
    let names = source.names();
    let observer = session.observer();
    let alone = names.len() == 1;
    if !alone {
        let total = Some(names.len() as u64);
        observer.observe(Event::Begin { stage: "estimating dimensions", total, done: 0, unit: "layers" });
    }
    let mut found = Vec::with_capacity(names.len());
    for (index, name) in names.into_iter().enumerate() {
        observer.check()?;
        let watched = Watched(observer);
        let within: &dyn Observer = if alone { observer } else { &watched };
        found.push(source.with(index, |points| match points {
            Points::Single(points) => estimate(within, name, points, sample, estimators),
            Points::Double(points) => estimate(within, name, points, sample, estimators),
        })?);
        if !alone {
            observer.observe(Event::Advance { done: index as u64 + 1, detail: "" });
        }
    }
    if !alone {
        observer.observe(Event::End);
    }
    Ok(found)
}

/// Draws points until no interval is wider than requested.
fn measure_until(
    session: &Session<'_>,
    source: &Source,
    estimators: &Estimators,
    sample: Option<usize>,
    width: f64,
) -> Result<Vec<Found>, WorkflowError> {
    if estimators.measuring.subsamples == 0 {
        return Err(WorkflowError::UntilWithoutSubsamples);
    }
    let mut growth = Growth::new(width, sample);
    loop {
        let found = measure_layers(session, source, estimators, Some(growth.rows()))?;
        let total = found.iter().map(|found| found.all).max().unwrap_or(0);
        let widest = widest(found.iter().map(|found| &found.measurement), estimators.measuring.scale);
        if growth.is_enough(widest, total, session.observer()) {
            if let Some(widest) = widest.filter(|&widest| widest > width) {
                session.observer().observe(Event::Warning(&format!(
                    "the widest interval is {widest:.2} with all points there are, wider than the {width} asked for"
                )));
            }
            return Ok(found);
        }
    }
}

/// Forwards cancellation to an observer but hides progress within a layer: the layers are counted outside.
struct Watched<'a>(&'a dyn Observer);

impl Observer for Watched<'_> {
    fn observe(&self, event: Event<'_>) {
        if let Event::Notice(_) | Event::Warning(_) = event {
            self.0.observe(event);
        }
    }

    fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }
}

fn estimate<T: Scalar>(
    observer: &dyn Observer,
    name: String,
    points: ArrayView2<'_, T>,
    sample: Option<usize>,
    estimators: &Estimators,
) -> Result<Found, WorkflowError> {
    let all = points.nrows();
    match sample.filter(|&sample| sample < all) {
        Some(sample) => {
            let mut order = estimators.order(all);
            order.truncate(sample);
            let drawn = points.select(Axis(0), &order);
            Ok(Found { all, ..estimate_all(observer, name, drawn.view(), estimators)? })
        }
        None => estimate_all(observer, name, points, estimators),
    }
}

/// Runs all estimators on these points.
fn estimate_all<T: Scalar>(
    observer: &dyn Observer,
    name: String,
    points: ArrayView2<'_, T>,
    estimators: &Estimators,
) -> Result<Found, WorkflowError> {
    let place = |source| of_layer(&name, source);
    let all = points.nrows();
    let (points, left_out) = estimators.representation.apply(points, observer)?;
    let points = points.view();
    if left_out > 0 {
        observer.observe(Event::Notice(&format!(
            "layer {name}: {left_out} directions without variance are left out of the whitened vectors"
        )));
    }
    let settings = &estimators.measuring;
    let (measurement, cloud) = match estimators.mini_batch {
        Some(rows) => (estimators.averaged(&name, points, rows, observer)?, None),
        None => match prepare(points, estimators.neighbours(), &settings.estimator, observer).map_err(place)? {
            Prepared::Cloud(cloud) => (measure_cloud(&cloud, settings, observer).map_err(place)?, Some(cloud)),
            Prepared::Degenerate { reason, counts } => {
                (Measurement::without(points.ncols(), LayerDimension::Degenerate { reason, counts }), None)
            }
        },
    };
    let counts = measurement.dimension.counts();
    let (engine, degenerate) = match &measurement.dimension {
        LayerDimension::Estimate(estimate) => (Some(estimate.engine.to_string()), None),
        LayerDimension::Degenerate { reason, .. } => (None, Some(reason.clone())),
    };
    let mut layer = Layer {
        width: points.ncols(),
        dimension: None,
        interval: None,
        standard_error: None,
        rows: counts.rows,
        points: counts.points(),
        duplicates: counts.duplicates,
        near_duplicates: counts.near_duplicates,
        non_finite: counts.non_finite,
        engine,
        degenerate,
        two_nn: measurement.dimension.dimension(),
        dimension_by_scale: measurement.curve.iter().copied().filter(|at| at.dimension.is_finite()).collect(),
        decimation: measurement.decimation.iter().map(|at| (at.points, at.dimension, at.spread)).collect(),
        near_neighbours: measurement.near_duplicates.as_ref().map(|near| near.points),
        gride: None,
        levina_bickel: None,
        persistent_homology: None,
        layer: name,
    };
    if 100 * counts.non_finite > counts.rows {
        observer.observe(Event::Warning(&format!(
            "layer {} has NaN or infinity in {} of {} rows, which are left out; find out where they come from",
            layer.layer, counts.non_finite, counts.rows
        )));
    }
    if let Some(cloud) = cloud.filter(|_| layer.degenerate.is_none()) {
        further(observer, &cloud, estimators, &mut layer)?;
    }
    Ok(Found { all, layer, measurement })
}

fn further<T: Scalar>(
    observer: &dyn Observer,
    cloud: &Cloud<'_, T>,
    estimators: &Estimators,
    result: &mut Layer,
) -> Result<(), WorkflowError> {
    let known = cloud.neighbours.distances.ncols();
    result.gride = estimators.gride.then(|| gride_scan(&cloud.neighbours));
    if let Some(k) = estimators.mle.filter(|&k| k > known) {
        observer.observe(Event::Notice(&format!(
            "{}: Levina and Bickel's estimator uses the {known} neighbours there are, not {k}",
            result.layer
        )));
    }
    result.levina_bickel = estimators.mle.map(|k| levina_bickel(&cloud.neighbours, k.min(known)));
    if let Some(settings) = &estimators.ph {
        let found = settings.estimate_in_rows(cloud.points, &cloud.rows, observer);
        result.persistent_homology = Some(found.map_err(|source| of_layer(&result.layer, source))?);
    }
    Ok(())
}

fn of_layer(layer: &str, source: DimensionError) -> WorkflowError {
    WorkflowError::Layer { layer: layer.to_owned(), source }
}
