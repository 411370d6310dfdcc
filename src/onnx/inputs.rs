//! Names of an export's inputs: as used by Hugging Face, by Google's BERT, and by converters from TensorFlow.

use std::collections::HashSet;

use super::{Node, Topology, Trait, ValueInfo};

/// What a token input holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenInput {
    /// Token ids.
    Ids,
    /// 1 at tokens, 0 at padding.
    Mask,
    /// The segment of each token.
    TypeIds,
    /// The position of each token.
    Positions,
}

/// What an input of this name holds. An output number after a colon, as TensorFlow writes it, is ignored.
pub fn token_input(name: &str) -> Option<TokenInput> {
    let name = match name.rsplit_once(':') {
        Some((name, number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => name,
    };
    match name {
        "input_ids" | "input_word_ids" => Some(TokenInput::Ids),
        "attention_mask" | "input_mask" => Some(TokenInput::Mask),
        "token_type_ids" | "segment_ids" | "input_type_ids" => Some(TokenInput::TypeIds),
        "position_ids" => Some(TokenInput::Positions),
        _ => None,
    }
}

/// Whether an input of this name holds token ids.
pub fn is_ids(name: &str) -> bool {
    token_input(name) == Some(TokenInput::Ids)
}

/// The input that distinguishes tokens from padding.
pub fn mask_input(inputs: &[ValueInfo]) -> Option<&str> {
    inputs.iter().map(|input| input.name.as_str()).find(|name| token_input(name) == Some(TokenInput::Mask))
}

/// Number of rows of the table in which token ids are looked up, through nodes that only change their type or shape or
/// leave some out. `None` where no such table is found.
pub(super) fn vocabulary(topology: &Topology) -> Option<usize> {
    let graph = topology.graph;
    let mut open: Vec<&str> =
        graph.inputs.iter().map(|input| input.name.as_str()).filter(|name| is_ids(name)).collect();
    let mut seen: HashSet<usize> = HashSet::new();
    // A `Flatten` would destroy the rows of tokens.
    let passes =
        |node: &Node| node.has_any(&[Trait::Copies, Trait::Reshapes]) && !node.is("Flatten") || node.is("Slice");
    while let Some(ids) = open.pop() {
        for (index, node) in topology.consumers(ids).iter().map(|&index| (index, &graph.nodes[index])) {
            match node.lookup() {
                Some((table, rows)) if rows == ids && lookup_axis(node) == 0 => {
                    if let Some(rows) = rows_of(topology, table) {
                        return Some(rows);
                    }
                }
                _ if node.inputs.first().is_some_and(|input| input == ids) && passes(node) && seen.insert(index) => {
                    open.extend(node.outputs.first().map(String::as_str));
                }
                _ => {}
            }
        }
    }
    None
}

/// The axis along which a lookup selects.
fn lookup_axis(node: &Node) -> i64 {
    node.int("axis", node.int("gather_axis", 0))
}

/// Number of rows of a constant matrix, seen through nodes that change its type, transpose it, or dequantize it.
fn rows_of(topology: &Topology, table: &str) -> Option<usize> {
    let (mut value, mut turned) = (table, false);
    // The bound only guards against a cyclic graph.
    for _ in 0..16 {
        if let Some(tensor) = topology.constant(value) {
            return if turned { tensor.dims.last() } else { tensor.dims.first() }.copied();
        }
        let node = topology.producer_node(value)?;
        if !node.has(Trait::Copies) && !node.is("Transpose") && node.op_type != "DequantizeLinear" {
            return None;
        }
        turned ^= node.is("Transpose");
        value = node.inputs.first()?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_other_exporters_are_known() {
        let of = |name| token_input(name);
        for name in ["input_ids", "input_ids:0", "input_word_ids"] {
            assert_eq!(of(name), Some(TokenInput::Ids), "{name}");
        }
        for name in ["attention_mask", "attention_mask:0", "input_mask", "input_mask:0"] {
            assert_eq!(of(name), Some(TokenInput::Mask), "{name}");
        }
        for name in ["token_type_ids", "segment_ids:0", "input_type_ids"] {
            assert_eq!(of(name), Some(TokenInput::TypeIds), "{name}");
        }
        assert_eq!(of("position_ids"), Some(TokenInput::Positions));
        for name in ["pixel_values", "input_ids:x", "logits:0", "past_key_values.0.key"] {
            assert_eq!(of(name), None, "{name}");
        }
    }
}
