//! `gelora inspect`: what can be done with an export, and what is in the way.

use std::path::PathBuf;

use crate::checkpoint::ModelFolder;
use crate::dataset::Example;
use crate::onnx::Transformer;
use crate::progress::{Observer, Silent};
use crate::runtime::self_check;

use super::context::Context;
use super::expose::too_large_to_run;
use super::inspection::{Check, Inspection};
use crate::workflow::{causality_of, tokenizer as tokenizer_of};

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
    let folder = ModelFolder::open(&arguments.model)?;
    let model = Transformer::open(&folder.onnx)?;
    let mut inspection = Inspection::new(&folder, &model)?;
    if !arguments.no_self_check && inspection.obstacles.is_empty() {
        match check(context, &folder, &model) {
            Ok(check) => inspection.enter(&model, check),
            Err(error) => inspection.obstacles.push(super::exit::in_one_line(&error)),
        }
    }
    context.observer().check()?;
    context.print(&inspection, || inspection.describe(arguments.weights))?;
    match inspection.obstacles.as_slice() {
        [] => Ok(()),
        [one] => anyhow::bail!("{one}"),
        several => anyhow::bail!("{} things are in the way; each is listed above with its cure", several.len()),
    }
}

/// Runs a few sentences of different lengths through the model, cut to the length that it takes where that is fixed.
fn check(context: &Context, folder: &ModelFolder, model: &Transformer) -> anyhow::Result<Check> {
    /// No sentence is longer.
    const LENGTH: usize = 32;
    const SENTENCES: [&str; 6] = [
        "The keys to the old cabinet were on the table.",
        "She left.",
        "Although it had rained for days, the river stayed within its banks and nobody in the valley had to leave home.",
        "What did the engineer say about the bridge that the town built last year?",
        "No.",
        "A dog that barks at every passing car rarely sleeps well, and neither do the people who live next door to it.",
    ];
    if let Some(reason) = too_large_to_run(model) {
        return Ok(Check::Skipped(format!("{reason}; `gelora plan` checks it on its first rows")));
    }
    let Some(tokenizer) = &folder.tokenizer else {
        return Ok(Check::Skipped("there is no tokenizer.json beside the model".into()));
    };
    let session = context.session();
    let library = session.library()?;
    let tokenizer = tokenizer_of(&session, tokenizer, model, LENGTH)?;
    let examples: Vec<Example> =
        SENTENCES.iter().enumerate().map(|(line, text)| Example { line, text: (*text).into(), pair: None }).collect();
    let encodings = tokenizer.encode(&examples, &Silent)?;
    let padding = tokenizer.padding();
    let check = self_check(library, model, &encodings, padding, &session.inference())?;
    let causality = match model.head()?.filter(|head| head.predicts_tokens) {
        Some(_) => causality_of(&session, model, &encodings, &tokenizer)?,
        None => None,
    };
    Ok(Check::Done(check, causality))
}
