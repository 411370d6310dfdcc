//! What can be done with an export, and what prevents it: the implementation of `gelora inspect`.

mod facts;
mod trial;

use std::collections::HashMap;
use std::path::Path;

use serde::Serialize;

use crate::checkpoint::{ModelFolder, WeightMatch, folded_products, trained_head};
use crate::hint::Hint;
use crate::onnx::{self, HiddenStates, LinearLayer, Model, Transformer};
use crate::runtime::{SelfCheck, saturating_products};

use super::export::{bytes_of, fixed_sizes, how_found, tokenizer_path};
use super::plan::of_another_model;
use super::{Session, Weights, WorkflowError, in_one_line};
pub use facts::{BlockFacts, CheckpointFacts, HeadFacts, StateFacts, ValueFacts, WeightFacts};
use trial::{Trial, try_model};

/// Settings of an inspection.
#[derive(Debug, Clone, Copy)]
pub struct InspectSettings {
    /// Run the model, to check determinism, padding and batches.
    pub self_check: bool,
}

impl Default for InspectSettings {
    fn default() -> Self {
        Self { self_check: true }
    }
}

/// What an export is, what can be done with it, and what prevents it.
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    /// Path of the `.onnx` file.
    pub onnx: String,
    /// The program that wrote the export, as recorded in it.
    pub producer: String,
    /// Version of its operator set.
    pub opset: i64,
    /// Number of nodes in its graph.
    pub nodes: usize,
    /// Size with its external files, in 10⁶ bytes, to one decimal.
    pub megabytes: f64,
    /// Files beside the export that contain weights.
    pub external_files: Vec<String>,
    /// The checkpoint beside it; `None` where there is none, or the graph has no blocks to compare it with.
    pub checkpoint: Option<CheckpointFacts>,
    /// Path of the tokenizer beside it.
    pub tokenizer: Option<String>,
    /// Inputs of the graph.
    pub inputs: Vec<ValueFacts>,
    /// Outputs of the graph.
    pub outputs: Vec<ValueFacts>,
    /// The hidden states, 0 to L; empty where none are found.
    pub hidden_states: Vec<StateFacts>,
    /// How the hidden states were found.
    pub found: String,
    /// The blocks between the hidden states, with their adaptable weights.
    pub blocks: Vec<BlockFacts>,
    /// The head, if there is one.
    pub head: Option<HeadFacts>,
    /// Results of running the model; `None` where it was not run.
    pub self_check: Option<SelfCheck>,
    /// For a model that predicts tokens: whether each token depends only on earlier ones.
    pub is_causal: Option<bool>,
    /// What prevents gelora from making a plan, each with how to fix it.
    pub obstacles: Vec<String>,
    /// What works, but is worth knowing.
    pub notes: Vec<String>,
}

/// Inspects a model folder or an `.onnx` file: its inputs, hidden states, blocks and weights; if nothing prevents it, runs a
/// few sentences through the model.
///
/// What prevents gelora from making a plan is not an error: it is listed in [`Inspection::obstacles`].
///
/// # Errors
/// Returns an error for files that cannot be read or are invalid, and if the observer cancels.
///
/// ```
/// use gelora::workflow::{InspectSettings, Session, inspect};
/// let settings = InspectSettings { self_check: false };
/// let inspection = inspect(&Session::default(), "onnx/tiny_encoder".as_ref(), &settings)?;
/// assert_eq!((inspection.blocks.len(), inspection.obstacles.len()), (2, 0));
/// # Ok::<(), gelora::workflow::WorkflowError>(())
/// ```
pub fn inspect(session: &Session<'_>, model: &Path, settings: &InspectSettings) -> Result<Inspection, WorkflowError> {
    let folder = ModelFolder::open(model)?;
    let model = Transformer::open(&folder.onnx)?;
    let mut inspection = Inspection::of_files(&folder, &model)?;
    if settings.self_check && inspection.obstacles.is_empty() {
        match try_model(session, &folder, &model) {
            Ok(trial) => inspection.enter_trial(&model, trial),
            Err(error) => inspection.obstacles.push(in_one_line(&error)),
        }
    }
    session.observer().check()?;
    Ok(inspection)
}

impl Inspection {
    /// The results from the files alone, without running the model.
    fn of_files(folder: &ModelFolder, model: &Transformer) -> Result<Self, WorkflowError> {
        let mut inspection = Self {
            onnx: model.path().display().to_string(),
            producer: model.producer.clone(),
            opset: model.opset(),
            nodes: model.graph.nodes.len(),
            megabytes: (bytes_of(model) as f64 / 1e5).round() / 10.0,
            external_files: model.external_files().iter().map(|file| file.location.clone()).collect(),
            checkpoint: None,
            tokenizer: folder.tokenizer.as_ref().map(|path| path.display().to_string()),
            inputs: model.graph.inputs.iter().map(ValueFacts::new).collect(),
            outputs: model.graph.outputs.iter().map(ValueFacts::new).collect(),
            hidden_states: Vec::new(),
            found: String::new(),
            blocks: Vec::new(),
            head: None,
            self_check: None,
            is_causal: None,
            obstacles: Vec::new(),
            notes: Vec::new(),
        };
        let dropout = onnx::active_dropout(model).len();
        if dropout > 0 {
            inspection.obstacles.push(format!(
                "{dropout} Dropout nodes are active, so every run gives other values; write a copy without them: {}",
                Hint::CopyWithoutDropout.with(folder.folder.display())
            ));
        }
        match model.states() {
            Ok(states) => inspection.enter_graph(folder, model, states)?,
            Err(error) => inspection.obstacles.push(error.to_string()),
        }
        inspection.note_what_lacks(folder);
        Ok(inspection)
    }

    fn enter_graph(
        &mut self,
        folder: &ModelFolder,
        model: &Transformer,
        states: &HiddenStates,
    ) -> Result<(), WorkflowError> {
        self.found = how_found(states);
        self.hidden_states = StateFacts::all(model, &states.values);
        if let Err(error) = model.blocks() {
            self.obstacles.push(error.to_string());
            return Ok(());
        }
        let weights = Weights::new(folder, model)?;
        self.enter_weights(folder, &weights);
        let structure = weights.structure(folder, model)?;
        self.obstacles.extend(structure.obstacles);
        self.notes.extend(structure.warnings);
        self.notes.extend(structure.notes);
        self.note_quantized(model, &weights);
        self.notes.extend(onnx::normalised_logits(model));
        self.notes.extend(fixed_sizes(model));
        self.notes.extend(saturating_products(model));
        if let Some(folded) = folded_products(model, weights.blocks, folder.checkpoint.as_ref())?.first() {
            self.notes.push(format!("it can be planned for, but not trained or merged into: {folded}"));
        }
        self.enter_head(folder, model)
    }

    /// Adds the blocks with their weights, and the number of weights found in the checkpoint.
    fn enter_weights(&mut self, folder: &ModelFolder, weights: &Weights<'_>) {
        let Weights { blocks, linears, matches } = weights;
        let by_node: HashMap<usize, Option<&WeightMatch>> =
            linears.iter().zip(matches).map(|(linear, found)| (linear.node, found.as_ref())).collect();
        let in_blocks = || blocks.iter().flat_map(|block| &block.linears);
        let found = |linear: &LinearLayer| by_node.get(&linear.node).copied().flatten();
        if let Some(checkpoint) = &folder.checkpoint {
            self.checkpoint = Some(CheckpointFacts::new(checkpoint, in_blocks().map(found)));
            if in_blocks().next().is_some() && in_blocks().all(|linear| found(linear).is_none()) {
                self.obstacles.push(of_another_model(checkpoint));
            }
        }
        for block in *blocks {
            let weights = block.linears.iter().map(|linear| WeightFacts::new(linear, found(linear)));
            self.blocks.push(BlockFacts { block: block.index, nodes: block.nodes.len(), weights: weights.collect() });
        }
    }

    /// Notes weights that are not floating-point numbers, and blocks without any.
    fn note_quantized(&mut self, model: &Model, weights: &Weights<'_>) {
        let in_blocks = weights.blocks.iter().flat_map(|block| &block.linears);
        let quantized = in_blocks.filter(|linear| linear.quantized).count();
        match (onnx::no_linear_layers(model, weights.blocks), onnx::quantized_operators(model)) {
            (Some(reason), _) => self.obstacles.push(reason),
            (None, operators) if quantized > 0 => self.notes.push(format!(
                "{quantized} weights are quantized to integers ({operators}): gelora plans for this export, but trains and \
                 merges the floating-point export it was made from"
            )),
            (None, operators) if !operators.is_empty() => self.notes.push(format!(
                "it holds weights quantized to integers ({operators}), which are not among the weights of its blocks; train \
                 and merge the floating-point export it was made from"
            )),
            (None, _) => {}
        }
    }

    fn enter_head(&mut self, folder: &ModelFolder, model: &Transformer) -> Result<(), WorkflowError> {
        if let Some(head) = model.head()? {
            let trained = trained_head(model, folder.checkpoint.as_ref(), folder.config.as_ref(), head)?;
            let tensors = trained
                .into_iter()
                .map(|(tensor, found)| found.map_or_else(|| tensor.name.clone(), |found| found.tensor));
            self.head = Some(HeadFacts { outputs: head.outputs.clone(), tensors: tensors.collect() });
        }
        Ok(())
    }

    fn note_what_lacks(&mut self, folder: &ModelFolder) {
        if let Err(missing) = tokenizer_path(folder) {
            self.obstacles.push(missing.to_string());
        }
        if folder.checkpoint.is_none() {
            self.notes.push(
                "there is no checkpoint (safetensors): names come from the export, and merging gives an .onnx only"
                    .into(),
            );
        }
        if !self.hidden_states.is_empty() && self.head.is_none() {
            self.notes.push(format!(
                "there is no head (no output `logits`); training adds one with {} first, mean or last, or tokens for entities",
                Hint::Head
            ));
        }
    }

    /// Adds the results of running the model.
    fn enter_trial(&mut self, model: &Model, trial: Trial) {
        let (check, causality) = match trial {
            Trial::Done(check, causality) => (check, causality),
            Trial::Skipped(reason) => return self.notes.push(format!("the model was not run: {reason}")),
        };
        if let Some(state) = check.not_finite {
            self.obstacles.push(format!(
                "hidden state {state} holds values that are infinite or not a number (NaN): the weights are damaged, or float16 is \
                 too narrow for them; take another copy of the model, or export it in float32"
            ));
        }
        if !check.deterministic {
            self.obstacles.push(
                "the same input gives different hidden states from run to run; export the model after `.eval()`".into(),
            );
        }
        for fault in [check.padding_fault(model), check.batch_fault(model)].into_iter().flatten() {
            self.notes.push(format!("the export {fault}"));
        }
        self.is_causal = causality.map(|found| found.is_causal);
        if let Some(found) = causality.filter(|found| !found.is_causal) {
            self.notes.push(format!(
                "its tokens see those after them (another last token changes the predictions before it by {:.1e} of their \
                 size): it is no causal language model, and `causal-lm` and `instruct` refuse it",
                found.difference.relative
            ));
        }
        self.self_check = Some(check);
    }
}
