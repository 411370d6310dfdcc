//! What the inputs of an export are called: by Hugging Face, by Google's BERT, and by converters from TensorFlow.

use super::{Model, Node, ValueInfo};

/// What an input of tokens holds.
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

/// What an input of this name holds. A number of the output behind a colon, as TensorFlow writes it, does not count.
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

/// The input that tells tokens from padding.
pub fn mask_input(inputs: &[ValueInfo]) -> Option<&str> {
    inputs.iter().map(|input| input.name.as_str()).find(|name| token_input(name) == Some(TokenInput::Mask))
}

/// Rows of the embedding table, where `input_ids` goes straight into one.
pub fn vocabulary(model: &Model) -> Option<usize> {
    let graph = &model.graph;
    let gather = |node: &&Node| {
        node.is("Gather") && node.int("axis", 0) == 0 && node.inputs.get(1).is_some_and(|name| is_ids(name))
    };
    let table = graph.nodes.iter().find(gather)?.inputs.first()?;
    graph.initializers.iter().find(|tensor| tensor.name == *table)?.dims.first().copied()
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
