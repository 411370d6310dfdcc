//! Whether export, checkpoint and configuration agree on the structure of the model. A plan for hidden states that do not
//! lie between blocks, or for only some of the weights, would look like any other.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde_json::Value;

use super::slices::parts;
use super::values::{Equality, same_values};
use super::{Checkpoint, CheckpointError, ElementType, MatchedBy, Parts, TensorInfo, WeightMatch};
use crate::hint::Hint;
use crate::onnx::{Accounts, Block, LinearLayer, WeightLayout, account};

/// Number of names listed before "and more".
const LISTED: usize = 4;

/// Disagreements between export, checkpoint and configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Structure {
    /// Problems that would make a plan wrong, each with its remedy.
    pub obstacles: Vec<String>,
    /// Signs that the checkpoint is of another model than the export.
    pub warnings: Vec<String>,
    /// Facts worth knowing.
    pub notes: Vec<String>,
}

/// Compares the blocks with each other, with the rest of the graph, with the configuration and with the checkpoint.
///
/// # Errors
/// When export or checkpoint cannot be read.
pub fn structure(parts: &Parts<'_>) -> Result<Structure, CheckpointError> {
    let accounts = account(parts.model)?;
    let layers = Layers::new(parts);
    let mut found = Structure::default();
    if let Some(stacks) = layers.two_stacks(&accounts) {
        found.obstacles.push(stacks);
        return Ok(found);
    }
    found.obstacles.extend(parts.packed_attentions(&accounts)?);
    found.obstacles.extend(layers.mixed_blocks());
    found.obstacles.extend(layers.block_in_head(&accounts));
    found.obstacles.extend(parts.lost_products(&accounts));
    found.obstacles.extend(parts.other_number());
    found.obstacles.extend(parts.unknown_weights()?);
    found.obstacles.extend(parts.split_modules());
    found.warnings.extend(parts.other_values()?);
    found.notes.extend(parts.other_names());
    found.notes.extend(parts.differing_blocks(&accounts));
    if found.obstacles.is_empty() {
        found.notes.extend(parts.without_adapter()?);
    }
    Ok(found)
}

impl Parts<'_> {
    fn label(&self, node: usize) -> String {
        let node = &self.model.graph.nodes[node];
        format!("`{}` ({})", node.label(), node.op_type)
    }

    fn list(&self, nodes: &[usize]) -> String {
        listed(nodes.iter().map(|node| self.label(*node)))
    }

    /// The linear layers of the blocks with their matches.
    fn in_blocks(&self) -> impl Iterator<Item = (&LinearLayer, Option<&WeightMatch>)> {
        let nodes = self.blocks.iter().flat_map(|block| &block.linears).map(|linear| linear.node);
        let nodes: HashSet<usize> = nodes.collect();
        let all = self.linears.iter().zip(self.matches).filter(move |(linear, _)| nodes.contains(&linear.node));
        all.map(|(linear, found)| (linear, found.as_ref()))
    }

    fn packed_attentions(&self, accounts: &Accounts) -> Result<Option<String>, CheckpointError> {
        let Some(&(first, _)) = accounts.packed.first() else { return Ok(None) };
        let nodes: Vec<usize> = accounts.packed.iter().map(|(node, _)| *node).collect();
        let graph = &self.model.graph;
        let weight = graph.nodes[first].inputs.get(1).map(String::as_str).unwrap_or_default();
        let mut of = String::new();
        if let (Some(checkpoint), Some(index)) =
            (self.checkpoint, graph.initializers.iter().position(|tensor| tensor.name == weight))
        {
            let names = parts(self.model, checkpoint, index, WeightLayout::InOut)?;
            if !names.is_empty() {
                of = format!(", `{weight}` for instance {}", and(names.iter().map(|name| format!("`{name}`"))));
            }
        }
        Ok(Some(format!(
            "{} attentions hold the weights of query, key and value packed in one{of}: {}; a plan would leave them out. \
             Take the export as it was before that fusion (optimum: optimization level O1, or \
             OptimizationConfig(disable_attention_fusion=True); onnxruntime.transformers: \
             FusionOptions.enable_attention = False)",
            nodes.len(),
            self.list(&nodes)
        )))
    }

    fn lost_products(&self, accounts: &Accounts) -> Option<String> {
        let (nodes, place) = match (accounts.outside.as_slice(), accounts.in_several.as_slice()) {
            ([], []) => return None,
            ([], several) => (several, "lie in several blocks"),
            (outside, _) => (outside, "lie in no block and not in the head"),
        };
        Some(format!(
            "{} products with a constant weight {place}, though the output is made of them: {}; the hidden states ({} to {}) \
             are not those between the blocks: name them with {}",
            nodes.len(),
            self.list(nodes),
            self.states.values.first().map(String::as_str).unwrap_or_default(),
            self.states.values.last().map(String::as_str).unwrap_or_default(),
            Hint::Expose
        ))
    }

    /// Compares the number of blocks with the numbers of layers in the configuration.
    fn other_number(&self) -> Option<String> {
        let counts = layer_counts(self.config?);
        if counts.is_empty() || counts.iter().any(|(_, count)| *count == self.blocks.len()) {
            return None;
        }
        let said = and(counts.iter().map(|(key, count)| format!("{key} {count}")));
        Some(format!(
            "config.json says {said}, but the hidden states of the export have {} blocks between them; put the configuration \
             beside it that the model was exported with, or name the hidden states with {}",
            self.blocks.len(),
            Hint::Expose
        ))
    }

    /// Weights of blocks that the checkpoint does not have, although it has others.
    fn unknown_weights(&self) -> Result<Option<String>, CheckpointError> {
        let Some(checkpoint) = self.checkpoint else { return Ok(None) };
        let all = self.in_blocks().filter(|(linear, _)| !linear.quantized).count();
        let unknown: Vec<&LinearLayer> =
            self.in_blocks().filter(|(linear, found)| found.is_none() && !linear.quantized).map(|(l, _)| l).collect();
        if unknown.is_empty() || unknown.len() == all {
            return Ok(None);
        }
        let (count, first) = (unknown.len(), unknown[0]);
        let names = parts(self.model, checkpoint, first.weight_index, first.layout)?;
        if !names.is_empty() {
            let names = and(names.iter().map(|name| format!("`{name}`")));
            return Ok(Some(format!(
                "{count} of {all} weights of the blocks are packed of several tensors of the checkpoint: `{}` for instance of \
                 {names}; an adapter of one of these has no place in the export. Export without that (onnxruntime-genai's \
                 builder: --extra_options disable_qkv_fusion=true)",
                first.weight
            )));
        }
        let names = unknown.iter().map(|linear| format!("`{}` {:?}", linear.weight, linear.weight_shape()));
        Ok(Some(format!(
            "{count} of {all} weights of the blocks are in no tensor of the checkpoint, by value or by name: {}; put the \
             checkpoint beside the export that it was made of, or take it away: then names come from the export, and merging \
             gives an .onnx only",
            listed(names)
        )))
    }

    /// Weights of the export that are rows of one tensor which the model keeps whole: their adapters cannot be combined
    /// into an adapter of the module.
    fn split_modules(&self) -> Option<String> {
        let split = self.in_blocks().filter_map(|(linear, found)| Some((linear, found?)));
        let split: Vec<(&LinearLayer, &WeightMatch)> =
            split.filter(|(_, found)| found.rows.is_some() && found.renamed.is_none()).collect();
        let modules: BTreeSet<&str> = split.iter().map(|(_, found)| found.module()).collect();
        let (first, found) = split.first()?;
        Some(format!(
            "the export splits {} modules that the model has whole, `{}` for instance: its weight `{}` is {}; an adapter of such \
             a module has no place in it. Take an export that leaves them whole, as PyTorch's exporters do \
             (scripts/export_onnx.py; onnxruntime-genai's builder: without --extra_options disable_qkv_fusion=true)",
            modules.len(),
            found.module(),
            first.weight,
            found.place()
        ))
    }

    /// Whether the library converts the checkpoint when it is loaded.
    fn other_names(&self) -> Option<String> {
        let converted: Vec<&WeightMatch> =
            self.in_blocks().filter_map(|(_, found)| found).filter(|found| found.renamed.is_some()).collect();
        let first = converted.first()?;
        Some(format!(
            "the checkpoint stores {} weights of the blocks under other names than the model's, {} of them as a part of a \
             larger tensor: `{}` for instance is `{}`; they are adapted by the model's names, and merged where they are stored",
            converted.len(),
            converted.iter().filter(|found| found.rows.is_some()).count(),
            first.module(),
            first.place()
        ))
    }

    /// Tensors that have other values in the export: merging into both would not give the same model.
    fn other_values(&self) -> Result<Option<String>, CheckpointError> {
        let Some(checkpoint) = self.checkpoint else { return Ok(None) };
        // The checkpoint of another model shares no values at all, which is a separate obstacle.
        if self.in_blocks().all(|(_, found)| found.is_none()) {
            return Ok(None);
        }
        let matched: HashSet<&str> = self.matches.iter().flatten().map(|found| found.tensor.as_str()).collect();
        let by_name = self.matches.iter().flatten().filter(|found| found.how == MatchedBy::Name);
        let mut names: BTreeSet<&str> = by_name.map(|found| found.tensor.as_str()).collect();
        for constant in &self.model.graph.initializers {
            let Some(own) = super::values::element_type(constant.data_type) else { continue };
            let Some(tensor) = tensor_called(checkpoint, &constant.name) else { continue };
            let is_float = !matches!(tensor.element_type, ElementType::Other(_));
            if matched.contains(tensor.name.as_str()) || !is_float || tensor.shape != constant.dims {
                continue;
            }
            let bytes = (self.model.bytes(constant)?, checkpoint.bytes(&tensor.name)?);
            if !same_values((bytes.0, &own), (bytes.1, &tensor.element_type)) {
                names.insert(&tensor.name);
            }
        }
        Ok((!names.is_empty()).then(|| {
            format!(
                "{} of the checkpoint's tensors differ from the export's, {}: the two are of different states of training, and what is \
                 merged into both is not the same model; put the checkpoint beside the export that was made of it",
                names.len(),
                listed(names.iter().map(|name| format!("`{name}`")))
            )
        }))
    }

    /// Groups of blocks whose products differ.
    fn differing_blocks(&self, accounts: &Accounts) -> Option<String> {
        let mut kinds: Vec<(String, Vec<usize>)> = Vec::new();
        for (block, attentions) in self.blocks.iter().zip(&accounts.attentions) {
            let mut weights: BTreeMap<(String, usize, usize), usize> = BTreeMap::new();
            for linear in &block.linears {
                *weights.entry((linear.role.to_string(), linear.in_features, linear.out_features)).or_default() += 1;
            }
            let weights = weights.into_iter().map(|((role, inputs, outputs), count)| match count {
                1 => format!("{role} {inputs}→{outputs}"),
                _ => format!("{count} × {role} {inputs}→{outputs}"),
            });
            let attentions = match attentions {
                0 => "no attention".to_owned(),
                1 => "1 attention".to_owned(),
                several => format!("{several} attentions"),
            };
            let kind = format!("{attentions}, {}", weights.collect::<Vec<_>>().join(", "));
            match kinds.iter_mut().find(|(known, _)| *known == kind) {
                Some((_, members)) => members.push(block.index),
                None => kinds.push((kind, vec![block.index])),
            }
        }
        if kinds.len() < 2 {
            return None;
        }
        let kinds = kinds.iter().map(|(kind, members)| {
            let members: Vec<String> = members.iter().map(usize::to_string).collect();
            let word = if members.len() == 1 { "block" } else { "blocks" };
            format!("{word} {} ({kind})", members.join(", "))
        });
        Some(format!("its blocks are not alike: {}", listed(kinds)))
    }

    /// Matrices of the checkpoint's layers that are in no adaptable weight.
    fn without_adapter(&self) -> Result<Option<String>, CheckpointError> {
        let Some(checkpoint) = self.checkpoint else { return Ok(None) };
        if self.in_blocks().all(|(_, found)| found.is_none()) {
            return Ok(None);
        }
        let known: HashSet<&str> = self.matches.iter().flatten().map(|found| found.tensor.as_str()).collect();
        let mut groups: BTreeMap<String, Vec<&TensorInfo>> = BTreeMap::new();
        let mut count = 0;
        for tensor in checkpoint.tensors().iter().filter(|tensor| (2..4).contains(&tensor.shape.len())) {
            if let Some(layer) = layer_of(&tensor.name).filter(|_| !known.contains(tensor.name.as_str())) {
                let rest = &tensor.name[layer.end..];
                groups.entry(format!("{}.*{rest}", layer.stack)).or_default().push(tensor);
                count += 1;
            }
        }
        if groups.is_empty() {
            return Ok(None);
        }
        let mut kinds = Vec::new();
        for (name, tensors) in &groups {
            let users = self.users_of(checkpoint, tensors[0])?;
            let why = match users {
                Some(users) if users.is_empty() => "not used".to_owned(),
                Some(users) => format!("read by {}", and(users.into_iter())),
                None => "not in the export".to_owned(),
            };
            kinds.push(format!("`{name}` ({}, {why})", tensors.len()));
        }
        Ok(Some(format!("{count} matrices of the checkpoint's layers get no adapter: {}", listed(kinds.into_iter()))))
    }

    /// The operators that read a tensor of the checkpoint in the export; `None` where it is not there.
    fn users_of(
        &self,
        checkpoint: &Checkpoint,
        tensor: &TensorInfo,
    ) -> Result<Option<BTreeSet<String>>, CheckpointError> {
        let topology = self.model.topology();
        let bytes = checkpoint.bytes(&tensor.name)?;
        let size: usize = tensor.shape.iter().product();
        for constant in &self.model.graph.initializers {
            let Some(own) = super::values::element_type(constant.data_type) else { continue };
            if matches!(tensor.element_type, ElementType::Other(_)) || constant.dims.iter().product::<usize>() != size {
                continue;
            }
            let constant_bytes = self.model.bytes(constant)?;
            let equal = Equality { a: constant_bytes, a_type: &own, b: bytes, b_type: &tensor.element_type };
            let turned = match (constant.dims.as_slice(), tensor.shape.as_slice()) {
                (&[rows, columns], &[c, r]) if (rows, columns) == (r, c) => equal.transposed(rows, columns),
                _ => false,
            };
            if turned || equal.straight() {
                let users = topology.consumers(&constant.name).iter();
                return Ok(Some(users.map(|node| self.model.graph.nodes[*node].op_type.clone()).collect()));
            }
        }
        Ok(None)
    }
}

/// The tensor of the checkpoint named by a constant of the export, which may have a prefix: a wrapper put around the model
/// for the export.
fn tensor_called<'a>(checkpoint: &'a Checkpoint, constant: &str) -> Option<&'a TensorInfo> {
    let ends = constant.match_indices('.').map(|(at, _)| &constant[at + 1..]);
    let mut names = std::iter::once(constant).chain(ends).filter(|name| name.contains('.'));
    names.find_map(|name| checkpoint.tensor(name))
}

/// The layers to which weights belong by their names.
struct Layers<'a> {
    parts: &'a Parts<'a>,
    /// Layer by node index.
    of: HashMap<usize, Layer<'a>>,
}

/// A layer in the path of a module: `bert.encoder.layer` and 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Layer<'a> {
    stack: &'a str,
    number: usize,
    /// Byte offset of the end of the number in the path.
    end: usize,
}

impl<'a> Layers<'a> {
    fn new(parts: &'a Parts<'a>) -> Self {
        let all = parts.linears.iter().zip(parts.matches);
        let of = all.filter_map(|(linear, found)| {
            let module = found.as_ref().map(WeightMatch::module).or(linear.module.as_deref())?;
            Some((linear.node, layer_of(module)?))
        });
        Layers { parts, of: of.collect() }
    }

    fn of_block(&self, block: &Block) -> BTreeSet<Layer<'a>> {
        block.linears.iter().filter_map(|linear| self.of.get(&linear.node).copied()).collect()
    }

    /// An encoder and a decoder: the layers of one have no place between the hidden states of the other.
    fn two_stacks(&self, accounts: &Accounts) -> Option<String> {
        let in_blocks = self.parts.blocks.iter().flat_map(|block| self.of_block(block));
        let outside = accounts.outside.iter().filter_map(|node| self.of.get(node).copied());
        let mut stacks: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
        for layer in in_blocks.chain(outside) {
            stacks.entry(layer.stack).or_default().insert(layer.number);
        }
        let both = ["encoder", "decoder"].iter().all(|word| stacks.keys().any(|stack| stack.contains(word)));
        let twice = accounts.lookups.len() > 1 && !accounts.outside.is_empty();
        if !(both && stacks.len() > 1 || twice) {
            return None;
        }
        let named = stacks.iter().map(|(stack, layers)| format!("{} layers of `{stack}`", layers.len()));
        let named = if stacks.len() > 1 { format!(" ({})", and(named)) } else { String::new() };
        let said = self.parts.config.map(layer_counts).unwrap_or_default();
        let said = match said.as_slice() {
            [] => String::new(),
            counts => format!("; config.json says {}", and(counts.iter().map(|(key, count)| format!("{key} {count}")))),
        };
        let lookups = match accounts.lookups.as_slice() {
            several @ [_, _, ..] => format!("; token embeddings are looked up by {}", self.parts.list(several)),
            _ => String::new(),
        };
        Some(format!(
            "the export holds two stacks, an encoder and a decoder{named}{said}{lookups}; gelora plans for models of one stack: \
             export the encoder alone, or take a model that has no decoder beside it"
        ))
    }

    /// Blocks that hold weights of several layers.
    fn mixed_blocks(&self) -> Option<String> {
        let mixed = self.parts.blocks.iter().filter_map(|block| {
            let layers = self.of_block(block);
            let names: BTreeSet<String> =
                layers.iter().map(|layer| format!("{}.{}", layer.stack, layer.number)).collect();
            let stacks: BTreeSet<&str> = layers.iter().map(|layer| layer.stack).collect();
            (names.len() > stacks.len()).then(|| format!("block {} of {}", block.index, and(names.into_iter())))
        });
        let mixed: Vec<String> = mixed.collect();
        (!mixed.is_empty()).then(|| {
            format!(
                "the weights between two hidden states are those of several layers: {}; name the hidden states with \
                 {}",
                listed(mixed.into_iter()),
                Hint::Expose
            )
        })
    }

    /// Weights of a layer after the last hidden state.
    fn block_in_head(&self, accounts: &Accounts) -> Option<String> {
        let blocks: BTreeSet<&str> =
            self.parts.blocks.iter().flat_map(|block| self.of_block(block)).map(|layer| layer.stack).collect();
        let behind = accounts.behind.iter().filter(|node| self.of.get(node).is_some_and(|l| blocks.contains(l.stack)));
        let behind: Vec<usize> = behind.copied().collect();
        (!behind.is_empty()).then(|| {
            format!(
                "the last hidden state `{}` is not the end of the last block: {} weights of its layers lie behind it, {}; name \
                 the hidden states with {}",
                self.parts.states.values.last().map(String::as_str).unwrap_or_default(),
                behind.len(),
                self.parts.list(&behind),
                Hint::Expose
            )
        })
    }
}

/// The first number in a path that follows a word for layers.
fn layer_of(path: &str) -> Option<Layer<'_>> {
    let mut start = 0;
    let mut before: Option<&str> = None;
    for part in path.split('.') {
        let end = start + part.len();
        let is_list = before.is_some_and(|word| {
            ["h", "layer", "block"].contains(&word)
                || ["layers", "blocks", "layer_groups"].iter().any(|w| word.ends_with(w))
        });
        if let (true, Ok(number)) = (is_list, part.parse()) {
            return Some(Layer { stack: &path[..start - 1], number, end });
        }
        before = Some(part);
        start = end + 1;
    }
    None
}

/// Numbers of layers given by a configuration, for the text model where there are several models.
fn layer_counts(config: &Value) -> Vec<(&'static str, usize)> {
    const KEYS: [&str; 9] = [
        "num_hidden_layers",
        "n_layer",
        "n_layers",
        "num_layers",
        "num_transformer_layers",
        "encoder_layers",
        "num_encoder_layers",
        "decoder_layers",
        "num_decoder_layers",
    ];
    let of = |config: &Value| -> Vec<(&'static str, usize)> {
        let count = |key: &'static str| Some((key, usize::try_from(config.get(key)?.as_u64()?).ok()?));
        KEYS.into_iter().filter_map(count).collect()
    };
    let own = of(config);
    if own.is_empty() { config.get("text_config").map(of).unwrap_or_default() } else { own }
}

/// The first few names, and how many more there are.
fn listed(names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.collect();
    let text = names.iter().take(LISTED).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(LISTED) {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

/// Joins names as `a, b and c`.
fn and(names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.collect();
    match names.as_slice() {
        [rest @ .., last] if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        names => names.concat(),
    }
}
