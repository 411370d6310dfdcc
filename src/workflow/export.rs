//! An export with everything that a step needs from it, opened and checked.

use std::path::{Path, PathBuf};

use crate::adapter::{HeadPath, Naming, TrainedHead};
use crate::checkpoint::{
    ModelFolder, Parts, Structure, WeightMatch, match_weights, structure, trained_head, with_own_head,
};
use crate::dataset::{DatasetError, Tokenizer};
use crate::hint::Hint;
use crate::merge::{MergeReport, REPORT_FILE};
use crate::onnx::{self, Block, HeadTensor, HiddenStates, LinearLayer, Model, Origin, Transformer};
use crate::progress::Event;
use crate::runtime::{FixedSizes, saturating_products};

use super::head::FoundHead;
use super::{Session, WorkflowError};

/// An export with its folder and its hidden states.
pub struct Export {
    pub folder: ModelFolder,
    pub model: Transformer,
}

impl Export {
    /// Opens a model folder or an `.onnx` file that has hidden states and no active dropout.
    pub fn new(path: &Path) -> Result<Self, WorkflowError> {
        let folder = ModelFolder::open(path)?;
        let model = Transformer::open(&folder.onnx)?;
        model.states()?;
        let dropout = onnx::active_dropout(&model).len();
        if dropout > 0 {
            return Err(WorkflowError::ActiveDropout { onnx: folder.onnx, model: path.into(), nodes: dropout });
        }
        Ok(Self { folder, model })
    }

    /// The blocks, and all linear layers with their tensors in the checkpoint.
    pub fn weights(&self) -> Result<Weights<'_>, WorkflowError> {
        Weights::new(&self.folder, &self.model)
    }

    /// Refuses an export whose hidden states are not between its blocks, and reports what else is worth knowing.
    pub fn told_structure(&self, session: &Session<'_>, weights: &Weights<'_>) -> Result<(), WorkflowError> {
        let found = weights.structure(&self.folder, &self.model)?;
        if let Some(obstacle) = found.obstacles.first() {
            return Err(WorkflowError::Structure { onnx: self.folder.onnx.clone(), obstacle: obstacle.clone() });
        }
        found.warnings.iter().for_each(|warning| session.observer().observe(Event::Warning(warning)));
        found.notes.iter().for_each(|note| session.observer().observe(Event::Notice(note)));
        Ok(())
    }

    /// Reports where the hidden states come from if the export does not output them, and which sizes it fixes.
    pub fn tell_origin(&self, session: &Session<'_>) {
        if let Ok(states) = self.model.states()
            && states.origin != Origin::Outputs
        {
            let text = format!(
                "{} hidden states found in the graph: {} ({} names others)",
                states.values.len(),
                how_found(states),
                Hint::Expose
            );
            session.observer().observe(Event::Notice(&text));
        }
        if let Some(text) = fixed_sizes(&self.model) {
            session.observer().observe(Event::Notice(&text));
        }
        if let Some(text) = saturating_products(&self.model) {
            session.observer().observe(Event::Warning(&text));
        }
    }

    /// The tokenizer of the model. Texts are truncated to the length that the export accepts, where that is fixed.
    pub fn tokenizer(&self, session: &Session<'_>, maximum_length: usize) -> Result<Tokenizer, WorkflowError> {
        tokenizer(session, &self.tokenizer_path()?, &self.model, maximum_length)
    }

    /// The export as it is trained: with every head tensor of the checkpoint as an initializer of its own. Exporters leave
    /// out a bias of zeros.
    #[cfg_attr(not(feature = "train"), allow(dead_code, reason = "only training needs it"))]
    pub fn with_own_head(&self) -> Result<Transformer, WorkflowError> {
        let model = Transformer::open(&self.folder.onnx)?;
        match &self.folder.checkpoint {
            Some(checkpoint) => Ok(with_own_head(model, checkpoint)?),
            None => Ok(model),
        }
    }

    /// Names of the trained tensors of the export's head, from the checkpoint where it has them. `None` where there is no head.
    pub fn head_names(&self) -> Result<Option<Vec<String>>, WorkflowError> {
        let Some(head) = self.model.head()? else { return Ok(None) };
        let tensors = trained_head(&self.model, self.folder.checkpoint.as_ref(), self.folder.config.as_ref(), head)?;
        let name = |(tensor, found): (&HeadTensor, Option<WeightMatch>)| {
            found.map_or_else(|| tensor.name.clone(), |found| found.tensor)
        };
        Ok(Some(tensors.into_iter().map(name).collect()))
    }

    /// The head, for checks that it fits the task.
    pub(super) fn found_head(&self) -> Result<FoundHead<'_>, WorkflowError> {
        Ok(FoundHead::new(&self.folder, &self.model, self.model.head()?))
    }

    /// `config.json`, whose classes are those of the labels when the export's own head is trained; `None` when a head is added.
    #[cfg(feature = "train")]
    pub(super) fn config_of_own_head(&self, settings: &crate::settings::TrainSettings) -> Option<&serde_json::Value> {
        self.folder.config.as_ref().filter(|_| settings.head.is_none())
    }

    /// The operations of the graph between the last hidden state and the logits. `None` where there is no head.
    pub(super) fn head_path(&self) -> Result<Option<HeadPath>, WorkflowError> {
        let Some(head) = self.model.head()? else { return Ok(None) };
        Ok(Some(HeadPath::new(&self.model, self.folder.checkpoint.as_ref(), head)?))
    }

    /// The names that PEFT gives the modules of an adapter for this model.
    pub fn naming(&self, head: TrainedHead<'_>) -> Naming {
        Naming::new(self.folder.checkpoint.as_ref(), self.folder.config.as_ref(), head)
    }

    /// Absolute path of the base model, so that PEFT finds it from any folder.
    pub fn base_model_path(&self) -> String {
        let folder = &self.folder.folder;
        folder.canonicalize().as_deref().unwrap_or(folder).display().to_string()
    }

    fn tokenizer_path(&self) -> Result<PathBuf, WorkflowError> {
        Ok(tokenizer_path(&self.folder)?.to_owned())
    }
}

/// The weights of an export that can be adapted.
pub struct Weights<'m> {
    pub blocks: &'m [Block],
    /// All linear layers, in blocks or not.
    pub linears: &'m [LinearLayer],
    /// Their tensors in the checkpoint, in the same order.
    pub matches: Vec<Option<WeightMatch>>,
}

impl<'m> Weights<'m> {
    pub fn new(folder: &ModelFolder, model: &'m Transformer) -> Result<Self, WorkflowError> {
        let (blocks, linears) = (model.blocks()?, model.linears());
        let matches = match &folder.checkpoint {
            Some(checkpoint) => match_weights(model, checkpoint, &linears.iter().collect::<Vec<_>>())
                .map_err(WorkflowError::Matching)?,
            None => vec![None; linears.len()],
        };
        Ok(Self { blocks, linears, matches })
    }

    /// Whether all parts of the model agree on its blocks.
    pub fn structure(&self, folder: &ModelFolder, model: &Transformer) -> Result<Structure, WorkflowError> {
        let (checkpoint, config) = (folder.checkpoint.as_ref(), folder.config.as_ref());
        Ok(structure(&Parts::new(model, &self.matches, checkpoint, config)?)?)
    }
}

/// How hidden states were found, as text.
pub(super) fn how_found(states: &HiddenStates) -> String {
    match &states.origin {
        Origin::Outputs => "outputs of the export".into(),
        Origin::Named => format!("named by {} or {}", Hint::Tap, Hint::TapList),
        Origin::Graph(stream) => {
            let norms = match (stream.pre_norm, stream.final_norm) {
                (true, true) => "norms in the branches, the last state after the final norm",
                (true, false) => "norms in the branches, no final norm",
                (false, _) => "a norm after every block",
            };
            format!(
                "the stream from {} to {}, cut before each of {} attentions; {norms}",
                stream.embeddings,
                stream.output,
                states.blocks()
            )
        }
    }
}

/// The tokenizer of a model folder.
///
/// # Errors
/// Returns an error if there is none; it names a folder that has one.
pub(super) fn tokenizer_path(folder: &ModelFolder) -> Result<&Path, WorkflowError> {
    let missing = || WorkflowError::NoTokenizer { folder: folder.folder.clone(), place: place_of_tokenizer(folder) };
    folder.tokenizer.as_deref().ok_or_else(missing)
}

/// Where to copy a tokenizer from for a folder without one: from the base of a merged folder, if that has one.
fn place_of_tokenizer(folder: &ModelFolder) -> String {
    let report = crate::files::read(&folder.folder.join(REPORT_FILE)).ok();
    let report = report.and_then(|bytes| serde_json::from_slice::<MergeReport>(&bytes).ok());
    let base = report.and_then(|report| ModelFolder::open(Path::new(&report.base)).ok());
    match base.and_then(|base| base.tokenizer).as_deref().and_then(Path::parent) {
        Some(base) => format!("{}, the folder of the model that was merged", base.display()),
        None => "the folder of the model that was exported".into(),
    }
}

/// A tokenizer that truncates texts to the length that the export accepts, after reporting its peculiarities.
pub(super) fn tokenizer(
    session: &Session<'_>,
    path: &Path,
    model: &Model,
    maximum_length: usize,
) -> Result<Tokenizer, WorkflowError> {
    let length = FixedSizes::of(&model.graph.inputs).length.map_or(maximum_length, |fixed| fixed.min(maximum_length));
    let tokenizer = match Tokenizer::open(path, length) {
        Err(DatasetError::MaximumLength { least, .. }) if length < maximum_length => {
            return Err(WorkflowError::FixedLength { onnx: model.path().to_owned(), length, least });
        }
        opened => opened?,
    };
    if let Some(warning) = tokenizer.warning() {
        session.observer().observe(Event::Warning(warning));
    }
    Ok(tokenizer)
}

/// A notice about an export that accepts batches of one size only.
pub(super) fn fixed_sizes(model: &Model) -> Option<String> {
    let FixedSizes { rows, length } = FixedSizes::of(&model.graph.inputs);
    let rows = rows.map(|rows| format!("exactly {rows} rows, filled up with copies"));
    let length = length
        .map(|length| format!("exactly {length} tokens a row, longer texts are cut and shorter ones padded to it"));
    let sizes: Vec<String> = rows.into_iter().chain(length).collect();
    (!sizes.is_empty()).then(|| format!("the export takes batches of one size: {}", sizes.join("; ")))
}

/// Size of an export in bytes, including its external weight files.
pub(super) fn bytes_of(model: &Model) -> usize {
    model.file_bytes().len() + model.external_files().iter().map(|file| file.bytes().len()).sum::<usize>()
}

/// The reason not to run an export that takes gigabytes and minutes, in a step that otherwise takes seconds.
pub(super) fn too_large_to_run(model: &Model) -> Option<String> {
    const LIMIT: usize = 1 << 30;
    let bytes = bytes_of(model);
    (bytes > LIMIT).then(|| format!("the export has {:.1} GB", bytes as f64 / 1e9))
}
