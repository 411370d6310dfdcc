//! Is the last hidden state before or after a final norm?
//!
//! A block adds to the residual stream. Where the last hidden state is a norm of the last sum, that norm is either the
//! model's final one, or it belongs to the block, as in models that normalise every sum. The sum decides: where norms
//! belong to blocks, what the last block added to is itself the output of a norm; where they do not, it is a plain sum (or
//! the embeddings).

use std::collections::HashSet;

use super::{Node, Topology, Trait, Transformer};

/// How many scale and shift nodes may surround a norm that is written out.
const AFFINE: usize = 4;
/// How many nodes may lie between the mean of squares and the division by its root.
const ROOT: usize = 6;

/// `true`: a norm that no other hidden state has gone through lies between the last residual addition and the last hidden
/// state. `false`: there is none, or it is the norm that ends every block. `None`: the graph does not tell.
pub fn last_state_after_final_norm(model: &Transformer) -> Option<bool> {
    let (topology, states) = (model.topology(), model.states().ok()?);
    let last = states.values.last()?;
    if states.blocks() == 0 {
        return None;
    }
    match norm(&topology, last) {
        None => residual(&topology, Inputs::One(last)).map(|_| false),
        Some(normed) => {
            let stream = residual(&topology, normed)?;
            Some(norm(&topology, stream).is_none())
        }
    }
}

/// The input of a norm: a value, or two that a fused node adds first.
#[derive(Clone, Copy)]
enum Inputs<'g> {
    One(&'g str),
    Sum(&'g str, &'g str),
}

/// The input of the norm that produces a value, fused or written out.
fn norm<'g>(topology: &Topology<'g>, value: &'g str) -> Option<Inputs<'g>> {
    let mut value = through_copies(topology, value);
    for _ in 0..AFFINE {
        let node = topology.producer_node(value)?;
        let input = |at: usize| node.inputs.get(at).map(String::as_str);
        if node.has(Trait::LayerNorm) {
            return input(0).map(Inputs::One);
        }
        if node.has(Trait::SkipNorm) {
            let is_norm = node.outputs.first().is_some_and(|output| output == value);
            return if is_norm { Some(Inputs::Sum(input(0)?, input(1)?)) } else { None };
        }
        if !node.has(Trait::Arithmetic) || node.is("Sub") {
            return None;
        }
        let (left, right) = (input(0)?, input(1)?);
        value = match (is_constant(topology, left), is_constant(topology, right)) {
            (false, true) => through_copies(topology, left),
            (true, false) if node.op_type != "Div" => through_copies(topology, right),
            (false, false) if node.op_type != "Add" => {
                let sides = [(left, right), (right, left)];
                let sides = if node.op_type == "Div" { &sides[..1] } else { &sides[..] };
                return sides.iter().find_map(|(x, root)| written_out(topology, x, root)).map(Inputs::One);
            }
            _ => return None,
        };
    }
    None
}

/// The input of a norm that multiplies (or divides) `x` by something computed from the mean of its squares, with or without
/// the mean subtracted first.
fn written_out<'g>(topology: &Topology<'g>, x: &'g str, root: &'g str) -> Option<&'g str> {
    let mut value = root;
    for _ in 0..ROOT {
        let node = topology.producer_node(value)?;
        if node.is("ReduceMean") {
            let x = through_copies(topology, x);
            let squares = topology.ancestors(&[value], &HashSet::from([x]));
            let of_x = squares.iter().any(|&index| {
                topology.graph.nodes[index].inputs.iter().any(|input| through_copies(topology, input) == x)
            });
            return of_x.then(|| centred(topology, x).unwrap_or(x));
        }
        value = match node.op_type.as_str() {
            "Sqrt" | "Reciprocal" | "Cast" | "Identity" => node.inputs.first()?,
            "Add" | "Pow" | "Div" | "Max" | "Clip" => dynamic(topology, node)?,
            _ => return None,
        };
    }
    None
}

/// `x` of `x − mean(x)`.
fn centred<'g>(topology: &Topology<'g>, value: &'g str) -> Option<&'g str> {
    let node = topology.producer_node(value).filter(|node| node.is("Sub"))?;
    let mean = topology.producer_node(through_copies(topology, node.inputs.get(1)?))?;
    mean.is("ReduceMean").then(|| node.inputs.first().map(String::as_str)).flatten()
}

/// The value that a residual addition adds to: the summand from which the other one is computed.
fn residual<'g>(topology: &Topology<'g>, inputs: Inputs<'g>) -> Option<&'g str> {
    let (left, right) = match inputs {
        Inputs::Sum(left, right) => (left, right),
        Inputs::One(value) => {
            let node = topology.producer_node(through_copies(topology, value))?;
            let adds = node.is("Add") || node.has(Trait::SkipNorm);
            let (left, right) = (node.inputs.first()?, node.inputs.get(1)?);
            if !adds || is_constant(topology, left) || is_constant(topology, right) {
                return None;
            }
            (left.as_str(), right.as_str())
        }
    };
    let made_of = |value: &'g str, part: &'g str| {
        let part = through_copies(topology, part);
        let nodes = topology.ancestors(&[value], &HashSet::from([part]));
        let mut inputs = nodes.iter().flat_map(|&index| &topology.graph.nodes[index].inputs);
        through_copies(topology, value) != part && inputs.any(|input| input == part)
    };
    match (made_of(right, left), made_of(left, right)) {
        (true, false) => Some(left),
        (false, true) => Some(right),
        // Attention and feed-forward part in parallel: their sum is added to the stream, or the stream to their sum.
        _ => parallel(topology, left, right),
    }
}

/// The stream of `(stream + a) + b`, where `a` and `b` are both computed from it.
fn parallel<'g>(topology: &Topology<'g>, left: &'g str, right: &'g str) -> Option<&'g str> {
    let sum = |value: &'g str, other: &'g str| {
        let node = topology.producer_node(through_copies(topology, value)).filter(|node| node.is("Add"))?;
        let nodes = topology.ancestors(&[other], &HashSet::new());
        let used: HashSet<&str> =
            nodes.iter().flat_map(|&index| topology.graph.nodes[index].inputs.iter().map(String::as_str)).collect();
        node.inputs.iter().map(String::as_str).find(|input| used.contains(through_copies(topology, input)))
    };
    sum(left, right).or_else(|| sum(right, left))
}

/// The one input that is not constant.
fn dynamic<'g>(topology: &Topology<'g>, node: &'g Node) -> Option<&'g str> {
    let mut inputs = node.inputs.iter().filter(|input| !input.is_empty() && !is_constant(topology, input));
    let first = inputs.next()?;
    inputs.next().is_none().then_some(first)
}

/// Whether a value is computed from constants alone.
fn is_constant(topology: &Topology<'_>, value: &str) -> bool {
    if topology.constant(value).is_some() {
        return true;
    }
    let mut open = vec![value];
    // A constant scale takes few nodes; anything longer is something else.
    for _ in 0..8 {
        let Some(value) = open.pop() else { return true };
        if topology.constant(value).is_some() {
            continue;
        }
        match topology.producer_node(value) {
            Some(node) => open.extend(super::node_inputs(node)),
            None => return false,
        }
    }
    false
}

/// The value that this one copies, changing type or shape alone.
fn through_copies<'g>(topology: &Topology<'g>, value: &'g str) -> &'g str {
    let mut value = value;
    for _ in 0..8 {
        let copy = topology
            .producer_node(value)
            .filter(|node| node.has(Trait::Copies) || node.is("Reshape") || node.is("Dropout"));
        match copy.and_then(|node| node.inputs.first()) {
            Some(input) => value = input,
            None => break,
        }
    }
    value
}
