//! `gelora merge`: merges base and adapter into a checkpoint folder and an `.onnx` file to deploy.

use std::path::{Path, PathBuf};

use crate::adapter::HEAD_FILE;
use crate::merge::{MergeReport, MergeSettings, StoredType};
use crate::report;
use crate::settings_value::word;
use crate::workflow::{MergedParts, merge_adapters};

use super::context::Context;

const EXAMPLE: &str = "\
Examples:
  gelora merge my-model out/adapter -o out/merged
  gelora merge Llama-2-7b adapter -o merged --dtype bfloat16 --shard-size 5GB
  gelora merge my-model style domain -o merged --weights 0.7,0.3

The folder has the files of the base, with the same names and types; only adapted weights and the head differ. It appears, or
takes the place of an earlier merged folder, at once when it is whole. A base without an export is merged by the names of its
tensors. After a kill, the same command goes on with the files of the checkpoint that it had finished.";

/// Merge adapters into their base: a checkpoint folder and an .onnx to deploy
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Arguments {
    /// The model folder, or .onnx file, that the adapter was trained on
    model: PathBuf,

    /// The adapter folder, of gelora or of PEFT; of several the changes are added
    #[arg(required = true, value_name = "ADAPTER")]
    adapters: Vec<PathBuf>,

    /// Folder for the merged model
    #[arg(short, long, value_name = "FOLDER")]
    out: PathBuf,

    /// Merge although the base is not the one that the adapter was trained with: other weights, or another export of the same
    /// (in float16, say)
    #[arg(long)]
    base_changed: bool,

    /// A number for every adapter, by which its change is multiplied [default: 1 each]
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', allow_hyphen_values = true)]
    weights: Vec<f64>,

    /// Type of the floating-point tensors of the checkpoint: float32, bfloat16 or float16 [default: as in the base]. The export
    /// keeps its types
    #[arg(long, value_name = "TYPE", value_parser = word::<StoredType>)]
    dtype: Option<StoredType>,

    /// Largest size of a file of the checkpoint, such as 5GB [default: the files of the base]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    shard_size: Option<u64>,

    /// Merge the checkpoint alone, also where the folder has an export
    #[arg(long)]
    no_export: bool,
}

/// A size in bytes: a number with a unit, such as 500MB (10⁶ bytes each) or 5GiB (2³⁰ bytes each).
fn size(text: &str) -> Result<u64, String> {
    text.parse::<bytesize::ByteSize>().map(|size| size.as_u64())
}

pub(crate) fn run(context: &Context, arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { model, adapters, out, base_changed, weights, dtype, shard_size, no_export } = &arguments;
    let settings =
        MergeSettings { base_changed: *base_changed, weights: weights.clone(), dtype: *dtype, shard_size: *shard_size };
    let parts = if *no_export { MergedParts::Checkpoint } else { MergedParts::All };
    let adapters: Vec<&Path> = adapters.iter().map(PathBuf::as_path).collect();
    let merged = merge_adapters(&context.session(), model, parts, &adapters, out, &settings)?;
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
