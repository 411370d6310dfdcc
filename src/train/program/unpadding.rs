//! Padding costs as much as text: here, token-wise operations run on real tokens only.
//!
//! Between the embeddings and the head most work is done on each token separately (linear layers, normalisations,
//! activations). These operations get the real tokens as rows, `[tokens, width]`; before an operation that mixes tokens
//! (attention) the rows are restored to `[batch, length, width]`, with zeros for padding. Nothing changes for the real
//! tokens as long as the export respects its attention mask, which [`super::Program::run`] verifies before it relies on it.

use std::collections::HashMap;

use super::super::operators::FUSED;
use super::graph::Graph;
use super::operation::Operation;
use super::shape_inference::{Dim, Shapes};
use crate::onnx::{Node, Trait, ValueInfo, mask_input};

/// The fused attention, and the number of its inputs: Q, K, V and the mask that is added to the scores.
const ATTENTION: &str = "Attention";
const ATTENTION_INPUTS: usize = 4;

const TOKENS: &str = "tokens of the batch";

/// Rewrites the graph. Returns whether anything was packed. With `padding_unused`, outputs may be zero at padding; without,
/// a graph with outputs that have a position for every token is left unchanged.
pub(super) fn unpad(graph: &mut Graph<'_>, inputs: &[ValueInfo], shapes: &Shapes, padding_unused: bool) -> bool {
    let is_token_wise =
        |name: &str| shapes.get(name).is_some_and(|s| matches!(s.as_slice(), [Dim::Batch, Dim::Length, Dim::Fixed(_)]));
    let shows_padding =
        |name: &String| shapes.get(name).is_none_or(|dims| matches!(dims.as_slice(), [Dim::Batch, Dim::Length, ..]));
    // An output with a position for every token would have zeros where the export computes something.
    let is_matrix =
        |name: &&str| inputs.iter().any(|i| i.name == **name && i.shape.as_ref().is_some_and(|shape| shape.len() == 2));
    let Some(mask) = mask_input(inputs).filter(is_matrix) else { return false };
    if !padding_unused && graph.wanted.iter().any(shows_padding) {
        return false;
    }
    let mut packer =
        Packer { mask: mask.to_owned(), operations: Vec::new(), packed: HashMap::new(), unpacked: HashMap::new() };
    packer.add("RealTokens", vec![mask.to_owned()], TOKENS.into());
    for operation in &graph.operations {
        packer.operation(graph, operation, &is_token_wise);
    }
    if packer.packed.is_empty() {
        return false;
    }
    graph.wanted.iter().for_each(|name| packer.unpack(name));
    graph.operations = packer.operations;
    graph.remove_unused();
    true
}

struct Packer {
    /// Name of the input that distinguishes tokens from padding.
    mask: String,
    operations: Vec<Operation>,
    /// Names of the packed forms of values.
    packed: HashMap<String, String>,
    /// Values that also exist unpacked, under their own names, though they were computed packed.
    unpacked: HashMap<String, bool>,
}

impl Packer {
    fn add(&mut self, op_type: &str, inputs: Vec<String>, output: String) {
        let op_type = op_type.to_owned();
        let name = output.clone();
        let (domain, outputs) = (FUSED.to_owned(), vec![output]);
        self.operations.push(Operation::Node(Node { name, op_type, domain, inputs, outputs, ..Node::default() }));
    }

    fn operation(&mut self, graph: &Graph<'_>, operation: &Operation, is_token_wise: &dyn Fn(&str) -> bool) {
        let mut operation = operation.clone();
        let is_packed = operation.inputs().iter().any(|input| self.packed.contains_key(input));
        let starts = matches!(operation, Operation::Linear(_));
        if (is_packed || starts) && is_row_wise(graph, &operation, is_token_wise) {
            for input in operation.inputs_mut().iter_mut().filter(|input| is_token_wise(input)) {
                *input = self.pack(input);
            }
            let output = operation.outputs()[0].clone();
            operation.outputs_mut()[0] = packed_name(&output);
            self.packed.insert(output.clone(), packed_name(&output));
            self.unpacked.insert(output, false);
        } else {
            for input in operation.inputs().iter().filter(|input| !input.is_empty()) {
                self.unpack(input);
            }
            if let Operation::Node(node) = &mut operation
                && (node.domain.as_str(), node.op_type.as_str()) == (FUSED, ATTENTION)
            {
                // With the mask, attention can skip padding.
                node.inputs.resize(ATTENTION_INPUTS, String::new());
                node.inputs.push(self.mask.clone());
            }
        }
        self.operations.push(operation);
    }

    fn pack(&mut self, name: &str) -> String {
        if let Some(packed) = self.packed.get(name) {
            return packed.clone();
        }
        let packed = packed_name(name);
        self.add("Pack", vec![name.to_owned(), TOKENS.into()], packed.clone());
        self.packed.insert(name.to_owned(), packed.clone());
        packed
    }

    /// Makes a packed value available under its own name.
    fn unpack(&mut self, name: &str) {
        if self.unpacked.get(name) == Some(&false) {
            self.add("Unpack", vec![packed_name(name), TOKENS.into(), self.mask.clone()], name.to_owned());
            self.unpacked.insert(name.to_owned(), true);
        }
    }
}

fn packed_name(name: &str) -> String {
    format!("{name} (packed)")
}

/// Whether the operation treats every token separately.
fn is_row_wise(graph: &Graph<'_>, operation: &Operation, is_token_wise: &dyn Fn(&str) -> bool) -> bool {
    let [output] = operation.outputs() else { return false };
    let is_vector = |name: &str| graph.constant(name).or_else(|| graph.initializer(name)).is_some_and(|t| t.dim() <= 1);
    let Some(pattern) = row_wise_operator(operation) else { return false };
    let inputs_fit = match pattern {
        RowWise::Elements => operation.inputs().iter().all(|input| is_token_wise(input) || is_vector(input)),
        RowWise::First => operation.inputs().first().is_some_and(|input| is_token_wise(input)),
    };
    inputs_fit && is_token_wise(output)
}

enum RowWise {
    /// Element by element, with broadcast vectors.
    Elements,
    /// Over the last axis of the first input.
    First,
}

fn row_wise_operator(operation: &Operation) -> Option<RowWise> {
    let Some(node) = operation.node() else { return Some(RowWise::First) };
    match () {
        () if node.domain == FUSED => None,
        () if node.has(Trait::LayerNorm) => matches!(node.int("axis", -1), -1 | 2).then_some(RowWise::First),
        // A norm fused with an addition treats every token separately too.
        () if node.has_any(&[Trait::ElementWise, Trait::SkipNorm]) => Some(RowWise::Elements),
        () => None,
    }
}
