//! `gelora dimension`: the intrinsic dimension of every layer of a store, or of the points of a file.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context as _, ensure};
use ndarray::{ArrayView2, Axis};
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::dimension::{
    Cloud, FEWEST_BATCHES, GRIDE_NEIGHBOURS, LayerDimension, MeasureSettings, Measurement, MiniBatches,
    PersistentHomology, Prepared, Representation, gride_scan, levina_bickel, measure_cloud, prepare,
};
use crate::neighbours::Scalar;
use crate::progress::{Event, Observer};

use super::context::Context;
use super::dimensions::{Dimensions, Found, Layer, Origin};
use super::points::{Points, Source};
use crate::settings::{DimensionOptions, above_zero, subsamples};
use crate::workflow::{Growth, widest};

const EXAMPLE: &str = "\
Examples:
  gelora dimension out/store
  gelora dimension points.npy --scale 1 --method censored-mle --subsamples 0
  gelora dimension large.npy --until 0.5
  gelora dimension embeddings.safetensors --tensor embeddings --also gride,ph
  gelora dimension out/store --json | jq '.layers[].dimension'";

/// Estimate the intrinsic dimension of every layer
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Arguments {
    /// A store of `gelora extract`; or one point per row, float32 or float64, in a .npy file or in the matrices of a
    /// .safetensors file
    points: PathBuf,

    /// Which matrix of a .safetensors file [default: all of them]
    #[arg(long, value_name = "NAME")]
    tensor: Option<String>,

    #[command(flatten)]
    drawing: Drawing,

    #[command(flatten)]
    dimension: DimensionOptions,

    /// Random halves of the points that tell how certain a dimension is; 0 for an interval as if points shared no neighbours
    #[arg(long, value_name = "N", default_value_t = 40, help_heading = "Dimension", value_parser = subsamples())]
    subsamples: usize,

    /// Seed of everything random
    #[arg(long, value_name = "SEED", default_value_t = 0, help_heading = "Dimension")]
    seed: u64,

    /// Estimators beside TwoNN, separated by commas: gride (the dimension at growing scale), mle (Levina and Bickel's
    /// likelihood over many neighbours), ph (persistent homology: the growth of spanning trees), or all
    #[arg(long, value_name = "ESTIMATORS", value_delimiter = ',', help_heading = "Dimension")]
    also: Vec<Further>,

    /// Neighbours that the estimator mle uses
    #[arg(long, value_name = "K", default_value_t = 20, help_heading = "Dimension",
        value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(2..=1000))]
    mle_neighbours: usize,

    /// Exponent of the lengths in the estimator ph
    #[arg(long, value_name = "ALPHA", default_value_t = 1.0, help_heading = "Dimension", value_parser = exponent)]
    alpha: f64,
}

/// Which points are used.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Points")]
struct Drawing {
    /// At most so many points, drawn with --seed [default: all]
    #[arg(long, value_name = "N", value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(50..))]
    sample: Option<usize>,

    /// Draw points until no 95 % interval of a dimension is wider than this
    #[arg(long, value_name = "WIDTH", value_parser = above_zero)]
    until: Option<f64>,

    /// Average over mini-batches of so many points, drawn with --seed: for more points than a search of all can bear
    #[arg(long, value_name = "N", conflicts_with_all = ["until", "also"],
        value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(100..))]
    mini_batch: Option<usize>,
}

/// Estimators beside TwoNN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Further {
    Gride,
    Mle,
    Ph,
    All,
}

impl FromStr for Further {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "gride" => Ok(Self::Gride),
            "mle" => Ok(Self::Mle),
            "ph" => Ok(Self::Ph),
            "all" => Ok(Self::All),
            _ => Err("take some of gride, mle, ph, or all".into()),
        }
    }
}

fn exponent(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(alpha) if alpha > 0.0 && alpha.is_finite() => Ok(alpha),
        _ => Err("give a number above 0".into()),
    }
}

/// What is computed for every layer.
struct Estimators {
    mini_batch: Option<usize>,
    representation: Representation,
    measuring: MeasureSettings,
    gride: bool,
    mle: Option<usize>,
    ph: Option<PersistentHomology>,
}

impl Estimators {
    fn of(arguments: &Arguments) -> Self {
        let wanted = |further: Further| arguments.also.iter().any(|&also| also == further || also == Further::All);
        let section = arguments.dimension.clone().section();
        Self {
            mini_batch: arguments.drawing.mini_batch,
            representation: section.representation(),
            measuring: MeasureSettings {
                estimator: section.two_nn(),
                scale: section.scale.0,
                subsamples: arguments.subsamples,
                seed: arguments.seed,
            },
            gride: wanted(Further::Gride),
            mle: wanted(Further::Mle).then_some(arguments.mle_neighbours),
            ph: wanted(Further::Ph)
                .then(|| PersistentHomology { alpha: arguments.alpha, ..PersistentHomology::default() }),
        }
    }

    /// The numbers of so many points in random order: the same for layers of the same points.
    fn order(&self, points: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..points).collect();
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(self.measuring.seed));
        order
    }

    /// The average over mini-batches of so many points, drawn at random.
    fn averaged<T: Scalar>(
        &self,
        points: ArrayView2<'_, T>,
        rows: usize,
        observer: &dyn Observer,
    ) -> anyhow::Result<Measurement> {
        let batches = points.nrows() / rows;
        ensure!(
            batches >= FEWEST_BATCHES,
            "{} points make {batches} mini-batches of {rows}, but {FEWEST_BATCHES} are needed to tell how certain their average \
             is; give smaller ones (100 points at least) or more points",
            points.nrows()
        );
        let mut average = MiniBatches::new(self.measuring, points.ncols());
        for batch in self.order(points.nrows()).chunks_exact(rows) {
            observer.check()?;
            average.push(points.select(Axis(0), batch).view(), &Watched(observer))?;
        }
        Ok(average.finish())
    }

    /// Neighbours that all of them need.
    fn neighbours(&self) -> usize {
        let gride = if self.gride { GRIDE_NEIGHBOURS } else { 2 };
        self.measuring.neighbours().max(gride).max(self.mle.unwrap_or(2))
    }
}

pub(crate) fn run(context: &Context, arguments: Arguments) -> anyhow::Result<()> {
    let estimators = Estimators::of(&arguments);
    let source = Source::open(&arguments.points, arguments.tensor.as_deref())?;
    let origin = Origin {
        gelora_version: env!("CARGO_PKG_VERSION"),
        source: arguments.points.display().to_string(),
        source_sha256: source.sha256(context.observer())?,
        seed: arguments.seed,
        subsamples: arguments.subsamples,
        sample: arguments.drawing.sample,
        until: arguments.drawing.until,
        mini_batch: arguments.drawing.mini_batch,
    };
    let found = match arguments.drawing.until {
        Some(width) => measure_until(context, &source, &estimators, &arguments.drawing, width)?,
        None => measure_layers(context, &source, &estimators, arguments.drawing.sample)?,
    };
    let dimensions = Dimensions::new(origin, &arguments.dimension.clone().section(), found)?;
    context.print(&dimensions, || dimensions.describe())
}

/// Measures all layers, on the first so many points of a random order, or on all of them.
fn measure_layers(
    context: &Context,
    source: &Source,
    estimators: &Estimators,
    sample: Option<usize>,
) -> anyhow::Result<Vec<Found>> {
    let names = source.names();
    let observer = context.observer();
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

/// Draws points until no interval is wider than wanted.
fn measure_until(
    context: &Context,
    source: &Source,
    estimators: &Estimators,
    drawing: &Drawing,
    width: f64,
) -> anyhow::Result<Vec<Found>> {
    ensure!(estimators.measuring.subsamples > 0, "--until needs --subsamples: they tell how wide an interval is");
    let mut growth = Growth::new(width, drawing.sample);
    loop {
        let found = measure_layers(context, source, estimators, Some(growth.rows()))?;
        let total = found.iter().map(|found| found.all).max().unwrap_or(0);
        let widest = widest(found.iter().map(|found| &found.measurement), estimators.measuring.scale);
        if growth.is_enough(widest, total, context.observer()) {
            if let Some(widest) = widest.filter(|&widest| widest > width) {
                context.observer().observe(Event::Warning(&format!(
                    "the widest interval is {widest:.2} with all points there are, wider than the {width} asked for"
                )));
            }
            return Ok(found);
        }
    }
}

/// Stops when its observer does, and keeps what happens within a layer to itself: the layers are counted outside.
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
) -> anyhow::Result<Found> {
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

/// Estimates from all of these points.
fn estimate_all<T: Scalar>(
    observer: &dyn Observer,
    name: String,
    points: ArrayView2<'_, T>,
    estimators: &Estimators,
) -> anyhow::Result<Found> {
    let place = || format!("layer {name}");
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
        Some(rows) => (estimators.averaged(points, rows, observer).with_context(place)?, None),
        None => match prepare(points, estimators.neighbours(), &settings.estimator, observer).with_context(place)? {
            Prepared::Cloud(cloud) => (measure_cloud(&cloud, settings, observer).with_context(place)?, Some(cloud)),
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
        neighbour_scale: measurement.curve.iter().copied().filter(|at| at.dimension.is_finite()).collect(),
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
        further(observer, &cloud, estimators, &mut layer).with_context(|| format!("layer {}", layer.layer))?;
    }
    Ok(Found { all, layer, measurement })
}

fn further<T: Scalar>(
    observer: &dyn Observer,
    cloud: &Cloud<'_, T>,
    estimators: &Estimators,
    result: &mut Layer,
) -> anyhow::Result<()> {
    let known = cloud.neighbours.distances.ncols();
    result.gride = estimators.gride.then(|| gride_scan(&cloud.neighbours));
    result.levina_bickel = estimators.mle.map(|k| levina_bickel(&cloud.neighbours, k.min(known)));
    if let Some(settings) = &estimators.ph {
        result.persistent_homology = Some(settings.estimate_in_rows(cloud.points, &cloud.rows, observer)?);
    }
    Ok(())
}
