//! `gelora dimension`: the intrinsic dimension of every layer of a store, or of the points of a `.npy` file.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use ndarray::{Array2, ArrayView2};
use ndarray_npy::{ReadNpyError, ReadNpyExt};
use serde::Serialize;

use crate::activations::Store;
use crate::dimension::{LayerDimension, TwoNn};
use crate::files::FileError;
use crate::neighbours::Real;
use crate::progress::{Event, Observer};
use crate::report::{self, DimensionRow};

use super::arguments::DimensionArguments;
use super::context::Context;

const EXAMPLE: &str = "\
Examples:
  gelora dimension out/store
  gelora dimension points.npy --method censored-mle --neighbours exact
  gelora dimension out/store --json | jq '.layers[].dimension'";

/// Estimate the intrinsic dimension of every layer
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Arguments {
    /// A store of `gelora extract`, or a .npy file with one point per row (float32 or float64)
    points: PathBuf,

    #[command(flatten)]
    dimension: DimensionArguments,
}

#[derive(Debug, Serialize)]
struct Dimensions {
    source: String,
    method: String,
    layers: Vec<Layer>,
}

#[derive(Debug, Serialize)]
struct Layer {
    /// Number of the hidden state, or the name of the file.
    layer: String,
    width: usize,
    dimension: Option<f64>,
    interval: Option<(f64, f64)>,
    standard_error: Option<f64>,
    rows: usize,
    points: usize,
    duplicates: usize,
    near_duplicates: usize,
    non_finite: usize,
    engine: Option<String>,
    degenerate: Option<String>,
}

pub(crate) fn run(context: &Context, arguments: Arguments) -> anyhow::Result<()> {
    let settings = arguments.dimension.section().two_nn();
    let path = &arguments.points;
    let layers = if path.is_dir() {
        layers_of_store(context.observer(), path, &settings)?
    } else {
        vec![layer_of_file(context.observer(), path, &settings)?]
    };
    let dimensions =
        Dimensions { source: path.display().to_string(), method: arguments.dimension.method.to_string(), layers };
    context.print(&dimensions, || dimensions.describe())
}

fn layers_of_store(observer: &dyn Observer, path: &Path, settings: &TwoNn) -> anyhow::Result<Vec<Layer>> {
    if !path.join("manifest.json").exists() && path.join("store").join("manifest.json").exists() {
        bail!("{} holds no activations itself; name its store: {}", path.display(), path.join("store").display());
    }
    let store = Store::open(path)?;
    let total = store.hidden_states();
    observer.observe(Event::Begin {
        stage: "estimating dimensions",
        total: Some(total as u64),
        done: 0,
        unit: "layers",
    });
    let mut layers = Vec::with_capacity(total);
    for index in 0..total {
        observer.check()?;
        let points = store.layer(index)?;
        layers.push(estimate(&Watched(observer), index.to_string(), points.view(), settings)?);
        observer.observe(Event::Advance { done: index as u64 + 1, detail: "" });
    }
    observer.observe(Event::End);
    Ok(layers)
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

fn layer_of_file(observer: &dyn Observer, path: &Path, settings: &TwoNn) -> anyhow::Result<Layer> {
    let name = path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
    let open = || File::open(path).map_err(FileError::new("read", path));
    match Array2::<f32>::read_npy(open()?) {
        Ok(points) => estimate(observer, name, points.view(), settings),
        Err(ReadNpyError::WrongDescriptor(_)) => {
            let points = Array2::<f64>::read_npy(open()?).map_err(|error| unreadable(path, &error))?;
            estimate(observer, name, points.view(), settings)
        }
        Err(error) => Err(unreadable(path, &error)),
    }
}

fn unreadable(path: &Path, error: &ReadNpyError) -> anyhow::Error {
    let cure = "save it with numpy.save as a float32 or float64 array of shape [points, columns]";
    match error {
        ReadNpyError::WrongDescriptor(found) => {
            anyhow::anyhow!("{} holds values of type {found}, not float32 or float64; {cure}", path.display())
        }
        ReadNpyError::WrongNdim(expected, found) => {
            let expected = expected.unwrap_or(2);
            anyhow::anyhow!("{} has {found} axes instead of {expected}; {cure}", path.display())
        }
        other => anyhow::anyhow!("{} is not a .npy file that can be read ({other}); {cure}", path.display()),
    }
}

fn estimate<T: Real>(
    observer: &dyn Observer,
    layer: String,
    points: ArrayView2<'_, T>,
    settings: &TwoNn,
) -> anyhow::Result<Layer> {
    let found = settings.estimate(points, observer).with_context(|| format!("layer {layer}"))?;
    let counts = found.counts();
    let mut result = Layer {
        layer,
        width: points.ncols(),
        dimension: None,
        interval: None,
        standard_error: None,
        rows: counts.rows,
        points: counts.points(),
        duplicates: counts.duplicates,
        near_duplicates: counts.near_duplicates,
        non_finite: counts.non_finite,
        engine: None,
        degenerate: None,
    };
    match found {
        LayerDimension::Estimate(estimate) => {
            if !estimate.dimension.is_finite() {
                bail!("layer {}: every point is equally far from its two nearest neighbours", result.layer);
            }
            result.dimension = Some(estimate.dimension);
            result.interval = Some(estimate.interval);
            result.standard_error = Some(estimate.standard_error);
            result.engine = Some(estimate.engine.to_string());
        }
        LayerDimension::Degenerate { reason, .. } => result.degenerate = Some(reason),
    }
    Ok(result)
}

impl Dimensions {
    fn describe(&self) -> String {
        let rows: Vec<DimensionRow> = self
            .layers
            .iter()
            .map(|layer| DimensionRow {
                layer: layer.layer.clone(),
                dimension: layer.dimension.ok_or_else(|| layer.degenerate.clone().unwrap_or_default()),
                interval: layer.interval,
                points: layer.points as u64,
                duplicates: (layer.duplicates + layer.near_duplicates) as u64,
                non_finite: layer.non_finite as u64,
            })
            .collect();
        report::dimension_table(&rows)
    }
}
