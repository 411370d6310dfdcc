//! `gelora evaluate`: the metric of a task, through ONNX Runtime.

use std::path::PathBuf;

use super::arguments::DataArguments;
use super::context::Context;

const EXAMPLE: &str = "\
Examples:
  gelora evaluate out/merged --data dev.tsv --task cola
  gelora evaluate out/merged --data dev.tsv --task stsb --json";

/// Evaluate an export on labelled rows
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Arguments {
    /// A model folder, or an .onnx file, with an output `logits`
    model: PathBuf,

    #[command(flatten)]
    data: DataArguments,
}

pub(crate) fn run(_context: &Context, _arguments: Arguments) -> anyhow::Result<()> {
    anyhow::bail!("not yet here")
}
