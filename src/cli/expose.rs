//! `gelora expose`: a copy of an export that gelora can use.

use std::path::PathBuf;

use super::context::Context;

const EXAMPLE: &str = "\
Examples:
  gelora expose my-model -o my-model-fixed --eval";

/// Write a copy of an export with dropout switched off (--eval)
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Arguments {
    /// A model folder, or an .onnx file
    model: PathBuf,

    /// Folder for the copy
    #[arg(short, long, value_name = "FOLDER")]
    out: PathBuf,

    /// Switch off dropout that was left on while exporting
    #[arg(long)]
    eval: bool,
}

pub(crate) fn run(_context: &Context, _arguments: Arguments) -> anyhow::Result<()> {
    anyhow::bail!("not yet here")
}
