//! `gelora train`: LoRA training at the ranks of a plan.

use std::path::PathBuf;

use super::arguments::ColumnArguments;
use super::context::Context;

const EXAMPLE: &str = "\
Examples:
  gelora train my-model --plan out/plan.json --data train.tsv --validation dev.tsv --task cola -o out/adapter

The folder is a PEFT adapter. Running it again resumes from the last state that was saved.";

/// Train LoRA adapters at the ranks of a plan
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Arguments {
    /// The model folder, or .onnx file, that the plan was made for
    model: PathBuf,

    /// The plan of `gelora plan`
    #[arg(long, value_name = "FILE")]
    plan: PathBuf,

    /// Folder of the adapter
    #[arg(short, long, value_name = "FOLDER")]
    out: PathBuf,

    /// Rows to train on: .tsv, .csv or .jsonl
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    data: PathBuf,

    /// Rows to choose the best epoch with
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    validation: Option<PathBuf>,

    #[command(flatten)]
    columns: ColumnArguments,
}

pub(crate) fn run(_context: &Context, _arguments: Arguments) -> anyhow::Result<()> {
    #[cfg(not(feature = "train"))]
    anyhow::bail!(
        "this gelora was built for planning only, without libtorch; install one that trains with `cargo install gelora`, or build it with `cargo build --release --features train`"
    );
    #[cfg(feature = "train")]
    anyhow::bail!("not yet here")
}
