//! Hidden states made visible: outputs `hidden_states.0` to `hidden_states.L` appended to an export.

use super::graph::Dimension;
use super::states::Origin;
use super::{Edit, HiddenStates, Model, NodeSpec, OnnxError, Transformer, blocks};

impl HiddenStates {
    /// Uses inner values as hidden states 0 to L, in this order.
    ///
    /// # Errors
    /// When there are fewer than two, when the graph has no such value, or when one does not depend on the one before it.
    pub fn named(model: &Transformer, values: &[String]) -> Result<Self, OnnxError> {
        let fail = |reason: String| Err(OnnxError::Tap { path: model.path().into(), reason });
        if values.len() < 2 {
            return fail(format!("{} values are too few: name hidden states 0 (embeddings) to L", values.len()));
        }
        let topology = model.topology();
        for value in values {
            if topology.producer(value).is_none() {
                let near = nearest(model, value).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
                return fail(format!("the graph has no inner value `{value}`{near}"));
            }
        }
        let states = HiddenStates { values: values.to_vec(), origin: Origin::Named };
        blocks::find(model, &topology, &states)?;
        Ok(states)
    }

    /// Uses the inner values whose full name matches a pattern, in graph order.
    ///
    /// # Errors
    /// As [`HiddenStates::named`], and when the pattern is not a regular expression.
    pub fn matching(model: &Transformer, pattern: &str) -> Result<Self, OnnxError> {
        let fail = |reason: String| OnnxError::Tap { path: model.path().into(), reason };
        let regex = regex::Regex::new(&format!("^(?:{pattern})$")).map_err(|error| {
            fail(format!("`{pattern}` is not a regular expression: {}", last_line(&error.to_string())))
        })?;
        let values = model.graph.nodes.iter().flat_map(|node| &node.outputs);
        let found: Vec<String> = values.filter(|value| regex.is_match(value)).cloned().collect();
        if found.is_empty() {
            let inside =
                model.graph.nodes.iter().flat_map(|node| &node.outputs).find(|value| fits_inside(pattern, value));
            let near = inside.map(|value| format!("; `{value}` holds it: begin or end the pattern with `.*`"));
            let near = near.unwrap_or_default();
            return Err(fail(format!("no value has a name that fits `{pattern}` from beginning to end{near}")));
        }
        Self::named(model, &found)
    }
}

/// The edit that exposes the hidden states as outputs `hidden_states.0` to `hidden_states.L`: one `Identity` each, appended
/// to the file.
///
/// # Errors
/// When the element type of a hidden state cannot be determined.
pub fn expose(model: &Transformer, states: &HiddenStates) -> Result<Edit<'static>, OnnxError> {
    let (batch, sequence) = super::append::batch_and_sequence(model);
    let mut edit = Edit::new();
    for (index, value) in states.values.iter().enumerate() {
        let Some(data_type) = model.element_type(value) else {
            let reason =
                format!("the element type of `{value}` cannot be told; run onnx.shape_inference on the export first");
            return Err(OnnxError::Edit { path: model.path().into(), reason });
        };
        let width = model.width(value).map_or(Dimension::Unknown, Dimension::Fixed);
        let name = format!("hidden_states.{index}");
        edit.add_node(NodeSpec::new("Identity", &[value], &name));
        edit.add_output(&name, data_type, &[batch.clone(), sequence.clone(), width]);
    }
    Ok(edit)
}

/// The value with the most similar name.
fn nearest<'m>(model: &'m Model, wanted: &str) -> Option<&'m str> {
    const LIKE: f64 = 0.6;
    let names = model.graph.nodes.iter().flat_map(|node| &node.outputs).map(String::as_str);
    let alike = names.map(|name| (strsim::normalized_levenshtein(name, wanted), name));
    alike.filter(|(likeness, _)| *likeness >= LIKE).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
}

fn fits_inside(pattern: &str, value: &str) -> bool {
    regex::Regex::new(pattern).is_ok_and(|regex| regex.is_match(value))
}

fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or_default().trim_start_matches("error: ")
}
