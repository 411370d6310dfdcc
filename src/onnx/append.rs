//! The head that gelora appends to an export without one.

use super::graph::{Dimension, ValueInfo};
use super::inputs::mask_input;
use super::tensor::DataType;
use super::{Edit, Model, NodeSpec, OnnxError, Transformer};
use crate::hint::Hint;

/// The vector that a head of [`append_head`] reads.
pub(super) const POOLED: &str = "gelora.head.pooled";

/// Which token a new head reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeadPooling {
    /// The first token.
    First,
    /// The mean over the tokens of the attention mask.
    Mean,
    /// The last token of the attention mask.
    Last,
    /// Every token by itself: a row of logits for each.
    Tokens,
}

impl std::str::FromStr for HeadPooling {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "first" => Ok(Self::First),
            "mean" => Ok(Self::Mean),
            "last" => Ok(Self::Last),
            "tokens" => Ok(Self::Tokens),
            _ => Err(format!("`{text}` is no head; take first, mean, last or tokens")),
        }
    }
}

impl HeadPooling {
    /// The name used in settings and files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Mean => "mean",
            Self::Last => "last",
            Self::Tokens => "tokens",
        }
    }
}

/// Appends a head to an export without one: a pooled last hidden state, `classifier.weight` `[labels, hidden]` and
/// `classifier.bias` `[labels]` (float32, row-major), and the output `logits` `[batch, labels]`, or
/// `[batch, sequence, labels]` for a head over every token.
///
/// # Errors
/// When the last hidden state does not have three dimensions or the width of the weight, when the export has no
/// `attention_mask` (mean and last), or when it already has an output `logits`.
pub fn append_head(
    model: &Transformer,
    pooling: HeadPooling,
    weight: &[f32],
    bias: &[f32],
) -> Result<Edit<'static>, OnnxError> {
    let fail = |reason: String| OnnxError::Edit { path: model.path().into(), reason };
    let mut edit = Edit::new();
    let Some(state) = model.states()?.values.last() else { return Err(fail("it has no hidden states".into())) };
    let labels = bias.len();
    let width = weight.len().checked_div(labels).unwrap_or(0);
    let info = info(model, state);
    let fits = match self::width(model, state, info)? {
        Dimension::Fixed(expected) => expected == width,
        _ => true,
    };
    if width == 0 || width * labels != weight.len() || !fits {
        let expected = format!("{:?}", info.and_then(|info| info.shape.clone()).unwrap_or_default());
        return Err(fail(format!(
            "a head of {} weights for {labels} labels does not fit `{state}` of shape {expected}",
            weight.len()
        )));
    }
    let hidden = as_float(&mut edit, model, state, "gelora.head.hidden");
    let pooled = match pooling {
        HeadPooling::First => {
            edit.add_initializer("gelora.head.zero", DataType::Int64, &[], &0i64.to_le_bytes());
            edit.add_node(NodeSpec::new("Gather", &[&hidden, "gelora.head.zero"], POOLED).int("axis", 1));
            POOLED
        }
        HeadPooling::Mean | HeadPooling::Last => {
            let Some(mask) = mask_input(&model.graph.inputs) else {
                let first = Hint::HeadInBackticks.with("first");
                return Err(fail(format!(
                    "it has no input `attention_mask`, so its last or mean token is not known; use {first}"
                )));
            };
            pool_by_mask(&mut edit, model, mask, &hidden, pooling)
        }
        HeadPooling::Tokens => {
            edit.add_node(NodeSpec::new("Identity", &[&hidden], POOLED));
            POOLED
        }
    };
    let bytes = |values: &[f32]| -> Vec<u8> { values.iter().flat_map(|value| value.to_le_bytes()).collect() };
    edit.add_initializer("classifier.weight", DataType::Float, &[labels, width], &bytes(weight));
    edit.add_initializer("classifier.bias", DataType::Float, &[labels], &bytes(bias));
    let (batch, sequence) = batch_and_sequence(model);
    if pooling == HeadPooling::Tokens {
        edit.add_node(NodeSpec::new("Transpose", &["classifier.weight"], "gelora.head.turned").ints("perm", &[1, 0]));
        edit.add_node(NodeSpec::new("MatMul", &[pooled, "gelora.head.turned"], "gelora.head.product"));
        edit.add_node(NodeSpec::new("Add", &["gelora.head.product", "classifier.bias"], "logits"));
        edit.add_output("logits", DataType::Float, &[batch, sequence, Dimension::Fixed(labels)]);
        return Ok(edit);
    }
    let gemm = NodeSpec::new("Gemm", &[pooled, "classifier.weight", "classifier.bias"], "logits").int("transB", 1);
    edit.add_node(gemm);
    edit.add_output("logits", DataType::Float, &[batch, Dimension::Fixed(labels)]);
    Ok(edit)
}

/// Mean or last token as a product of a row of weights, made from the attention mask, with the hidden states. Apart from
/// `ReduceSum`, only operators whose definition has not changed since operator set 11 are used.
fn pool_by_mask(edit: &mut Edit, model: &Model, mask: &str, hidden: &str, pooling: HeadPooling) -> &'static str {
    let integers = |values: &[i64]| -> Vec<u8> { values.iter().flat_map(|value| value.to_le_bytes()).collect() };
    edit.add_initializer("gelora.head.row", DataType::Int64, &[3], &integers(&[0, 1, -1]));
    edit.add_initializer("gelora.head.flat", DataType::Int64, &[2], &integers(&[0, -1]));
    edit.add_initializer("gelora.head.axis", DataType::Int64, &[1], &integers(&[1]));
    edit.add_node(NodeSpec::new("Cast", &[mask], "gelora.head.mask").int("to", 1));
    let sum = match model.opset() {
        ..13 => NodeSpec::new("ReduceSum", &["gelora.head.mask"], "gelora.head.count").ints("axes", &[1]),
        _ => NodeSpec::new("ReduceSum", &["gelora.head.mask", "gelora.head.axis"], "gelora.head.count"),
    };
    edit.add_node(sum.int("keepdims", 1));
    if pooling == HeadPooling::Mean {
        edit.add_node(NodeSpec::new("Div", &["gelora.head.mask", "gelora.head.count"], "gelora.head.weights"));
    } else {
        // The last real token is the one whose running count equals the total count, whichever side the padding is on.
        edit.add_initializer("gelora.head.along", DataType::Int64, &[], &1i64.to_le_bytes());
        edit.add_node(NodeSpec::new("CumSum", &["gelora.head.mask", "gelora.head.along"], "gelora.head.running"));
        edit.add_node(NodeSpec::new("Mul", &["gelora.head.running", "gelora.head.mask"], "gelora.head.ordinal"));
        edit.add_node(NodeSpec::new("Equal", &["gelora.head.ordinal", "gelora.head.count"], "gelora.head.is_last"));
        edit.add_node(NodeSpec::new("Cast", &["gelora.head.is_last"], "gelora.head.weights").int("to", 1));
    }
    edit.add_node(NodeSpec::new("Reshape", &["gelora.head.weights", "gelora.head.row"], "gelora.head.weight_row"));
    edit.add_node(NodeSpec::new("MatMul", &["gelora.head.weight_row", hidden], "gelora.head.product"));
    edit.add_node(NodeSpec::new("Reshape", &["gelora.head.product", "gelora.head.flat"], POOLED));
    POOLED
}

/// The declared type and shape of a value.
fn info<'m>(model: &'m Model, value: &str) -> Option<&'m ValueInfo> {
    let graph = &model.graph;
    graph.outputs.iter().chain(&graph.value_info).chain(&graph.inputs).find(|info| info.name == value)
}

/// The last dimension of a hidden state.
fn width(model: &Transformer, state: &str, info: Option<&ValueInfo>) -> Result<Dimension, OnnxError> {
    if let Some(other) = info.and_then(|info| info.shape.as_deref()).filter(|shape| shape.len() != 3) {
        let reason = format!(
            "hidden state `{state}` has {} dimensions, not batch × sequence × hidden; export it padded",
            other.len()
        );
        return Err(OnnxError::Edit { path: model.path().into(), reason });
    }
    Ok(model.width(state).map_or(Dimension::Unknown, Dimension::Fixed))
}

/// The value itself where it is float32, else a cast of it.
fn as_float(edit: &mut Edit, model: &Transformer, value: &str, name: &str) -> String {
    if model.element_type(value) == Some(DataType::Float) {
        return value.to_owned();
    }
    edit.add_node(NodeSpec::new("Cast", &[value], name).int("to", 1));
    name.to_owned()
}

/// How the model names the first two dimensions of its inputs.
pub(super) fn batch_and_sequence(model: &Model) -> (Dimension, Dimension) {
    let shapes = model.graph.inputs.iter().filter_map(|input| input.shape.as_deref());
    match shapes.filter_map(|shape| <&[Dimension; 2]>::try_from(shape).ok()).next() {
        Some([batch, sequence]) => (batch.clone(), sequence.clone()),
        None => (Dimension::Named("batch".into()), Dimension::Named("sequence".into())),
    }
}
