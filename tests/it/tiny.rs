//! Tiny encoders, built here byte by byte: two hidden states of width 4 over a vocabulary of 11, and a head.

use gelora::onnx::Model;
use gelora::onnx::wire::{Reader, Value, Writer};

/// Width of the hidden states.
pub const WIDTH: usize = 4;
/// Rows of the embedding table.
pub const VOCABULARY: usize = 11;

/// The special property of an encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// None: it respects its attention mask and is deterministic.
    Good,
    /// It ignores its attention mask.
    IgnoresMask,
    /// It contains an active dropout.
    Random,
    /// Token 7 makes hidden state 1 infinite.
    Infinite,
    /// Hidden state 1 is float16.
    Half,
    /// Its embedding table is in the file `table.bin`.
    External,
    /// Its hidden states are `[sequence, batch, width]`.
    SequenceFirst,
}

/// The content of `table.bin`: four unrelated bytes, then the table.
pub fn external_table() -> Vec<u8> {
    let values = table(Kind::External);
    [0; 4].into_iter().chain(values.iter().flat_map(|v| v.to_le_bytes())).collect()
}

fn table(kind: Kind) -> Vec<f32> {
    let value = |row: usize, column: usize| ((row * 7 + column * 3) % 13) as f32 / 13.0 - 0.4;
    let mut table: Vec<f32> = (0..VOCABULARY * WIDTH).map(|i| value(i / WIDTH, i % WIDTH)).collect();
    if kind == Kind::Infinite {
        table[7 * WIDTH] = f32::MAX;
    }
    table
}

/// The bytes of an `.onnx` file. Hidden state 0 is the embedding, hidden state 1 = tanh(h0·W + mean over the tokens of
/// the mask), and `logits` = the same before tanh, times W.
pub fn encoder(kind: Kind) -> Vec<u8> {
    let mut model = Writer::new();
    model.int(1, 8).string(2, "tests").message(7, |graph| write_graph(graph, kind)).message(8, |opset| {
        opset.string(1, "").int(2, 17);
    });
    model.into_bytes()
}

fn write_graph(graph: &mut Writer, kind: Kind) {
    let weight: Vec<f32> = (0..WIDTH * WIDTH).map(|i| ((i * 5) % 9) as f32 / 4.0 - 1.0).collect();
    let mask = if kind == Kind::IgnoresMask { "ones" } else { "mask" };
    graph.string(2, "tiny");
    let sequence_first = kind == Kind::SequenceFirst;
    let (embedded, stream) = if sequence_first { ("embedded", "back") } else { ("hidden_states.0", "hidden_states.0") };
    node(graph, "Gather", &["table", "input_ids"], &[embedded], &[]);
    if sequence_first {
        turned(graph, "embedded", "hidden_states.0");
        turned(graph, "hidden_states.0", "back");
    }
    node(graph, "Cast", &["attention_mask"], &["mask"], &[("to", 1)]);
    node(graph, "Shape", &["attention_mask"], &["mask_shape"], &[]);
    node(graph, "Expand", &["one", "mask_shape"], &["ones"], &[]);
    node(graph, "ReduceSum", &[mask, "axis"], &["count"], &[("keepdims", 1)]);
    node(graph, "Div", &[mask, "count"], &["shares"], &[]);
    node(graph, "Unsqueeze", &["shares", "axis"], &["shares_3d"], &[]);
    node(graph, "MatMul", &["shares_3d", stream], &["mean"], &[]);
    node(graph, "MatMul", &[stream, "weight"], &["product"], &[]);
    node(graph, "Add", &["product", "mean"], &["sum"], &[]);
    match kind {
        Kind::Infinite => node(graph, "Mul", &["sum", "huge"], &["hidden_states.1"], &[]),
        Kind::Random => {
            node(graph, "Tanh", &["sum"], &["tanh"], &[]);
            node(graph, "Dropout", &["tanh", "half", "yes"], &["hidden_states.1"], &[]);
        }
        Kind::Half => {
            node(graph, "Tanh", &["sum"], &["tanh"], &[]);
            node(graph, "Cast", &["tanh"], &["hidden_states.1"], &[("to", 10)]);
        }
        Kind::SequenceFirst => {
            node(graph, "Tanh", &["sum"], &["tanh"], &[]);
            turned(graph, "tanh", "hidden_states.1");
        }
        _ => node(graph, "Tanh", &["sum"], &["hidden_states.1"], &[]),
    }
    node(graph, "MatMul", &["sum", "weight"], &["logits"], &[]);
    if kind == Kind::External {
        external(graph, "table", &[VOCABULARY, WIDTH], "table.bin", 4);
    } else {
        floats(graph, "table", &[VOCABULARY, WIDTH], &table(kind));
    }
    floats(graph, "weight", &[WIDTH, WIDTH], &weight);
    floats(graph, "one", &[], &[1.0]);
    floats(graph, "half", &[], &[0.5]);
    floats(graph, "huge", &[], &[1e30]);
    graph.message(5, |tensor| {
        tensor.int(1, 1).int(2, 7).string(8, "axis").bytes(9, &1i64.to_le_bytes());
    });
    graph.message(5, |tensor| {
        tensor.int(2, 9).string(8, "yes").bytes(9, &[1]);
    });
    value(graph, 11, "input_ids", 7, &["batch", "sequence"]);
    value(graph, 11, "attention_mask", 7, &["batch", "sequence"]);
    let last = if kind == Kind::Half { 10 } else { 1 };
    for (name, element) in [("logits", 1), ("hidden_states.0", 1), ("hidden_states.1", last)] {
        value(graph, 12, name, element, &["batch", "sequence", "4"]);
    }
}

/// Swaps the first two of three axes.
fn turned(graph: &mut Writer, input: &str, output: &str) {
    graph.message(1, |node| {
        node.string(1, input).string(2, output).string(3, output).string(4, "Transpose");
        node.message(5, |attribute| {
            attribute.string(1, "perm").int(8, 1).int(8, 0).int(8, 2).int(20, 7);
        });
    });
}

/// An export with other axes for all its inputs, which hold int64: a number is a fixed size.
pub fn with_input_axes(export: &[u8], axes: &[&str]) -> Vec<u8> {
    let inputs = Model::from_bytes("model.onnx", export.to_vec()).expect("a model").graph.inputs;
    let fields = |range: std::ops::Range<usize>, each: &mut dyn FnMut(u32, &Value, &[u8])| {
        let mut reader = Reader::new(export, range);
        loop {
            let start = reader.position();
            let Some(field) = reader.next_field().expect("a model") else { return };
            each(field.number, &field.value, &export[start..reader.position()]);
        }
    };
    let mut copy = Writer::new();
    fields(0..export.len(), &mut |number, content, bytes| {
        let (7, Value::Bytes(range)) = (number, content) else {
            copy.raw(bytes);
            return;
        };
        copy.message(7, |graph| {
            fields(range.clone(), &mut |number, _, bytes| {
                if number != 11 {
                    graph.raw(bytes);
                }
            });
            inputs.iter().for_each(|input| value(graph, 11, &input.name, 7, axes));
        });
    });
    copy.into_bytes()
}

pub fn node(graph: &mut Writer, operator: &str, inputs: &[&str], outputs: &[&str], ints: &[(&str, i64)]) {
    graph.message(1, |node| {
        for name in inputs {
            node.string(1, name);
        }
        for name in outputs {
            node.string(2, name);
        }
        node.string(3, outputs[0]).string(4, operator);
        for (name, number) in ints {
            node.message(5, |attribute| {
                attribute.string(1, name).int(3, *number).int(20, 2);
            });
        }
    });
}

pub fn floats(graph: &mut Writer, name: &str, dims: &[usize], values: &[f32]) {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    graph.message(5, |tensor| {
        for size in dims {
            tensor.int(1, *size as i64);
        }
        tensor.int(2, 1).string(8, name).bytes(9, &bytes);
    });
}

fn external(graph: &mut Writer, name: &str, dims: &[usize], location: &str, offset: usize) {
    graph.message(5, |tensor| {
        for size in dims {
            tensor.int(1, *size as i64);
        }
        tensor.int(2, 1).string(8, name).int(14, 1);
        for (key, value) in [("location", location), ("offset", &offset.to_string())] {
            tensor.message(13, |entry| {
                entry.string(1, key).string(2, value);
            });
        }
    });
}

pub fn value(graph: &mut Writer, field: u32, name: &str, element: i64, axes: &[&str]) {
    graph.message(field, |value| {
        value.string(1, name).message(2, |kind| {
            kind.message(1, |tensor| {
                tensor.int(1, element).message(2, |shape| {
                    for axis in axes {
                        shape.message(1, |dimension| {
                            match axis.parse::<i64>() {
                                Ok(size) => dimension.int(1, size),
                                Err(_) => dimension.string(2, axis),
                            };
                        });
                    }
                });
            });
        });
    });
}
