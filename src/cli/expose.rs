//! `gelora expose`: a copy of an export that gelora can use.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use serde::Serialize;

use crate::checkpoint::ModelFolder;
use crate::files::{open_file, write_atomically};
use crate::onnx::{self, ActiveDropout, Edit, HiddenStates, Model, Origin, Transformer};
use crate::progress::{Event, Observer};
use crate::report;
use crate::runtime::{Comparison, compare_outputs};

use super::context::Context;
use crate::workflow::{Session, Weights, how_found};

const EXAMPLE: &str = "\
Examples:
  gelora expose my-model -o my-model-exposed
  gelora expose my-model -o my-model-fixed --eval
  gelora expose my-model -o my-model-exposed --tap '/encoder/layer\\.\\d+/output/LayerNorm/Add_1_output_0|/embeddings/.*/Add_1_output_0'
  gelora expose my-model -o my-model-exposed --tap-list embeddings.out,block.0.out,block.1.out

The copy has outputs hidden_states.0 (embeddings) to hidden_states.L, found as the stream that every block adds to. It
differs from the export only where it has to; the rest is equal to the bit. Planning and training find the hidden states
by themselves in the same way; a copy is needed only to name them differently, or for other programs. A plan belongs to
the file that it was made for: plan and train with the same one of the two.";

/// Write a copy of an export that shows its hidden states, or with dropout switched off (--eval)
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

    /// Take the values whose whole names fit this regular expression as hidden states, in the order of the graph
    #[arg(long, value_name = "REGEX", conflicts_with = "tap_list")]
    tap: Option<String>,

    /// Take these values as hidden states 0 to L
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    tap_list: Option<Vec<String>>,

    /// Do not run the copy beside the export to compare their outputs
    #[arg(long)]
    no_check: bool,
}

#[derive(Debug, Serialize)]
struct Exposed {
    out: String,
    /// Whether dropout was to be switched off.
    #[serde(skip)]
    eval: bool,
    /// Dropout nodes that were switched off.
    switched_off: Vec<String>,
    /// The values that are hidden states, 0 to L; empty where the export has none that can be found.
    hidden_states: Vec<String>,
    /// How they were found.
    found: String,
    /// What running the copy beside the export showed; absent where it was not run.
    comparison: Option<Comparison>,
    /// Why it was not run.
    not_compared: Option<String>,
    /// Files beside the export that were copied.
    copied: Vec<String>,
}

pub(crate) fn run(context: &Context, arguments: Arguments) -> anyhow::Result<()> {
    let folder = ModelFolder::open(&arguments.model)?;
    let model = Transformer::open(&folder.onnx)?;
    let states = wanted_states(&arguments, &model)?;
    let shown = states.as_ref().is_some_and(|states| states.origin == Origin::Outputs);
    let dropout = onnx::active_dropout(&model);
    refuse_nothing_to_do(&arguments, &folder, states.as_ref().filter(|_| shown), &dropout)?;
    ensure!(
        !same_folder(&folder.folder, &arguments.out),
        "{} is the folder of the export itself; choose another for the copy",
        arguments.out.display()
    );

    let mut edit = if arguments.eval { onnx::disable_training_mode(&model)? } else { Edit::new() };
    if let Some(states) = states.as_ref().filter(|_| !shown) {
        edit.extend(onnx::expose(&model, states)?);
        if matches!(states.origin, Origin::Graph(_)) {
            let found = Weights::new(&folder, &model)?.structure(&folder, &model)?;
            found.obstacles.iter().for_each(|obstacle| context.observer().observe(Event::Warning(obstacle)));
        }
    }
    let session = context.session();
    session.take_folder(&arguments.out, &[])?;
    let copied = copy_companions(&folder, &arguments.out)?;
    let out = arguments.out.join("model.onnx");
    edit.write(&model, &out)?;
    let (comparison, not_compared) = match compare(&session, &arguments, &model, &out, !dropout.is_empty()) {
        Ok(Checked::Equal(comparison)) => (Some(comparison), None),
        Ok(Checked::Skipped(reason)) => (None, Some(reason)),
        Err(error) => {
            // A copy that is not known to be right must not lie there as if it were.
            fs::remove_file(&out).with_context(|| format!("cannot remove {}", out.display()))?;
            return Err(error);
        }
    };
    let exposed = Exposed {
        out: out.display().to_string(),
        eval: arguments.eval,
        switched_off: dropout.into_iter().filter(|_| arguments.eval).map(|dropout| dropout.name).collect(),
        found: states.as_ref().map_or_else(|| "none were found".into(), how_found),
        hidden_states: states.map_or_else(Vec::new, |states| states.values),
        comparison,
        not_compared,
        copied,
    };
    context.print(&exposed, || exposed.describe())
}

/// The hidden states that the copy shows; with `--eval` alone an export without any is no error.
fn wanted_states(arguments: &Arguments, model: &Transformer) -> anyhow::Result<Option<HiddenStates>> {
    if let Ok(shown) = HiddenStates::shown(model)
        && (arguments.tap.is_some() || arguments.tap_list.is_some())
    {
        bail!(
            "{} shows its {} hidden states already, as {} …; to name others, begin with the export that this copy was made of, \
             or export without hidden states",
            model.path().display(),
            shown.values.len(),
            shown.values[0]
        );
    }
    Ok(match (&arguments.tap, &arguments.tap_list) {
        (Some(pattern), _) => Some(HiddenStates::matching(model, pattern)?),
        (None, Some(names)) => Some(HiddenStates::named(model, names)?),
        (None, None) if arguments.eval => model.states().ok().cloned(),
        (None, None) => Some(model.states()?.clone()),
    })
}

fn refuse_nothing_to_do(
    arguments: &Arguments,
    folder: &ModelFolder,
    shown: Option<&HiddenStates>,
    dropout: &[ActiveDropout],
) -> anyhow::Result<()> {
    let onnx = folder.onnx.display();
    match shown {
        Some(_) if arguments.eval => ensure!(!dropout.is_empty(), "no dropout is active in {onnx}; use it as it is"),
        Some(states) => {
            let states = states.values.len();
            let eval = if dropout.is_empty() { "" } else { ", or add --eval to switch off the dropout that is active" };
            bail!("{onnx} shows its {states} hidden states already and needs no copy: use it as it is{eval}")
        }
        None => {}
    }
    Ok(())
}

enum Checked {
    Equal(Comparison),
    Skipped(String),
}

/// Runs the copy beside the export, unless that gives `random` outputs.
fn compare(
    session: &Session<'_>,
    arguments: &Arguments,
    model: &Transformer,
    out: &Path,
    random: bool,
) -> anyhow::Result<Checked> {
    if arguments.no_check {
        return Ok(Checked::Skipped("--no-check".into()));
    }
    if random {
        return Ok(Checked::Skipped("with active dropout the export gives other values in every run".into()));
    }
    if let Some(reason) = too_large_to_run(model) {
        return Ok(Checked::Skipped(reason));
    }
    let library =
        session.library().context("the copy cannot be compared with the export (--no-check leaves it out)")?;
    let vocabulary = model.vocabulary().unwrap_or(2);
    let found = compare_outputs(library, model.path(), out, vocabulary, &session.inference())?;
    ensure!(
        found.equal,
        "the copy gives other outputs than {} (largest difference {:.1e}); please report this, with the export if you can",
        model.path().display(),
        found.largest_difference
    );
    Ok(Checked::Equal(found))
}

/// An export that takes gigabytes and minutes to run is not run by a command that otherwise takes seconds.
pub(crate) fn too_large_to_run(model: &Model) -> Option<String> {
    const LIMIT: usize = 1 << 30;
    let bytes = model.file_bytes().len() + model.external_files().iter().map(|file| file.bytes().len()).sum::<usize>();
    (bytes > LIMIT).then(|| format!("the export has {:.1} GB", bytes as f64 / 1e9))
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
        let mut source = open_file(&path)?;
        write_atomically(&out.join(name), |writer| std::io::copy(&mut source, writer).map(|_| ()))?;
        copied.push(name.to_string_lossy().into_owned());
    }
    copied.sort();
    Ok(copied)
}

impl Exposed {
    fn describe(&self) -> String {
        let mut facts = vec![("written", self.out.clone())];
        if !self.switched_off.is_empty() {
            facts.push(("dropout", format!("{} nodes switched off", self.switched_off.len())));
        } else if self.eval {
            facts.push(("dropout", "none was active".to_owned()));
        }
        facts.push(("hidden states", format!("{} ({})", self.hidden_states.len(), self.found)));
        if let (Some(first), Some(last)) = (self.hidden_states.first(), self.hidden_states.last()) {
            facts.push(("first, last", format!("{first}, {last}")));
        }
        facts.push((
            "checked",
            match (&self.comparison, &self.not_compared) {
                (Some(found), _) => format!("{} are equal to the export's to the bit", found.outputs.join(", ")),
                (None, reason) => format!("not run: {}", reason.as_deref().unwrap_or_default()),
            },
        ));
        facts.push(("copied", if self.copied.is_empty() { "nothing".to_owned() } else { self.copied.join(", ") }));
        report::facts(&facts)
    }
}
