//! Inlines functions of the model, and branches that are known to be taken.

use std::collections::{HashMap, HashSet};

use super::super::error::TrainError;
use super::super::operators::{captured_names, full_name, subgraph};
use crate::onnx::{Attribute, Function, Graph, Model, Node, Tensor};

/// Depth of nested functions beyond which they are considered recursive.
const MAXIMUM_DEPTH: usize = 32;

/// No real model reaches this number of nodes: functions that call each other several times multiply.
const MOST_NODES: usize = 1 << 20;

/// The nodes of the main graph with all calls of the model's functions inlined, also in the graphs inside its nodes.
pub(super) fn without_functions(model: &Model) -> Result<Vec<Node>, TrainError> {
    let mut inliner = Inliner { functions: HashMap::new(), overloaded: HashSet::new(), opset: model.opset(), made: 0 };
    for function in &model.functions {
        let key = (function.domain.as_str(), function.name.as_str());
        if inliner.functions.insert(key, function).is_some() {
            inliner.overloaded.insert(key);
        }
    }
    inliner.nodes(&model.graph.nodes, 0)
}

struct Inliner<'m> {
    functions: HashMap<(&'m str, &'m str), &'m Function>,
    /// Names shared by several functions.
    overloaded: HashSet<(&'m str, &'m str)>,
    opset: i64,
    made: usize,
}

impl Inliner<'_> {
    fn nodes(&mut self, nodes: &[Node], depth: usize) -> Result<Vec<Node>, TrainError> {
        let mut result = Vec::with_capacity(nodes.len());
        for node in nodes {
            let mut node = node.clone();
            for (_, attribute) in &mut node.attributes {
                if let Attribute::Graph(graph) = attribute {
                    graph.nodes = self.nodes(&graph.nodes, depth)?;
                }
            }
            let function = self.functions.get(&(node.domain.as_str(), node.op_type.as_str())).copied();
            match function {
                Some(function) => result.extend(self.call(function, &node, depth)?),
                None => result.push(node),
            }
            self.made += 1;
        }
        Ok(result)
    }

    /// The nodes of a function, with the names and attributes of the node that calls it.
    fn call(&mut self, function: &Function, node: &Node, depth: usize) -> Result<Vec<Node>, TrainError> {
        if self.overloaded.contains(&(node.domain.as_str(), node.op_type.as_str())) {
            return Err(refused(node, "its functions differ by their overload alone"));
        }
        if depth == MAXIMUM_DEPTH || self.made > MOST_NODES {
            return Err(refused(node, "functions use each other without end"));
        }
        if function.opsets.get("").is_some_and(|opset| *opset != self.opset) {
            return Err(refused(node, "its function is written for another operator set"));
        }
        let mut nodes = function.nodes.clone();
        for inner in &mut nodes {
            settle_references(inner, function, node);
        }
        let mut nodes = self.nodes(&nodes, depth + 1)?;
        let mut names: HashMap<&str, String> = HashMap::new();
        let given = |list: &[String], index: usize| list.get(index).cloned().unwrap_or_default();
        for (index, input) in function.inputs.iter().enumerate() {
            names.insert(input, given(&node.inputs, index));
        }
        for (index, output) in function.outputs.iter().enumerate() {
            let name = given(&node.outputs, index);
            if !name.is_empty() {
                names.insert(output, name);
            }
        }
        let mut prefix = node.label().to_owned();
        prefix.push('/');
        nodes.iter_mut().for_each(|inner| rename(inner, &names, &prefix));
        // An output that is an unchanged input has no node of its own.
        for (index, output) in function.outputs.iter().enumerate() {
            if let (Some(input), Some(name)) =
                (function.inputs.iter().position(|i| i == output), node.outputs.get(index))
            {
                nodes.push(identity(&given(&node.inputs, input), name));
            }
        }
        for inner in &mut nodes {
            if inner.metadata.is_empty() {
                inner.metadata = node.metadata.clone();
            }
        }
        Ok(nodes)
    }
}

fn refused(node: &Node, reason: &str) -> TrainError {
    TrainError::Operator {
        operator: full_name(node),
        node: node.label().to_owned(),
        reason: reason.into(),
        cure: "export the model again without functions of its own (torch.onnx.export with optimize=True, or onnx.inliner)",
    }
}

fn identity(from: &str, to: &str) -> Node {
    Node { op_type: "Identity".into(), inputs: vec![from.into()], outputs: vec![to.into()], ..Node::default() }
}

/// Attributes that refer to those of the caller take the caller's values, or their defaults, or disappear.
fn settle_references(node: &mut Node, function: &Function, caller: &Node) {
    let value = |name: &str| {
        let default = || function.defaults.iter().find(|(known, _)| known == name).map(|(_, value)| value);
        caller.attribute(name).or_else(default).cloned()
    };
    node.attributes = std::mem::take(&mut node.attributes)
        .into_iter()
        .filter_map(|(name, attribute)| {
            let attribute = match attribute {
                Attribute::Reference(of_caller) => value(&of_caller)?,
                Attribute::Graph(mut graph) => {
                    graph.nodes.iter_mut().for_each(|inner| settle_references(inner, function, caller));
                    Attribute::Graph(graph)
                }
                other => other,
            };
            Some((name, attribute))
        })
        .collect();
}

/// Names in `names` are replaced by their entries; all others get the prefix. Graphs inside are renamed as well, with
/// everything that they define: a name that two calls of a function share must become two.
fn rename(node: &mut Node, names: &HashMap<&str, String>, prefix: &str) {
    let renamed = |name: &str| match names.get(name) {
        _ if name.is_empty() => String::new(),
        Some(known) => known.clone(),
        None => format!("{prefix}{name}"),
    };
    node.inputs.iter_mut().chain(&mut node.outputs).for_each(|name| *name = renamed(name));
    if !node.name.is_empty() {
        node.name = format!("{prefix}{}", node.name);
    }
    for (_, attribute) in &mut node.attributes {
        if let Attribute::Graph(graph) = attribute {
            let values = graph.inputs.iter_mut().chain(&mut graph.outputs).chain(&mut graph.value_info);
            values.for_each(|value| value.name = renamed(&value.name));
            graph.initializers.iter_mut().for_each(|tensor| tensor.name = renamed(&tensor.name));
            graph.nodes.iter_mut().for_each(|inner| rename(inner, names, prefix));
        }
    }
}

/// The replacement of an `If` with a known condition: the nodes of the branch, under names of their own, and its
/// initializers. The node is lifted: what the branch captures from outside are its last inputs.
pub(super) fn branch(node: &Node, condition: bool) -> Option<(Vec<Node>, Vec<Tensor>)> {
    let graph: &Graph = subgraph(node, if condition { "then_branch" } else { "else_branch" }).ok()?;
    let captured = captured_names(node);
    let first = node.inputs.len().checked_sub(captured.len())?;
    let mut names: HashMap<&str, String> = HashMap::new();
    for (name, input) in captured.iter().zip(&node.inputs[first..]) {
        names.insert(name, input.clone());
    }
    let prefix = format!("{}/", node.label());
    let (mut nodes, mut initializers) = (graph.nodes.clone(), graph.initializers.clone());
    let mut copies = Vec::new();
    let made: HashSet<&str> = graph.nodes.iter().flat_map(|inner| inner.outputs.iter().map(String::as_str)).collect();
    for (output, name) in graph.outputs.iter().zip(&node.outputs).filter(|(_, name)| !name.is_empty()) {
        if made.contains(output.name.as_str()) && !names.contains_key(output.name.as_str()) {
            names.insert(&output.name, name.clone());
        } else {
            // A captured value, a constant, or a second output of the same value.
            let from = names.get(output.name.as_str()).cloned().unwrap_or_else(|| format!("{prefix}{}", output.name));
            copies.push(identity(&from, name));
        }
    }
    // Graphs further inside were lifted too: the names they use for captured values stay the same.
    for inner in &mut nodes {
        rename_outside(inner, &names, &prefix);
    }
    initializers.iter_mut().for_each(|tensor| tensor.name = format!("{prefix}{}", tensor.name));
    nodes.extend(copies);
    Some((nodes, initializers))
}

/// As [`rename`], but for a lifted node, whose graphs keep their names.
fn rename_outside(node: &mut Node, names: &HashMap<&str, String>, prefix: &str) {
    for name in node.inputs.iter_mut().chain(&mut node.outputs).filter(|name| !name.is_empty()) {
        *name = names.get(name.as_str()).cloned().unwrap_or_else(|| format!("{prefix}{name}"));
    }
    if !node.name.is_empty() {
        node.name = format!("{prefix}{}", node.name);
    }
}
