//! The role of a linear layer: by the name of its module, or where the name does not show it, by the products that meet in
//! a softmax.

use std::collections::{HashMap, HashSet};
use std::str::FromStr;

use super::{LinearLayer, Topology, Trait};

/// The role of a linear layer in its block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Makes the queries of the attention.
    Query,
    /// Makes the keys of the attention.
    Key,
    /// Makes the values of the attention.
    Value,
    /// Makes queries, keys and values in one product.
    QueryKeyValue,
    /// Follows the attention.
    Output,
    /// Belongs to the feed-forward part of the block.
    FeedForward,
    /// Any other linear layer.
    Other,
}

impl Role {
    /// The name in plans and settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Query => "query",
            Role::Key => "key",
            Role::Value => "value",
            Role::QueryKeyValue => "query_key_value",
            Role::Output => "output",
            Role::FeedForward => "feed_forward",
            Role::Other => "other",
        }
    }

    /// Whether a layer of this role is among the `wanted` ones. A fused query-key-value layer is if all three are.
    pub fn is_in(self, wanted: &[Role]) -> bool {
        wanted.contains(&self)
            || self == Role::QueryKeyValue
                && [Role::Query, Role::Key, Role::Value].iter().all(|role| wanted.contains(role))
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        use Role::*;
        let all = [Query, Key, Value, QueryKeyValue, Output, FeedForward, Other];
        all.into_iter().find(|role| role.as_str() == text).ok_or_else(|| {
            format!("`{text}` is no projection; take some of query, key, value, query_key_value, output, feed_forward, other")
        })
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// Assigns its role to every linear layer of a block.
pub(crate) fn assign(topology: &Topology, block: &[usize], linears: &mut [LinearLayer]) {
    let mut unnamed = false;
    for linear in linears.iter_mut() {
        let named = linear.module.as_deref().and_then(by_name);
        unnamed |= named.is_none();
        linear.role = named.unwrap_or(Role::Other);
    }
    if !unnamed {
        return;
    }
    let structure = Structure::new(topology, block, linears).roles();
    for (linear, found) in linears.iter_mut().zip(structure) {
        if linear.module.as_deref().and_then(by_name).is_none() {
            linear.role = found;
        }
    }
}

/// The role that the last parts of a module path name.
fn by_name(module: &str) -> Option<Role> {
    let lower = module.to_ascii_lowercase();
    let mut parts = lower.rsplit(['.', '/']);
    let leaf = parts.next()?;
    let above: Vec<&str> = parts.take(3).collect();
    let inside = |words: &[&str]| above.iter().any(|part| words.iter().any(|word| part.contains(word)));
    let attention = inside(&["attention", "attn"]);
    // Some blocks of hybrids have a convolution in place of an attention.
    if inside(&["conv"]) && matches!(leaf, "in_proj" | "out_proj") {
        return Some(Role::Other);
    }
    let feed_forward = inside(&["mlp", "ffn", "feed_forward", "feedforward", "intermediate", "densereludense"]);
    Some(match leaf {
        "query" | "q_proj" | "q_lin" | "query_proj" | "q_linear" | "to_q" | "wq" | "q" => Role::Query,
        "key" | "k_proj" | "k_lin" | "key_proj" | "k_linear" | "to_k" | "wk" | "k" => Role::Key,
        "value" | "v_proj" | "v_lin" | "value_proj" | "v_linear" | "to_v" | "wv" | "v" => Role::Value,
        "query_key_value" | "c_attn" | "wqkv" | "qkv" | "qkv_proj" | "in_proj" if !feed_forward => Role::QueryKeyValue,
        "intermediate" | "gate_proj" | "up_proj" | "down_proj" | "gate_up_proj" | "fc1" | "fc2" | "lin1" | "lin2"
        | "c_fc" | "ffn" | "ffn_output" | "wi" | "wi_0" | "wi_1" | "dense_h_to_4h" | "dense_4h_to_h" => {
            Role::FeedForward
        }
        "o_proj" | "out_lin" | "out_proj" | "to_out" | "o" | "dense" | "c_proj" | "wo" if attention => Role::Output,
        "o_proj" | "out_lin" => Role::Output,
        // `output.dense` without an attention around it is the second half of the feed-forward part.
        "dense" | "c_proj" | "wo" if feed_forward || above.first() == Some(&"output") => Role::FeedForward,
        _ => return None,
    })
}

/// Follows the values around the softmaxes of a block.
struct Structure<'a, 'g> {
    topology: &'a Topology<'g>,
    block: HashSet<usize>,
    /// Node index to position in the list of linear layers.
    linears: HashMap<usize, usize>,
    roles: Vec<Role>,
}

impl<'a, 'g> Structure<'a, 'g> {
    fn new(topology: &'a Topology<'g>, block: &[usize], linears: &[LinearLayer]) -> Self {
        Structure {
            topology,
            block: block.iter().copied().collect(),
            linears: linears.iter().enumerate().map(|(position, linear)| (linear.node, position)).collect(),
            roles: vec![Role::Other; linears.len()],
        }
    }

    fn roles(mut self) -> Vec<Role> {
        let nodes = &self.topology.graph.nodes;
        let mut softmaxes: Vec<usize> = self.block.iter().copied().filter(|&n| nodes[n].is("Softmax")).collect();
        softmaxes.sort_unstable();
        for softmax in softmaxes {
            self.around_softmax(softmax);
        }
        let fused: Vec<usize> = self.block.iter().copied().filter(|&n| nodes[n].has(Trait::Attention)).collect();
        for node in fused {
            self.around_fused_attention(node);
        }
        self.feed_forward();
        self.roles
    }

    fn has(&self, node: usize, wanted: Trait) -> bool {
        self.topology.graph.nodes[node].has(wanted)
    }

    /// The scores come from a product of queries and keys; the product that takes the probabilities also takes the values.
    fn around_softmax(&mut self, softmax: usize) {
        let node = &self.topology.graph.nodes[softmax];
        let (Some(scores), Some(probabilities)) = (node.inputs.first(), node.outputs.first()) else { return };
        let Some(&product) = self.up(scores, false).first() else { return };
        let inputs = &self.topology.graph.nodes[product].inputs;
        if let [queries, keys] = inputs.as_slice() {
            self.mark(&self.up(queries, true), Role::Query);
            self.mark(&self.up(keys, true), Role::Key);
        }
        let Some(context) = self.down(probabilities, false) else { return };
        for input in &self.topology.graph.nodes[context].inputs {
            if !self.comes_from(input, softmax) {
                self.mark(&self.up(input, true), Role::Value);
            }
        }
        if let Some(output) = self.topology.graph.nodes[context].outputs.first()
            && let Some(linear) = self.down(output, true)
        {
            self.mark(&[linear], Role::Output);
        }
    }

    fn around_fused_attention(&mut self, node: usize) {
        let node = &self.topology.graph.nodes[node];
        let packed = node.inputs.get(1).is_none_or(String::is_empty);
        let wanted = if packed { [Role::QueryKeyValue; 3] } else { [Role::Query, Role::Key, Role::Value] };
        for (input, role) in node.inputs.iter().zip(wanted) {
            self.mark(&self.up(input, true), role);
        }
        if let Some(output) = node.outputs.first()
            && let Some(linear) = self.down(output, true)
        {
            self.mark(&[linear], Role::Output);
        }
    }

    /// Marks linear layers that feed, or are fed by, another one that has no part in the attention.
    fn feed_forward(&mut self) {
        let rest: Vec<(usize, usize)> =
            self.linears.iter().filter(|(_, p)| self.roles[**p] == Role::Other).map(|(n, p)| (*n, *p)).collect();
        for &(node, position) in &rest {
            let output = self.topology.graph.nodes[node].outputs.first();
            let Some(next) = output.and_then(|output| self.down(output, true)) else { continue };
            if let Some(&(_, follower)) = rest.iter().find(|(other, _)| *other == next) {
                self.roles[position] = Role::FeedForward;
                self.roles[follower] = Role::FeedForward;
            }
        }
    }

    fn mark(&mut self, nodes: &[usize], role: Role) {
        for node in nodes {
            let Some(&position) = self.linears.get(node) else { continue };
            let slot = &mut self.roles[position];
            *slot = match *slot {
                Role::Other => role,
                same if same == role => same,
                Role::Query | Role::Key | Role::Value | Role::QueryKeyValue if role != Role::Output => {
                    Role::QueryKeyValue
                }
                first => first,
            };
        }
    }

    /// The nearest matrix products upstream of a value, nearest first: those with a constant weight (`linear`) or those
    /// without.
    fn up(&self, value: &str, linear: bool) -> Vec<usize> {
        let mut found = Vec::new();
        let mut seen = HashSet::new();
        let mut open = std::collections::VecDeque::from([value]);
        while let Some(value) = open.pop_front() {
            let Some(node) = self.topology.producer(value) else { continue };
            if !self.block.contains(&node) || !seen.insert(node) || self.has(node, Trait::ReadsShape) {
                continue;
            }
            let product = self.has(node, Trait::LinearProduct);
            if product && self.linears.contains_key(&node) == linear {
                found.push(node);
            } else if !product {
                open.extend(self.topology.graph.nodes[node].inputs.iter().map(String::as_str));
            }
        }
        found
    }

    /// Whether a value comes from this node without a matrix product between.
    fn comes_from(&self, value: &str, source: usize) -> bool {
        let mut seen = HashSet::new();
        let mut open = vec![value];
        while let Some(value) = open.pop() {
            let Some(node) = self.topology.producer(value) else { continue };
            if node == source {
                return true;
            }
            if self.block.contains(&node)
                && seen.insert(node)
                && !self.topology.graph.nodes[node].has_any(&[Trait::LinearProduct, Trait::ReadsShape])
            {
                open.extend(self.topology.graph.nodes[node].inputs.iter().map(String::as_str));
            }
        }
        false
    }

    /// The first matrix product downstream of a value, in file order.
    fn down(&self, value: &str, linear: bool) -> Option<usize> {
        let mut seen = HashSet::new();
        let mut open = vec![value];
        let mut found = Vec::new();
        while let Some(value) = open.pop() {
            for &node in self.topology.consumers(value) {
                if !self.block.contains(&node) || !seen.insert(node) || self.has(node, Trait::ReadsShape) {
                    continue;
                }
                if self.has(node, Trait::LinearProduct) {
                    if self.linears.contains_key(&node) == linear {
                        found.push(node);
                    }
                } else {
                    open.extend(self.topology.graph.nodes[node].outputs.iter().map(String::as_str));
                }
            }
        }
        found.into_iter().min()
    }
}
