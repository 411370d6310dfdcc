//! Patterns of nodes, each replaced by one operation that libtorch computes in one call, forward and backward.
//!
//! A pass rewrites the last node of a pattern; nodes that only the pattern used are then unused and removed. A pattern whose
//! inner values are needed elsewhere stays correct: they are computed as well.

use super::super::operators::FUSED;
use super::graph::Graph;
use super::operation::Operation;
use crate::onnx::{Attribute, Node};

/// Constants of exports are rounded to float32.
const CLOSE: f64 = 1e-5;

/// Replaces every known pattern.
pub(super) fn fuse(graph: &mut Graph<'_>) {
    for find in [erf_gelu, tanh_gelu, silu, layer_normalization, attention] {
        rewrite(graph, find);
    }
}

/// A pattern that was found, and its replacement.
struct Found {
    /// Index of the last node of the pattern.
    last: usize,
    node: Node,
}

fn rewrite(graph: &mut Graph<'_>, find: fn(&Graph<'_>, usize) -> Option<Found>) {
    for index in 0..graph.operations.len() {
        if let Some(Found { last, node }) = find(graph, index) {
            graph.operations[last] = Operation::Node(node);
        }
    }
    graph.remove_unused();
}

/// A node that replaces `last` and keeps its name and output.
fn replacing(
    last: &Node,
    domain: &str,
    op_type: &str,
    inputs: Vec<String>,
    attributes: Vec<(&str, Attribute)>,
) -> Node {
    Node {
        name: last.label().to_owned(),
        op_type: op_type.into(),
        domain: domain.into(),
        inputs,
        outputs: last.outputs.clone(),
        attributes: attributes.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        metadata: last.metadata.clone(),
    }
}

impl Graph<'_> {
    fn is_number(&self, name: &str, value: f64) -> bool {
        self.number(name).is_some_and(|n| (n - value).abs() <= CLOSE * value.abs())
    }

    /// For a node with two inputs of which one is a constant number: the other input and the number.
    fn with_number<'n>(&self, node: &'n Node) -> Option<(&'n str, f64)> {
        let [a, b] = node.inputs.as_slice() else { return None };
        match (self.number(a), self.number(b)) {
            (None, Some(number)) => Some((a, number)),
            (Some(number), None) => Some((b, number)),
            _ => None,
        }
    }

    /// The only node that uses the node's only output, if that output may disappear.
    fn only_user(&self, node: &Node) -> Option<usize> {
        let output = node.outputs.first()?;
        if self.is_private(output) { self.users(output).first().copied() } else { None }
    }

    /// The input of a node that is not `known`.
    fn other<'n>(&self, node: &'n Node, known: &str) -> Option<&'n str> {
        match node.inputs.as_slice() {
            [a, b] if a == known && b != known => Some(b),
            [a, b] if b == known && a != known => Some(a),
            _ => None,
        }
    }

    /// `x` if the value is `x · factor`, written as a product or as a quotient.
    fn scaled_by(&self, name: &str, factor: f64) -> Option<String> {
        let node = self.node(self.maker(name)?)?;
        let (x, number) = self.with_number(node)?;
        let fits = (node.is("Mul") && close(number, factor))
            || (node.is("Div") && node.inputs[0] == x && close(number, 1.0 / factor));
        fits.then(|| x.to_owned())
    }

    /// Follows `½ · x · bracket` from the bracket, in any order of the factors, to the last product.
    fn half_x_times(&self, bracket: &str, x: &str) -> Option<usize> {
        let (mut value, mut has_x, mut has_half) = (bracket.to_owned(), false, false);
        loop {
            if !self.is_private(&value) {
                return None;
            }
            let index = *self.users(&value).first()?;
            let node = self.node(index)?;
            let other = self.other(node, &value)?;
            let is_half_x = self.scaled_by(other, 0.5).is_some_and(|inner| inner == x);
            let halves = (node.is("Mul") && self.is_number(other, 0.5))
                || (node.is("Div") && node.inputs[0] == value && self.is_number(other, 2.0));
            if node.is("Mul") && other == x && !has_x {
                has_x = true;
            } else if halves && !has_half {
                has_half = true;
            } else if node.is("Mul") && is_half_x && !has_x && !has_half {
                (has_x, has_half) = (true, true);
            } else {
                return None;
            }
            if has_x && has_half {
                return Some(index);
            }
            value = node.outputs.first()?.clone();
        }
    }
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= CLOSE * b.abs()
}

fn gelu_node(graph: &Graph<'_>, bracket: &Node, x: &str, approximate: &str) -> Option<Found> {
    let last = graph.half_x_times(bracket.outputs.first()?, x)?;
    let attributes = vec![("approximate", Attribute::String(approximate.as_bytes().to_vec()))];
    Some(Found { last, node: replacing(graph.node(last)?, "", "Gelu", vec![x.to_owned()], attributes) })
}

/// The node that adds 1 to the output of this one.
fn plus_one<'g>(graph: &'g Graph<'_>, node: &Node) -> Option<&'g Node> {
    let add = graph.node(graph.only_user(node)?)?;
    let one = graph.other(add, node.outputs.first()?)?;
    (add.is("Add") && graph.is_number(one, 1.0)).then_some(add)
}

/// `½ · x · (1 + erf(x / √2))`.
fn erf_gelu(graph: &Graph<'_>, index: usize) -> Option<Found> {
    let erf = graph.node(index)?;
    if !erf.is("Erf") {
        return None;
    }
    let x = graph.scaled_by(&erf.inputs[0], std::f64::consts::FRAC_1_SQRT_2)?;
    gelu_node(graph, plus_one(graph, erf)?, &x, "none")
}

/// `½ · x · (1 + tanh(√(2/π) · (x + 0.044715 · x³)))`.
fn tanh_gelu(graph: &Graph<'_>, index: usize) -> Option<Found> {
    let tanh = graph.node(index)?;
    if !tanh.is("Tanh") {
        return None;
    }
    let inner = graph.scaled_by(&tanh.inputs[0], (2.0 / std::f64::consts::PI).sqrt())?;
    let sum = graph.made_by(&inner, "Add")?;
    let x = sum.inputs.iter().find(|x| {
        let cube = graph.other(sum, x).and_then(|scaled| graph.scaled_by(scaled, 0.044715));
        cube.is_some_and(|cube| is_cube(graph, &cube, x))
    })?;
    gelu_node(graph, plus_one(graph, tanh)?, x, "tanh")
}

fn is_cube(graph: &Graph<'_>, name: &str, x: &str) -> bool {
    if let Some(power) = graph.made_by(name, "Pow") {
        return power.inputs[0] == x && graph.is_number(&power.inputs[1], 3.0);
    }
    let is_square = |name: &str| graph.made_by(name, "Mul").is_some_and(|n| n.inputs.iter().all(|i| i == x));
    graph.made_by(name, "Mul").and_then(|n| graph.other(n, x)).is_some_and(is_square)
}

/// `x · sigmoid(x)`.
fn silu(graph: &Graph<'_>, index: usize) -> Option<Found> {
    let sigmoid = graph.node(index)?;
    let last = graph.only_user(sigmoid).filter(|_| sigmoid.is("Sigmoid"))?;
    let product = graph.node(last)?;
    let x = &sigmoid.inputs[0];
    let fits = product.is("Mul") && graph.other(product, &sigmoid.outputs[0]) == Some(x);
    fits.then(|| Found { last, node: replacing(product, "", "Swish", vec![x.clone()], Vec::new()) })
}

/// `(x − mean) / √(mean((x − mean)²) + ε) · weight + bias` over the last axis.
fn layer_normalization(graph: &Graph<'_>, index: usize) -> Option<Found> {
    let quotient = graph.node(index)?;
    if !quotient.is("Div") {
        return None;
    }
    let difference = &quotient.inputs[0];
    let subtraction = graph.made_by(difference, "Sub")?;
    let x = &subtraction.inputs[0];
    if mean_of(graph, &subtraction.inputs[1])? != *x {
        return None;
    }
    let root = graph.made_by(&quotient.inputs[1], "Sqrt")?;
    let (variance, epsilon) = graph.with_number(graph.made_by(&root.inputs[0], "Add")?)?;
    let square = graph.node(graph.maker(&mean_of(graph, variance)?)?)?;
    let is_square = match square.op_type.as_str() {
        "Pow" => square.inputs[0] == *difference && graph.is_number(&square.inputs[1], 2.0),
        "Mul" => square.inputs.iter().all(|input| input == difference),
        _ => false,
    };
    let scale = graph.node(graph.only_user(quotient)?)?;
    let weight = graph.other(scale, &quotient.outputs[0])?;
    let last = graph.only_user(scale)?;
    let shift = graph.node(last)?;
    let bias = graph.other(shift, &scale.outputs[0])?;
    let vectors = [weight, bias].map(|name| graph.constant(name).map(tch::Tensor::size));
    let [Some(first), Some(second)] = vectors else { return None };
    if !is_square || !scale.is("Mul") || !shift.is("Add") || first.len() != 1 || first != second {
        return None;
    }
    let inputs = vec![x.clone(), weight.to_owned(), bias.to_owned()];
    let attributes = vec![("axis", Attribute::Int(-1)), ("epsilon", Attribute::Float(epsilon as f32))];
    Some(Found { last, node: replacing(shift, "", "LayerNormalization", inputs, attributes) })
}

/// `x` if the value is the mean of `x` over its last axis, that axis kept.
fn mean_of(graph: &Graph<'_>, name: &str) -> Option<String> {
    let node = graph.made_by(name, "ReduceMean")?;
    let axes = match node.inputs.get(1) {
        Some(axes) => super::super::operators::ints(graph.constant(axes)?).ok()?,
        None => node.ints("axes")?.to_vec(),
    };
    (axes == [-1] && node.int("keepdims", 1) == 1).then(|| node.inputs[0].clone())
}

/// `softmax(scale · Q·Kᵀ + mask) · V`; K arrives transposed, as in the export.
fn attention(graph: &Graph<'_>, index: usize) -> Option<Found> {
    let softmax = graph.node(index)?;
    let old = graph.opset() < 13;
    if !softmax.is("Softmax") || old || !matches!(softmax.int("axis", -1), -1 | 3) {
        return None;
    }
    let last = graph.only_user(softmax)?;
    let product = graph.node(last)?;
    if !product.is("MatMul") || product.inputs[0] != softmax.outputs[0] {
        return None;
    }
    let mut scores = softmax.inputs[0].clone();
    let mut mask = String::new();
    let mut scale = 1.0;
    if let Some(add) = graph.made_by(&scores, "Add")
        && graph.is_private(&scores)
    {
        let is_score = |name: &&String| unscaled(graph, name).is_some();
        let score = add.inputs.iter().find(is_score)?.clone();
        mask = graph.other(add, &score)?.to_owned();
        scores = score;
    }
    let (name, factor) = unscaled(graph, &scores)?;
    scale *= factor;
    let qk = graph.made_by(&name, "MatMul").filter(|_| graph.is_private(&name))?;
    let mut inputs = vec![qk.inputs[0].clone(), qk.inputs[1].clone(), product.inputs[1].clone()];
    if !mask.is_empty() {
        inputs.push(mask);
    }
    let attributes = vec![("scale", Attribute::Float(scale as f32))];
    Some(Found { last, node: replacing(product, FUSED, "Attention", inputs, attributes) })
}

/// For the product of two computed matrices, possibly scaled by a number: its name and the number.
fn unscaled(graph: &Graph<'_>, name: &str) -> Option<(String, f64)> {
    if !graph.is_private(name) {
        return None;
    }
    let is_product = |name: &str| graph.made_by(name, "MatMul").is_some();
    if is_product(name) {
        return Some((name.to_owned(), 1.0));
    }
    let node = graph.node(graph.maker(name)?)?;
    let (inner, number) = graph.with_number(node)?;
    let factor = match node.op_type.as_str() {
        "Mul" => number,
        "Div" if node.inputs[0] == inner => 1.0 / number,
        _ => return None,
    };
    (is_product(inner) && graph.is_private(inner)).then(|| (inner.to_owned(), factor))
}
