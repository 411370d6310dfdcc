//! `gelora expose`: a copy of an export that gelora can use.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use serde::Serialize;

use crate::checkpoint::ModelFolder;
use crate::files::write_atomically;
use crate::onnx::{self, HiddenStates, Model};

use super::context::Context;

const EXAMPLE: &str = "\
Examples:
  gelora expose my-model -o my-model-fixed --eval

The copy differs from the export only where it has to; the rest is equal to the bit.
Adding hidden states to an export that lacks them is not possible yet: export it with output_hidden_states=True.";

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

#[derive(Debug, Serialize)]
struct Exposed {
    out: String,
    /// Dropout nodes that were switched off.
    switched_off: Vec<String>,
    hidden_states: usize,
    /// Files beside the export that were copied.
    copied: Vec<String>,
}

pub(crate) fn run(context: &Context, arguments: Arguments) -> anyhow::Result<()> {
    let folder = ModelFolder::open(&arguments.model)?;
    let model = Model::open(&folder.onnx)?;
    let states = HiddenStates::find(&model);
    if !arguments.eval {
        let states = states?.values.len();
        bail!("{} shows its {states} hidden states already; add --eval to switch off dropout", folder.onnx.display());
    }
    let dropout = onnx::active_dropout(&model);
    ensure!(!dropout.is_empty(), "no dropout is active in {}; use it as it is", folder.onnx.display());
    ensure!(
        !same_folder(&folder.folder, &arguments.out),
        "{} is the folder of the export itself; choose another for the copy",
        arguments.out.display()
    );

    let copied = copy_companions(&folder, &arguments.out)?;
    let out = arguments.out.join("model.onnx");
    onnx::disable_training_mode(&model)?.write(&model, &out)?;
    let exposed = Exposed {
        out: out.display().to_string(),
        switched_off: dropout.into_iter().map(|dropout| dropout.name).collect(),
        hidden_states: states.map_or(0, |states| states.values.len()),
        copied,
    };
    context.print(&exposed, || exposed.describe())
}

fn same_folder(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

/// Configuration, tokenizer and checkpoint belong to a model folder; other exports do not.
fn copy_companions(folder: &ModelFolder, out: &Path) -> anyhow::Result<Vec<String>> {
    let mut copied = Vec::new();
    let entries = fs::read_dir(&folder.folder).with_context(|| format!("cannot read {}", folder.folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        let wanted = ["json", "txt", "safetensors", "model"];
        let extension = path.extension().and_then(|extension| extension.to_str());
        let (Some(name), true) = (path.file_name(), extension.is_some_and(|found| wanted.contains(&found))) else {
            continue;
        };
        let mut source = fs::File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
        write_atomically(&out.join(name), |writer| std::io::copy(&mut source, writer).map(|_| ()))?;
        copied.push(name.to_string_lossy().into_owned());
    }
    copied.sort();
    Ok(copied)
}

impl Exposed {
    fn describe(&self) -> String {
        format!(
            "{}: {} dropout nodes switched off, {} hidden states; copied beside it: {}",
            self.out,
            self.switched_off.len(),
            self.hidden_states,
            if self.copied.is_empty() { "nothing".to_owned() } else { self.copied.join(", ") }
        )
    }
}
