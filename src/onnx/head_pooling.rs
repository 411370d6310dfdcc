//! Does a head read one token, or all of them?

use std::collections::HashSet;

use super::linear::LinearFinder;
use super::{Model, Node, Trait};

/// Whether the nodes of a head join the tokens of the last hidden state `[batch, sequence, width]`: a reduction over another
/// axis than the last one, or a product with weights that depend on the inputs.
pub(super) fn pools(finder: &LinearFinder, model: &Model, last: &[&str], nodes: &[usize]) -> bool {
    let graph = finder.topology.graph;
    let inputs: Vec<&str> = graph.inputs.iter().map(|input| input.name.as_str()).collect();
    let inputs: Vec<&str> = inputs.into_iter().filter(|name| finder.topology.initializer(name).is_none()).collect();
    let mut varying: HashSet<&str> = inputs.iter().copied().collect();
    for index in finder.topology.descendants(&inputs, &HashSet::new()) {
        varying.extend(graph.nodes[index].outputs.iter().map(String::as_str));
    }
    // Values made of hidden states; those before any linear layer, behind which products are attention.
    let mut states: HashSet<&str> = last.iter().copied().collect();
    let mut plain = states.clone();
    for &index in nodes {
        let node = &graph.nodes[index];
        let reads = |values: &HashSet<&str>| node.inputs.iter().any(|input| values.contains(input.as_str()));
        // The shape of a hidden state is none of its values.
        if node.has(Trait::ReadsShape) || !reads(&states) {
            continue;
        }
        let outputs = || node.outputs.iter().map(String::as_str);
        let joins = match () {
            () if node.has(Trait::Pooling) => true,
            // A `Gemm` takes matrices: there is no axis of tokens left.
            () if node.has(Trait::MatrixProduct) && !node.is("Gemm") => {
                let weights = node.inputs.iter().filter(|input| varying.contains(input.as_str())).count();
                reads(&plain) && weights > 1
            }
            () if node.has(Trait::Reduction) => axes(finder, model, node)
                .is_some_and(|axes| axes.is_empty() || axes.iter().any(|a| matches!(a, 1 | -2))),
            () => false,
        };
        if joins {
            return true;
        }
        states.extend(outputs());
        if reads(&plain) && finder.linear(index).is_none() {
            plain.extend(outputs());
        }
    }
    false
}

/// The axes of a reduction, none for all; `None` where they are not known.
fn axes(finder: &LinearFinder, model: &Model, node: &Node) -> Option<Vec<i64>> {
    if let Some(axes) = node.ints("axes") {
        return Some(axes.to_vec());
    }
    match node.inputs.get(1).filter(|name| !name.is_empty()) {
        Some(name) => model.to_i64(finder.topology.constant(name)?).ok(),
        None => Some(Vec::new()),
    }
}
