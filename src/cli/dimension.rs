//! `gelora dimension`: the intrinsic dimension of every layer of a store, or of the points of a `.npy` file.

use std::path::PathBuf;

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

pub(crate) fn run(_context: &Context, _arguments: Arguments) -> anyhow::Result<()> {
    anyhow::bail!("not yet here")
}
