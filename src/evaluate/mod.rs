//! The evaluation of an export: its logits through ONNX Runtime, for the [task](crate::task) to score.

mod error;
mod executor;
mod perplexity;
#[cfg(test)]
mod tests;

pub use error::EvaluateError;
pub use executor::{EvaluateSettings, OnnxExecutor, check_outputs, evaluate_export};
