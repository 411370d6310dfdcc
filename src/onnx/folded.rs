//! Products whose result an optimizer has computed beforehand.
//!
//! A model may multiply a block's weight not only with its hidden state but with a table too (relative positions). Where
//! the exporter or an optimizer folds that second product into a constant, changes to the weight no longer reach it: an
//! adapter would be trained, and merged, at only some of the weight's uses.

use std::collections::HashSet;

use super::{Block, Topology, Trait, Transformer, node_inputs};

/// A matrix product of a block, one operand of which depends on constants and shapes alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConstantOperand {
    /// Block number, 1 to L.
    pub block: usize,
    /// The product: an index into `graph.nodes`.
    pub node: usize,
    /// The constants that the operand is computed from, as indices into `graph.initializers`.
    pub initializers: Vec<usize>,
}

/// All constant operands, except those of linear layers and those that are themselves computed by a product.
pub fn constant_operands(model: &Transformer, blocks: &[Block]) -> Vec<ConstantOperand> {
    let topology = model.topology();
    let mut found = Vec::new();
    for block in blocks {
        let linear: HashSet<usize> = block.linears.iter().map(|linear| linear.node).collect();
        for &node in &block.nodes {
            if !model.graph.nodes[node].has(Trait::MatrixProduct) || linear.contains(&node) {
                continue;
            }
            // A third operand of a product is its bias.
            for operand in model.graph.nodes[node].inputs.iter().take(2) {
                let initializers = tables(&topology, operand).unwrap_or_default();
                // A matrix multiplied exactly as stored is a weight; shared ones are listed at their first use only.
                let weight = initializers.len() == 1 && model.graph.initializers[initializers[0]].name == *operand;
                if !initializers.is_empty() && !weight {
                    found.push(ConstantOperand { block: block.index, node, initializers });
                }
            }
        }
    }
    found
}

/// The floating-point constants of at least two dimensions that a value is computed from; `None` where a graph input or a
/// product contributes to it.
fn tables(topology: &Topology, value: &str) -> Option<Vec<usize>> {
    let graph = topology.graph;
    let mut open = vec![value];
    let mut seen = HashSet::new();
    let mut tables = Vec::new();
    while let Some(value) = open.pop() {
        if !seen.insert(value) {
            continue;
        }
        if let Some(index) = topology.initializer_index(value) {
            let tensor = &graph.initializers[index];
            if tensor.data_type.is_float()
                && tensor.dims.len() > 1
                && tensor.dims.iter().filter(|d| **d > 1).count() > 1
            {
                tables.push(index);
            }
            continue;
        }
        let node = topology.producer_node(value)?;
        if node.has(Trait::ReadsShape) || node.is("Constant") {
            continue;
        }
        if node.has(Trait::MatrixProduct) {
            return None;
        }
        open.extend(node_inputs(node));
    }
    Some(tables)
}
