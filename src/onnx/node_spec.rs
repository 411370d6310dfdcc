//! Nodes and values to append, and their encoding.

use super::graph::{Dimension, ValueInfo};
use super::tensor::DataType;
use super::wire::Writer;

/// A node to append.
#[derive(Debug, Clone, Default)]
pub struct NodeSpec {
    /// Operator of the default domain.
    pub op_type: String,
    /// Name of the node.
    pub name: String,
    /// Names of the input values; `""` leaves an optional one out.
    pub inputs: Vec<String>,
    /// Names of the output values.
    pub outputs: Vec<String>,
    /// Attributes by name.
    pub attributes: Vec<(String, AttributeSpec)>,
}

/// An attribute of a node to append.
#[derive(Debug, Clone)]
pub enum AttributeSpec {
    /// An integer.
    Int(i64),
    /// A list of integers.
    Ints(Vec<i64>),
    /// A float.
    Float(f32),
    /// A string.
    Text(String),
}

impl NodeSpec {
    /// A node with one output, and with the name of that output.
    pub fn new(op_type: &str, inputs: &[&str], output: &str) -> Self {
        NodeSpec {
            op_type: op_type.into(),
            name: output.into(),
            inputs: inputs.iter().map(|input| (*input).to_owned()).collect(),
            outputs: vec![output.into()],
            attributes: Vec::new(),
        }
    }

    /// Adds an integer attribute.
    pub fn int(mut self, name: &str, value: i64) -> Self {
        self.attributes.push((name.into(), AttributeSpec::Int(value)));
        self
    }

    /// Adds an attribute that is a list of integers.
    pub fn ints(mut self, name: &str, values: &[i64]) -> Self {
        self.attributes.push((name.into(), AttributeSpec::Ints(values.to_vec())));
        self
    }

    pub(super) fn encode(&self, node: &mut Writer) {
        self.inputs.iter().for_each(|input| {
            node.string(1, input);
        });
        self.outputs.iter().for_each(|output| {
            node.string(2, output);
        });
        node.string(3, &self.name).string(4, &self.op_type);
        for (name, value) in &self.attributes {
            node.message(5, |attribute| {
                attribute.string(1, name);
                match value {
                    AttributeSpec::Float(value) => attribute.float(2, *value).int(20, 1),
                    AttributeSpec::Int(value) => attribute.int(3, *value).int(20, 2),
                    AttributeSpec::Text(value) => attribute.string(4, value).int(20, 3),
                    AttributeSpec::Ints(values) => {
                        values.iter().for_each(|value| {
                            attribute.int(8, *value);
                        });
                        attribute.int(20, 7)
                    }
                };
            });
        }
    }
}

impl ValueInfo {
    /// The declaration of a tensor; without a shape it is left to the runtime.
    pub fn tensor(name: &str, data_type: DataType, shape: Option<&[Dimension]>) -> Self {
        ValueInfo { name: name.into(), data_type: Some(data_type), shape: shape.map(<[Dimension]>::to_vec) }
    }

    pub(super) fn encode(&self, info: &mut Writer) {
        info.string(1, &self.name);
        let Some(data_type) = self.data_type else { return };
        info.message(2, |kind| {
            kind.message(1, |tensor| {
                tensor.int(1, i64::from(data_type.code()));
                if let Some(shape) = &self.shape {
                    tensor.message(2, |dims| encode_shape(dims, shape));
                }
            });
        });
    }
}

fn encode_shape(dims: &mut Writer, shape: &[Dimension]) {
    for dimension in shape {
        dims.message(1, |writer| match dimension {
            Dimension::Fixed(value) => {
                writer.int(1, *value as i64);
            }
            Dimension::Named(name) => {
                writer.string(2, name);
            }
            Dimension::Unknown => {}
        });
    }
}
