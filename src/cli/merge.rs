//! `gelora merge`: merges base and adapter into a checkpoint folder and an `.onnx` file to deploy.

use std::path::PathBuf;

use crate::adapter::HEAD_FILE;
use crate::merge::{MergeReport, MergeSettings};
use crate::report;
use crate::workflow::merge_adapter;

use super::context::Context;

const EXAMPLE: &str = "\
Examples:
  gelora merge my-model out/adapter -o out/merged

The folder has the files of the base, with the same names and types; only adapted weights and the head differ. It appears, or
takes the place of an earlier merged folder, at once when it is whole.";

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

    /// Merge although the base is not the one that the adapter was trained with: other weights, or another export of the same
    /// (in float16, say)
    #[arg(long)]
    base_changed: bool,
}

pub(crate) fn run(context: &Context, arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { model, adapter, out, base_changed } = &arguments;
    let settings = MergeSettings { base_changed: *base_changed };
    let merged = merge_adapter(&context.session(), model, adapter, out, &settings)?;
    context.print(&merged, || describe(&merged, &arguments.out.display().to_string()))
}

/// The changes as text, and what rounding lost.
fn describe(merged: &MergeReport, out: &str) -> String {
    let head_apart = merged.files.iter().any(|file| file == HEAD_FILE);
    let trained_whole = merged.tensors.iter().filter(|tensor| tensor.rank.is_none()).count();
    let mut facts = vec![
        ("merged", out.to_owned()),
        ("tensors", format!("{} adapted, {trained_whole} replaced", merged.tensors.len() - trained_whole)),
        ("rounding", format!("took at most {:.2e} of the change of a tensor", merged.lost_by_rounding())),
        ("files", merged.files.join(", ")),
    ];
    if head_apart {
        let text = format!("apart, in {HEAD_FILE}: transformers does not load it, and the .onnx has it");
        facts.insert(2, ("head", text));
    }
    report::facts(&facts)
}
