//! `gelora extract`: the activations of every layer over a data set, to a store.

use std::path::PathBuf;

use super::arguments::{DataArguments, ExtractionArguments};
use super::context::Context;

const EXAMPLE: &str = "\
Examples:
  gelora extract my-model --data train.tsv --task cola -o store
  gelora extract my-model --data pairs.csv --text question --pair answer --pooling first -o store

The store holds one .npy file per layer and shard, which numpy.load opens. Running it again resumes.";

/// Run a data set through the model and keep the activations of every layer
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Arguments {
    /// A model folder, or an .onnx file
    model: PathBuf,

    /// Folder of the store
    #[arg(short, long, value_name = "FOLDER")]
    out: PathBuf,

    #[command(flatten)]
    data: DataArguments,

    #[command(flatten)]
    extraction: ExtractionArguments,

    /// Replace a store that was made of something else
    #[arg(long)]
    overwrite: bool,
}

pub(crate) fn run(_context: &Context, _arguments: Arguments) -> anyhow::Result<()> {
    anyhow::bail!("not yet here")
}
