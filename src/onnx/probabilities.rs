//! Outputs called logits that are probabilities: training would take the cross entropy of probabilities.

use super::head::OUTPUTS;
use super::{Model, Node, Topology};

/// Operations that change nothing of what a value means.
const PASSING: [&str; 8] = ["Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Dropout"];

/// What to say of the first output of a head that is made by a softmax or its like; `None` where all are plain logits.
pub fn normalised_logits(model: &Model) -> Option<String> {
    let topology = Topology::new(&model.graph);
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
    // Every step goes to one node above, so the number of nodes bounds the way.
    for _ in 0..topology.graph.nodes.len() {
        match node.op_type.as_str() {
            "Softmax" | "Sigmoid" | "HardSigmoid" => return Some((node, Found::Probabilities)),
            "LogSoftmax" => return Some((node, Found::Logarithms)),
            "Log" => {
                let (found, _) = normalised(topology, node.inputs.first()?)?;
                return Some((found, Found::Logarithms));
            }
            "Div" => return written_out(topology, node).then_some((node, Found::Probabilities)),
            operator if PASSING.contains(&operator) => node = topology.producer_node(node.inputs.first()?)?,
            _ => return None,
        }
    }
    None
}

/// `exp(x) / sum(exp(x))`.
fn written_out(topology: &Topology, quotient: &Node) -> bool {
    let [above, below] = quotient.inputs.as_slice() else { return false };
    let sum = topology.producer_node(below).filter(|node| node.is("ReduceSum"));
    topology.producer_node(above).is_some_and(|node| node.is("Exp"))
        && sum.and_then(|sum| sum.inputs.first()).is_some_and(|summed| summed == above)
}
