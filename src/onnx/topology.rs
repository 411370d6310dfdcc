//! Producer and consumers of every value.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use super::graph::{Attribute, Graph, Node};
use super::tensor::Tensor;

/// A graph with indices over its values. Values that only a subgraph uses count as used by the node that holds it.
#[derive(Debug)]
pub struct Topology<'g> {
    /// The graph that is indexed.
    pub graph: &'g Graph,
    index: Arc<Index>,
}

/// Producer and consumers of every value.
#[derive(Debug, Default)]
pub(super) struct Index {
    producers: HashMap<String, usize>,
    consumers: HashMap<String, Vec<usize>>,
    initializers: HashMap<String, usize>,
    /// For each initializer the nodes that use it, through copies too.
    pub users: OnceLock<HashMap<usize, Vec<usize>>>,
}

impl Index {
    pub fn new(graph: &Graph) -> Self {
        let mut index = Index::default();
        for (place, node) in graph.nodes.iter().enumerate() {
            for output in node.outputs.iter().filter(|name| !name.is_empty()) {
                index.producers.insert(output.clone(), place);
            }
            let mut inputs: Vec<&str> = node_inputs(node);
            inputs.sort_unstable();
            inputs.dedup();
            for input in inputs {
                index.consumers.entry(input.to_owned()).or_default().push(place);
            }
        }
        index.initializers = graph.initializers.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect();
        index
    }
}

impl<'g> Topology<'g> {
    /// A graph that was indexed before.
    pub(super) fn indexed(graph: &'g Graph, index: Arc<Index>) -> Self {
        Topology { graph, index }
    }

    pub(super) fn index(&self) -> &Index {
        &self.index
    }

    /// Index of the node that produces a value.
    pub fn producer(&self, value: &str) -> Option<usize> {
        self.index.producers.get(value).copied()
    }

    /// The node that produces a value.
    pub fn producer_node(&self, value: &str) -> Option<&'g Node> {
        self.producer(value).map(|index| &self.graph.nodes[index])
    }

    /// Indices of the nodes that use a value, in file order.
    pub fn consumers(&self, value: &str) -> &[usize] {
        self.index.consumers.get(value).map_or(&[], Vec::as_slice)
    }

    /// The initializer of this name.
    pub fn initializer(&self, value: &str) -> Option<&'g Tensor> {
        self.initializer_index(value).map(|index| &self.graph.initializers[index])
    }

    /// Index of the initializer of this name in `graph.initializers`.
    pub fn initializer_index(&self, value: &str) -> Option<usize> {
        self.index.initializers.get(value).copied()
    }

    /// The constant of this name: an initializer, or the value of a `Constant` node.
    pub fn constant(&self, value: &str) -> Option<&'g Tensor> {
        self.initializer(value).or_else(|| {
            let node = self.producer_node(value)?;
            if node.is("Constant") { node.tensor("value") } else { None }
        })
    }

    /// Nodes that depend on one of `values`, without passing through a value in `barriers`.
    pub fn descendants(&self, values: &[&str], barriers: &HashSet<&str>) -> HashSet<usize> {
        let mut found = HashSet::new();
        let mut open: Vec<&str> = values.to_vec();
        while let Some(value) = open.pop() {
            for &index in self.consumers(value) {
                if found.insert(index) {
                    let outputs = self.graph.nodes[index].outputs.iter();
                    open.extend(outputs.map(String::as_str).filter(|o| !o.is_empty() && !barriers.contains(o)));
                }
            }
        }
        found
    }

    /// Nodes that feed one of `values`, without passing through a value in `barriers`.
    pub fn ancestors(&self, values: &[&str], barriers: &HashSet<&str>) -> HashSet<usize> {
        let mut found = HashSet::new();
        let mut open: Vec<&str> = values.to_vec();
        while let Some(value) = open.pop() {
            if let Some(index) = self.producer(value)
                && found.insert(index)
            {
                let inputs = node_inputs(&self.graph.nodes[index]);
                open.extend(inputs.into_iter().filter(|input| !barriers.contains(input)));
            }
        }
        found
    }
}

/// The values a node uses, including those its subgraphs take from outside.
pub fn node_inputs(node: &Node) -> Vec<&str> {
    let mut inputs: Vec<&str> = node.inputs.iter().map(String::as_str).filter(|n| !n.is_empty()).collect();
    for (_, attribute) in &node.attributes {
        if let Attribute::Graph(graph) = attribute {
            inputs.extend(captured(graph));
        }
    }
    inputs
}

fn captured(graph: &Graph) -> Vec<&str> {
    let mut own: HashSet<&str> = graph.initializers.iter().map(|t| t.name.as_str()).collect();
    own.extend(graph.inputs.iter().map(|v| v.name.as_str()));
    own.extend(graph.nodes.iter().flat_map(|n| n.outputs.iter().map(String::as_str)));
    let used = graph.nodes.iter().flat_map(node_inputs);
    used.chain(graph.outputs.iter().map(|v| v.name.as_str())).filter(|name| !own.contains(name)).collect()
}
