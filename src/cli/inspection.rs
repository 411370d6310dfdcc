//! What `gelora inspect` finds, for people and for machines.

use std::collections::HashMap;

use serde::Serialize;

use crate::checkpoint::{MatchedBy, ModelFolder, WeightMatch, folded_products, trained_head};
use crate::onnx::{self, Dimension, HiddenStates, LinearLayer, Model, Transformer, ValueInfo};
use crate::report;
use crate::runtime::{Causality, SelfCheck, saturating_products};

use crate::workflow::{Weights, fixed_sizes, how_found, of_another_model, place_of_tokenizer};

/// Everything about an export.
#[derive(Debug, Serialize)]
pub(crate) struct Inspection {
    onnx: String,
    producer: String,
    opset: i64,
    nodes: usize,
    megabytes: f64,
    external_files: Vec<String>,
    checkpoint: Option<CheckpointFacts>,
    tokenizer: Option<String>,
    inputs: Vec<Value>,
    outputs: Vec<Value>,
    hidden_states: Vec<State>,
    /// How the hidden states were found.
    found: String,
    blocks: Vec<BlockFacts>,
    head: Option<HeadFacts>,
    self_check: Option<SelfCheck>,
    /// Of a model that predicts tokens: whether a token sees only those before it.
    is_causal: Option<bool>,
    /// What keeps gelora from making a plan, each with its cure.
    pub(crate) obstacles: Vec<String>,
    /// What works, but should be known.
    notes: Vec<String>,
}

/// What came of the attempt to run the model.
pub(crate) enum Check {
    /// What it gave, and whether tokens see those after them, of a model that predicts tokens.
    Done(SelfCheck, Option<Causality>),
    /// Why it was left out.
    Skipped(String),
}

#[derive(Debug, Serialize)]
struct CheckpointFacts {
    files: Vec<String>,
    tensors: usize,
    /// Adaptable weights whose tensor was found by their values.
    matched_by_content: usize,
    /// … by their names only.
    matched_by_name: usize,
    /// … by their names, because the export holds integers.
    quantized: usize,
    unmatched: usize,
}

#[derive(Debug, Serialize)]
struct Value {
    name: String,
    data_type: Option<String>,
    shape: Option<String>,
}

#[derive(Debug, Serialize)]
struct State {
    index: usize,
    tensor: String,
    width: Option<usize>,
}

#[derive(Debug, Serialize)]
struct BlockFacts {
    block: usize,
    nodes: usize,
    weights: Vec<WeightFacts>,
}

#[derive(Debug, Serialize)]
struct WeightFacts {
    module: Option<String>,
    checkpoint_tensor: Option<String>,
    role: &'static str,
    in_features: usize,
    out_features: usize,
    node: String,
    weight: String,
    /// How many products elsewhere use the same constant.
    shared: usize,
}

#[derive(Debug, Serialize)]
struct HeadFacts {
    outputs: Vec<String>,
    tensors: Vec<String>,
}

impl Inspection {
    /// What the files say, without running the model.
    pub(crate) fn new(folder: &ModelFolder, model: &Transformer) -> anyhow::Result<Self> {
        let mut inspection = Self {
            onnx: model.path().display().to_string(),
            producer: model.producer.clone(),
            opset: model.opset(),
            nodes: model.graph.nodes.len(),
            megabytes: megabytes(model),
            external_files: model.external_files().iter().map(|file| file.location.clone()).collect(),
            checkpoint: None,
            tokenizer: folder.tokenizer.as_ref().map(|path| path.display().to_string()),
            inputs: model.graph.inputs.iter().map(Value::new).collect(),
            outputs: model.graph.outputs.iter().map(Value::new).collect(),
            hidden_states: Vec::new(),
            found: String::new(),
            blocks: Vec::new(),
            head: None,
            self_check: None,
            is_causal: None,
            obstacles: Vec::new(),
            notes: Vec::new(),
        };
        let dropout = onnx::active_dropout(model);
        if !dropout.is_empty() {
            inspection.obstacles.push(format!(
                "{} Dropout nodes are active, so every run gives other values; write a copy without them: \
                 gelora expose {} --eval -o FOLDER",
                dropout.len(),
                folder.folder.display()
            ));
        }
        match model.states() {
            Ok(states) => inspection.enter_graph(folder, model, states)?,
            Err(error) => inspection.obstacles.push(error.to_string()),
        }
        inspection.note_what_lacks(folder);
        Ok(inspection)
    }

    fn enter_graph(&mut self, folder: &ModelFolder, model: &Transformer, states: &HiddenStates) -> anyhow::Result<()> {
        self.found = how_found(states);
        self.hidden_states = states
            .values
            .iter()
            .enumerate()
            .map(|(index, tensor)| State { index, tensor: tensor.clone(), width: model.width(tensor) })
            .collect();
        if let Err(error) = model.blocks() {
            self.obstacles.push(error.to_string());
            return Ok(());
        }
        let weights = Weights::new(folder, model)?;
        let Weights { blocks, linears, matches } = &weights;
        let by_node: HashMap<usize, Option<&WeightMatch>> =
            linears.iter().zip(matches).map(|(linear, found)| (linear.node, found.as_ref())).collect();
        let in_blocks = || blocks.iter().flat_map(|block| &block.linears);
        let found = |linear: &LinearLayer| by_node.get(&linear.node).copied().flatten();
        let of_another = in_blocks().next().is_some() && in_blocks().all(|linear| found(linear).is_none());
        if let Some(checkpoint) = &folder.checkpoint {
            self.checkpoint = Some(CheckpointFacts::new(checkpoint, in_blocks().map(found)));
            if of_another {
                self.obstacles.push(of_another_model(checkpoint));
            }
        }
        let structure = weights.structure(folder, model)?;
        self.obstacles.extend(structure.obstacles);
        self.notes.extend(structure.warnings);
        self.notes.extend(structure.notes);
        let quantized = in_blocks().filter(|linear| linear.quantized).count();
        match (onnx::no_linear_layers(model, blocks), onnx::quantized_operators(model)) {
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
        self.notes.extend(onnx::normalised_logits(model));
        self.notes.extend(fixed_sizes(model));
        self.notes.extend(saturating_products(model));
        if let Some(folded) = folded_products(model, blocks, folder.checkpoint.as_ref())?.first() {
            self.notes.push(format!("it can be planned for, but not trained or merged into: {folded}"));
        }
        for block in *blocks {
            let weights = block.linears.iter().map(|linear| WeightFacts::new(linear, found(linear)));
            self.blocks.push(BlockFacts { block: block.index, nodes: block.nodes.len(), weights: weights.collect() });
        }
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
        if folder.tokenizer.is_none() {
            self.obstacles.push(format!(
                "there is no tokenizer.json in {}; copy it there from {}",
                folder.folder.display(),
                place_of_tokenizer(folder)
            ));
        }
        match &self.checkpoint {
            None if folder.checkpoint.is_none() => self.notes.push(
                "there is no checkpoint (safetensors): names come from the export, and merging gives an .onnx only"
                    .into(),
            ),
            _ => {}
        }
        if !self.hidden_states.is_empty() && self.head.is_none() {
            self.notes.push(
                "there is no head (no output `logits`); training adds one with --head first, mean or last, or tokens for entities".into(),
            );
        }
    }

    /// Enters what running the model said.
    pub(crate) fn enter(&mut self, model: &Model, check: Check) {
        let (check, causality) = match check {
            Check::Done(check, causality) => (check, causality),
            Check::Skipped(reason) => return self.notes.push(format!("the model was not run: {reason}")),
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

    /// For people.
    pub(crate) fn describe(&self, weights: bool) -> String {
        let mut text = report::facts(&self.facts());
        if !self.blocks.is_empty() {
            text += "\n\n";
            text += &if weights { self.weight_table() } else { self.block_table() };
        }
        text
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let mut facts = vec![
            ("export", format!("{} ({:.1} MB, {} nodes)", self.onnx, self.megabytes, self.nodes)),
            ("made by", format!("{}, operator set {}", self.producer, self.opset)),
        ];
        if !self.external_files.is_empty() {
            facts.push(("weights in", self.external_files.join(", ")));
        }
        facts.push(("checkpoint", self.checkpoint.as_ref().map_or_else(|| "none".into(), CheckpointFacts::describe)));
        facts.push(("tokenizer", self.tokenizer.clone().unwrap_or_else(|| "none".into())));
        facts.push(("inputs", join(&self.inputs)));
        let states: Vec<&str> = self.hidden_states.iter().map(|state| state.tensor.as_str()).collect();
        let others: Vec<&Value> = self.outputs.iter().filter(|value| !states.contains(&value.name.as_str())).collect();
        facts.push(("outputs", join(&others)));
        facts.push(("hidden states", self.describe_states()));
        if !self.hidden_states.is_empty() {
            facts.push(("found as", self.found.clone()));
        }
        if let Some(head) = &self.head {
            let made_from = match head.tensors.as_slice() {
                [] => "no weights of its own that can be trained (tied to the embeddings, or quantized)".to_owned(),
                tensors => tensors.join(", "),
            };
            facts.push(("head", format!("{} from {made_from}", head.outputs.join(", "))));
        }
        if let Some(check) = &self.self_check {
            facts.extend(check_facts(check));
        }
        facts.extend(self.notes.iter().map(|note| ("note", note.clone())));
        facts.extend(self.obstacles.iter().map(|obstacle| ("in the way", obstacle.clone())));
        facts
    }

    fn describe_states(&self) -> String {
        match (self.hidden_states.first(), self.hidden_states.last()) {
            (Some(first), Some(last)) => {
                let width = last.width.map(|width| format!(", width {width}")).unwrap_or_default();
                format!("{} to {} ({}{width})", first.tensor, last.tensor, self.hidden_states.len())
            }
            _ => "none".to_owned(),
        }
    }

    fn block_table(&self) -> String {
        let rows: Vec<Vec<String>> = self
            .blocks
            .iter()
            .map(|block| {
                let mut roles: Vec<(&str, usize)> = Vec::new();
                for weight in &block.weights {
                    match roles.iter_mut().find(|(role, _)| *role == weight.role) {
                        Some((_, count)) => *count += 1,
                        None => roles.push((weight.role, 1)),
                    }
                }
                let roles = roles
                    .iter()
                    .map(|(role, count)| if *count > 1 { format!("{count} × {role}") } else { (*role).into() });
                let parameters: usize =
                    block.weights.iter().map(|weight| weight.in_features * weight.out_features).sum();
                vec![
                    block.block.to_string(),
                    block.nodes.to_string(),
                    block.weights.len().to_string(),
                    parameters.to_string(),
                    roles.collect::<Vec<_>>().join(", "),
                ]
            })
            .collect();
        report::table(&["block", "nodes", "weights", "parameters", "roles"], &[0, 1, 2, 3], &rows)
    }

    fn weight_table(&self) -> String {
        let rows: Vec<Vec<String>> = self
            .blocks
            .iter()
            .flat_map(|block| {
                block.weights.iter().map(|weight| {
                    vec![
                        block.block.to_string(),
                        weight.role.to_owned(),
                        weight.module.clone().unwrap_or_else(|| weight.node.clone()),
                        format!("{} → {}", weight.in_features, weight.out_features),
                        weight.checkpoint_tensor.clone().unwrap_or_else(|| "–".into()),
                    ]
                })
            })
            .collect();
        report::table(&["block", "role", "module", "shape", "checkpoint tensor"], &[0], &rows)
    }
}

impl CheckpointFacts {
    fn new<'w>(
        checkpoint: &crate::checkpoint::Checkpoint,
        matches: impl Iterator<Item = Option<&'w WeightMatch>>,
    ) -> Self {
        let matches: Vec<Option<&WeightMatch>> = matches.collect();
        let count = |how| matches.iter().flatten().filter(|found| found.how == how).count();
        Self {
            files: checkpoint.files().iter().map(|file| file.path.display().to_string()).collect(),
            tensors: checkpoint.tensors().len(),
            matched_by_content: count(MatchedBy::Content),
            matched_by_name: count(MatchedBy::Name),
            quantized: count(MatchedBy::Quantized),
            unmatched: matches.iter().filter(|found| found.is_none()).count(),
        }
    }

    fn describe(&self) -> String {
        let all = self.matched_by_content + self.matched_by_name + self.quantized + self.unmatched;
        let mut text = format!(
            "{} ({} tensors); {} of {all} weights of the blocks found by their values",
            self.files.join(", "),
            self.tensors,
            self.matched_by_content
        );
        if self.matched_by_name > 0 {
            text += &format!(", {} by their names", self.matched_by_name);
        }
        if self.quantized > 0 {
            text += &format!(", {} by their names (quantized)", self.quantized);
        }
        text
    }
}

impl WeightFacts {
    fn new(linear: &LinearLayer, found: Option<&WeightMatch>) -> Self {
        Self {
            module: found.map(|found| found.module().to_owned()).or_else(|| linear.module.clone()),
            checkpoint_tensor: found.map(|found| found.place()),
            role: linear.role.as_str(),
            in_features: linear.in_features,
            out_features: linear.out_features,
            node: linear.node_name.clone(),
            weight: linear.weight.clone(),
            shared: linear.shared_with.len(),
        }
    }
}

impl Value {
    fn new(value: &ValueInfo) -> Self {
        let dimension = |dimension: &Dimension| match dimension {
            Dimension::Fixed(size) => size.to_string(),
            Dimension::Named(name) => name.clone(),
            Dimension::Unknown => "?".to_owned(),
        };
        Self {
            name: value.name.clone(),
            data_type: value.data_type.map(|data_type| format!("{data_type:?}").to_lowercase()),
            shape: value.shape.as_ref().map(|shape| shape.iter().map(dimension).collect::<Vec<_>>().join(", ")),
        }
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.name)?;
        match (&self.data_type, &self.shape) {
            (Some(data_type), Some(shape)) => write!(formatter, " {data_type}[{shape}]"),
            _ => Ok(()),
        }
    }
}

fn join(values: &[impl std::fmt::Display]) -> String {
    if values.is_empty() {
        return "none".to_owned();
    }
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn check_facts(check: &SelfCheck) -> Vec<(&'static str, String)> {
    let line = |holds: bool, difference: f32| match (holds, difference == 0.0) {
        _ if check.not_finite.is_some() => "not known: hidden states are infinite or not a number".to_owned(),
        (true, true) => "yes, to the bit".to_owned(),
        (true, false) => format!("yes (largest relative difference {difference:.1e})"),
        (false, _) => format!("no (largest relative difference {difference:.1e})"),
    };
    vec![
        ("deterministic", line(check.deterministic, check.between_runs.relative)),
        ("same with padding", line(check.padding_invariant, check.between_paddings.relative)),
        ("rows independent", line(check.batch_invariant, check.between_batches.relative)),
    ]
}

fn megabytes(model: &Model) -> f64 {
    let bytes = model.file_bytes().len() + model.external_files().iter().map(|file| file.bytes().len()).sum::<usize>();
    (bytes as f64 / 1e5).round() / 10.0
}
