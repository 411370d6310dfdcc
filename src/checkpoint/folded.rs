//! Constants of an export that some weights were multiplied into beforehand.

use super::matching::is_tensor;
use super::{Checkpoint, CheckpointError};
use crate::onnx::{Block, Transformer, constant_operands};

/// A product of a block with a constant that is not a parameter of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoldedProduct {
    /// Block number, 1 to L.
    pub block: usize,
    /// Name of the product's node.
    pub node: String,
    /// Name of the constant.
    pub constant: String,
}

impl std::fmt::Display for FoldedProduct {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let FoldedProduct { block, node, constant } = self;
        write!(
            formatter,
            "node `{node}` of block {block} multiplies with `{constant}`, which is no parameter of the model: a weight was \
             multiplied into it when the export was optimised, and an adapter would not reach it; take the export as it was \
             before (optimization level 0, no constant folding)"
        )
    }
}

/// Products with a constant that the checkpoint does not have: most likely the product of a weight with a table, computed
/// when the export was optimised. An adapter on the weights of such a block would not reach it. Without a checkpoint, a
/// constant is recognised as a parameter by its name (`….weight`).
///
/// # Errors
/// When export or checkpoint cannot be read.
pub fn folded_products(
    model: &Transformer,
    blocks: &[Block],
    checkpoint: Option<&Checkpoint>,
) -> Result<Vec<FoldedProduct>, CheckpointError> {
    let mut found = Vec::new();
    for operand in constant_operands(model, blocks) {
        for index in operand.initializers {
            let tensor = &model.graph.initializers[index];
            let known = match checkpoint {
                Some(checkpoint) => is_tensor(model, checkpoint, index)?,
                None => tensor.name.ends_with(".weight"),
            };
            if !known {
                let node = model.graph.nodes[operand.node].label().to_owned();
                found.push(FoldedProduct { block: operand.block, node, constant: tensor.name.clone() });
            }
        }
    }
    Ok(found)
}
