//! `gelora inspect`: what an export can be used for, and what prevents the rest.

use std::path::PathBuf;

use crate::workflow::{InspectSettings, inspect};

use super::context::Context;
use super::inspection::describe;

const EXAMPLE: &str = "\
Examples:
  gelora inspect my-model                    a folder with model.onnx, model.safetensors, tokenizer.json
  gelora inspect my-model/model.onnx --weights
  gelora inspect my-model --json | jq '.blocks[].weights[].module'

Exit code 1 when something is in the way of a plan, with the cure.";

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

pub(crate) fn run(context: &Context, arguments: Arguments) -> anyhow::Result<()> {
    let settings = InspectSettings { self_check: !arguments.no_self_check };
    let inspection = inspect(&context.session(), &arguments.model, &settings)?;
    context.print(&inspection, || describe(&inspection, arguments.weights))?;
    match inspection.obstacles.as_slice() {
        [] => Ok(()),
        [one] => anyhow::bail!("{one}"),
        several => anyhow::bail!("{} things are in the way; each is listed above with its cure", several.len()),
    }
}
