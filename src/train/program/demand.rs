//! A head that looks at one token needs only that token of the last block.
//!
//! `Gather` of one position at the end of the graph is moved towards the beginning, through everything that treats tokens
//! by themselves and through the query side of the last attention. What is left out is never looked at; what is computed is
//! computed as before.

use std::collections::HashMap;

use super::super::operators::{FUSED, ints};
use super::graph::Graph;
use super::linear::LINEAR;
use super::probe::{Dim, Shapes};
use crate::onnx::{Attribute, Node, Trait, node_inputs};

/// How much of a value is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Demand {
    Whole,
    /// One position along this axis.
    Row(usize),
}

/// Narrows the graph to the position that its head reads, if it reads one.
pub(super) fn narrow(graph: &mut Graph<'_>, shapes: &Shapes) {
    let Some(index) = graph.nodes.iter().find_map(|node| root(graph, node, shapes)) else { return };
    let demands = demands(graph, shapes, index);
    let mut narrower = Narrower { nodes: Vec::new(), rows: HashMap::new(), index };
    for node in &graph.nodes {
        if root(graph, node, shapes) == Some(index) {
            let input = narrower.row(&node.inputs[0], 1);
            let attributes = vec![("axes".to_owned(), Attribute::Ints(vec![1]))];
            let squeeze = Node { op_type: "Squeeze".into(), inputs: vec![input], attributes, ..node.clone() };
            narrower.nodes.push(squeeze);
            continue;
        }
        match row_demand(node, &demands).and_then(|axis| Some((axis, through(graph, node, axis, shapes)?))) {
            Some((axis, moved)) => narrower.narrowed(node, axis, moved),
            None => narrower.nodes.push(node.clone()),
        }
    }
    graph.nodes = narrower.nodes;
    graph.remove_unused();
}

/// The position that a node takes from `[batch, length, width]`, if it takes one.
fn root(graph: &Graph<'_>, node: &Node, shapes: &Shapes) -> Option<i64> {
    if !node.is("Gather") || !matches!(node.int("axis", 0), 1 | -2) {
        return None;
    }
    let token_wise = matches!(shapes.get(&node.inputs[0])?.as_slice(), [Dim::Batch, Dim::Length, Dim::Fixed(_)]);
    let position = graph.constant(&node.inputs[1]).filter(|t| t.dim() == 0 && token_wise)?;
    ints(position).ok()?.first().copied()
}

fn demands(graph: &Graph<'_>, shapes: &Shapes, index: i64) -> HashMap<String, Demand> {
    let mut demands: HashMap<String, Demand> = graph.wanted.iter().map(|name| (name.clone(), Demand::Whole)).collect();
    let ask = |demands: &mut HashMap<String, Demand>, name: &str, demand: Demand| {
        let present = demands.entry(name.to_owned()).or_insert(demand);
        if *present != demand {
            *present = Demand::Whole;
        }
    };
    for node in graph.nodes.iter().rev() {
        if root(graph, node, shapes) == Some(index) {
            ask(&mut demands, &node.inputs[0], Demand::Row(1));
            continue;
        }
        let moved = row_demand(node, &demands).and_then(|axis| through(graph, node, axis, shapes));
        match moved {
            Some(Moved { axes, .. }) => {
                for (input, axis) in node.inputs.iter().zip(axes) {
                    ask(&mut demands, input, axis.map_or(Demand::Whole, Demand::Row));
                }
            }
            None => node_inputs(node).into_iter().for_each(|input| ask(&mut demands, input, Demand::Whole)),
        }
    }
    demands
}

/// The axis along which only one position of the node's only output is looked at.
fn row_demand(node: &Node, demands: &HashMap<String, Demand>) -> Option<usize> {
    match (node.outputs.as_slice(), node.outputs.first().and_then(|output| demands.get(output))) {
        ([_], Some(Demand::Row(axis))) => Some(*axis),
        _ => None,
    }
}

/// What a narrowed node reads: per input the axis to narrow (or the input as it is), and a new shape for `Reshape`.
struct Moved {
    axes: Vec<Option<usize>>,
    shape: Option<Vec<i64>>,
}

/// How narrowing the output along `axis` narrows the inputs, if it can.
fn through(graph: &Graph<'_>, node: &Node, axis: usize, shapes: &Shapes) -> Option<Moved> {
    let output = shapes.get(node.outputs.first()?)?;
    let last = output.len().checked_sub(1)?;
    let first_only = |axis: usize| {
        let mut axes = vec![None; node.inputs.len()];
        axes[0] = Some(axis);
        Some(Moved { axes, shape: None })
    };
    match (node.domain.as_str(), node.op_type.as_str()) {
        (FUSED, LINEAR) if axis < last => first_only(axis),
        (FUSED, "Attention") if axis == 2 => {
            let mask = node.inputs.get(3).map(|mask| broadcast_axis(graph, mask, output, axis, shapes));
            let mut axes = vec![Some(2), None, None];
            if let Some(mask) = mask {
                axes.push(mask?);
            }
            Some(Moved { axes, shape: None })
        }
        ("", _)
            if node.has(Trait::LayerNorm)
                && axis < last
                && (node.int("axis", -1) == -1 || node.int("axis", -1) == last as i64) =>
        {
            first_only(axis)
        }
        ("", "Softmax") if axis < last && graph.opset() >= 13 && node.int("axis", -1) == -1 => first_only(axis),
        ("", "MatMul") if axis + 1 == last && shapes.get(&node.inputs[0])?.len() == output.len() => first_only(axis),
        ("", "Transpose") => first_only(usize::try_from(*node.ints("perm")?.get(axis)?).ok()?),
        ("", "Reshape") => through_reshape(node, axis, shapes),
        ("", _) if node.has(Trait::ElementWise) => {
            let axes = node.inputs.iter().map(|input| broadcast_axis(graph, input, output, axis, shapes));
            Some(Moved { axes: axes.collect::<Option<_>>()?, shape: None })
        }
        _ => None,
    }
}

/// The axis of a broadcast input that lies under `axis` of the output: `Some(None)` where the input has one position for all.
fn broadcast_axis(
    graph: &Graph<'_>,
    name: &str,
    output: &[Dim],
    axis: usize,
    shapes: &Shapes,
) -> Option<Option<usize>> {
    let known = graph.constant(name).or_else(|| graph.initializer(name));
    let dims = match (shapes.get(name), known) {
        (Some(dims), _) => dims.clone(),
        (None, Some(tensor)) => tensor.size().into_iter().map(Dim::Fixed).collect(),
        (None, None) => return None,
    };
    let Some(place) = (axis + dims.len()).checked_sub(output.len()) else { return Some(None) };
    match dims[place] {
        Dim::Fixed(1) => Some(None),
        dim if dim == output[axis] => Some(Some(place)),
        _ => None,
    }
}

/// A reshape that leaves everything up to the axis alone and makes fixed dimensions of the rest.
fn through_reshape(node: &Node, axis: usize, shapes: &Shapes) -> Option<Moved> {
    let (input, output) = (shapes.get(&node.inputs[0])?, shapes.get(&node.outputs[0])?);
    if input.get(..=axis)? != output.get(..=axis)? {
        return None;
    }
    let rest = output[axis + 1..].iter().map(|dim| match dim {
        Dim::Fixed(size) => Some(*size),
        _ => None,
    });
    // 0 copies the input's dimension.
    let shape = (0..=axis).map(|_| Some(0)).chain(rest).collect::<Option<Vec<i64>>>()?;
    let mut axes = vec![None; node.inputs.len()];
    axes[0] = Some(axis);
    Some(Moved { axes, shape: Some(shape) })
}

struct Narrower {
    nodes: Vec<Node>,
    /// Narrowed forms that exist: (value, axis) to name.
    rows: HashMap<(String, usize), String>,
    index: i64,
}

impl Narrower {
    /// The narrowed form of a value, made from the whole one where it does not exist yet.
    fn row(&mut self, name: &str, axis: usize) -> String {
        let key = (name.to_owned(), axis);
        if let Some(row) = self.rows.get(&key) {
            return row.clone();
        }
        let row = row_name(name, axis);
        self.nodes.push(Node {
            name: row.clone(),
            op_type: "Row".into(),
            domain: FUSED.into(),
            inputs: vec![name.to_owned()],
            outputs: vec![row.clone()],
            attributes: vec![
                ("axis".to_owned(), Attribute::Int(axis as i64)),
                ("index".to_owned(), Attribute::Int(self.index)),
            ],
            metadata: Vec::new(),
        });
        self.rows.insert(key, row.clone());
        row
    }

    fn narrowed(&mut self, node: &Node, axis: usize, moved: Moved) {
        let mut narrowed = node.clone();
        for (input, axis) in narrowed.inputs.iter_mut().zip(&moved.axes) {
            if let Some(axis) = axis {
                *input = self.row(input, *axis);
            }
        }
        if let Some(shape) = moved.shape {
            narrowed.inputs.truncate(1);
            narrowed.attributes = vec![("shape".to_owned(), Attribute::Ints(shape))];
        }
        narrowed.name = node.label().to_owned();
        let output = node.outputs[0].clone();
        narrowed.outputs = vec![row_name(&output, axis)];
        self.rows.insert((output.clone(), axis), row_name(&output, axis));
        self.nodes.push(narrowed);
    }
}

fn row_name(name: &str, axis: usize) -> String {
    format!("{name} (one position of axis {axis})")
}
