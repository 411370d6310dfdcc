//! Graphs inside a node: `If` and `Loop`.
//!
//! What such a graph captures from outside becomes inputs of its node, after the node's own (see [`lift`]). So the rest of the
//! program needs no notion of scopes, and gradients pass through as through any other operator.

use std::collections::{HashMap, HashSet};

use tch::{Device, Kind, Tensor};

use super::super::dropout::Dropout;
use super::{
    Building, Built, Call, Kernel, OpError, Outputs, because, build, find, full_name, load_attribute, scalar,
    scalar_int,
};
use crate::onnx::{Attribute, Graph, Node, ValueInfo, node_inputs};

/// Attribute with the names that the graphs of a node use for its last inputs.
const CAPTURED: &str = "gelora: captured";

/// Turns after which a loop without a trip count is considered endless.
const MOST_TURNS: i64 = 1 << 20;

/// Makes inputs of what the graphs of a node capture from outside, here and in the nodes inside.
pub(crate) fn lift(node: &mut Node) {
    for (_, attribute) in &mut node.attributes {
        if let Attribute::Graph(graph) = attribute {
            graph.nodes.iter_mut().for_each(lift);
        }
    }
    // Without the node's own inputs, only what its graphs capture remains.
    let own = std::mem::take(&mut node.inputs);
    let mut seen = HashSet::new();
    let all = node_inputs(node).into_iter().map(str::to_owned);
    let captured: Vec<String> = all.filter(|name| seen.insert(name.clone())).collect();
    node.inputs = own;
    if node.attributes.iter().any(|(_, attribute)| matches!(attribute, Attribute::Graph(_))) {
        let names = captured.iter().map(|name| name.clone().into_bytes()).collect();
        node.attributes.push((CAPTURED.to_owned(), Attribute::Strings(names)));
        node.inputs.extend(captured);
    }
}

/// The names that the graphs of a lifted node use for its last inputs.
pub(crate) fn captured_names(node: &Node) -> Vec<String> {
    match node.attribute(CAPTURED) {
        Some(Attribute::Strings(names)) => {
            names.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect()
        }
        _ => Vec::new(),
    }
}

/// An attribute of a node that is a graph.
pub(crate) fn graph<'n>(node: &'n Node, name: &str) -> Result<&'n Graph, OpError> {
    match node.attribute(name) {
        Some(Attribute::Graph(graph)) => Ok(graph),
        _ => because(format!("it has no graph `{name}`")),
    }
}

/// A graph as a list of kernels over named values.
struct Body {
    inputs: Vec<ValueInfo>,
    outputs: Vec<ValueInfo>,
    constants: HashMap<String, Tensor>,
    steps: Vec<Step>,
}

struct Step {
    kernel: Kernel,
    host: &'static [usize],
    inputs: Vec<String>,
    outputs: Vec<String>,
    /// Name of the graph, for error messages.
    label: String,
}

impl Body {
    fn new(graph: &Graph, opset: i64) -> Result<Self, OpError> {
        let mut constants = HashMap::new();
        for tensor in &graph.initializers {
            constants.insert(tensor.name.clone(), load_attribute(tensor)?);
        }
        let steps = graph.nodes.iter().map(|node| {
            let label = format!("{} `{}`", full_name(node), node.label());
            let Some(operator) = find(&node.domain, &node.op_type) else {
                return because(format!("{label} inside of it is an operator that cannot be trained here"));
            };
            let kernel = build(operator, &Building { node, opset })
                .map_err(|error| OpError::Because(format!("{label} inside of it: {error}")))?;
            let (inputs, outputs) = (node.inputs.clone(), node.outputs.clone());
            Ok(Step { kernel, host: operator.host, inputs, outputs, label })
        });
        let steps = steps.collect::<Result<_, _>>()?;
        Ok(Body { inputs: graph.inputs.clone(), outputs: graph.outputs.clone(), constants, steps })
    }

    /// The outputs, given all values from outside by name.
    fn run(&self, mut values: HashMap<String, Tensor>, dropout: Option<&Dropout>) -> Outputs {
        // Shapes are computed on the host, and the graph's weights are there: operands that meet data are moved to its device.
        let device = values.values().map(Tensor::device).find(|device| *device != Device::Cpu);
        for step in &self.steps {
            let mut inputs = Vec::with_capacity(step.inputs.len());
            for (position, name) in step.inputs.iter().enumerate() {
                if name.is_empty() {
                    inputs.push(None);
                    continue;
                }
                let value = self.value(name, &values)?;
                inputs.push(Some(match device {
                    Some(device) if !step.host.contains(&position) => value.f_to_device(device)?,
                    _ => value.shallow_clone(),
                }));
            }
            let inputs: Vec<Option<&Tensor>> = inputs.iter().map(Option::as_ref).collect();
            let made = (step.kernel)(&Call { inputs: &inputs, dropout })
                .map_err(|error| OpError::Because(format!("{} inside of it: {error}", step.label)))?;
            let named = step.outputs.iter().cloned().zip(made).filter(|(name, _)| !name.is_empty());
            values.extend(named);
        }
        self.outputs.iter().map(|output| Ok(self.value(&output.name, &values)?.shallow_clone())).collect()
    }

    fn value<'v>(&'v self, name: &str, values: &'v HashMap<String, Tensor>) -> Result<&'v Tensor, OpError> {
        let found = values.get(name).or_else(|| self.constants.get(name));
        found.ok_or_else(|| OpError::Because(format!("`{name}` inside it is never defined")))
    }
}

/// The values that a call hands to the graphs of its node, under the names used there.
fn captured(call: &Call<'_>, names: &[String]) -> Result<HashMap<String, Tensor>, OpError> {
    let first = call.inputs.len().saturating_sub(names.len());
    let value = |(index, name): (usize, &String)| Ok((name.clone(), call.tensor(first + index)?.shallow_clone()));
    names.iter().enumerate().map(value).collect()
}

/// A branch that cannot be built is an error only when it is taken.
fn branch(building: &Building<'_>, name: &str) -> Result<Result<Body, String>, OpError> {
    Ok(Body::new(graph(building.node, name)?, building.opset).map_err(|error| error.to_string()))
}

pub(super) fn conditional(building: &Building<'_>) -> Built {
    let (then, otherwise) = (branch(building, "then_branch")?, branch(building, "else_branch")?);
    let names = captured_names(building.node);
    Ok(Box::new(move |call| {
        let taken = if scalar(call.tensor(0)?)? != 0.0 { &then } else { &otherwise };
        match taken {
            Ok(body) => body.run(captured(call, &names)?, call.dropout),
            Err(reason) => because(reason.clone()),
        }
    }))
}

/// The inputs are the trip count, the condition and the carried values; the outputs are the carried values and, concatenated
/// along a new first axis, the further values that every turn gives.
pub(super) fn repeated(building: &Building<'_>) -> Built {
    let body = Body::new(graph(building.node, "body")?, building.opset)?;
    let names = captured_names(building.node);
    if body.inputs.len() < 2 || body.outputs.len() + 1 < body.inputs.len() {
        return because("its body has too few inputs or outputs");
    }
    Ok(Box::new(move |call| {
        let outside = captured(call, &names)?;
        let carried_count = body.inputs.len() - 2;
        let most = call.optional(0).map(scalar_int).transpose()?;
        let mut goes_on = call.optional(1).map_or(Ok(1.0), scalar)? != 0.0;
        let mut carried =
            (0..carried_count).map(|i| Ok(call.tensor(2 + i)?.shallow_clone())).collect::<Result<Vec<_>, OpError>>()?;
        let mut collected: Vec<Vec<Tensor>> = Vec::new();
        collected.resize_with(body.outputs.len() - 1 - carried_count, Vec::new);
        let mut turn = 0;
        while goes_on && most.is_none_or(|most| turn < most) {
            if most.is_none() && turn == MOST_TURNS {
                return because("it does not end");
            }
            let mut values: HashMap<String, Tensor> =
                outside.iter().map(|(name, value)| (name.clone(), value.shallow_clone())).collect();
            let number = Tensor::f_from_slice(&[turn])?.f_reshape([0i64; 0])?;
            let condition = Tensor::f_ones([0i64; 0], (Kind::Bool, Device::Cpu))?;
            let given = [number, condition].into_iter().chain(carried);
            values.extend(body.inputs.iter().map(|input| input.name.clone()).zip(given));
            let mut made = body.run(values, call.dropout)?.into_iter();
            goes_on = made.next().map_or(Ok(0.0), |condition| scalar(&condition))? != 0.0;
            carried = made.by_ref().take(carried_count).collect();
            collected.iter_mut().zip(made).for_each(|(list, value)| list.push(value));
            turn += 1;
        }
        for (list, output) in collected.iter().zip(&body.outputs[1 + carried_count..]) {
            carried.push(if list.is_empty() { nothing(output)? } else { Tensor::f_stack(list, 0)? });
        }
        Ok(carried)
    }))
}

/// A scan output of a loop without turns: a first axis of 0, the others as far as known.
fn nothing(output: &ValueInfo) -> Result<Tensor, OpError> {
    use crate::onnx::{DataType, Dimension};
    let size = |dimension: &Dimension| if let Dimension::Fixed(size) = dimension { *size as i64 } else { 0 };
    let mut shape = vec![0];
    shape.extend(output.shape.iter().flatten().map(size));
    let kind = super::kind_of(output.data_type.unwrap_or(DataType::Float))?;
    Ok(Tensor::f_zeros(&shape, (kind, Device::Cpu))?)
}
