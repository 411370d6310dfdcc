//! `gelora manifold`: points of known dimension, to try estimators on.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::ensure;
use serde::Serialize;

use crate::dimension::{Manifold, Shape};
use crate::files::{npy_header, write_atomically};
use crate::progress::{Event, Observer as _};
use crate::report;

use super::context::Context;

const EXAMPLE: &str = "\
Examples:
  gelora manifold sphere --dimension 10 -o sphere.npy
  gelora manifold nonlinear --dimension 6 --columns 384 --noise 0.01 --points 20000 -o points.npy
  gelora dimension sphere.npy --also all

Manifolds:
  sphere      the unit sphere of dimension d, in d + 1 columns
  ball        the unit ball, uniformly
  cube        the unit cube, uniformly
  gaussian    a normal distribution with unit variance
  swiss-roll  a rolled-up rectangle of dimension 2, in 3 columns
  moebius     a strip with a half twist, of dimension 2, in 3 columns
  affine      a normal distribution, stretched and turned into 2 d columns
  nonlinear   pairs (y cos 2πx, y sin 2πx) of neighbouring coordinates of a cube, turned into 6 d columns";

/// Make points on a manifold of known dimension
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Arguments {
    /// sphere, ball, cube, gaussian, swiss-roll, moebius, affine or nonlinear
    name: Shape,

    /// The .npy file to write, [points, columns]
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,

    /// How many points
    #[arg(long, value_name = "N", default_value_t = 2000,
        value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=u64::from(u32::MAX)))]
    points: usize,

    /// Dimension of the manifold [default: 2]
    #[arg(short, long, value_name = "D", value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(..=100_000))]
    dimension: Option<usize>,

    /// Columns that it is rotated into at random [default: as few as it needs]
    #[arg(long, value_name = "N", value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(..=100_000))]
    columns: Option<usize>,

    /// Standard deviation of the normal noise that is added to every column
    #[arg(long, value_name = "SD", default_value_t = 0.0)]
    noise: f64,

    /// Seed of everything random
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    seed: u64,

    /// Write float64 values [default: float32, as activations are]
    #[arg(long)]
    double: bool,
}

#[derive(Debug, Serialize)]
struct Made {
    file: String,
    manifold: &'static str,
    dimension: usize,
    points: usize,
    columns: usize,
    noise: f64,
    seed: u64,
    dtype: &'static str,
}

pub(crate) fn run(context: &Context, arguments: Arguments) -> anyhow::Result<()> {
    let shape = arguments.name;
    let dimension = arguments.dimension.or(shape.fixed_dimension()).unwrap_or(2);
    let manifold = Manifold::new(shape, dimension, arguments.columns, arguments.noise, arguments.seed)?;
    let is_npy = arguments.out.extension().is_some_and(|extension| extension == "npy");
    ensure!(is_npy, "{} is written as a .npy file; give it a name that ends so", arguments.out.display());
    let session = context.session();
    session.take_file(&arguments.out, &[])?;
    let (points, columns) = (arguments.points, manifold.columns());
    let dtype = if arguments.double { "float64" } else { "float32" };
    let observer = context.observer();
    observer.observe(Event::Begin { stage: "drawing points", total: Some(points as u64), done: 0, unit: "points" });
    let mut cancelled = Ok(());
    write_atomically(&arguments.out, |writer| {
        writer.write_all(&npy_header(if arguments.double { "<f8" } else { "<f4" }, &[points, columns]))?;
        let mut done = 0;
        for piece in manifold.pieces(points) {
            cancelled = observer.check();
            if cancelled.is_err() {
                return Err(std::io::ErrorKind::Interrupted.into());
            }
            for value in &piece {
                if arguments.double {
                    writer.write_all(&value.to_le_bytes())?;
                } else {
                    writer.write_all(&(*value as f32).to_le_bytes())?;
                }
            }
            done += piece.nrows();
            observer.observe(Event::Advance { done: done as u64, detail: "" });
        }
        Ok(())
    })
    .or_else(|error| cancelled.map_err(anyhow::Error::from).and(Err(error.into())))?;
    observer.observe(Event::End);
    let made = Made {
        file: arguments.out.display().to_string(),
        manifold: shape.as_str(),
        dimension,
        points,
        columns,
        noise: arguments.noise,
        seed: arguments.seed,
        dtype,
    };
    context.print(&made, || made.describe())
}

impl Made {
    fn describe(&self) -> String {
        report::facts(&[
            ("manifold", format!("{}, dimension {}", self.manifold, self.dimension)),
            ("points", format!("{} × {} columns, {}", self.points, self.columns, self.dtype)),
            ("noise", self.noise.to_string()),
            ("seed", self.seed.to_string()),
            ("written", self.file.clone()),
        ])
    }
}
