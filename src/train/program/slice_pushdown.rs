//! Computes only the token of the last block that a head reads.
//!
//! `Gather` of one position at the end of the graph is moved towards the beginning, through everything that treats tokens
//! separately and through the query side of the last attention. What is left out is never read; everything else is
//! computed as before.

use std::collections::HashMap;

use super::super::operators::{FUSED, ints};
use super::graph::Graph;
use super::operation::Operation;
use super::shape_inference::{Dim, Shapes};
use crate::onnx::{Attribute, Node, Trait};

/// How much of a value is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Demand {
    Whole,
    /// One position along this axis.
    Row(usize),
}

/// Narrows the graph to the position that its head reads, if it reads one.
pub(super) fn narrow(graph: &mut Graph<'_>, shapes: &Shapes) {
    let Some(index) = graph.operations.iter().find_map(|operation| root(graph, operation, shapes)) else { return };
    let demands = demands(graph, shapes, index);
    let mut narrower = Narrower { operations: Vec::new(), rows: HashMap::new(), index };
    for operation in &graph.operations {
        if let Some(node) = operation.node()
            && root(graph, operation, shapes) == Some(index)
        {
            let input = narrower.row(&node.inputs[0], 1);
            let attributes = vec![("axes".to_owned(), Attribute::Ints(vec![1]))];
            let squeeze = Node { op_type: "Squeeze".into(), inputs: vec![input], attributes, ..node.clone() };
            narrower.operations.push(Operation::Node(squeeze));
            continue;
        }
        match row_demand(operation, &demands).and_then(|axis| Some((axis, through(graph, operation, axis, shapes)?))) {
            Some((axis, moved)) => narrower.narrowed(operation, axis, moved),
            None => narrower.operations.push(operation.clone()),
        }
    }
    graph.operations = narrower.operations;
    graph.remove_unused();
}

/// The position that an operation selects from `[batch, length, width]`, if it selects one.
fn root(graph: &Graph<'_>, operation: &Operation, shapes: &Shapes) -> Option<i64> {
    let node = operation.node()?;
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
    for operation in graph.operations.iter().rev() {
        if root(graph, operation, shapes) == Some(index) {
            ask(&mut demands, &operation.inputs()[0], Demand::Row(1));
            continue;
        }
        let moved = row_demand(operation, &demands).and_then(|axis| through(graph, operation, axis, shapes));
        match moved {
            Some(Moved { axes, .. }) => {
                for (input, axis) in operation.inputs().iter().zip(axes) {
                    ask(&mut demands, input, axis.map_or(Demand::Whole, Demand::Row));
                }
            }
            None => operation.needs().into_iter().for_each(|input| ask(&mut demands, input, Demand::Whole)),
        }
    }
    demands
}

/// The axis along which only one position of the operation's only output is read.
fn row_demand(operation: &Operation, demands: &HashMap<String, Demand>) -> Option<usize> {
    let outputs = operation.outputs();
    match (outputs, outputs.first().and_then(|output| demands.get(output))) {
        ([_], Some(Demand::Row(axis))) => Some(*axis),
        _ => None,
    }
}

/// The inputs of a narrowed operation: for each the axis to narrow (or the whole input), and a new shape for `Reshape`.
struct Moved {
    axes: Vec<Option<usize>>,
    shape: Option<Vec<i64>>,
}

/// How narrowing the output along `axis` narrows the inputs, if it can.
fn through(graph: &Graph<'_>, operation: &Operation, axis: usize, shapes: &Shapes) -> Option<Moved> {
    let output = shapes.get(operation.outputs().first()?)?;
    let last = output.len().checked_sub(1)?;
    let first_only = |axis: usize| {
        let mut axes = vec![None; operation.inputs().len()];
        axes[0] = Some(axis);
        Some(Moved { axes, shape: None })
    };
    let node = match operation {
        Operation::Node(node) => node,
        Operation::Linear(_) => return if axis < last { first_only(axis) } else { None },
    };
    match (node.domain.as_str(), node.op_type.as_str()) {
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

/// The axis of a broadcast input that corresponds to `axis` of the output: `Some(None)` where it has one position for all.
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

/// A reshape that leaves the dimensions up to the axis unchanged and makes fixed dimensions of the rest.
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
    operations: Vec<Operation>,
    /// Names of the existing narrowed forms, by value and axis.
    rows: HashMap<(String, usize), String>,
    index: i64,
}

impl Narrower {
    /// The narrowed form of a value, created from the whole value if it does not exist yet.
    fn row(&mut self, name: &str, axis: usize) -> String {
        let key = (name.to_owned(), axis);
        if let Some(row) = self.rows.get(&key) {
            return row.clone();
        }
        let row = row_name(name, axis);
        self.operations.push(Operation::Node(Node {
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
        }));
        self.rows.insert(key, row.clone());
        row
    }

    fn narrowed(&mut self, operation: &Operation, axis: usize, moved: Moved) {
        let mut narrowed = operation.clone();
        for (input, axis) in narrowed.inputs_mut().iter_mut().zip(&moved.axes) {
            if let Some(axis) = axis {
                *input = self.row(input, *axis);
            }
        }
        if let Operation::Node(node) = &mut narrowed {
            node.name = operation.label().to_owned();
            if let Some(shape) = moved.shape {
                node.inputs.truncate(1);
                node.attributes = vec![("shape".to_owned(), Attribute::Ints(shape))];
            }
        }
        let output = operation.outputs()[0].clone();
        narrowed.outputs_mut()[0] = row_name(&output, axis);
        self.rows.insert((output.clone(), axis), row_name(&output, axis));
        self.operations.push(narrowed);
    }
}

fn row_name(name: &str, axis: usize) -> String {
    format!("{name} (one position of axis {axis})")
}
