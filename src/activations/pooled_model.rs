//! The graph that extraction runs: the hidden states, each followed by one small node that pools it.

use super::{ActivationsError, Pooling};
use crate::onnx::{Additions, DataType, Dimension, NodeSpec, Transformer, ValueInfo, subgraph};
use crate::runtime::FixedSizes;

/// Extra input: one weight per token, `[batch, 1, sequence]`.
pub(super) const POOL_WEIGHTS: &str = "gelora.pool_weights";
/// Extra input: batch row and position of every selected token, `[points, 2]`.
pub(super) const TOKEN_PLACES: &str = "gelora.token_places";

/// Name of the pooled hidden state.
pub(super) fn output(state: usize) -> String {
    format!("gelora.pooled.{state}")
}

/// The bytes of the model with pooled outputs: `[batch, 1, width]`, or `[points, width]` for tokens; float32.
///
/// Whatever the hidden states do not need (the head) is left out.
///
/// # Errors
/// When there are no hidden states, the operator set is too old to pick tokens, or the file cannot be read.
pub fn pooled_model(model: &Transformer, pooling: &Pooling) -> Result<Vec<u8>, ActivationsError> {
    // `GatherND` exists since operator set 11, and supports the batch dimensions needed here since 12.
    if pooling.is_tokens() && model.opset() < 12 {
        return Err(ActivationsError::OldOperatorSet { path: model.path().into(), found: model.opset() });
    }
    let states = model.states()?;
    let mut additions = Additions::default();
    for (index, state) in states.values.iter().enumerate() {
        let wide = format!("gelora.float32.{index}");
        let input = if model.element_type(state) == Some(DataType::Float) {
            state
        } else {
            // Weights such as 1/7 cannot be represented exactly in 16 bits.
            let float = i64::from(DataType::Float.code());
            additions.nodes.push(NodeSpec::new("Cast", &[state], &wide).int("to", float));
            &wide
        };
        additions.nodes.push(match pooling.is_tokens() {
            true => NodeSpec::new("GatherND", &[input, TOKEN_PLACES], &output(index)).int("batch_dims", 0),
            false => NodeSpec::new("MatMul", &[POOL_WEIGHTS, input], &output(index)),
        });
        additions.outputs.push(ValueInfo::tensor(&output(index), DataType::Float, None));
    }
    additions.inputs.push(if pooling.is_tokens() {
        let places = [Dimension::Named("gelora.points".into()), Dimension::Fixed(2)];
        ValueInfo::tensor(TOKEN_PLACES, DataType::Int64, Some(&places))
    } else {
        let sizes = FixedSizes::of(&model.graph.inputs);
        let axis =
            |fixed: Option<usize>, name: &str| fixed.map_or_else(|| Dimension::Named(name.into()), Dimension::Fixed);
        let weights = [axis(sizes.rows, "gelora.batch"), Dimension::Fixed(1), axis(sizes.length, "gelora.sequence")];
        ValueInfo::tensor(POOL_WEIGHTS, DataType::Float, Some(&weights))
    });
    let wanted: Vec<&str> = states.values.iter().map(String::as_str).collect();
    Ok(subgraph(model, &wanted, &additions)?)
}
