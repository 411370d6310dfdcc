//! Symbolic shapes of all values, inferred by running the graph on two tiny batches of different sizes.

use std::collections::HashMap;

use tch::{Device, Tensor};

use super::super::operators::{Building, Call, OpError, because, build, find, kind_of};
use super::graph::Graph;
use super::operation::Operation;
use crate::onnx::{DataType, Dimension, TokenInput, ValueInfo, token_input};

/// One dimension of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dim {
    /// The number of rows of the batch.
    Batch,
    /// The padded length.
    Length,
    /// A size that is the same for every batch.
    Fixed(i64),
    /// A size derived from the others.
    Other,
}

/// Dimensions of every value in the graph.
pub(super) type Shapes = HashMap<String, Vec<Dim>>;

/// Batch size and length of the two probes: numbers that a dimension of a model is unlikely to match by accident.
const PROBES: [(i64, i64); 2] = [(2, 5), (3, 7)];

/// The shapes, or `None` where the inputs are not of the form `[batch, length]` or the graph does not run on them.
pub(super) fn infer_shapes(graph: &Graph<'_>, inputs: &[ValueInfo]) -> Option<Shapes> {
    let names = batch_and_length(inputs)?;
    let [first, second] = PROBES.map(|sizes| tch::no_grad(|| run(graph, inputs, &names, sizes)).ok());
    let (first, second) = (first?, second?);
    let mut shapes = Shapes::new();
    for (name, a) in &first {
        let b = second.get(name)?;
        if a.len() != b.len() {
            continue;
        }
        let dims = a.iter().zip(b).map(|(a, b)| match (*a, *b) {
            (a, b) if (a, b) == (PROBES[0].0, PROBES[1].0) => Dim::Batch,
            (a, b) if (a, b) == (PROBES[0].1, PROBES[1].1) => Dim::Length,
            (a, b) if a == b => Dim::Fixed(a),
            _ => Dim::Other,
        });
        shapes.insert(name.clone(), dims.collect());
    }
    Some(shapes)
}

/// The model's names for the two dimensions of its first `[batch, length]` input.
fn batch_and_length(inputs: &[ValueInfo]) -> Option<(String, String)> {
    inputs.iter().find_map(|input| match input.shape.as_deref() {
        Some([Dimension::Named(batch), Dimension::Named(length)]) => Some((batch.clone(), length.clone())),
        _ => None,
    })
}

fn run(
    graph: &Graph<'_>,
    inputs: &[ValueInfo],
    names: &(String, String),
    (batch, length): (i64, i64),
) -> Result<HashMap<String, Vec<i64>>, OpError> {
    let mut values: HashMap<&str, Tensor> = HashMap::new();
    for input in inputs {
        let mut shape = Vec::new();
        for dimension in input.shape.as_deref().unwrap_or_default() {
            shape.push(match dimension {
                Dimension::Fixed(size) => *size as i64,
                Dimension::Named(name) if *name == names.0 => batch,
                Dimension::Named(name) if *name == names.1 => length,
                _ => return because("an input of unknown shape"),
            });
        }
        let kind = kind_of(input.data_type.unwrap_or(DataType::Int64))?;
        let options = (kind, Device::Cpu);
        // Zeros are valid token ids, types and positions; the mask must be one to let tokens through.
        let is_mask = token_input(&input.name) == Some(TokenInput::Mask);
        let tensor = if is_mask { Tensor::f_ones(&shape, options)? } else { Tensor::f_zeros(&shape, options)? };
        values.insert(&input.name, tensor);
    }
    let mut sizes = HashMap::new();
    for operation in &graph.operations {
        let outputs = execute(graph, operation, &values)?;
        for (name, tensor) in operation.outputs().iter().zip(outputs).filter(|(name, _)| !name.is_empty()) {
            sizes.insert(name.clone(), tensor.size());
            values.insert(name, tensor);
        }
    }
    Ok(sizes)
}

fn execute(graph: &Graph<'_>, operation: &Operation, values: &HashMap<&str, Tensor>) -> Result<Vec<Tensor>, OpError> {
    let value = |name: &String| {
        let known = values.get(name.as_str()).or_else(|| graph.constant(name)).or_else(|| graph.initializer(name));
        known.ok_or_else(|| OpError::Because(format!("`{name}` is not known")))
    };
    let node = match operation {
        Operation::Node(node) => node,
        // Only the shape counts.
        Operation::Linear(linear) => {
            let (weight, input) = (value(&linear.weight)?.size(), value(&linear.input)?);
            let mut shape = input.size();
            if let (Some(last), Some(width)) = (shape.last_mut(), weight.get(usize::from(!linear.out_in))) {
                *last = *width;
            }
            return Ok(vec![Tensor::f_zeros(&shape, (input.f_kind()?, Device::Cpu))?]);
        }
    };
    let Some(operator) = find(&node.domain, &node.op_type) else { return because("an unknown operator") };
    let inputs = node.inputs.iter().map(|name| if name.is_empty() { Ok(None) } else { value(name).map(Some) });
    let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
    let kernel = build(operator, &Building { node, opset: graph.opset() })?;
    kernel(&Call { inputs: &inputs, dropout: None })
}
