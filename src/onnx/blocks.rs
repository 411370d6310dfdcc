//! Transformer blocks from the graph: block `i` is what lies between hidden state `i − 1` and hidden state `i`.

use std::collections::HashSet;

use super::linear::{LinearFinder, LinearLayer};
use super::{HiddenStates, Model, OnnxError, Topology, roles};

/// The nodes between two hidden states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Block number, 1 to L.
    pub index: usize,
    /// Indices into `graph.nodes`, in file order.
    pub nodes: Vec<usize>,
    /// The linear layers, in file order. A weight that several nodes of the block use is listed once, at its first node.
    pub linears: Vec<LinearLayer>,
}

/// The blocks of a model: every node that depends on hidden state `i − 1`, feeds hidden state `i`, and does not reach it
/// through another hidden state.
///
/// # Errors
/// When a hidden state does not depend on the one before it.
pub(super) fn find(model: &Model, topology: &Topology, states: &HiddenStates) -> Result<Vec<Block>, OnnxError> {
    let finder = LinearFinder::new(topology);
    let aliases = states.aliases(topology);
    let all: HashSet<&str> = aliases.iter().flatten().copied().collect();
    let mut blocks = Vec::with_capacity(states.blocks());
    for (index, ends) in aliases.windows(2).enumerate() {
        let nodes = between(topology, &ends[0], &ends[1], &all);
        if nodes.is_empty() {
            return Err(OnnxError::NoBlock {
                path: model.path().into(),
                from: states.values[index].clone(),
                to: states.values[index + 1].clone(),
            });
        }
        let mut linears = linears(&finder, &nodes);
        roles::assign(topology, &nodes, &mut linears);
        blocks.push(Block { index: index + 1, nodes, linears });
    }
    Ok(blocks)
}

/// All linear layers of a graph, in file order, in blocks or not; roles are not distinguished.
pub(super) fn linear_layers(topology: &Topology) -> Vec<LinearLayer> {
    let finder = LinearFinder::new(topology);
    (0..topology.graph.nodes.len()).filter_map(|node| finder.linear(node)).collect()
}

/// Nodes that depend on `from` and feed `to` without passing through another value of `barriers`, in file order.
pub(crate) fn between(topology: &Topology, from: &[&str], to: &[&str], barriers: &HashSet<&str>) -> Vec<usize> {
    let below = topology.descendants(from, &outside(barriers, from));
    let above = topology.ancestors(to, &outside(barriers, to));
    let mut nodes: Vec<usize> = below.intersection(&above).copied().collect();
    nodes.sort_unstable();
    nodes
}

fn outside<'a>(barriers: &HashSet<&'a str>, own: &[&str]) -> HashSet<&'a str> {
    let own: HashSet<&str> = own.iter().copied().collect();
    barriers.iter().copied().filter(|value| !own.contains(value)).collect()
}

/// The linear layers among `nodes`, one per weight.
pub(crate) fn linears(finder: &LinearFinder, nodes: &[usize]) -> Vec<LinearLayer> {
    let mut seen = HashSet::new();
    nodes
        .iter()
        .filter_map(|&node| finder.linear(node))
        .filter(|linear| seen.insert((linear.weight_index, linear.layout)))
        .collect()
}
