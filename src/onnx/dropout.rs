//! Exports made in training mode: dropout that is still active, and the edit that switches it off.

use super::splice::{with_input, with_int_attribute};
use super::{Edit, Model, Node, OnnxError, Topology, Trait, Transformer};

/// A `Dropout` node that is active.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActiveDropout {
    /// Index in `graph.nodes`.
    pub node: usize,
    /// Name of the node, or its first output.
    pub name: String,
}

/// The `Dropout` nodes of the main graph that a constant puts in training mode.
pub fn active_dropout(model: &Transformer) -> Vec<ActiveDropout> {
    let topology = model.topology();
    let nodes = model.graph.nodes.iter().enumerate();
    nodes
        .filter(|(_, node)| node.is("Dropout") && is_active(model, &topology, node))
        .map(|(index, node)| ActiveDropout { node: index, name: node.label().to_owned() })
        .collect()
}

/// Whether there is a dropout with a training-mode input; one without is inert.
pub fn has_training_dropout(model: &Model) -> bool {
    let trains = |node: &Node| node.is("Dropout") && node.inputs.get(2).is_some_and(|name| !name.is_empty());
    model.graph.nodes.iter().any(trains)
}

fn is_active(model: &Model, topology: &Topology, node: &Node) -> bool {
    match model.opset() {
        // Before version 7 the attribute `is_test` says whether the node is inactive; by default it is active.
        ..7 => node.int("is_test", 0) == 0,
        // From 7 to 11 it is always inactive.
        7..12 => false,
        _ => {
            let Some(mode) = node.inputs.get(2).filter(|name| !name.is_empty()) else { return false };
            let Some(constant) = constant_behind(topology, mode) else { return false };
            model.bytes(constant).is_ok_and(|bytes| bytes.first().is_some_and(|byte| *byte != 0))
        }
    }
}

fn constant_behind<'g>(topology: &Topology<'g>, value: &'g str) -> Option<&'g super::Tensor> {
    let mut value = value;
    for _ in 0..16 {
        if let Some(constant) = topology.constant(value) {
            return Some(constant);
        }
        let node = topology.producer_node(value)?;
        if !node.has(Trait::Copies) {
            return None;
        }
        value = node.inputs.first()?;
    }
    None
}

/// The edit that takes every active `Dropout` out of training mode; empty where there is none.
///
/// # Errors
/// When a node sets training mode by its own attribute (operator sets before 7 with `is_test` = 0 written out).
pub fn disable_training_mode(model: &Transformer) -> Result<Edit<'static>, OnnxError> {
    let mut edit = Edit::new();
    for ActiveDropout { node, name } in active_dropout(model) {
        let encoding = match model.opset() {
            ..7 if model.graph.nodes[node].attribute("is_test").is_some() => None,
            ..7 => with_int_attribute(model, node, "is_test", 1),
            // Without its third input a Dropout passes values through.
            _ => with_input(model, node, 2, None),
        };
        let Some(encoding) = encoding else {
            let reason =
                format!("node `{name}` cannot be taken out of training mode; export the model after `.eval()`");
            return Err(OnnxError::Edit { path: model.path().into(), reason });
        };
        edit.rewrite_node(node, Some(encoding));
    }
    Ok(edit)
}
