//! `gelora dimension`: the intrinsic dimension of every layer of a store, or of the points of a file.

use std::path::PathBuf;
use std::str::FromStr;

use crate::dimension::PersistentHomology;
use crate::report::{self, DimensionRow};
use crate::settings::{DimensionOptions, above_zero, subsamples};
use crate::workflow::{DimensionRequest, Dimensions, Layer, measure_dimensions};

use super::context::Context;

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

    /// Random halves of the points, which show how certain a dimension is; 0 for an interval as if points shared no neighbours
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

    /// Average over mini-batches of so many points, drawn with --seed: for more points than can be searched at once
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

/// Number of points below which noise deserves a remark.
const FEW_POINTS: usize = 500;

pub(crate) fn run(context: &Context, arguments: Arguments) -> anyhow::Result<()> {
    let wanted = |further: Further| arguments.also.iter().any(|&also| also == further || also == Further::All);
    let homology = PersistentHomology { alpha: arguments.alpha, ..PersistentHomology::default() };
    let request = DimensionRequest {
        tensor: arguments.tensor.as_deref(),
        sample: arguments.drawing.sample,
        until: arguments.drawing.until,
        mini_batch: arguments.drawing.mini_batch,
        settings: arguments.dimension.clone().section(),
        subsamples: arguments.subsamples,
        seed: arguments.seed,
        gride: wanted(Further::Gride),
        mle: wanted(Further::Mle).then_some(arguments.mle_neighbours),
        persistent_homology: wanted(Further::Ph).then_some(homology),
        ..DimensionRequest::of(&arguments.points)
    };
    let dimensions = measure_dimensions(&context.session(), &request)?;
    context.print(&dimensions, || describe(&dimensions))
}

/// The tables, and remarks to read before they are trusted.
fn describe(dimensions: &Dimensions) -> String {
    let rows: Vec<DimensionRow> = dimensions
        .layers
        .iter()
        .map(|layer| DimensionRow {
            layer: layer.layer.clone(),
            scales: layer.dimension_by_scale.iter().map(|at| at.dimension).collect(),
            dimension: layer.dimension.ok_or_else(|| layer.degenerate.clone().unwrap_or_default()),
            interval: layer.interval,
            points: layer.points as u64,
            duplicates: (layer.duplicates + layer.near_duplicates) as u64,
            non_finite: layer.non_finite as u64,
        })
        .collect();
    let mut table = report::dimension_table(&rows);
    if dimensions.layers.iter().any(|layer| layer.dimension.is_some()) {
        table += &format!("\n\n{}", report::scale_in_words(&dimensions.scale));
    }
    for remark in remarks(dimensions) {
        table += &format!("\n{remark}");
    }
    match further(dimensions) {
        Some(further) => format!("{table}\n\n{further}"),
        None => table,
    }
}

/// Remarks to read before the numbers are trusted.
fn remarks(dimensions: &Dimensions) -> Vec<String> {
    let mut remarks = Vec::new();
    let least = dimensions.layers.iter().filter(|layer| layer.dimension.is_some()).min_by_key(|layer| layer.points);
    if let Some(layer) = least.filter(|layer| layer.points < FEW_POINTS) {
        remarks
            .push(format!("with only {} points (layer {}) dimensions are noisy, and low", layer.points, layer.layer));
    }
    let near = |layer: &&Layer| layer.near_neighbours.map_or(0.0, |near| near as f64 / layer.points.max(1) as f64);
    let most = dimensions.layers.iter().max_by(|a, b| near(a).total_cmp(&near(b)));
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

/// Results of the further estimators, one line per layer.
fn further(dimensions: &Dimensions) -> Option<String> {
    let gride: Option<usize> = dimensions.layers.iter().filter_map(|layer| Some(layer.gride.as_ref()?.len())).max();
    let mle = dimensions.layers.iter().any(|layer| layer.levina_bickel.is_some());
    let ph = dimensions.layers.iter().any(|layer| layer.persistent_homology.is_some());
    if gride.is_none() && !mle && !ph {
        return None;
    }
    let mut header = vec!["layer".to_owned()];
    for pair in 0..gride.unwrap_or(0) {
        header.push(format!("GRIDE {}:{}", 1 << pair, 2 << pair));
    }
    header.extend(mle.then(|| "MLE".to_owned()));
    header.extend(ph.then(|| "PH".to_owned()));
    let lines: Vec<Vec<String>> = dimensions
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
