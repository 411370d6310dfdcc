//! A copy of a model that computes only the requested values, made for one session and never written to disk.
//!
//! ONNX Runtime runs every node of a graph whatever outputs are fetched; a head over a large vocabulary costs more than the
//! rest. So the messages of the file that lead to the wanted values are copied byte for byte, and the rest is left out.

use std::collections::HashSet;

use super::wire::{Reader, Value, WireError, Writer};
use super::{Model, NodeSpec, OnnxError, Topology, Transformer, ValueInfo, node_inputs};

/// What a subgraph has in addition to the model's own nodes.
#[derive(Debug, Clone, Default)]
pub struct Additions {
    /// Extra nodes in topological order; they may use the wanted values and the added inputs.
    pub nodes: Vec<NodeSpec>,
    /// Extra inputs.
    pub inputs: Vec<ValueInfo>,
    /// The outputs; they replace those of the model.
    pub outputs: Vec<ValueInfo>,
}

const GRAPH: u32 = 7;

/// The part of the model that `wanted` needs, with the additions, as the bytes of an `.onnx` file.
///
/// # Errors
/// When the file cannot be read as protobuf.
pub fn subgraph(model: &Transformer, wanted: &[&str], additions: &Additions) -> Result<Vec<u8>, OnnxError> {
    let malformed = |error: WireError| OnnxError::Malformed { path: model.path().into(), reason: error.to_string() };
    let kept = Kept::new(&model.topology(), wanted);
    let mut writer = Writer::new();
    let buffer = model.file_bytes();
    let mut at = Position::default();
    let mut reader = Reader::new(buffer, 0..buffer.len());
    while let Some(field) = reader.next_field().map_err(malformed)? {
        match field.value {
            Value::Bytes(range) if field.number == GRAPH => {
                let mut inner = Reader::new(buffer, range);
                while let Some(field) = inner.next_field().map_err(malformed)? {
                    if let Value::Bytes(range) = field.value
                        && kept.keeps(model, field.number, &mut at)
                    {
                        // Messages concatenate: every part of the graph may be in a graph message of its own.
                        writer.message(GRAPH, |graph| drop_result(graph.bytes(field.number, &buffer[range])));
                    }
                }
            }
            Value::Bytes(range) => drop_result(writer.bytes(field.number, &buffer[range])),
            Value::Varint(value) => drop_result(writer.int(field.number, value as i64)),
            // A model has no fixed-width fields.
            Value::Fixed64(_) | Value::Fixed32(_) => {}
        }
    }
    for node in &additions.nodes {
        writer.message(GRAPH, |graph| drop_result(graph.message(1, |message| node.encode(message))));
    }
    for (number, values) in [(11, &additions.inputs), (12, &additions.outputs)] {
        for value in values {
            writer.message(GRAPH, |graph| drop_result(graph.message(number, |message| value.encode(message))));
        }
    }
    Ok(writer.into_bytes())
}

/// Discards the writer that the writer's methods return for chaining.
fn drop_result(_: &mut Writer) {}

/// Number of nodes, initializers, inputs and inner values seen so far, in file order.
#[derive(Default)]
struct Position {
    nodes: usize,
    initializers: usize,
    inputs: usize,
    values: usize,
}

struct Kept<'g> {
    nodes: HashSet<usize>,
    /// Values that the kept nodes use or produce, and the wanted ones.
    values: HashSet<&'g str>,
}

impl<'g> Kept<'g> {
    fn new(topology: &Topology<'g>, wanted: &[&'g str]) -> Self {
        let nodes = topology.ancestors(wanted, &HashSet::new());
        let mut values: HashSet<&str> = wanted.iter().copied().collect();
        for &index in &nodes {
            let node = &topology.graph.nodes[index];
            values.extend(node_inputs(node));
            values.extend(node.outputs.iter().map(String::as_str));
        }
        Self { nodes, values }
    }

    /// Whether the next part of the graph with this field number is kept.
    fn keeps(&self, model: &Model, number: u32, at: &mut Position) -> bool {
        let graph = &model.graph;
        let next = |counter: &mut usize| {
            *counter += 1;
            *counter - 1
        };
        let used = |name: Option<&String>| name.is_some_and(|name| self.values.contains(name.as_str()));
        match number {
            1 => self.nodes.contains(&model.node_at(next(&mut at.nodes))),
            5 => used(graph.initializers.get(next(&mut at.initializers)).map(|tensor| &tensor.name)),
            11 => used(graph.inputs.get(next(&mut at.inputs)).map(|input| &input.name)),
            12 => false,
            13 => used(graph.value_info.get(next(&mut at.values)).map(|value| &value.name)),
            _ => true,
        }
    }
}
