//! Warnings about an export whose rows change with padding or with the other rows of a batch.

use super::{FixedSizes, SelfCheck};
use crate::onnx::{Model, dynamically_quantized};

impl SelfCheck {
    /// How padding changes rows, as text that follows the name of the export. `None` where it changes nothing.
    pub fn padding_fault(&self, model: &Model) -> Option<String> {
        if self.padding_invariant {
            return None;
        }
        let percent = 100.0 * self.between_paddings.relative;
        let consequence = FixedSizes::of(&model.graph.inputs).where_padding_matters();
        let dynamic = dynamically_quantized(model);
        Some(if dynamic.is_empty() {
            format!(
                "ignores its attention mask (padding changes hidden states by {percent:.1} %): {consequence}; export it with a \
                 mask that holds zeros to mend it"
            )
        } else {
            format!(
                "quantizes activations by the range of the whole batch ({dynamic}), so that padding changes hidden states by \
                 {percent:.1} %: {consequence}; the floating-point export has no such noise"
            )
        })
    }

    /// How the other rows of a batch change a row, as text that follows the name of the export. `None` where they do not.
    pub fn batch_fault(&self, model: &Model) -> Option<String> {
        if self.batch_invariant {
            return None;
        }
        let percent = 100.0 * self.between_batches.relative;
        let dynamic = dynamically_quantized(model);
        let cause = match dynamic.is_empty() {
            true => String::new(),
            false => format!(", because it quantizes activations by the range of the whole batch ({dynamic})"),
        };
        Some(format!(
            "gives a row other hidden states alone than in a batch (by {percent:.2} %){cause}; small dimensions may be noise of \
             this size"
        ))
    }
}
