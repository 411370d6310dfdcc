//! The residual stream: hidden states of an export that does not expose them.
//!
//! Everything that a transformer knows of its tokens passes, between two blocks, through one tensor. Such a tensor is a *cut*
//! of the graph: every path from the token embeddings to the output leads through it. Between two neighbouring cuts lies a
//! *stretch*: an attention, a feed-forward part, both at once (parallel blocks), a normalisation, or a single operation.
//! Every block has one attention (a hybrid has convolutions over tokens in place of some), so hidden state `i − 1` is the cut
//! before attention `i`, wherever norms lie: a norm inside the branch (pre-norm) comes after it, a norm on the stream
//! (post-norm) before it. The last hidden state lies behind the feed-forward part of the last block and the norm that follows
//! it; a factor that comes last is the head's.

use std::collections::HashSet;

use super::inputs::{TokenInput, is_ids, token_input};
use super::lacking::{input_behind, no_embeddings};
use super::linear::LinearFinder;
use super::{Model, Node, Topology, Trait, node_inputs};

/// Hidden states found in the graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResidualStream {
    /// Hidden states 0 to L.
    pub values: Vec<String>,
    /// Name of the node that looks up the token embeddings.
    pub embeddings: String,
    /// Name of the output to which all paths were followed.
    pub output: String,
    /// Whether blocks only add to the stream, with their norms in the branches. Otherwise every block ends with a norm on
    /// the stream.
    pub pre_norm: bool,
    /// Whether the last hidden state follows a norm of its own, which no earlier block has.
    pub final_norm: bool,
}

/// Why no stream was found, as text that follows "its hidden states cannot be found in the graph: ".
pub(crate) type Reason = String;

/// Finds the residual stream of a graph.
pub(crate) fn residual_stream(model: &Model, topology: &Topology) -> Result<ResidualStream, Reason> {
    let finder = LinearFinder::new(topology);
    let source = token_embeddings(model, topology, &finder)?;
    let below = flow(topology, source);
    let output = deepest_output(topology, &below, source)?;
    let stream = Stream::new(topology, &finder, source, &below, &output);
    let (values, pre_norm, final_norm) = stream.hidden_states()?;
    let embeddings = model.graph.nodes[source].label().to_owned();
    Ok(ResidualStream { values, embeddings, output, pre_norm, final_norm })
}

/// The node that looks up the token embeddings: a `Gather` of rows of a constant table by an integer input, namely
/// `input_ids` where there is one, else the one with the largest table.
pub(crate) fn token_embeddings(model: &Model, topology: &Topology, finder: &LinearFinder) -> Result<usize, Reason> {
    let mut found: Vec<(bool, usize, usize)> = Vec::new();
    let mut turned = false;
    for (index, node) in model.graph.nodes.iter().enumerate() {
        let Some((table, indices)) = node.lookup().filter(|_| node.int("axis", 0) == 0) else { continue };
        let Some(rows) = table_rows(topology, finder, table) else { continue };
        match input_behind(topology, indices) {
            Some((input, false)) => found.push((is_ids(input), rows, index)),
            Some((input, true)) => turned |= is_ids(input),
            None => {}
        }
    }
    // Where the ids are looked up with their axes swapped, no other table is that of the tokens.
    if turned && !found.iter().any(|(named, ..)| *named) {
        return Err(no_embeddings(model, topology, finder));
    }
    // Of equal tables the first is the one that the stream begins with.
    let best = found.into_iter().max_by_key(|(named, rows, index)| (*named, *rows, std::cmp::Reverse(*index)));
    best.map(|(_, _, index)| index).ok_or_else(|| no_embeddings(model, topology, finder))
}

/// Number of rows of a constant matrix, quantized or not.
fn table_rows(topology: &Topology, finder: &LinearFinder, value: &str) -> Option<usize> {
    let mut value = value;
    while let Some(node) = topology.producer_node(value).filter(|node| node.op_type == "DequantizeLinear") {
        value = node.inputs.first()?;
    }
    let source = finder.source(value)?;
    match topology.graph.initializers[source.initializer].dims.as_slice() {
        [rows, _] => Some(*rows),
        _ => None,
    }
}

/// For every node the number of nodes on the longest path to it from `source`; `None` where there is no path. Paths through
/// shapes do not count.
fn flow(topology: &Topology, source: usize) -> Vec<Option<usize>> {
    let nodes = &topology.graph.nodes;
    let mut depth: Vec<Option<usize>> = vec![None; nodes.len()];
    depth[source] = Some(0);
    // File order is topological.
    for (index, node) in nodes.iter().enumerate().skip(source + 1) {
        if !node.has(Trait::ReadsShape) {
            let above = node_inputs(node).into_iter().filter_map(|input| topology.producer(input));
            depth[index] = above.filter_map(|producer| depth[producer]).max().map(|deepest| deepest + 1);
        }
    }
    depth
}

/// The output with the longest path from the embeddings: the logits, or the last hidden state where there is no head. Keys
/// and values of single layers have shorter paths.
fn deepest_output(topology: &Topology, depth: &[Option<usize>], source: usize) -> Result<String, Reason> {
    let outputs = topology.graph.outputs.iter();
    let reached = outputs.filter_map(|output| Some((depth[topology.producer(&output.name)?]?, &output.name)));
    // Of several at the same depth the first.
    let deepest = reached.fold(None, |best: Option<(usize, &String)>, (depth, name)| match best {
        Some((deepest, _)) if deepest >= depth => best,
        _ => Some((depth, name)),
    });
    deepest.map(|(_, name)| name.clone()).ok_or_else(|| {
        format!("no output depends on the token embeddings (node `{}`)", topology.graph.nodes[source].label())
    })
}

/// What lies between two neighbouring cuts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stretch {
    /// Holds an attention, or a convolution over tokens that is added to the stream.
    Attention,
    /// Products on a branch that is added to the stream.
    Branch,
    /// Normalisations, factors and offsets that depend on the stream alone and treat every token by itself.
    Norm {
        /// Whether it normalises, rather than only scales or casts.
        normalises: bool,
    },
    /// The same elements in another shape, as where the tokens of all rows are packed into one list and unpacked again.
    Layout,
    /// Anything else: a product without a bypass, a selection of tokens.
    Other,
}

struct Stream<'a, 'g> {
    topology: &'a Topology<'g>,
    finder: &'a LinearFinder<'g>,
    /// Nodes on a path from the embeddings to the output.
    nodes: HashSet<usize>,
    /// Indices of the cut nodes, in file order; the first is the source.
    cuts: Vec<usize>,
    /// `stretches[i]` leads from cut `i` to cut `i + 1`.
    stretches: Vec<Stretch>,
}

impl<'a, 'g> Stream<'a, 'g> {
    fn new(
        topology: &'a Topology<'g>,
        finder: &'a LinearFinder<'g>,
        source: usize,
        below: &[Option<usize>],
        output: &str,
    ) -> Self {
        let above = topology.ancestors(&[output], &HashSet::new());
        let nodes: HashSet<usize> = above.into_iter().filter(|node| below[*node].is_some()).collect();
        let mut stream = Stream { topology, finder, nodes, cuts: Vec::new(), stretches: Vec::new() };
        stream.find_cuts(source);
        let pairs: Vec<[usize; 2]> = stream.cuts.windows(2).map(|pair| [pair[0], pair[1]]).collect();
        stream.stretches = pairs.into_iter().map(|[from, to]| stream.stretch(from, to)).collect();
        stream
    }

    /// Nodes of the stream that use the outputs of a node.
    fn users(&self, node: usize) -> impl Iterator<Item = usize> {
        let outputs = self.topology.graph.nodes[node].outputs.iter().filter(|output| !output.is_empty());
        let users = outputs.flat_map(|output| self.topology.consumers(output)).copied();
        users.filter(|user| self.nodes.contains(user) && !self.topology.graph.nodes[*user].has(Trait::ReadsShape))
    }

    /// In topological order a node is on every path from the first to the last one exactly when no edge jumps over it.
    fn find_cuts(&mut self, source: usize) {
        let mut order: Vec<usize> = self.nodes.iter().copied().collect();
        order.sort_unstable();
        let mut farthest = source;
        for node in order {
            if farthest <= node {
                self.cuts.push(node);
            }
            farthest = self.users(node).fold(farthest, usize::max);
        }
    }

    fn stretch(&self, from: usize, to: usize) -> Stretch {
        let graph = self.topology.graph;
        let inside: Vec<usize> = (from + 1..=to).filter(|node| self.nodes.contains(node)).collect();
        let nodes = || inside.iter().map(|node| &graph.nodes[*node]);
        if inside.iter().any(|node| self.attends(*node))
            || nodes().any(|node| self.mixes_tokens(node)) && self.has_bypass(from, to)
        {
            return Stretch::Attention;
        }
        if nodes().any(|node| node.has(Trait::Product)) {
            return if self.has_bypass(from, to) { Stretch::Branch } else { Stretch::Other };
        }
        if inside.len() == 1 && nodes().all(|node| node.has(Trait::Reshapes)) {
            return Stretch::Layout;
        }
        // The parts of a norm are followed by others; a reduction alone joins the tokens of a row (a head's mean).
        if graph.nodes[to].has(Trait::Reduction) {
            return Stretch::Other;
        }
        let alone = |node: &Node| {
            node_inputs(node).into_iter().all(|input| {
                let on_stream =
                    self.topology.producer(input).is_some_and(|maker| maker == from || inside.contains(&maker));
                // A factor that is zero at padding (XLM) leaves tokens unchanged.
                on_stream || self.is_constant(input) || (node.is("Mul") && self.is_mask(input))
            })
        };
        match nodes().all(|node| node.has_any(&[Trait::Normalisation, Trait::NormPart]) && alone(node)) {
            true => Stretch::Norm { normalises: nodes().any(|node| node.has(Trait::Normalisation)) },
            false => Stretch::Other,
        }
    }

    /// Whether a node is a fused attention, or a softmax whose probabilities weight computed vectors: that of a router
    /// chooses among experts, that of a head among classes.
    fn attends(&self, index: usize) -> bool {
        let nodes = &self.topology.graph.nodes;
        if !nodes[index].is("Softmax") {
            return nodes[index].has(Trait::Attention);
        }
        let mut open = vec![index];
        while let Some(node) = open.pop() {
            for user in self.users(node) {
                let computed = nodes[user].inputs.iter().all(|input| !self.is_constant(input));
                if nodes[user].has(Trait::Product) && computed {
                    return true;
                }
                if nodes[user].has(Trait::PassesScores) {
                    open.push(user);
                }
            }
        }
        false
    }

    /// Whether a node is a convolution over several tokens, which takes the place of an attention in some blocks.
    fn mixes_tokens(&self, node: &Node) -> bool {
        let weight = || self.finder.source(node.inputs.get(1)?);
        let kernel = || weight().map(|source| &self.topology.graph.initializers[source.initializer].dims[..]);
        node.is("Conv")
            && match node.ints("kernel_shape") {
                Some(sizes) => sizes.iter().any(|size| *size > 1),
                None => kernel().is_some_and(|dims| dims.iter().skip(2).any(|size| *size > 1)),
            }
    }

    /// Whether a value is the attention mask, possibly in another type or shape.
    fn is_mask(&self, value: &str) -> bool {
        input_behind(self.topology, value).is_some_and(|(input, _)| token_input(input) == Some(TokenInput::Mask))
    }

    fn is_constant(&self, value: &str) -> bool {
        self.finder.source(value).is_some()
            || self.topology.producer_node(value).is_some_and(|node| {
                node.is("Constant")
                    || (!node.inputs.is_empty() && node.inputs.iter().all(|input| self.is_constant(input)))
            })
    }

    /// Whether a path without a product leads from one cut to the next.
    fn has_bypass(&self, from: usize, to: usize) -> bool {
        let mut open = vec![from];
        let mut seen = HashSet::new();
        while let Some(node) = open.pop() {
            for user in self.users(node) {
                if user == to && !self.topology.graph.nodes[to].has(Trait::Product) {
                    return true;
                }
                if user < to && !self.topology.graph.nodes[user].has(Trait::Product) && seen.insert(user) {
                    open.push(user);
                }
            }
        }
        false
    }

    /// The output of a cut that flows on.
    fn value(&self, cut: usize) -> Result<String, Reason> {
        let node = &self.topology.graph.nodes[cut];
        let used = |output: &&String| {
            let users = self.topology.consumers(output);
            users.iter().any(|user| self.nodes.contains(user))
                || self.topology.graph.outputs.iter().any(|declared| declared.name == **output)
        };
        if let Some(sum) = skip_sum(node).filter(|sum| used(sum)) {
            return Ok(sum.clone());
        }
        let used: Vec<&String> = node.outputs.iter().filter(|output| !output.is_empty()).filter(used).collect();
        match used.as_slice() {
            [value] => Ok((*value).clone()),
            _ => Err(format!("the stream splits at node `{}` ({})", node.label(), node.op_type)),
        }
    }

    /// The hidden states, whether blocks are pre-norm, and whether a separate norm produces the last state.
    fn hidden_states(&self) -> Result<(Vec<String>, bool, bool), Reason> {
        let attentions: Vec<usize> =
            (0..self.stretches.len()).filter(|at| self.stretches[*at] == Stretch::Attention).collect();
        let (end, normed) = self.end_of_last_block(&attentions)?;
        // Stretch `i` begins at cut `i`.
        let mut values = attentions.iter().map(|at| self.value(self.cuts[*at])).collect::<Result<Vec<_>, _>>()?;
        values.push(self.value(self.cuts[end])?);
        let pre_norm = match attentions.as_slice() {
            // With one block, only the inside of its attention decides.
            [only] => self.norm_in_branch(*only),
            [_, others @ ..] => !others.iter().any(|at| self.is_norm_before(*at)),
            [] => false,
        };
        Ok((values, pre_norm, pre_norm && normed))
    }

    /// Whether a norm on the stream leads to the cut before an attention.
    fn is_norm_before(&self, attention: usize) -> bool {
        let before = self.stretches[..attention].iter().rev();
        let mut norms = before.map_while(|stretch| match stretch {
            Stretch::Norm { normalises } => Some(*normalises),
            _ => None,
        });
        self.is_normed(attention) || norms.any(|normalises| normalises)
    }

    /// The cut that is the last hidden state, and whether a norm produced it. `attentions` are the stretches that hold one.
    fn end_of_last_block(&self, attentions: &[usize]) -> Result<(usize, bool), Reason> {
        let (last, before) = match attentions {
            [.., before, last] => (*last, Some(*before)),
            [last] => (*last, None),
            [] => return Err("no attention lies between the token embeddings and the output".into()),
        };
        // Whatever is neither norm nor branch between two attentions ends or divides every block, the last one too.
        let mut end = last + 1;
        if let Some(before) = before.filter(|before| self.stretches[before + 1..last].contains(&Stretch::Other)) {
            let length = last - before - 1;
            if let Some(at) = (0..length).find(|at| !self.are_alike(before + 1 + at, end + at)) {
                let odd = self.label(self.cuts[before + 2 + at]);
                return Err(format!("the last block does not end as the one before it, at {odd}"));
            }
            end += length;
        }
        let scaled_blocks = attentions[1..].iter().any(|at| self.is_scaling(at - 1));
        let (end, normed) = self.end_of_stream(end, scaled_blocks);
        // A scale also bypasses an integer product, but is not added to it.
        let adds = |at: &usize| {
            let node = &self.topology.graph.nodes[self.cuts[at + 1]];
            self.stretches[*at] == Stretch::Branch && (node.is("Add") || node.has(Trait::SkipNorm))
        };
        if let Some(branch) = (end..self.stretches.len()).find(adds) {
            let (stop, branch) = (self.label(self.cuts[end + 1]), self.label(self.cuts[branch + 1]));
            return Err(format!(
                "behind {stop} another product is added to the stream, at {branch}: the end of the last block cannot be told"
            ));
        }
        Ok((end, normed))
    }

    /// The last cut, starting at `from`, that is reached through branches and norms only, and whether a norm produced it. A
    /// factor with no branch or norm after it belongs to the head, unless `scaled_blocks`.
    fn end_of_stream(&self, from: usize, scaled_blocks: bool) -> (usize, bool) {
        let (mut end, mut normed) = (from, self.is_normed(from));
        // Whether the tokens of all rows are packed into one list; a hidden state is where they are not.
        let (mut flat, mut scaled) = (false, false);
        let mut norm = normed;
        for at in from..self.stretches.len() {
            match self.stretches[at] {
                Stretch::Branch => (norm, scaled) = (self.is_normed(at + 1), false),
                Stretch::Norm { normalises } => {
                    norm |= normalises;
                    scaled = !normalises && (scaled || !scaled_blocks && self.is_scaling(at));
                }
                Stretch::Layout => flat = !flat,
                Stretch::Attention | Stretch::Other => break,
            }
            if !flat && !scaled {
                (end, normed) = (at + 1, norm);
            }
        }
        (end, normed)
    }

    /// Whether a stretch only multiplies by a single number.
    fn is_scaling(&self, at: usize) -> bool {
        let nodes = &self.topology.graph.nodes;
        let mut scales = false;
        for node in (self.cuts[at] + 1..=self.cuts[at + 1]).filter(|node| self.nodes.contains(node)) {
            let node = &nodes[node];
            match () {
                () if node.has(Trait::Copies) || node.is("CastLike") => {}
                () if (node.is("Mul") || node.is("Div")) && node.inputs.iter().any(|input| self.is_number(input)) => {
                    scales = true;
                }
                () => return false,
            }
        }
        scales
    }

    /// Whether a value is a constant of one element.
    fn is_number(&self, value: &str) -> bool {
        let mut value = value;
        for _ in 0..8 {
            if let Some(tensor) = self.topology.constant(value) {
                return tensor.dims.iter().product::<usize>() == 1;
            }
            match self.topology.producer_node(value) {
                Some(node) if node.is("Constant") => return true,
                Some(node) if node.has(Trait::Copies) => match node.inputs.first() {
                    Some(input) => value = input,
                    None => return false,
                },
                _ => return false,
            }
        }
        false
    }

    /// Whether two stretches are of the same kind and have the same operations.
    fn are_alike(&self, one: usize, other: usize) -> bool {
        let operations = |at: usize| -> Vec<&str> {
            let inside = (self.cuts[at] + 1..=self.cuts[at + 1]).filter(|node| self.nodes.contains(node));
            let mut names: Vec<&str> = inside.map(|node| self.topology.graph.nodes[node].op_type.as_str()).collect();
            names.sort_unstable();
            names
        };
        other < self.stretches.len()
            && self.stretches[one] == self.stretches[other]
            && operations(one) == operations(other)
    }

    fn label(&self, node: usize) -> String {
        let node = &self.topology.graph.nodes[node];
        format!("node `{}` ({})", node.label(), node.op_type)
    }

    /// Whether the cut is an addition fused with a norm, where only the normed sum flows on.
    fn is_normed(&self, cut: usize) -> bool {
        let index = self.cuts[cut];
        let node = &self.topology.graph.nodes[index];
        node.has(Trait::SkipNorm) && self.value(index).is_ok_and(|value| Some(&value) != node.outputs.get(3))
    }

    /// Whether the branch of an attention begins with a norm.
    fn norm_in_branch(&self, at: usize) -> bool {
        let nodes = &self.topology.graph.nodes;
        (self.cuts[at] + 1..self.cuts[at + 1])
            .filter(|node| self.nodes.contains(node))
            .take_while(|node| !nodes[*node].has(Trait::Product))
            .any(|node| nodes[node].has(Trait::Normalisation))
    }
}

/// The sum that a fused addition and normalisation outputs beside its result.
pub(crate) fn skip_sum(node: &Node) -> Option<&String> {
    node.outputs.get(3).filter(|output| node.has(Trait::SkipNorm) && !output.is_empty())
}
