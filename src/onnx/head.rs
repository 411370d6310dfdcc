//! The head of a model: what lies between the last hidden state and the logits.

use std::collections::HashSet;

use super::append::POOLED;
use super::blocks::{between, linears};
use super::head_pooling::{self, Reading};
use super::linear::{LinearFinder, LinearLayer, module_of};
use super::{Block, OnnxError, Transformer};

/// Names of the outputs that a head may have, in the order in which they are looked for.
pub(super) const OUTPUTS: [&str; 4] = ["logits", "start_logits", "end_logits", "output_logits"];

/// The part of the graph that computes the logits from the last hidden state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Nodes of the head: indices into `graph.nodes`, in file order.
    pub nodes: Vec<usize>,
    /// Linear layers of the head, including a pooler of the base model.
    pub linears: Vec<LinearLayer>,
    /// The tensors that are trained with an adapter: those of modules outside the base model (`classifier`, not
    /// `bert.pooler`). Empty where the head predicts tokens.
    pub tensors: Vec<HeadTensor>,
    /// Whether the head predicts tokens: its last layer is as wide as the vocabulary. Such a head was trained with the
    /// model, often tied to the embeddings, and is left unchanged.
    pub predicts_tokens: bool,
    /// Whether the head pools the vectors of all tokens (their mean, say) rather than reading a single one. `None` where
    /// that cannot be determined.
    pub pools: Option<bool>,
    /// Whether the head gives a row of logits for every token. `None` where that cannot be determined.
    pub every_token: Option<bool>,
    /// Whether training added the head to the export ([`super::append_head`]): no class of transformers has it.
    pub added: bool,
    /// Main output of the head, e.g. `logits`.
    pub output: String,
    /// All outputs of the head (`start_logits` and `end_logits` for span answers).
    pub outputs: Vec<String>,
}

impl Head {
    /// Whether the head gives every token a row of logits that are not over the vocabulary: labels of words.
    pub fn labels_tokens(&self) -> bool {
        self.every_token == Some(true) && !self.predicts_tokens && self.outputs.len() == 1
    }
}

/// A tensor of the head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadTensor {
    /// Name of the initializer.
    pub initializer: String,
    /// Its index in `graph.initializers`.
    pub index: usize,
    /// Name that the checkpoint may use, possibly after a wrapper's name: `model.classifier.weight`. Where the export gives
    /// no module names, the name of the initializer.
    pub name: String,
    /// Whether the initializer is the checkpoint tensor transposed.
    pub transposed: bool,
    /// Whether other nodes or other modules of the head use the same initializer: it must not be trained in place before it
    /// has one of its own ([`super::own_tensor`]).
    pub shared: bool,
}

/// Finds the head. `None` where no output is called `logits` (or `start_logits` and `end_logits`) or none of them depends
/// on the last hidden state.
///
/// # Errors
/// When the blocks cannot be found.
pub(super) fn find(model: &Transformer) -> Result<Option<Head>, OnnxError> {
    let topology = model.topology();
    let aliases = model.states()?.aliases(&topology);
    let Some(last) = aliases.last() else { return Ok(None) };
    let is_output = |name: &&str| model.graph.outputs.iter().any(|output| output.name == **name);
    let outputs: Vec<&str> = OUTPUTS.iter().copied().filter(is_output).collect();
    if outputs.is_empty() {
        return Ok(None);
    }
    let barriers: HashSet<&str> = aliases.iter().flatten().copied().collect();
    let nodes = between(&topology, last, &outputs, &barriers);
    if nodes.is_empty() {
        return Ok(None);
    }
    let finder = LinearFinder::new(&topology);
    let linears = linears(&finder, &nodes);
    let blocks = model.blocks()?;
    let predicts_tokens = linears.last().is_some_and(|last| Some(last.out_features) == model.vocabulary());
    let tensors = match predicts_tokens {
        true => Vec::new(),
        false => trained_tensors(&finder, &nodes, &linears, blocks),
    };
    let Reading { pools, every_token } = head_pooling::read(&finder, model, last, &nodes, outputs[0]);
    let added = linears.last().is_some_and(|last| last.input == POOLED);
    Ok(Some(Head {
        pools,
        every_token,
        added,
        nodes,
        linears,
        tensors,
        predicts_tokens,
        output: outputs[0].to_owned(),
        outputs: outputs.into_iter().map(str::to_owned).collect(),
    }))
}

/// Weights, biases and norm parameters of the head's modules outside the base model, each once.
fn trained_tensors(
    finder: &LinearFinder,
    nodes: &[usize],
    linears: &[LinearLayer],
    blocks: &[Block],
) -> Vec<HeadTensor> {
    let mut candidates: Vec<HeadTensor> = Vec::new();
    let own: HashSet<usize> = nodes.iter().copied().collect();
    let mut add = |index: usize, name: Option<String>, transposed: bool| {
        let initializer = finder.topology.graph.initializers[index].name.clone();
        let name = name.unwrap_or_else(|| initializer.clone());
        let mut shared = finder.users(index).iter().any(|user| !own.contains(user));
        for known in candidates.iter_mut().filter(|known| known.index == index) {
            if known.name == name {
                return;
            }
            (known.shared, shared) = (true, true);
        }
        candidates.push(HeadTensor { initializer, index, name, transposed, shared });
    };
    for linear in linears.iter().filter(|linear| !linear.quantized) {
        let name = |kind: &str| linear.module.as_ref().map(|module| format!("{module}.{kind}"));
        add(linear.weight_index, name("weight"), linear.layout == super::WeightLayout::InOut);
        if let Some(bias) = linear.bias.as_deref().and_then(|bias| finder.source(bias)) {
            add(bias.initializer, name("bias"), false);
        }
    }
    for &index in nodes {
        let node = &finder.topology.graph.nodes[index];
        if !node.is("LayerNormalization") {
            continue;
        }
        for (input, kind) in node.inputs.iter().skip(1).zip(["weight", "bias"]) {
            if let Some(source) = finder.source(input) {
                let initializer = &finder.topology.graph.initializers[source.initializer].name;
                // Norms with identical initial values are stored once, under the name of one of them.
                let own = if finder.users(source.initializer).len() > 1 { "" } else { initializer.as_str() };
                add(source.initializer, module_of(node, own).map(|module| format!("{module}.{kind}")), false);
            }
        }
    }
    let Some(base) = base_prefix(blocks, linears) else { return candidates };
    candidates.retain(|tensor| tensor.name != base && !tensor.name.starts_with(&format!("{base}.")));
    candidates
}

/// The path of the base model, e.g. `model.bert`: where the blocks' paths part from that of the last linear layer. `None`
/// where the export does not name its modules.
fn base_prefix(blocks: &[Block], head: &[LinearLayer]) -> Option<String> {
    let module = blocks.iter().flat_map(|block| &block.linears).find_map(|linear| linear.module.as_deref())?;
    let head: Vec<&str> = head.last()?.module.as_deref()?.split('.').collect();
    let block: Vec<&str> = module.split('.').collect();
    let common = block.iter().zip(&head).take_while(|(a, b)| a == b).count();
    (common < block.len()).then(|| block[..=common].join("."))
}
