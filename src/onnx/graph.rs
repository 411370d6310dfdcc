//! Graphs as stored in the file: nodes with their attributes, constants, and what is known of values.

use std::collections::BTreeMap;

use super::tensor::{DataType, Tensor};

/// A graph or subgraph.
#[derive(Debug, Default, Clone)]
pub struct Graph {
    /// Name of the graph.
    pub name: String,
    /// Nodes in topological order: file order wherever it is topological.
    pub nodes: Vec<Node>,
    /// Constants of the graph (initializers); in the main graph of a model also the tensors of `Constant` nodes that may be
    /// weights.
    pub initializers: Vec<Tensor>,
    /// Graph inputs; old exports list the initializers here as well.
    pub inputs: Vec<ValueInfo>,
    /// Graph outputs.
    pub outputs: Vec<ValueInfo>,
    /// Types and shapes of inner values, where the exporter wrote them.
    pub value_info: Vec<ValueInfo>,
}

/// One operation.
#[derive(Debug, Default, Clone)]
pub struct Node {
    /// Name of the node, possibly empty.
    pub name: String,
    /// Operator, e.g. `MatMul`.
    pub op_type: String,
    /// Operator domain; `""` is the default (`ai.onnx` is normalised to it).
    pub domain: String,
    /// Names of the input values; `""` is an omitted optional input.
    pub inputs: Vec<String>,
    /// Names of the output values; `""` is an omitted optional output.
    pub outputs: Vec<String>,
    /// Attributes by name.
    pub attributes: Vec<(String, Attribute)>,
    /// `metadata_props`, where newer exporters write module paths.
    pub metadata: Vec<(String, String)>,
}

/// A model-local function: nodes that implement one of the model's own operators.
#[derive(Debug, Default, Clone)]
pub struct Function {
    /// Domain of the operator that it defines.
    pub domain: String,
    /// Name of the operator that it defines.
    pub name: String,
    /// Names of its inputs, in order; a node may supply fewer.
    pub inputs: Vec<String>,
    /// Names of its outputs, in order.
    pub outputs: Vec<String>,
    /// Names of the attributes that a node must supply.
    pub attributes: Vec<String>,
    /// Attributes that a node may supply, with their default values.
    pub defaults: Vec<(String, Attribute)>,
    /// Nodes in topological order.
    pub nodes: Vec<Node>,
    /// Operator set versions by domain that its nodes are written for.
    pub opsets: BTreeMap<String, i64>,
}

/// The value of an attribute.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the names are those of the ONNX specification")]
pub enum Attribute {
    Float(f32),
    Int(i64),
    String(Vec<u8>),
    Tensor(Tensor),
    Graph(Box<Graph>),
    Floats(Vec<f32>),
    Ints(Vec<i64>),
    Strings(Vec<Vec<u8>>),
    /// Inside a function: the attribute of this name on the node that calls the function.
    Reference(String),
    /// A kind that gelora does not use (sparse tensors, type protos, lists of tensors or graphs, function references).
    Other,
}

/// A named value with its type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ValueInfo {
    /// Name of the value.
    pub name: String,
    /// Element type, if it is a tensor.
    pub data_type: Option<DataType>,
    /// Shape, if it is known.
    pub shape: Option<Vec<Dimension>>,
}

/// One dimension of a shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dimension {
    /// A known size.
    Fixed(usize),
    /// A symbolic size such as `batch`.
    Named(String),
    /// No size given.
    Unknown,
}

impl Node {
    /// The attribute of this name, if present.
    pub fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attributes.iter().find(|(n, _)| n == name).map(|(_, value)| value)
    }

    /// An integer attribute, or `default` where it is absent.
    pub fn int(&self, name: &str, default: i64) -> i64 {
        match self.attribute(name) {
            Some(Attribute::Int(value)) => *value,
            _ => default,
        }
    }

    /// A float attribute, or `default` where it is absent.
    pub fn float(&self, name: &str, default: f32) -> f32 {
        match self.attribute(name) {
            Some(Attribute::Float(value)) => *value,
            _ => default,
        }
    }

    /// An attribute that is a list of integers.
    pub fn ints(&self, name: &str) -> Option<&[i64]> {
        match self.attribute(name) {
            Some(Attribute::Ints(values)) => Some(values),
            _ => None,
        }
    }

    /// A string attribute.
    pub fn string(&self, name: &str) -> Option<&str> {
        match self.attribute(name) {
            Some(Attribute::String(value)) => std::str::from_utf8(value).ok(),
            _ => None,
        }
    }

    /// A tensor attribute.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        match self.attribute(name) {
            Some(Attribute::Tensor(value)) => Some(value),
            _ => None,
        }
    }

    /// Whether the node is this operator of the default domain.
    pub fn is(&self, op_type: &str) -> bool {
        self.domain.is_empty() && self.op_type == op_type
    }

    /// Label of the node in a message: its name, or that of its first output.
    pub fn label(&self) -> &str {
        if self.name.is_empty() { self.outputs.first().map_or("(unnamed)", String::as_str) } else { &self.name }
    }
}

/// Converts little-endian elements of `N` bytes each.
pub(super) fn elements<const N: usize, T>(bytes: &[u8], convert: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|chunk| convert(*chunk)).collect()
}
