//! The weights that can be adapted, block by block, each under one name however often the export stores it.

use std::collections::HashMap;

use crate::checkpoint::WeightMatch;
use crate::onnx::{Block, LinearLayer, Role};

/// A weight that can be adapted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleToAdapt {
    /// Module path in PEFT and in the checkpoint.
    pub module: String,
    /// Name of the tensor in the checkpoint.
    pub checkpoint_tensor: Option<String>,
    /// Name of the node of the matrix product.
    pub node: String,
    /// The initializer that holds the weight; the first one where the export stores it several times.
    pub weight: String,
    /// Further initializers that hold the same weight.
    pub copies: Vec<String>,
    /// Role of the weight in its block.
    pub role: Role,
    /// Input width.
    pub in_features: usize,
    /// Output width.
    pub out_features: usize,
}

/// The weights of one block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockToAdapt {
    /// Index of the block, 1 to L.
    pub block: usize,
    /// All linear layers of the block; the rule picks those with a requested role.
    pub modules: Vec<ModuleToAdapt>,
}

/// All linear layers of a graph, with their checkpoint tensors and copies. The three lists are in the same order.
#[derive(Debug, Clone, Copy)]
pub struct Layers<'a> {
    /// The layers, in blocks or not.
    pub linears: &'a [LinearLayer],
    /// Their checkpoint tensors; all `None` without a checkpoint.
    pub matches: &'a [Option<WeightMatch>],
    /// For each layer, the index of the first one with the same values ([`crate::onnx::Transformer::first_copies`]).
    pub first_copies: &'a [usize],
}

/// What distinguishes one weight from another: the checkpoint tensor, or else the values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Identity<'a> {
    /// Tensor name, and first row within a tensor that holds several matrices.
    Tensor(&'a str, usize),
    Values(usize),
}

impl BlockToAdapt {
    /// The blocks of a graph. A module is named by the checkpoint, or else by the graph, or else by its weight. A weight
    /// used in several positions, stored once or several times, is one module with the same name in all of them.
    pub fn all(blocks: &[Block], layers: Layers<'_>) -> Vec<Self> {
        let identities: Vec<Identity<'_>> = (0..layers.linears.len())
            .map(|position| match layers.matches.get(position).and_then(Option::as_ref) {
                Some(found) => Identity::Tensor(&found.tensor, found.rows.as_ref().map_or(0, |rows| rows.start)),
                None => Identity::Values(layers.first_copies.get(position).copied().unwrap_or(position)),
            })
            .collect();
        let mut stored: HashMap<Identity<'_>, Vec<&str>> = HashMap::new();
        for (linear, identity) in layers.linears.iter().zip(&identities) {
            let names = stored.entry(*identity).or_default();
            if !names.contains(&linear.weight.as_str()) {
                names.push(&linear.weight);
            }
        }
        let positions: HashMap<usize, usize> =
            layers.linears.iter().enumerate().map(|(position, linear)| (linear.node, position)).collect();
        let module = |linear: &LinearLayer| {
            let position = positions.get(&linear.node).copied();
            let found = position.and_then(|position| layers.matches.get(position)?.as_ref());
            let names = position.and_then(|position| stored.get(&identities[position]));
            let (weight, copies) = match names.map(Vec::as_slice) {
                Some([first, others @ ..]) => (*first, others),
                _ => (linear.weight.as_str(), [].as_slice()),
            };
            let named = found.map(|found| found.module().to_owned()).or_else(|| linear.module.clone());
            ModuleToAdapt {
                module: named.unwrap_or_else(|| linear.weight.clone()),
                checkpoint_tensor: found.map(|found| found.tensor.clone()),
                node: linear.node_name.clone(),
                weight: weight.to_owned(),
                copies: copies.iter().map(|name| (*name).to_owned()).collect(),
                role: linear.role,
                in_features: linear.in_features,
                out_features: linear.out_features,
            }
        };
        let block = |block: &Block| Self { block: block.index, modules: block.linears.iter().map(module).collect() };
        blocks.iter().map(block).collect()
    }
}
