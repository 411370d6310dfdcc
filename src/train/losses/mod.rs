//! The losses, one file per kind of target; each computed as in Hugging Face's models.

mod classes;
mod label_sets;
mod spans;
mod token_classes;
mod tokens;
mod values;
mod weights;

use std::fmt;
use std::sync::Arc;

use tch::{Device, Tensor};

use super::error::TrainError;
use super::rows::LabelledRows;
use crate::task::{Objective, Targets};

pub use weights::{check_class_weights, class_weights};

/// The loss over a set of rows, with the targets of each row.
pub trait Loss: fmt::Debug + Send + Sync {
    /// Denominator of the mean loss of some rows: their number, the sum of the weights of their classes, or the number of their
    /// tokens that count.
    fn weight(&self, rows: &[usize]) -> f64 {
        rows.len() as f64
    }

    /// The same denominator over all rows.
    fn total_weight(&self) -> f64;

    /// Loss of a batch, **summed** over its rows (a scalar tensor). `logits` are those of these rows, in this order, float32:
    /// `[rows, outputs]`; for spans `[rows, 2 × tokens]`, the starts first; for tokens `[rows, tokens, vocabulary]`, for their
    /// classes `[rows, tokens, classes]`.
    ///
    /// # Errors
    /// If the logits have another shape, or libtorch fails.
    fn sum(&self, logits: &Tensor, rows: &[usize]) -> Result<Tensor, TrainError>;
}

/// The loss of rows. `what` names the data in errors (`training`, `validation`); `weights` are those of the classes or labels.
///
/// # Errors
/// If the targets are not those of the task.
pub fn loss_of(
    what: &'static str,
    objective: &Objective,
    rows: &LabelledRows<'_>,
    weights: Option<&[f64]>,
) -> Result<Arc<dyn Loss>, TrainError> {
    if !objective.fits(rows.targets) {
        return Err(TrainError::LabelDoesNotFit {
            what,
            row: 0,
            found: rows.targets.in_words().into(),
            expected: objective.target().into(),
        });
    }
    Ok(match rows.targets {
        Targets::Classes(classes) => {
            Arc::new(classes::CrossEntropy::new(what, classes, objective.head().width, weights)?)
        }
        Targets::Values(values) => Arc::new(values::SquaredError::new(values)),
        Targets::LabelSets(sets) => {
            Arc::new(label_sets::BinaryCrossEntropy::new(what, sets, objective.head().width, weights)?)
        }
        Targets::Tokens(counted) => Arc::new(tokens::NextToken::new(rows.encodings, counted)),
        Targets::TokenClasses(rows) => {
            Arc::new(token_classes::TokenClasses::new(what, rows, objective.head().width, weights)?)
        }
        Targets::Spans(places) => Arc::new(spans::Ends::new(places)),
    })
}

/// The targets of some rows as a tensor.
fn select<T: tch::kind::Element + Copy>(all: &[T], rows: &[usize], device: Device) -> Result<Tensor, TrainError> {
    let chosen: Vec<T> = rows.iter().filter_map(|&row| all.get(row).copied()).collect();
    Ok(Tensor::f_from_slice(&chosen)?.f_to_device(device)?)
}

/// Weights as a tensor of the type and device of the logits, if there are any.
fn tensor_of(weights: Option<&[f64]>, logits: &Tensor) -> Result<Option<Tensor>, TrainError> {
    let tensor = |weights: &[f64]| -> Result<Tensor, TrainError> {
        Ok(Tensor::f_from_slice(weights)?.f_to_kind(logits.kind())?.f_to_device(logits.device())?)
    };
    weights.map(tensor).transpose()
}
