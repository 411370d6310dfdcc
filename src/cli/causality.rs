//! Refuses to take a model whose tokens see those after them for a language model.

use anyhow::bail;

use crate::dataset::{Encoding, Tokenizer};
use crate::onnx::{self, Model};
use crate::runtime::{Causality, causality};

use super::context::Context;

/// What a trial says of the output that predicts tokens; `None` where no row can tell, or there is no such output.
pub(crate) fn causality_of(
    context: &Context,
    model: &Model,
    encodings: &[Encoding],
    tokenizer: &Tokenizer,
) -> anyhow::Result<Option<Causality>> {
    const LOGITS: &str = "logits";
    // Integers are scaled by the largest value of all tokens, which makes each depend on all others a little.
    let quantized = onnx::linear_layers(model).iter().any(|linear| linear.quantized);
    if quantized || !model.graph.outputs.iter().any(|output| output.name == LOGITS) {
        return Ok(None);
    }
    let padding = tokenizer.padding();
    Ok(causality(context.library()?, model, LOGITS, encodings, padding, &context.session_settings())?)
}

/// Refuses a model whose predictions of a token know that token, by a trial on some rows.
pub(crate) fn refuse_foresight(
    context: &Context,
    model: &Model,
    encodings: &[Encoding],
    tokenizer: &Tokenizer,
) -> anyhow::Result<()> {
    if let Some(found) = causality_of(context, model, encodings, tokenizer)?.filter(|found| !found.is_causal) {
        bail!(
            "{} is no causal language model: when the last token changes, the predictions before it change by {:.1e} of their \
             size, so its tokens see the future (a fill-mask model?); take a decoder, or another task",
            model.path().display(),
            found.difference.relative
        );
    }
    Ok(())
}
