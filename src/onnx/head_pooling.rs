//! Does a head read one token or all of them, and does it give a row of logits for every token?

use std::collections::{HashMap, HashSet};

use super::linear::LinearFinder;
use super::{Model, Node, Trait};

/// Which axis of a value computed from hidden states runs over the tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tokens {
    /// The tokens run along `axis` of `rank` axes.
    Along { axis: usize, rank: usize },
    /// One token was chosen: no axis of tokens is left.
    Chosen,
    /// The axis cannot be determined.
    Unknown,
}

/// What a head does with the tokens of the last hidden state.
pub(super) struct Reading {
    /// Whether it pools all tokens. `None` where that cannot be determined.
    pub pools: Option<bool>,
    /// Whether its output has a row for every token. `None` where that cannot be determined.
    pub every_token: Option<bool>,
}

/// How the nodes of a head use the tokens of the last hidden state `[batch, sequence, width]`. They pool them by a
/// reduction over the token axis, or by a product with weights that depend on the inputs.
pub(super) fn read(finder: &LinearFinder, model: &Model, last: &[&str], nodes: &[usize], output: &str) -> Reading {
    let graph = finder.topology.graph;
    let inputs: Vec<&str> = graph.inputs.iter().map(|input| input.name.as_str()).collect();
    let inputs: Vec<&str> = inputs.into_iter().filter(|name| finder.topology.initializer(name).is_none()).collect();
    let mut varying: HashSet<&str> = inputs.iter().copied().collect();
    for index in finder.topology.descendants(&inputs, &HashSet::new()) {
        varying.extend(graph.nodes[index].outputs.iter().map(String::as_str));
    }
    // Values computed from hidden states before any linear layer; after one, products are attention.
    let of_states = Tokens::Along { axis: 1, rank: 3 };
    let mut states: HashMap<&str, Tokens> = last.iter().map(|name| (*name, of_states)).collect();
    let mut plain: HashSet<&str> = last.iter().copied().collect();
    let mut known = true;
    let declared = graph.outputs.iter().find(|known| known.name == output).and_then(|known| known.shape.as_ref());
    let declared = declared.and_then(|shape| match shape.len() {
        2 => Some(false),
        3 => Some(true),
        _ => None,
    });
    for &index in nodes {
        let node = &graph.nodes[index];
        // Reading the shape of a hidden state does not read its values.
        let Some(read) = node.inputs.iter().find_map(|input| states.get(input.as_str()).copied()) else { continue };
        if node.has(Trait::ReadsShape) {
            continue;
        }
        let reads_plain = node.inputs.iter().any(|input| plain.contains(input.as_str()));
        let joins = match () {
            () if node.has(Trait::Pooling) => Some(true),
            // A `Gemm` takes matrices: no token axis is left.
            () if node.has(Trait::MatrixProduct) && !node.is("Gemm") => {
                let weights = node.inputs.iter().filter(|input| varying.contains(input.as_str())).count();
                Some(reads_plain && weights > 1)
            }
            () if node.has(Trait::Reduction) => reduces_tokens(axes(finder, model, node).as_deref(), node, read),
            () => Some(false),
        };
        match joins {
            Some(true) => return Reading { pools: Some(true), every_token: declared.or(Some(false)) },
            Some(false) => {}
            None => known = false,
        }
        let after = behind(finder, model, node, read);
        states.extend(node.outputs.iter().map(|output| (output.as_str(), after)));
        if reads_plain && finder.linear(index).is_none() {
            plain.extend(node.outputs.iter().map(String::as_str));
        }
    }
    let every_token = declared.or(match states.get(output) {
        Some(Tokens::Chosen) => Some(false),
        Some(Tokens::Along { .. }) => Some(true),
        _ => None,
    });
    Reading { pools: known.then_some(false), every_token }
}

/// Whether a reduction over `axes` pools tokens laid out like this; no axes means all of them, or none if the node says so.
fn reduces_tokens(axes: Option<&[i64]>, node: &Node, tokens: Tokens) -> Option<bool> {
    if tokens == Tokens::Chosen {
        return Some(false);
    }
    let axes = axes?;
    if axes.is_empty() {
        return Some(node.int("noop_with_empty_axes", 0) == 0);
    }
    match tokens {
        Tokens::Along { axis, rank } => Some(axes.iter().any(|found| place(*found, rank) == Some(axis))),
        // The last axis is the width, whichever axis the tokens are on.
        _ => (axes == [-1]).then_some(false),
    }
}

/// The token axis of a node's output, given that of its input.
fn behind(finder: &LinearFinder, model: &Model, node: &Node, tokens: Tokens) -> Tokens {
    let Tokens::Along { axis, rank } = tokens else { return tokens };
    let scalar = || {
        let rows = node.inputs.get(1).and_then(|name| finder.topology.constant(name));
        rows.is_some_and(|rows| rows.dims.is_empty())
    };
    match node.op_type.as_str() {
        "Transpose" => {
            let turned: Vec<usize> = match node.ints("perm") {
                Some(perm) => perm.iter().filter_map(|old| place(*old, rank)).collect(),
                None => (0..rank).rev().collect(),
            };
            turned.iter().position(|old| *old == axis).map_or(Tokens::Unknown, |axis| Tokens::Along { axis, rank })
        }
        "Gather" if place(node.int("axis", 0), rank) == Some(axis) => Tokens::Chosen,
        "Gather" if scalar() => match place(node.int("axis", 0), rank) {
            Some(other) if other < axis => Tokens::Along { axis: axis - 1, rank: rank - 1 },
            Some(_) => Tokens::Along { axis, rank: rank - 1 },
            None => Tokens::Unknown,
        },
        "GatherND" | "GatherElements" => Tokens::Chosen,
        "Slice" => match one_of_tokens(finder, model, node, axis, rank) {
            true => Tokens::Chosen,
            false => tokens,
        },
        _ if node.has(Trait::Reduction) && node.int("keepdims", 1) == 0 => match axes(finder, model, node).as_deref() {
            Some([one]) => match place(*one, rank) {
                Some(one) if one < axis => Tokens::Along { axis: axis - 1, rank: rank - 1 },
                Some(_) => Tokens::Along { axis, rank: rank - 1 },
                None => Tokens::Unknown,
            },
            _ => Tokens::Unknown,
        },
        _ if node.has(Trait::Reshapes) => Tokens::Unknown,
        _ => tokens,
    }
}

/// Whether a `Slice` leaves one token of each row.
fn one_of_tokens(finder: &LinearFinder, model: &Model, node: &Node, axis: usize, rank: usize) -> bool {
    let read = |position: usize| {
        let tensor = node.inputs.get(position).and_then(|name| finder.topology.constant(name));
        tensor.and_then(|tensor| model.to_i64(tensor).ok())
    };
    let (Some(starts), Some(ends)) = (read(1), read(2)) else { return false };
    let axes = read(3).unwrap_or_else(|| (0..starts.len() as i64).collect());
    let Some(at) = axes.iter().position(|found| place(*found, rank) == Some(axis)) else { return false };
    match (starts.get(at), ends.get(at)) {
        (Some(start), Some(end)) => end - start == 1 || *start == -1 && *end >= i64::from(i32::MAX),
        _ => false,
    }
}

/// An axis counted from the front.
fn place(axis: i64, rank: usize) -> Option<usize> {
    let from_front = if axis < 0 { axis + rank as i64 } else { axis };
    usize::try_from(from_front).ok().filter(|axis| *axis < rank)
}

/// The axes of a reduction, none for all; `None` where they are not known.
fn axes(finder: &LinearFinder, model: &Model, node: &Node) -> Option<Vec<i64>> {
    if let Some(axes) = node.ints("axes") {
        return Some(axes.to_vec());
    }
    match node.inputs.get(1).filter(|name| !name.is_empty()) {
        Some(name) => model.to_i64(finder.topology.constant(name)?).ok(),
        None => Some(Vec::new()),
    }
}
