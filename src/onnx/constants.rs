//! Weights in `Constant` nodes: some exporters and converters write every weight as a node of its own.

use std::collections::HashSet;

use super::graph::Graph;
use super::tensor::{DataType, Tensor};

/// Lists the tensors of `Constant` nodes that may be weights as initializers too, after those of the file. They stay where
/// they are in the file, inside the node, so they can be replaced in place like any other.
pub(super) fn list_constants(graph: &mut Graph) {
    let known: HashSet<&str> = graph.initializers.iter().map(|tensor| tensor.name.as_str()).collect();
    let mut found: Vec<Tensor> = Vec::new();
    for node in graph.nodes.iter().filter(|node| node.is("Constant")) {
        if let (Some(name), Some(tensor)) = (node.outputs.first(), node.tensor("value"))
            && may_be_weight(tensor)
            && !known.contains(name.as_str())
        {
            found.push(Tensor { name: name.clone(), ..tensor.clone() });
        }
    }
    graph.initializers.extend(found);
}

/// Whether a tensor holds numbers that a model may have learnt, or 8-bit integers that encode them: not scalars, axes or
/// shapes.
fn may_be_weight(tensor: &Tensor) -> bool {
    let stands_for_floats = matches!(tensor.data_type, DataType::Int8 | DataType::Uint8);
    (tensor.data_type.is_float() || stands_for_floats) && tensor.len() > 1
}
