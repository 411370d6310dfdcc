//! Does every weight of the graph belong to a block or the head? What a plan says of blocks only holds if every product
//! with a constant weight between the token embeddings and the head lies in exactly one block, or in the head.

use std::collections::{HashMap, HashSet};

use super::inputs::{TokenInput, token_input};
use super::linear::LinearFinder;
use super::residual::token_embeddings;
use super::{Model, Node, OnnxError, Topology, Trait, Transformer, node_inputs};

/// Where the products with a constant weight lie. Nodes are indices into `graph.nodes`, in file order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Accounts {
    /// Products in no block that feed the last hidden state, or the head directly: those before hidden state 0 that take
    /// looked-up tokens as input and are added to the stream, and those that bypass the hidden states. What is computed
    /// from masks, types and positions alone is not part of a block.
    pub outside: Vec<usize>,
    /// Products that lie in several blocks.
    pub in_several: Vec<usize>,
    /// Products after the last hidden state.
    pub behind: Vec<usize>,
    /// Attentions that hold the matrices of their projections, each with its block number (1 to L).
    pub packed: Vec<(usize, usize)>,
    /// Nodes that look up rows of the token embedding table: two in an encoder-decoder model.
    pub lookups: Vec<usize>,
    /// Number of attentions (a softmax, or a fused attention) in each block.
    pub attentions: Vec<usize>,
}

/// Locates every product with a constant weight.
///
/// # Errors
/// When hidden states or blocks cannot be found.
pub fn account(model: &Transformer) -> Result<Accounts, OnnxError> {
    let graph = &model.graph;
    let topology = model.topology();
    let finder = LinearFinder::new(&topology);
    let products: Vec<usize> = (0..graph.nodes.len()).filter(|node| has_weight(&finder, &graph.nodes[*node])).collect();
    let mut accounts = Accounts { lookups: lookups(model, &topology, &finder), ..Default::default() };
    let aliases = model.states()?.aliases(&topology);
    let (Some(first), Some(last)) = (aliases.first(), aliases.last()) else { return Ok(accounts) };
    let none = HashSet::new();
    let behind = topology.descendants(last, &none);
    let wanted: Vec<&str> = last.iter().copied().chain(logits(model)).collect();
    let needed = topology.ancestors(&wanted, &none);
    let before = topology.ancestors(first, &none);
    let of_tokens = made_of_tokens(&topology);
    let looked_up = accounts.lookups.iter().flat_map(|node| &graph.nodes[*node].outputs);
    let looked_up: Vec<&str> = looked_up.map(String::as_str).filter(|output| !output.is_empty()).collect();
    let from_lookup = topology.descendants(&looked_up, &none);
    let mut holders: HashMap<usize, usize> = HashMap::new();
    for block in model.blocks()? {
        block.nodes.iter().for_each(|node| *holders.entry(*node).or_default() += 1);
        let inside = block.nodes.iter().map(|node| &graph.nodes[*node]);
        accounts.attentions.push(inside.filter(|node| node.is("Softmax") || node.has(Trait::Attention)).count());
        let packed = block.nodes.iter().filter(|node| packed_weight(&finder, &graph.nodes[**node]));
        accounts.packed.extend(packed.map(|node| (*node, block.index)));
    }
    let all: HashSet<usize> = products.iter().copied().collect();
    let bypassed = reaches_without_product(&topology, &accounts.lookups, first, &all);
    for node in products {
        match holders.get(&node) {
            Some(1) => {}
            Some(_) => accounts.in_several.push(node),
            None if behind.contains(&node) => accounts.behind.push(node),
            None if !needed.contains(&node) || !of_tokens.contains(&node) => {}
            // The projection of narrow embeddings: every path runs through it. Also embeddings computed by products (of
            // segments as one-hot vectors, of positions counted from the ids) that are added to those of the tokens.
            None if before.contains(&node) && (!bypassed || !from_lookup.contains(&node)) => {}
            None => accounts.outside.push(node),
        }
    }
    Ok(accounts)
}

/// Outputs that a head computes from the last hidden state.
fn logits(model: &Model) -> impl Iterator<Item = &str> {
    let outputs = model.graph.outputs.iter().map(|output| output.name.as_str());
    outputs.filter(|name| *name == "logits" || name.ends_with("_logits"))
}

/// Nodes that depend on the values of a graph input, not only on its shape or on which positions hold tokens.
fn made_of_tokens(topology: &Topology) -> HashSet<usize> {
    let inputs = topology.graph.inputs.iter().map(|input| input.name.as_str());
    let inputs = inputs.filter(|input| matches!(token_input(input), None | Some(TokenInput::Ids)));
    let mut values: HashSet<&str> = inputs.filter(|input| topology.initializer(input).is_none()).collect();
    let mut found = HashSet::new();
    // File order is topological.
    for (index, node) in topology.graph.nodes.iter().enumerate() {
        if !node.has(Trait::ReadsShape) && node_inputs(node).into_iter().any(|input| values.contains(input)) {
            values.extend(node.outputs.iter().map(String::as_str).filter(|output| !output.is_empty()));
            found.insert(index);
        }
    }
    found
}

/// Whether a node multiplies with a constant that has at least two dimensions.
fn has_weight(finder: &LinearFinder, node: &Node) -> bool {
    if node.has(Trait::Attention) {
        return packed_weight(finder, node);
    }
    node.has(Trait::Product) && node.inputs.iter().any(|input| finder.is_matrix(input))
}

/// Whether a node is an attention that holds the weights of its projections: the second input of ONNX Runtime's `Attention`
/// and its relatives. In other attentions that input is a value, and their sine tables are not weights.
fn packed_weight(finder: &LinearFinder, node: &Node) -> bool {
    node.has(Trait::HoldsProjections) && node.inputs.get(1).is_some_and(|weight| finder.is_matrix(weight))
}

/// Nodes that look up rows of the token embedding table.
fn lookups(model: &Model, topology: &Topology, finder: &LinearFinder) -> Vec<usize> {
    let nodes = &model.graph.nodes;
    let Ok(first) = token_embeddings(model, topology, finder) else { return Vec::new() };
    let table = |node: usize| {
        let (table, _) = nodes[node].lookup()?;
        finder.source(table).map(|source| source.initializer)
    };
    let wanted = table(first);
    let same = |node: &usize| *node == first || wanted.is_some() && table(*node) == wanted;
    (0..nodes.len()).filter(same).collect()
}

/// Whether a path leads from a token lookup to one of `values` without passing a product.
fn reaches_without_product(topology: &Topology, lookups: &[usize], values: &[&str], products: &HashSet<usize>) -> bool {
    let nodes = &topology.graph.nodes;
    let mut open = lookups.to_vec();
    let mut seen: HashSet<usize> = HashSet::new();
    while let Some(node) = open.pop() {
        // The scale of quantized values bypasses their product.
        let outputs = if nodes[node].op_type == "DynamicQuantizeLinear" { 1 } else { usize::MAX };
        for output in nodes[node].outputs.iter().take(outputs).filter(|output| !output.is_empty()) {
            if values.contains(&output.as_str()) {
                return true;
            }
            let users = topology.consumers(output).iter().copied();
            open.extend(
                users.filter(|user| {
                    !products.contains(user) && !nodes[*user].has(Trait::ReadsShape) && seen.insert(*user)
                }),
            );
        }
    }
    false
}
