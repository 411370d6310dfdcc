//! The ONNX file and its graph: open it, find the hidden states, the blocks and their linear layers, and edit it as bytes.
//!
//! Nothing here decodes and re-encodes a model: edits append to the file or replace the bytes of a tensor, so whatever
//! gelora does not know stays unchanged.

mod accounting;
mod append;
mod blocks;
mod constants;
mod copies;
mod dropout;
mod edit;
mod error;
mod expose;
mod external;
mod final_norm;
mod folded;
mod graph;
mod head;
mod head_pooling;
mod inputs;
mod lacking;
mod linear;
mod model;
mod node_spec;
mod operators;
mod order;
mod own_head;
mod parser;
mod probabilities;
mod residual;
mod roles;
mod saturation;
mod splice;
mod states;
mod subgraph;
mod tensor;
mod topology;
mod transformer;
mod types;
pub mod wire;

pub use accounting::{Accounts, account};
pub use append::{HeadPooling, append_head};
pub use blocks::Block;
pub use dropout::{ActiveDropout, active_dropout, disable_training_mode, has_training_dropout};
pub use edit::{Edit, Produce};
pub use error::OnnxError;
pub use expose::expose;
pub use external::ExternalFile;
pub use final_norm::last_state_after_final_norm;
pub use folded::{ConstantOperand, constant_operands};
pub use graph::{Attribute, Dimension, Function, Graph, Node, ValueInfo};
pub use head::{Head, HeadTensor};
pub use inputs::{TokenInput, is_ids, mask_input, token_input};
pub use lacking::{dynamically_quantized, no_linear_layers, quantized_operators};
pub use linear::{LinearLayer, WeightLayout};
pub use model::Model;
pub use node_spec::{AttributeSpec, NodeSpec};
pub use operators::{Trait, is_listed};
pub use own_head::{own_bias, own_tensor};
pub use probabilities::normalised_logits;
pub use residual::ResidualStream;
pub use roles::Role;
pub use saturation::products_that_may_saturate;
pub use states::{HiddenStates, Origin};
pub use subgraph::{Additions, subgraph};
pub use tensor::{DataType, Tensor, TensorData};
pub use topology::{Topology, node_inputs};
pub use transformer::Transformer;
pub use types::precision_of;

/// Changes that only tests make.
#[cfg(test)]
pub(crate) mod test_support {
    use super::{Edit, Model};

    /// The model with one input of a node replaced or left out.
    pub(crate) fn with_input(model: &Model, node: usize, position: usize, input: Option<&str>) -> Vec<u8> {
        let mut edit = Edit::new();
        edit.rewrite_node(node, super::splice::with_input(model, node, position, input));
        edit.apply_to_bytes(model).expect("the node is there")
    }
}

#[cfg(test)]
mod tests;
