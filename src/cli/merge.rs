//! `gelora merge`: base and adapter to a checkpoint folder and an `.onnx` that can be deployed.

use std::path::PathBuf;

use super::context::Context;

const EXAMPLE: &str = "\
Examples:
  gelora merge my-model out/adapter -o out/merged";

/// Merge an adapter into its base: a checkpoint folder and an .onnx to deploy
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Arguments {
    /// The model folder, or .onnx file, that the adapter was trained on
    model: PathBuf,

    /// The adapter folder
    adapter: PathBuf,

    /// Folder for the merged model
    #[arg(short, long, value_name = "FOLDER")]
    out: PathBuf,
}

pub(crate) fn run(_context: &Context, _arguments: Arguments) -> anyhow::Result<()> {
    anyhow::bail!("not yet here")
}
