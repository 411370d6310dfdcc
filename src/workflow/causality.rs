//! Refuses a model as a language model if its tokens depend on later tokens.

use crate::dataset::{Encoding, Tokenizer};
use crate::onnx::Transformer;
use crate::runtime::{Causality, causality};

use super::{Session, WorkflowError};

/// Result of a trial of the output that predicts tokens; `None` where no row can show it, or there is no such output.
pub(super) fn causality_of(
    session: &Session<'_>,
    model: &Transformer,
    encodings: &[Encoding],
    tokenizer: &Tokenizer,
) -> Result<Option<Causality>, WorkflowError> {
    const LOGITS: &str = "logits";
    // Integers are scaled by the largest value of all tokens, which makes each token depend slightly on all others.
    let quantized = model.linears().iter().any(|linear| linear.quantized);
    if quantized || !model.graph.outputs.iter().any(|output| output.name == LOGITS) {
        return Ok(None);
    }
    let padding = tokenizer.padding();
    Ok(causality(session.library()?, model, LOGITS, encodings, padding, &session.inference())?)
}

/// Refuses a model whose prediction of a token depends on that token, by a trial on some rows.
pub(super) fn refuse_foresight(
    session: &Session<'_>,
    model: &Transformer,
    encodings: &[Encoding],
    tokenizer: &Tokenizer,
) -> Result<(), WorkflowError> {
    if let Some(found) = causality_of(session, model, encodings, tokenizer)?.filter(|found| !found.is_causal) {
        let onnx = model.path().to_owned();
        return Err(WorkflowError::Foresight { onnx, change: f64::from(found.difference.relative) });
    }
    Ok(())
}
