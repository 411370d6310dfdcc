//! A model with all that a command needs of it, opened and checked.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::adapter::{HeadPath, Naming, TrainedHead};
use crate::checkpoint::{
    ModelFolder, Parts, Structure, WeightMatch, match_weights, structure, trained_head, with_own_head,
};
use crate::dataset::{Dataset, DatasetError, LoadSettings, Tokenizer};
use crate::onnx::{self, Block, HeadTensor, HiddenStates, LinearLayer, Model, Origin};
use crate::progress::{Event, Observer};
use crate::runtime::{FixedSizes, saturating_products};

use super::context::Context;
use super::expose::how_found;

/// An export with its folder and its hidden states.
pub(crate) struct Opened {
    pub(crate) folder: ModelFolder,
    pub(crate) model: Model,
    pub(crate) states: HiddenStates,
}

impl Opened {
    /// Opens a model folder or an `.onnx` file that has hidden states and no active dropout.
    pub(crate) fn new(path: &Path) -> anyhow::Result<Self> {
        let folder = ModelFolder::open(path)?;
        let model = Model::open(&folder.onnx)?;
        let states = HiddenStates::find(&model)?;
        let dropout = onnx::active_dropout(&model).len();
        if dropout > 0 {
            bail!(
                "{} has {dropout} active Dropout nodes, so every run gives other values; write a copy without them: \
                 gelora expose {} --eval -o FOLDER",
                folder.onnx.display(),
                path.display()
            );
        }
        Ok(Self { folder, model, states })
    }

    /// The blocks, and all linear layers with their tensors in the checkpoint.
    pub(crate) fn weights(&self) -> anyhow::Result<Weights> {
        Weights::new(&self.folder, &self.model, &self.states)
    }

    /// Refuses an export whose hidden states are not what lies between its blocks, and says what else should be known.
    pub(crate) fn told_structure(&self, context: &Context, weights: &Weights) -> anyhow::Result<()> {
        let found = weights.structure(&self.folder, &self.model, &self.states)?;
        if let Some(obstacle) = found.obstacles.first() {
            bail!("{}: {obstacle}", self.folder.onnx.display());
        }
        found.warnings.iter().for_each(|warning| context.observer().observe(Event::Warning(warning)));
        found.notes.iter().for_each(|note| context.observer().observe(Event::Notice(note)));
        Ok(())
    }

    /// Says where the hidden states come from, if the export does not show them, and what sizes it fixes.
    pub(crate) fn tell_origin(&self, context: &Context) {
        if self.states.origin != Origin::Outputs {
            let text = format!(
                "{} hidden states found in the graph: {} (`gelora expose --tap` names others)",
                self.states.values.len(),
                how_found(&self.states)
            );
            context.observer().observe(Event::Notice(&text));
        }
        if let Some(text) = fixed_sizes(&self.model) {
            context.observer().observe(Event::Notice(&text));
        }
        if let Some(text) = saturating_products(&self.model) {
            context.observer().observe(Event::Warning(&text));
        }
    }

    /// The tokenizer that belongs to the model. Texts are cut to the length that the export takes, where that is fixed.
    pub(crate) fn tokenizer(&self, context: &Context, maximum_length: usize) -> anyhow::Result<Tokenizer> {
        tokenizer(context, &self.tokenizer_path()?, &self.model, maximum_length)
    }

    /// The export as it is trained: with every tensor of the head that the checkpoint has, in a place of its own. Exporters
    /// leave out a bias of zeros.
    #[cfg_attr(not(feature = "train"), allow(dead_code, reason = "only training needs it"))]
    pub(crate) fn with_own_head(&self) -> anyhow::Result<Model> {
        let model = Model::open(&self.folder.onnx)?;
        match &self.folder.checkpoint {
            Some(checkpoint) => Ok(with_own_head(model, &self.states, checkpoint)?),
            None => Ok(model),
        }
    }

    /// The tensors of the export's head that are trained, under the names of the checkpoint, where it knows them. `None` where there is no head.
    pub(crate) fn head_names(&self) -> anyhow::Result<Option<Vec<String>>> {
        let Some(head) = onnx::head(&self.model, &self.states)? else { return Ok(None) };
        let tensors = trained_head(&self.model, self.folder.checkpoint.as_ref(), self.folder.config.as_ref(), &head)?;
        let name = |(tensor, found): (&HeadTensor, Option<WeightMatch>)| {
            found.map_or_else(|| tensor.name.clone(), |found| found.tensor)
        };
        Ok(Some(tensors.into_iter().map(name).collect()))
    }

    /// What the graph does between the last hidden state and the logits. `None` where there is no head.
    pub(crate) fn head_path(&self) -> anyhow::Result<Option<HeadPath>> {
        let Some(head) = onnx::head(&self.model, &self.states)? else { return Ok(None) };
        Ok(Some(HeadPath::new(&self.model, self.folder.checkpoint.as_ref(), &head)?))
    }

    /// What PEFT calls the modules of an adapter over this model.
    pub(crate) fn naming(&self, head: TrainedHead<'_>) -> Naming {
        Naming::new(self.folder.checkpoint.as_ref(), self.folder.config.as_ref(), head)
    }

    /// Where PEFT finds the base model, from whatever folder it is asked.
    pub(crate) fn base_model_path(&self) -> String {
        let folder = &self.folder.folder;
        folder.canonicalize().as_deref().unwrap_or(folder).display().to_string()
    }

    fn tokenizer_path(&self) -> anyhow::Result<PathBuf> {
        self.folder.tokenizer.clone().with_context(|| {
            format!("there is no tokenizer.json in {}; copy it from the model's folder", self.folder.folder.display())
        })
    }
}

/// What an export has to adapt.
pub(crate) struct Weights {
    pub(crate) blocks: Vec<Block>,
    /// All linear layers, in blocks or not.
    pub(crate) linears: Vec<LinearLayer>,
    /// Their tensors in the checkpoint, in the same order.
    pub(crate) matches: Vec<Option<WeightMatch>>,
}

impl Weights {
    pub(crate) fn new(folder: &ModelFolder, model: &Model, states: &HiddenStates) -> anyhow::Result<Self> {
        let blocks = onnx::blocks(model, states)?;
        let linears = onnx::linear_layers(model);
        let matches = match &folder.checkpoint {
            Some(checkpoint) => match_weights(model, checkpoint, &linears.iter().collect::<Vec<_>>())
                .context("cannot match the checkpoint")?,
            None => vec![None; linears.len()],
        };
        Ok(Self { blocks, linears, matches })
    }

    /// Whether all parts of the model agree on its blocks.
    pub(crate) fn structure(
        &self,
        folder: &ModelFolder,
        model: &Model,
        states: &HiddenStates,
    ) -> anyhow::Result<Structure> {
        let Self { blocks, linears, matches } = self;
        let (checkpoint, config) = (folder.checkpoint.as_ref(), folder.config.as_ref());
        Ok(structure(&Parts { model, states, blocks, linears, matches, checkpoint, config })?)
    }
}

/// A tokenizer that cuts texts to the length that the export takes, after saying what is odd about it.
pub(crate) fn tokenizer(
    context: &Context,
    path: &Path,
    model: &Model,
    maximum_length: usize,
) -> anyhow::Result<Tokenizer> {
    let length = FixedSizes::of(&model.graph.inputs).length.map_or(maximum_length, |fixed| fixed.min(maximum_length));
    let tokenizer = match Tokenizer::open(path, length) {
        Err(DatasetError::MaximumLength { least, .. }) if length < maximum_length => bail!(
            "{} takes exactly {length} tokens a row, and a text needs {least} with its special tokens; export it with a free \
             or longer sequence axis",
            model.path().display()
        ),
        opened => opened?,
    };
    if let Some(warning) = tokenizer.warning() {
        context.observer().observe(Event::Warning(warning));
    }
    Ok(tokenizer)
}

/// What to say of an export that takes batches of one size only.
pub(crate) fn fixed_sizes(model: &Model) -> Option<String> {
    let FixedSizes { rows, length } = FixedSizes::of(&model.graph.inputs);
    let rows = rows.map(|rows| format!("exactly {rows} rows, filled up with copies"));
    let length = length
        .map(|length| format!("exactly {length} tokens a row, longer texts are cut and shorter ones padded to it"));
    let sizes: Vec<String> = rows.into_iter().chain(length).collect();
    (!sizes.is_empty()).then(|| format!("the export takes batches of one size: {}", sizes.join("; ")))
}

/// Reads rows and says what is odd about them.
pub(crate) fn load(context: &Context, path: &Path, settings: &LoadSettings) -> anyhow::Result<Dataset> {
    Ok(told(context, Dataset::load(path, settings)?))
}

/// The rows, after saying what is odd about them.
pub(crate) fn told(context: &Context, dataset: Dataset) -> Dataset {
    for warning in &dataset.warnings {
        context.observer().observe(Event::Warning(warning));
    }
    dataset
}
