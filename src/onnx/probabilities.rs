//! Outputs called logits that are probabilities: training would compute the cross entropy of probabilities.

use super::head::OUTPUTS;
use super::{Node, Topology, Trait, Transformer};

/// The warning for the first output of a head that is computed by a softmax or its like; `None` where all are plain logits.
pub fn normalised_logits(model: &Transformer) -> Option<String> {
    let topology = model.topology();
    let outputs = OUTPUTS.iter().filter(|name| model.graph.outputs.iter().any(|output| output.name == **name));
    outputs.into_iter().find_map(|output| {
        let (node, found) = normalised(&topology, output)?;
        let what = match found {
            Found::Probabilities => {
                "probabilities and no logits: training would take the cross entropy of probabilities, which learns little"
            }
            Found::Logarithms => {
                "logarithms of probabilities and no logits: classes and cross entropy are the same, other losses are not"
            }
        };
        Some(format!(
            "the output `{output}` is made by node `{}` ({}), so it holds {what}; export the model without it",
            node.label(),
            node.op_type
        ))
    })
}

enum Found {
    Probabilities,
    Logarithms,
}

fn normalised<'g>(topology: &Topology<'g>, output: &str) -> Option<(&'g Node, Found)> {
    let mut node = topology.producer_node(output)?;
    // Every step moves one node up, so the number of nodes bounds the path.
    for _ in 0..topology.graph.nodes.len() {
        match () {
            () if node.has(Trait::Probabilities) => return Some((node, Found::Probabilities)),
            () if node.has(Trait::LogProbabilities) => return Some((node, Found::Logarithms)),
            () if node.is("Log") => {
                let (found, _) = normalised(topology, node.inputs.first()?)?;
                return Some((found, Found::Logarithms));
            }
            () if node.is("Div") => return written_out(topology, node).then_some((node, Found::Probabilities)),
            () if keeps_meaning(node) => node = topology.producer_node(node.inputs.first()?)?,
            () => return None,
        }
    }
    None
}

/// Whether a node leaves the meaning of a value unchanged.
fn keeps_meaning(node: &Node) -> bool {
    node.has_any(&[Trait::Copies, Trait::Reshapes]) || node.is("Transpose") || node.is("Dropout")
}

/// `exp(x) / sum(exp(x))`.
fn written_out(topology: &Topology, quotient: &Node) -> bool {
    let [above, below] = quotient.inputs.as_slice() else { return false };
    let sum = topology.producer_node(below).filter(|node| node.is("ReduceSum"));
    topology.producer_node(above).is_some_and(|node| node.is("Exp"))
        && sum.and_then(|sum| sum.inputs.first()).is_some_and(|summed| summed == above)
}
