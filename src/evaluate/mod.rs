//! The evaluation of an export: rows in batches sorted by length, logits, predictions in the order of the data set, metrics.

mod error;
mod export;
mod labels;
mod perplexity;
mod predictions;
mod spans;
#[cfg(test)]
mod tests;

pub use crate::dataset::metric::{Metric, MetricError, Score, accuracy, f1, matthews, pearson, spearman};
pub use error::EvaluateError;
pub use export::{EvaluateSettings, Evaluation, check_outputs, evaluate_export, logits, predictions, score};
pub use labels::{check_label_order, class_count, label_names};
pub use perplexity::{TokenLoss, token_loss};
pub use predictions::{predictions_format, write_predictions};
pub use spans::{check_span_outputs, span_logits, write_answers};
