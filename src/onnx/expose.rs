//! Hidden states made visible: outputs `hidden_states.0` to `hidden_states.L` appended to an export.

use super::model::Dimension;
use super::states::Origin;
use super::types::{element_type, width};
use super::{Edit, HiddenStates, Model, NodeSpec, OnnxError, Topology};

impl HiddenStates {
    /// Takes inner values as hidden states 0 to L, in this order.
    ///
    /// # Errors
    /// When there are fewer than two, when the graph has no such value, or when one does not depend on the one before it.
    pub fn named(model: &Model, values: &[String]) -> Result<Self, OnnxError> {
        let fail = |reason: String| Err(OnnxError::Tap { path: model.path().into(), reason });
        if values.len() < 2 {
            return fail(format!("{} values are too few: name hidden states 0 (embeddings) to L", values.len()));
        }
        let topology = Topology::new(&model.graph);
        for value in values {
            if topology.producer(value).is_none() {
                let near = nearest(model, value).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
                return fail(format!("the graph has no inner value `{value}`{near}"));
            }
        }
        let states = HiddenStates { values: values.to_vec(), origin: Origin::Named };
        super::blocks(model, &states)?;
        Ok(states)
    }

    /// Takes the inner values whose whole name fits a pattern, in the order of the graph.
    ///
    /// # Errors
    /// As [`HiddenStates::named`], and when the pattern is not a regular expression.
    pub fn matching(model: &Model, pattern: &str) -> Result<Self, OnnxError> {
        let fail = |reason: String| OnnxError::Tap { path: model.path().into(), reason };
        let regex = regex::Regex::new(&format!("^(?:{pattern})$")).map_err(|error| {
            fail(format!("`{pattern}` is not a regular expression: {}", last_line(&error.to_string())))
        })?;
        let values = model.graph.nodes.iter().flat_map(|node| &node.outputs);
        let found: Vec<String> = values.filter(|value| regex.is_match(value)).cloned().collect();
        if found.is_empty() {
            return Err(fail(format!("no value has a name that fits `{pattern}` from beginning to end")));
        }
        Self::named(model, &found)
    }
}

/// The edit that shows the hidden states as outputs `hidden_states.0` to `hidden_states.L`: one `Identity` each, appended to
/// the file.
///
/// # Errors
/// When the element type of a hidden state cannot be told.
pub fn expose(model: &Model, states: &HiddenStates) -> Result<Edit<'static>, OnnxError> {
    let topology = Topology::new(&model.graph);
    let (batch, sequence) = super::append::batch_and_sequence(model);
    let mut edit = Edit::new();
    for (index, value) in states.values.iter().enumerate() {
        let Some(data_type) = element_type(model, &topology, value) else {
            let reason =
                format!("the element type of `{value}` cannot be told; run onnx.shape_inference on the export first");
            return Err(OnnxError::Edit { path: model.path().into(), reason });
        };
        let width = width(model, &topology, value).map_or(Dimension::Unknown, Dimension::Fixed);
        let name = format!("hidden_states.{index}");
        edit.add_node(NodeSpec::new("Identity", &[value], &name));
        edit.add_output(&name, data_type, &[batch.clone(), sequence.clone(), width]);
    }
    Ok(edit)
}

/// The value whose name begins or ends most like this one.
fn nearest<'m>(model: &'m Model, wanted: &str) -> Option<&'m str> {
    let common = |name: &str| {
        let front = name.bytes().zip(wanted.bytes()).take_while(|(a, b)| a == b).count();
        let back = name.bytes().rev().zip(wanted.bytes().rev()).take_while(|(a, b)| a == b).count();
        front + back
    };
    let names = model.graph.nodes.iter().flat_map(|node| &node.outputs).map(String::as_str);
    names.filter(|name| 2 * common(name) > wanted.len()).max_by_key(|name| common(name))
}

fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or_default().trim_start_matches("error: ")
}
