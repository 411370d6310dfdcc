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

/// What a gelora without libtorch says.
#[cfg(not(feature = "train"))]
pub(crate) const WITHOUT_TRAINING: &str = "this gelora only plans: it was built without libtorch; \
    build one that trains with `cargo install gelora` (the feature `train` is on by default)";

#[cfg(not(feature = "train"))]
pub(crate) fn run(_context: &Context, _arguments: Arguments) -> anyhow::Result<()> {
    anyhow::bail!(WITHOUT_TRAINING)
}

#[cfg(feature = "train")]
pub(crate) fn run(_context: &Context, _arguments: Arguments) -> anyhow::Result<()> {
    anyhow::bail!("not yet here")
}
