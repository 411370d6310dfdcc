//! One operation of a program: a node of the export, or a linear layer that a pass made of several.

use super::super::operators::{FUSED, full_name};
use crate::onnx::{Node, node_inputs};

/// What a program computes at one place of the graph.
#[derive(Debug, Clone)]
pub(super) enum Operation {
    /// A node, of the export or of a pass.
    Node(Node),
    /// A product with a constant weight.
    Linear(LinearStep),
}

/// `y = x · W + b`, where `W` and `b` are constants and an adapter may lie beside `W`.
#[derive(Debug, Clone)]
pub(super) struct LinearStep {
    /// What to call it in a message: the name of the product.
    pub label: String,
    /// `x`.
    pub input: String,
    /// `y`.
    pub output: String,
    /// The constant that is `W`.
    pub weight: String,
    /// Whether `W` is `[out, in]`.
    pub out_in: bool,
    /// The constant that is `b`.
    pub bias: Option<String>,
}

impl Operation {
    /// The node, where it is one.
    pub fn node(&self) -> Option<&Node> {
        match self {
            Operation::Node(node) => Some(node),
            Operation::Linear(_) => None,
        }
    }

    /// Values that it takes, by position; constants of a linear layer are not among them.
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

    /// Values that it makes, by position.
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

    /// All values that must be made before it, those that graphs inside of a node take from outside included.
    pub fn needs(&self) -> Vec<&str> {
        match self {
            Operation::Node(node) => node_inputs(node),
            Operation::Linear(linear) => vec![&linear.input],
        }
    }

    /// What to call it in a message.
    pub fn label(&self) -> &str {
        match self {
            Operation::Node(node) => node.label(),
            Operation::Linear(linear) => &linear.label,
        }
    }

    /// The operator as a user knows it.
    pub fn operator(&self) -> String {
        match self {
            Operation::Node(node) => full_name(node),
            Operation::Linear(_) => format!("{FUSED}.Linear"),
        }
    }
}
