//! One operation of a program: a node of the export, or a linear layer that a pass made from several.

use super::super::operators::{FUSED, full_name};
use crate::onnx::{Node, node_inputs};

/// One operation in the graph of a program.
#[derive(Debug, Clone)]
pub(super) enum Operation {
    /// A node of the export, or one created by a pass.
    Node(Node),
    /// A product with a constant weight.
    Linear(LinearStep),
}

/// `y = x · W + b`, where `W` and `b` are constants and `W` may have an adapter.
#[derive(Debug, Clone)]
pub(super) struct LinearStep {
    /// Name for messages: that of the product's node.
    pub label: String,
    /// Name of the value `x`.
    pub input: String,
    /// Name of the value `y`.
    pub output: String,
    /// Name of the constant `W`.
    pub weight: String,
    /// Whether `W` is stored as `[out, in]`.
    pub out_in: bool,
    /// Name of the constant `b`, if there is one.
    pub bias: Option<String>,
}

impl Operation {
    /// The node, if the operation is one.
    pub fn node(&self) -> Option<&Node> {
        match self {
            Operation::Node(node) => Some(node),
            Operation::Linear(_) => None,
        }
    }

    /// Names of its input values, by position; constants of a linear layer are not included.
    pub fn inputs(&self) -> &[String] {
        match self {
            Operation::Node(node) => &node.inputs,
            Operation::Linear(linear) => std::slice::from_ref(&linear.input),
        }
    }

    pub fn inputs_mut(&mut self) -> &mut [String] {
        match self {
            Operation::Node(node) => &mut node.inputs,
            Operation::Linear(linear) => std::slice::from_mut(&mut linear.input),
        }
    }

    /// Names of its output values, by position.
    pub fn outputs(&self) -> &[String] {
        match self {
            Operation::Node(node) => &node.outputs,
            Operation::Linear(linear) => std::slice::from_ref(&linear.output),
        }
    }

    pub fn outputs_mut(&mut self) -> &mut [String] {
        match self {
            Operation::Node(node) => &mut node.outputs,
            Operation::Linear(linear) => std::slice::from_mut(&mut linear.output),
        }
    }

    /// Names of all values that it needs, including those that graphs inside a node capture from outside.
    pub fn needs(&self) -> Vec<&str> {
        match self {
            Operation::Node(node) => node_inputs(node),
            Operation::Linear(linear) => vec![&linear.input],
        }
    }

    /// Name of the operation for messages.
    pub fn label(&self) -> &str {
        match self {
            Operation::Node(node) => node.label(),
            Operation::Linear(linear) => &linear.label,
        }
    }

    /// Name of the operator as shown to users.
    pub fn operator(&self) -> String {
        match self {
            Operation::Node(node) => full_name(node),
            Operation::Linear(_) => format!("{FUSED}.Linear"),
        }
    }
}
