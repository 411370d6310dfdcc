//! The ONNX file and its graph: open it, find the hidden states, the blocks and their linear layers, and edit it as bytes.
//!
//! Nothing here decodes and re-encodes a model: edits append to the file or replace the bytes of a tensor, so whatever
//! gelora does not know stays as it was.

mod error;
mod model;
mod tensor;
mod topology;
pub mod wire;

pub use error::OnnxError;
pub use model::{Attribute, Dimension, ExternalFile, Graph, Model, Node, ValueInfo};
pub use tensor::{DataType, Tensor, TensorData};
pub use topology::{Topology, node_inputs};
