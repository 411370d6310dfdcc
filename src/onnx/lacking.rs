//! Why a graph has no token embeddings, or no weights to adapt, as messages that name the node and the remedy.

use std::collections::{BTreeMap, HashSet};

use super::graph::Attribute;
use super::linear::LinearFinder;
use super::{Block, DataType, Graph, Model, Node, Topology, Trait};

/// Names of inputs of models that read something other than text, and what each holds.
const OTHER_INPUTS: [(&str, &str); 8] = [
    ("pixel_values", "images"),
    ("pixel_mask", "images"),
    ("images", "images"),
    ("input_values", "sound"),
    ("input_features", "sound"),
    ("audio_values", "sound"),
    ("bbox", "places on a page"),
    ("inputs_embeds", "embeddings in the place of tokens"),
];

/// Why no node looks up token embeddings, as text that follows "its hidden states cannot be found in the graph: ".
pub(crate) fn no_embeddings(model: &Model, topology: &Topology, finder: &LinearFinder) -> String {
    let found = [in_branches(model), turned_lookup(model, topology, finder), no_text(model)];
    found.into_iter().flatten().next().unwrap_or_else(|| {
        let mut said = "no node looks up embeddings of an integer input such as `input_ids`".to_owned();
        if let Some(node) = computed_lookup(model, finder) {
            said += &format!(" (node `{}` looks up what is computed from other values)", node.label());
        }
        said
    })
}

/// The layers are inside an `If`: a decoder with and without a cache in one file.
fn in_branches(model: &Model) -> Option<String> {
    let holds = |graph: &Graph| graph.nodes.iter().any(|node| node.has(Trait::Product) || node.lookup().is_some());
    let branches = |node: &&Node| {
        node.is("If")
            && node.attributes.iter().any(|(_, value)| matches!(value, Attribute::Graph(graph) if holds(graph)))
    };
    let node = model.graph.nodes.iter().find(branches)?;
    let condition = node.inputs.first().map_or("a condition", String::as_str);
    let folder = model.path().parent();
    let other = ["decoder_model.onnx", "model.onnx", "decoder_with_past_model.onnx"]
        .iter()
        .map(|name| folder.map_or_else(|| (*name).into(), |folder| folder.join(name)))
        .find(|path| path.is_file() && path != model.path());
    let instead = match other {
        Some(path) => format!("take {} instead", path.display()),
        None => {
            "take decoder_model.onnx instead, the decoder without a cache (optimum keeps it where its post-processing is off)"
            .into()
        }
    };
    Some(format!(
        "its layers are inside the two branches of node `{}` (If over `{condition}`: a merged decoder); {instead}",
        node.label()
    ))
}

/// The lookup of an input whose axes were swapped.
fn turned_lookup(model: &Model, topology: &Topology, finder: &LinearFinder) -> Option<String> {
    let turned = lookups(model, finder).find_map(|(node, indices)| {
        let (input, transposed) = input_behind(topology, indices)?;
        transposed.then_some((node, input))
    });
    turned.map(|(node, input)| {
        format!(
            "node `{}` looks up `{input}` with its axes exchanged, so the hidden states are [sequence, batch, width]; export \
             the model batch first (models that compute sequence first, such as XLNet, are not covered)",
            node.label()
        )
    })
}

/// No integer input that could hold tokens, or one whose name shows that the model reads something else.
fn no_text(model: &Model) -> Option<String> {
    let constants: HashSet<&str> = model.graph.initializers.iter().map(|tensor| tensor.name.as_str()).collect();
    let inputs: Vec<&super::ValueInfo> =
        model.graph.inputs.iter().filter(|input| !constants.contains(input.name.as_str())).collect();
    let other = inputs.iter().find_map(|input| {
        let known = OTHER_INPUTS.iter().find(|(name, _)| input.name == *name);
        known.map(|(name, what)| (*name, *what))
    });
    if let Some((name, what)) = other {
        let cure = match name {
            "inputs_embeds" => "export the model with input_ids",
            _ => "gelora plans for models that read text (input_ids)",
        };
        return Some(format!("it is no text model: its input `{name}` holds {what}; {cure}"));
    }
    let integer = |input: &&super::ValueInfo| matches!(input.data_type, Some(DataType::Int64 | DataType::Int32) | None);
    if inputs.iter().any(integer) {
        return None;
    }
    let names: Vec<&str> = inputs.iter().map(|input| input.name.as_str()).collect();
    Some(format!(
        "it is no text model: none of its inputs ({}) holds token ids; gelora plans for models that read text (input_ids)",
        names.join(", ")
    ))
}

/// A lookup of embeddings by indices that are not a graph input.
fn computed_lookup<'m>(model: &'m Model, finder: &LinearFinder) -> Option<&'m Node> {
    lookups(model, finder).map(|(node, _)| node).next()
}

/// The nodes that look up rows of a constant matrix, with the values that say which rows.
fn lookups<'m>(model: &'m Model, finder: &LinearFinder) -> impl Iterator<Item = (&'m Node, &'m str)> {
    model.graph.nodes.iter().filter_map(move |node| {
        let (table, indices) = (node.inputs.first()?, node.inputs.get(1)?);
        let source = finder.source(table).filter(|_| node.is("Gather"))?;
        let tensor = &model.graph.initializers[source.initializer];
        (tensor.dims.len() == 2 && tensor.data_type.is_float()).then_some((node, indices.as_str()))
    })
}

/// The graph input behind a value, seen through operations that change type, shape or order only, and whether its two axes
/// were swapped on the way.
pub(crate) fn input_behind<'g>(topology: &Topology<'g>, value: &'g str) -> Option<(&'g str, bool)> {
    let (mut value, mut turned) = (value, false);
    while let Some(node) = topology.producer_node(value) {
        // Another type or shape, or some of the ids left out.
        let passes = node.has_any(&[Trait::Copies, Trait::Reshapes]) || node.is("Slice") || node.is("Transpose");
        if !passes {
            return None;
        }
        turned ^= node.is("Transpose") && node.ints("perm").is_none_or(|perm| perm == [1, 0]);
        value = node.inputs.first()?;
    }
    let is_input =
        topology.initializer(value).is_none() && topology.graph.inputs.iter().any(|input| input.name == value);
    is_input.then_some((value, turned))
}

/// Operators of the graph whose weights are stored as integers, each with its count: `48 MatMulNBits`. Empty where there
/// are none.
pub fn quantized_operators(model: &Model) -> String {
    counted(model, Trait::IntegerWeights)
}

/// Operators of the graph that quantize activations by the range of a whole batch, each with its count. Empty where there
/// are none: a row then does not depend on the others.
pub fn dynamically_quantized(model: &Model) -> String {
    counted(model, Trait::DynamicRange)
}

/// Counts the nodes that have this trait, by operator: `48 MatMulNBits`.
fn counted(model: &Model, wanted: Trait) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for node in model.graph.nodes.iter().filter(|node| node.has(wanted)) {
        *counts.entry(&node.op_type).or_default() += 1;
    }
    counts.iter().map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
}

/// The message where the blocks hold no linear layer at all, so that there is nothing to adapt.
pub fn no_linear_layers(model: &Model, blocks: &[Block]) -> Option<String> {
    if blocks.iter().any(|block| !block.linears.is_empty()) {
        return None;
    }
    let quantized = quantized_operators(model);
    if !quantized.is_empty() {
        return Some(format!(
            "its weights are stored as integers ({quantized}), and none of them is a plain linear layer; take the \
             floating-point export that it was made of"
        ));
    }
    let mut products: BTreeMap<&str, usize> = BTreeMap::new();
    let nodes = blocks.iter().flat_map(|block| &block.nodes).map(|node| &model.graph.nodes[*node]);
    for node in nodes.filter(|node| node.has(Trait::Product) || node.op_type.contains("Attention")) {
        *products.entry(node.op_type.as_str()).or_default() += 1;
    }
    let products: Vec<String> = products.iter().map(|(name, count)| format!("{count} {name}")).collect();
    let found = if products.is_empty() { "no products at all".to_owned() } else { products.join(", ") };
    Some(format!(
        "its blocks hold no linear layer (a MatMul or Gemm with a constant weight), but {found}: there is nothing to adapt; \
         export the model with its weights as constants, and without fused layers"
    ))
}
