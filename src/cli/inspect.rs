//! `gelora inspect`: what can be done with an export, and what is in the way.

use std::path::PathBuf;

use super::context::Context;

const EXAMPLE: &str = "\
Examples:
  gelora inspect my-model                    a folder with model.onnx, model.safetensors, tokenizer.json
  gelora inspect my-model/model.onnx --weights
  gelora inspect my-model --json | jq '.blocks[].weights[].module'";

/// Show inputs, layers, hidden states and adaptable weights of an export, and check it against itself
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Arguments {
    /// A model folder, or an .onnx file
    model: PathBuf,

    /// List every adaptable weight, not only how many there are
    #[arg(long)]
    weights: bool,

    /// Do not run the model: leaves out the checks of determinism, padding and batches
    #[arg(long)]
    no_self_check: bool,
}

pub(crate) fn run(_context: &Context, _arguments: Arguments) -> anyhow::Result<()> {
    anyhow::bail!("not yet here")
}
