//! Which outputs of the graph are hidden states.

use std::collections::{BTreeMap, HashSet};

use super::residual::{ResidualStream, residual_stream, skip_sum};
use super::{DataType, Model, Node, OnnxError, Topology};

/// The hidden states of a model, embeddings first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HiddenStates {
    /// `values[i]` is the tensor of hidden state `i`, 0 (embeddings) to L.
    pub values: Vec<String>,
    /// How they were found.
    pub origin: Origin,
}

/// Origin of the hidden states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Outputs of the graph with the names of hidden states.
    Outputs,
    /// Inner values, found as the residual stream of the graph.
    Graph(ResidualStream),
    /// Values named one by one.
    Named,
}

impl HiddenStates {
    /// The hidden states that the export exposes; where it exposes none, those of its residual stream.
    ///
    /// # Errors
    /// When one between 0 and the last is missing, or when there are neither outputs nor a residual stream.
    pub(super) fn find(model: &Model, topology: &Topology) -> Result<Self, OnnxError> {
        match Self::shown(model) {
            Err(OnnxError::NoHiddenStates { path, outputs, .. }) => match residual_stream(model, topology) {
                Ok(stream) => Ok(HiddenStates { values: stream.values.clone(), origin: Origin::Graph(stream) }),
                Err(reason) => Err(OnnxError::NoHiddenStates { path, outputs, reason }),
            },
            found => found,
        }
    }

    /// Finds the outputs `hidden_states.N`, `hidden_states_N`, `hidden_state.N` or `hidden_state_N` and puts them in
    /// numeric order.
    ///
    /// # Errors
    /// When there are none, or when one between 0 and the last is missing.
    pub fn shown(model: &Model) -> Result<Self, OnnxError> {
        let outputs = &model.graph.outputs;
        let numbered: BTreeMap<usize, String> =
            outputs.iter().filter_map(|output| Some((number(&output.name)?, output.name.clone()))).collect();
        let last = match numbered.last_key_value() {
            Some((last, _)) if numbered.len() > 1 => *last,
            _ => {
                let names: Vec<&str> = outputs.iter().map(|output| output.name.as_str()).collect();
                let reason = String::new();
                return Err(OnnxError::NoHiddenStates { path: model.path().into(), outputs: names.join(", "), reason });
            }
        };
        if let Some(missing) = (0..last).find(|index| !numbered.contains_key(index)) {
            return Err(OnnxError::HiddenStatesIncomplete { path: model.path().into(), last, missing });
        }
        Ok(HiddenStates { values: numbered.into_values().collect(), origin: Origin::Outputs })
    }

    /// Number of blocks, L.
    pub fn blocks(&self) -> usize {
        self.values.len().saturating_sub(1)
    }

    /// For every hidden state all names of the same tensor: the output itself, and what it is a copy of (`Identity`, or a
    /// `Cast` from one float type to another). An exporter may give a tensor an output name and let the next block read the
    /// inner one, and a converter to half precision exposes a float32 copy of a float16 state.
    pub(crate) fn aliases<'g>(&'g self, topology: &Topology<'g>) -> Vec<Vec<&'g str>> {
        self.values.iter().map(|value| aliases(topology, value)).collect()
    }
}

/// The names of a tensor: its own, those it is a copy of, and other copies of these.
fn aliases<'g>(topology: &Topology<'g>, value: &'g str) -> Vec<&'g str> {
    let mut root = value;
    let mut seen = HashSet::from([root]);
    while let Some(node) = topology.producer_node(root).filter(|node| is_copy(node))
        && let Some(input) = node.inputs.first().filter(|input| seen.insert(input.as_str()))
    {
        root = input;
    }
    let mut found = vec![root];
    let mut listed = HashSet::from([root]);
    let mut next = 0;
    while next < found.len() {
        for &index in topology.consumers(found[next]) {
            let node = &topology.graph.nodes[index];
            if let (true, Some(output)) = (is_copy(node), node.outputs.first())
                && listed.insert(output.as_str())
            {
                found.push(output);
            }
        }
        next += 1;
    }
    // Fused with the norm that follows, a sum flows on in two forms: unchanged and normed.
    if let Some(node) = topology.producer_node(root).filter(|node| skip_sum(node).is_some_and(|sum| sum == root)) {
        found.extend(node.outputs.iter().map(String::as_str).filter(|output| !output.is_empty() && *output != root));
    }
    found
}

/// Whether the node passes a float value on, possibly in another precision.
fn is_copy(node: &Node) -> bool {
    let to = || i32::try_from(node.int("to", 0)).map(DataType::from_code);
    node.is("Identity") || (node.is("Cast") && to().is_ok_and(DataType::is_float))
}

/// The number in the name of a hidden-state output.
fn number(name: &str) -> Option<usize> {
    let name = name.strip_prefix("encoder_").or_else(|| name.strip_prefix("all_")).unwrap_or(name);
    let rest = name.strip_prefix("hidden_states").or_else(|| name.strip_prefix("hidden_state"))?;
    let digits = rest.strip_prefix(['.', '_', '-']).unwrap_or(rest);
    if digits.is_empty() || digits.len() > 4 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}
