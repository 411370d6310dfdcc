//! Single nodes rewritten at byte level: an input left out, added or replaced, the rest of the node unchanged.

use std::ops::Range;

use super::Model;
use super::wire::{Field, Reader, Value, Writer};

/// A `graph` field of the model and the nodes in it, as byte ranges of the file.
pub(crate) struct GraphField {
    /// Byte range of the key and length.
    pub header: Range<usize>,
    /// Byte range of the message.
    pub payload: Range<usize>,
    /// The nodes in file order, each with its key and length.
    pub nodes: Vec<Range<usize>>,
}

/// Locates the graph and its nodes. A parsed model has only valid fields, so an invalid one ends the search.
pub(crate) fn graph_fields(bytes: &[u8]) -> Vec<GraphField> {
    let mut found = Vec::new();
    let mut reader = Reader::new(bytes, 0..bytes.len());
    loop {
        let start = reader.position();
        match reader.next_field() {
            Ok(Some(Field { number: 7, value: Value::Bytes(payload) })) => {
                let nodes = node_fields(bytes, payload.clone());
                found.push(GraphField { header: start..payload.start, payload, nodes });
            }
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return found,
        }
    }
}

fn node_fields(bytes: &[u8], graph: Range<usize>) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut reader = Reader::new(bytes, graph);
    loop {
        let start = reader.position();
        match reader.next_field() {
            Ok(Some(Field { number: 1, value: Value::Bytes(payload) })) => found.push(start..payload.end),
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return found,
        }
    }
}

/// The encoding of a node with input `position` replaced by `input`, or left out (`None`). If `position` is one past the
/// last input, `input` is appended. `None` where the model has no such node or input.
pub(crate) fn with_input(model: &Model, node: usize, position: usize, input: Option<&str>) -> Option<Vec<u8>> {
    let bytes = model.file_bytes();
    let field = graph_fields(bytes).into_iter().flat_map(|field| field.nodes).nth(model.place_in_file(node))?;
    let Ok(Some(Field { value: Value::Bytes(payload), .. })) = Reader::new(bytes, field).next_field() else {
        return None;
    };
    let mut writer = Writer::new();
    let mut reader = Reader::new(bytes, payload);
    let mut inputs = 0;
    loop {
        let start = reader.position();
        let Ok(Some(field)) = reader.next_field() else { break };
        let is_input = field.number == 1;
        if is_input && inputs == position {
            input.iter().for_each(|input| {
                writer.string(1, input);
            });
        } else {
            writer.raw(&bytes[start..reader.position()]);
        }
        inputs += usize::from(is_input);
    }
    match input {
        Some(input) if position == inputs => {
            writer.string(1, input);
        }
        _ if position >= inputs => return None,
        _ => {}
    }
    Some(writer.into_bytes())
}

/// The encoding of a node with an integer attribute appended. The node must not have it yet.
pub(crate) fn with_int_attribute(model: &Model, node: usize, name: &str, value: i64) -> Option<Vec<u8>> {
    let bytes = model.file_bytes();
    let field = graph_fields(bytes).into_iter().flat_map(|field| field.nodes).nth(model.place_in_file(node))?;
    let Ok(Some(Field { value: Value::Bytes(payload), .. })) = Reader::new(bytes, field).next_field() else {
        return None;
    };
    let mut writer = Writer::new();
    writer.raw(&bytes[payload]);
    writer.message(5, |attribute| {
        attribute.string(1, name).int(3, value).int(20, 2);
    });
    Some(writer.into_bytes())
}
