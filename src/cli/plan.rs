//! `gelora plan`: extraction, dimensions and ranks; writes the plan and its report.

use std::path::PathBuf;

use super::arguments::{DataArguments, DimensionArguments, ExtractionArguments, RankArguments};
use super::context::Context;

const EXAMPLE: &str = "\
Examples:
  gelora plan my-model --data train.tsv --task cola -o out
  gelora plan my-model --data rows.csv --text body --projections all --maximum-rank 16 -o out

Writes plan.json, adapter_config.json (for PEFT), dimensions.csv, report.html and the store of activations.
Running it again resumes, and takes the store as it is where model, data and settings are the same.";

/// Give every layer the LoRA rank its data asks for
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Arguments {
    /// A model folder, or an .onnx file
    model: PathBuf,

    /// Folder for everything that is written
    #[arg(short, long, value_name = "FOLDER")]
    out: PathBuf,

    #[command(flatten)]
    data: DataArguments,

    #[command(flatten)]
    extraction: ExtractionArguments,

    #[command(flatten)]
    dimension: DimensionArguments,

    #[command(flatten)]
    rank: RankArguments,
}

pub(crate) fn run(_context: &Context, _arguments: Arguments) -> anyhow::Result<()> {
    anyhow::bail!("not yet here")
}
