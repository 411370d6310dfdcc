//! A copy of an export that outputs its hidden states, or with dropout switched off: the implementation of `gelora expose`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::checkpoint::ModelFolder;
use crate::files::{open_file, write_atomically};
use crate::hint::Hint;
use crate::onnx::{self, ActiveDropout, Edit, HiddenStates, Origin, Transformer};
use crate::progress::Event;
use crate::runtime::{Comparison, compare_outputs};

use super::export::{how_found, too_large_to_run};
use super::outputs::same;
use super::{Session, Weights, WorkflowError};

/// What a copy of an export outputs, and whether it is compared with the export.
#[derive(Debug, Clone)]
pub struct ExposeSettings {
    /// Switch off dropout that was left on while exporting. An export without hidden states is then no error.
    pub eval: bool,
    /// Which values are the hidden states.
    pub states: WantedStates,
    /// Run the copy and the export to compare their outputs.
    pub check: bool,
}

impl Default for ExposeSettings {
    fn default() -> Self {
        Self { eval: false, states: WantedStates::default(), check: true }
    }
}

/// Which values of a graph are its hidden states.
#[derive(Debug, Clone, Default)]
pub enum WantedStates {
    /// Those that gelora finds.
    #[default]
    Found,
    /// Those whose full names match this regular expression, in graph order.
    Matching(String),
    /// The values with these names, 0 to L.
    Named(Vec<String>),
}

/// The result of writing a copy.
#[derive(Debug, Clone, Serialize)]
pub struct Exposed {
    /// Path of the copy's `.onnx` file.
    pub out: String,
    /// Dropout nodes that were switched off.
    pub switched_off: Vec<String>,
    /// The values that are hidden states, 0 to L; empty where the export has none that can be found.
    pub hidden_states: Vec<String>,
    /// How the hidden states were found.
    pub found: String,
    /// Result of running the copy and the export; `None` where they were not run.
    pub comparison: Option<Comparison>,
    /// Why they were not compared.
    pub not_compared: Option<String>,
    /// Files beside the export that were copied too.
    pub copied: Vec<String>,
}

/// Why no copy was made.
#[derive(Debug, thiserror::Error)]
pub enum ExposeError {
    /// The copy would be in the folder of the export.
    #[error("{} is the folder of the export itself; choose another for the copy", out.display())]
    OwnFolder {
        /// Folder of the copy.
        out: PathBuf,
    },
    /// Other hidden states were named than those that the export outputs.
    #[error(
        "{} shows its {states} hidden states already, as {first} …; to name others, begin with the export that this copy was made of, or export without hidden states",
        onnx.display()
    )]
    Shown {
        /// Path of the `.onnx` file.
        onnx: PathBuf,
        /// Number of hidden states that it outputs.
        states: usize,
        /// Name of the first one.
        first: String,
    },
    /// Dropout was to be switched off, but none is active, and the hidden states are outputs already.
    #[error("no dropout is active in {}; use it as it is", onnx.display())]
    NoDropout {
        /// Path of the `.onnx` file.
        onnx: PathBuf,
    },
    /// The copy would output nothing that the export does not.
    #[error("{} shows its {states} hidden states already and needs no copy: use it as it is{}", onnx.display(), without(*dropout))]
    NothingToDo {
        /// Path of the `.onnx` file.
        onnx: PathBuf,
        /// Number of hidden states that it outputs.
        states: usize,
        /// Whether dropout is active, which a copy could switch off.
        dropout: bool,
    },
    /// There is no ONNX Runtime to run the copy and the export.
    #[error("the copy cannot be compared with the export ({} leaves it out)", Hint::CheckOfCopy)]
    NotCompared(#[source] Box<WorkflowError>),
    /// The outputs of the copy differ from those of the export.
    #[error(
        "the copy gives other outputs than {} (largest difference {largest_difference:.1e}); please report this, with the export if you can",
        onnx.display()
    )]
    Different {
        /// Path of the `.onnx` file.
        onnx: PathBuf,
        /// Largest absolute difference of an element.
        largest_difference: f32,
    },
    /// The folder of the export cannot be listed.
    #[error("cannot read {}", folder.display())]
    Unread {
        /// Path of the folder.
        folder: PathBuf,
        /// The underlying error.
        source: io::Error,
    },
    /// A copy that could not be verified could not be removed.
    #[error("cannot remove {}", copy.display())]
    NotRemoved {
        /// Path of the copy.
        copy: PathBuf,
        /// The underlying error.
        source: io::Error,
    },
}

/// Writes a copy of a model folder or an `.onnx` file to the folder `out`, with outputs `hidden_states.0` (embeddings) to
/// `hidden_states.L`, and returns what the copy outputs. It differs from the export only where necessary. Configuration,
/// tokenizer and checkpoint are copied too.
///
/// # Errors
/// Returns an error for an export that needs no copy, hidden states that cannot be found, an output that is an input, a copy
/// with other outputs than the export (which is removed), and files that cannot be read or written.
///
/// ```
/// # let folder = tempfile::tempdir().unwrap();
/// use gelora::workflow::{ExposeSettings, Session, expose};
/// let settings = ExposeSettings { check: false, ..ExposeSettings::default() };
/// let exposed = expose(&Session::default(), "onnx/tiny_encoder_plain".as_ref(), folder.path(), &settings)?;
/// assert_eq!(exposed.hidden_states.len(), 3);
/// # Ok::<(), gelora::workflow::WorkflowError>(())
/// ```
pub fn expose(
    session: &Session<'_>,
    model: &Path,
    out: &Path,
    settings: &ExposeSettings,
) -> Result<Exposed, WorkflowError> {
    let folder = ModelFolder::open(model)?;
    let model = Transformer::open(&folder.onnx)?;
    let states = wanted_states(settings, &model)?;
    let shown = states.as_ref().is_some_and(|states| states.origin == Origin::Outputs);
    let dropout = onnx::active_dropout(&model);
    refuse_nothing_to_do(settings, &folder, states.as_ref().filter(|_| shown), &dropout)?;
    if same(&folder.folder, out) {
        return Err(ExposeError::OwnFolder { out: out.to_owned() }.into());
    }
    let hidden = states.as_ref().filter(|_| !shown);
    let edit = edit_of(session, settings, &folder, &model, hidden)?;
    session.take_folder(out, &[])?;
    let copied = copy_companions(&folder, out)?;
    let copy = out.join("model.onnx");
    edit.write(&model, &copy)?;
    let (comparison, not_compared) = match compare(session, settings, &model, &copy, !dropout.is_empty()) {
        Ok(Checked::Equal(comparison)) => (Some(comparison), None),
        Ok(Checked::Skipped(reason)) => (None, Some(reason)),
        Err(error) => {
            // A copy that could not be verified must not stay in place.
            fs::remove_file(&copy).map_err(|source| ExposeError::NotRemoved { copy, source })?;
            return Err(error);
        }
    };
    Ok(Exposed {
        out: copy.display().to_string(),
        switched_off: dropout.into_iter().filter(|_| settings.eval).map(|dropout| dropout.name).collect(),
        found: states.as_ref().map_or_else(|| "none were found".into(), how_found),
        hidden_states: states.map_or_else(Vec::new, |states| states.values),
        comparison,
        not_compared,
        copied,
    })
}

/// The hidden states that the copy outputs; when dropout is to be switched off, an export without any is not an error.
fn wanted_states(settings: &ExposeSettings, model: &Transformer) -> Result<Option<HiddenStates>, WorkflowError> {
    if !matches!(settings.states, WantedStates::Found)
        && let Ok(shown) = HiddenStates::shown(model)
    {
        let (states, first) = (shown.values.len(), shown.values[0].clone());
        return Err(ExposeError::Shown { onnx: model.path().to_owned(), states, first }.into());
    }
    Ok(match &settings.states {
        WantedStates::Matching(pattern) => Some(HiddenStates::matching(model, pattern)?),
        WantedStates::Named(names) => Some(HiddenStates::named(model, names)?),
        WantedStates::Found if settings.eval => model.states().ok().cloned(),
        WantedStates::Found => Some(model.states()?.clone()),
    })
}

fn refuse_nothing_to_do(
    settings: &ExposeSettings,
    folder: &ModelFolder,
    shown: Option<&HiddenStates>,
    dropout: &[ActiveDropout],
) -> Result<(), ExposeError> {
    let onnx = || folder.onnx.clone();
    match shown {
        Some(_) if settings.eval && dropout.is_empty() => Err(ExposeError::NoDropout { onnx: onnx() }),
        Some(states) if !settings.eval => {
            let (states, dropout) = (states.values.len(), !dropout.is_empty());
            Err(ExposeError::NothingToDo { onnx: onnx(), states, dropout })
        }
        _ => Ok(()),
    }
}

/// The changes in the copy: no active dropout, and outputs for `hidden` states.
fn edit_of<'m>(
    session: &Session<'_>,
    settings: &ExposeSettings,
    folder: &ModelFolder,
    model: &'m Transformer,
    hidden: Option<&HiddenStates>,
) -> Result<Edit<'m>, WorkflowError> {
    let mut edit = if settings.eval { onnx::disable_training_mode(model)? } else { Edit::new() };
    if let Some(states) = hidden {
        edit.extend(onnx::expose(model, states)?);
        if matches!(states.origin, Origin::Graph(_)) {
            let found = Weights::new(folder, model)?.structure(folder, model)?;
            found.obstacles.iter().for_each(|obstacle| session.observer().observe(Event::Warning(obstacle)));
        }
    }
    Ok(edit)
}

enum Checked {
    Equal(Comparison),
    Skipped(String),
}

/// A hint for an export that needs no copy for its hidden states, but has active dropout.
fn without(dropout: bool) -> String {
    let cure = || format!(", or add {} to switch off the dropout that is active", Hint::DropoutInCopy);
    if dropout { cure() } else { String::new() }
}

/// Runs the copy and the export, unless the export gives `random` outputs.
fn compare(
    session: &Session<'_>,
    settings: &ExposeSettings,
    model: &Transformer,
    copy: &Path,
    random: bool,
) -> Result<Checked, WorkflowError> {
    if !settings.check {
        return Ok(Checked::Skipped(Hint::CheckOfCopy.to_string()));
    }
    if random {
        return Ok(Checked::Skipped("with active dropout the export gives other values in every run".into()));
    }
    if let Some(reason) = too_large_to_run(model) {
        return Ok(Checked::Skipped(reason));
    }
    let library = session.library().map_err(|error| ExposeError::NotCompared(Box::new(error)))?;
    let vocabulary = model.vocabulary().unwrap_or(2);
    let found = compare_outputs(library, model.path(), copy, vocabulary, &session.inference())?;
    if !found.equal {
        let (onnx, largest_difference) = (model.path().to_owned(), found.largest_difference);
        return Err(ExposeError::Different { onnx, largest_difference }.into());
    }
    Ok(Checked::Equal(found))
}

/// Copies configuration, tokenizer and checkpoint, which belong to a model folder; other exports are left out.
fn copy_companions(folder: &ModelFolder, out: &Path) -> Result<Vec<String>, WorkflowError> {
    const WANTED: [&str; 4] = ["json", "txt", "safetensors", "model"];
    let unread = |source| ExposeError::Unread { folder: folder.folder.clone(), source };
    let mut copied = Vec::new();
    for entry in fs::read_dir(&folder.folder).map_err(unread)? {
        let path = entry.map_err(unread)?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        let (Some(name), true) = (path.file_name(), extension.is_some_and(|found| WANTED.contains(&found))) else {
            continue;
        };
        let mut source = open_file(&path)?;
        write_atomically(&out.join(name), |writer| io::copy(&mut source, writer).map(|_| ()))?;
        copied.push(name.to_string_lossy().into_owned());
    }
    copied.sort();
    Ok(copied)
}
