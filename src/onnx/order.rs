//! Nodes in topological order. ONNX requires it of files; ONNX Runtime's converter to float16 appends casts after the nodes
//! that read them, and ONNX Runtime sorts such files itself.

use std::collections::HashMap;

use super::graph::Node;
use super::topology::node_inputs;

/// Puts every node after those it reads, otherwise in file order. Returns the position in the file of every node, or `None`
/// where the nodes are still in file order.
///
/// # Errors
/// The name of a node in a cycle, one that reads what is computed from its own output: such nodes have no order, and
/// following them from output to input would never end.
pub(super) fn sort(nodes: &mut Vec<Node>) -> Result<Option<Vec<usize>>, String> {
    let Some(order) = order(nodes).map_err(|circle| nodes[circle].label().to_owned())? else { return Ok(None) };
    let mut unsorted: Vec<Option<Node>> = std::mem::take(nodes).into_iter().map(Some).collect();
    nodes.extend(order.iter().filter_map(|place| unsorted[*place].take()));
    Ok(Some(order))
}

/// The new order as indices; `None` where it is file order; an error is a node of a cycle.
fn order(nodes: &[Node]) -> Result<Option<Vec<usize>>, usize> {
    let mut makers: HashMap<&str, usize> = HashMap::new();
    for (index, node) in nodes.iter().enumerate() {
        makers.extend(node.outputs.iter().filter(|output| !output.is_empty()).map(|output| (output.as_str(), index)));
    }
    let read = |index: usize| -> Vec<usize> {
        node_inputs(&nodes[index]).into_iter().filter_map(|input| makers.get(input).copied()).collect()
    };
    if (0..nodes.len()).all(|index| read(index).iter().all(|maker| *maker < index)) {
        return Ok(None);
    }
    let mut order = Vec::with_capacity(nodes.len());
    let mut state = vec![State::New; nodes.len()];
    for first in 0..nodes.len() {
        // A stack of pending nodes, the next at the end: a node is appended to the order once all that it reads is.
        let mut open = vec![first];
        while let Some(&index) = open.last() {
            match state[index] {
                State::Done => _ = open.pop(),
                State::Open => {
                    state[index] = State::Done;
                    order.push(index);
                    open.pop();
                }
                State::New => {
                    state[index] = State::Open;
                    for maker in read(index).into_iter().rev() {
                        match state[maker] {
                            State::New => open.push(maker),
                            // Still waiting for a node that waits for it: a cycle.
                            State::Open => return Err(maker),
                            State::Done => {}
                        }
                    }
                }
            }
        }
    }
    Ok(Some(order))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    Open,
    Done,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(inputs: &[&str], output: &str) -> Node {
        let inputs = inputs.iter().map(|input| (*input).to_owned()).collect();
        Node { op_type: "Sum".into(), inputs, outputs: vec![output.into()], ..Node::default() }
    }

    fn sorted(mut nodes: Vec<Node>) -> (Vec<String>, Option<Vec<usize>>) {
        let places = sort(&mut nodes).expect("no circle");
        (nodes.into_iter().map(|mut node| node.outputs.remove(0)).collect(), places)
    }

    #[test]
    fn nodes_come_behind_what_they_read_and_else_stay_in_order() {
        let (names, places) = sorted(vec![node(&["x"], "a"), node(&["a"], "b")]);
        assert_eq!((names.concat().as_str(), places), ("ab", None), "in order already");
        let shuffled = vec![node(&["c"], "a"), node(&["x"], "b"), node(&["d", "b"], "c"), node(&["x"], "d")];
        let (names, places) = sorted(shuffled);
        assert_eq!((names.concat().as_str(), places), ("dbca", Some(vec![3, 1, 2, 0])));
        let (names, _) = sorted(vec![node(&["c", "b"], "a"), node(&["c"], "b"), node(&["x"], "c")]);
        assert_eq!(names.concat(), "cba", "one that is read twice");
    }

    #[test]
    fn a_circle_has_no_order() {
        for mut nodes in [vec![node(&["b"], "a"), node(&["a"], "b")], vec![node(&["a", "x"], "a")]] {
            assert!(["a", "b"].contains(&sort(&mut nodes).unwrap_err().as_str()));
        }
    }
}
