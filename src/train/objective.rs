//! What is made small: cross entropy for classes and tokens, the squared error for numbers, as Hugging Face's models; for spans
//! see [`super::spans`].

use tch::{Device, Kind, Reduction, Tensor};

use super::error::TrainError;
use super::input::Rows;
use super::language::TokenTargets;
use super::spans::SpanTargets;
use crate::dataset::{Label, Objective};

/// Labels checked against an objective, ready to be looked up by row.
#[derive(Debug, Clone, PartialEq)]
pub enum Targets {
    /// Class of every row.
    Classes(Vec<i64>),
    /// Value of every row.
    Values(Vec<f32>),
    /// The token after every token.
    Tokens(TokenTargets),
    /// Where the answer of every row starts and ends.
    Spans(SpanTargets),
}

impl Targets {
    /// The targets of rows: their labels, or for a language model their tokens.
    pub fn of(what: &'static str, objective: &Objective, rows: &Rows<'_>) -> Result<Self, TrainError> {
        match objective {
            Objective::CausalLm => Ok(Targets::Tokens(TokenTargets::new(rows))),
            _ => Targets::new(what, objective, rows.labels),
        }
    }

    /// What the mean loss of some rows is taken over: the rows, or the tokens that count in them.
    pub fn weight(&self, rows: &[usize]) -> u64 {
        match self {
            Targets::Tokens(tokens) => tokens.weight(rows),
            _ => rows.len() as u64,
        }
    }

    /// The same for all rows.
    pub fn total_weight(&self) -> u64 {
        match self {
            Targets::Tokens(tokens) => tokens.total_weight(),
            Targets::Classes(classes) => classes.len() as u64,
            Targets::Values(values) => values.len() as u64,
            Targets::Spans(spans) => spans.len() as u64,
        }
    }

    /// Takes the labels of all rows. `what` names the data in errors ("training", "validation").
    pub fn new(what: &'static str, objective: &Objective, labels: &[Label]) -> Result<Self, TrainError> {
        let outputs = objective.outputs();
        let class = |(row, label): (usize, &Label)| match *label {
            Label::Class(class) if class < outputs => Ok(class as i64),
            Label::Class(class) => Err(TrainError::LabelDoesNotFit {
                what,
                row,
                found: format!("class {class}"),
                expected: format!("one of {outputs} classes"),
            }),
            Label::Value(value) => Err(TrainError::LabelDoesNotFit {
                what,
                row,
                found: format!("the value {value}"),
                expected: "a class".into(),
            }),
            Label::Learnt { .. } | Label::Span { .. } => Err(part(what, row, "a class")),
        };
        let value = |(row, label): (usize, &Label)| match *label {
            Label::Value(value) => Ok(value),
            Label::Class(class) => Err(TrainError::LabelDoesNotFit {
                what,
                row,
                found: format!("class {class}"),
                expected: "a value".into(),
            }),
            Label::Learnt { .. } | Label::Span { .. } => Err(part(what, row, "a value")),
        };
        match objective {
            Objective::Classification { .. } => {
                labels.iter().enumerate().map(class).collect::<Result<_, _>>().map(Targets::Classes)
            }
            Objective::Regression | Objective::CausalLm => {
                labels.iter().enumerate().map(value).collect::<Result<_, _>>().map(Targets::Values)
            }
            Objective::Spans { .. } => SpanTargets::new(what, labels).map(Targets::Spans),
        }
    }

    /// Loss of a batch, **summed** over its rows (a scalar tensor). `logits` is `[rows, outputs]`, for spans
    /// `[rows, 2 × length]`; a regression reads its first column, and a language model has `[rows, tokens, vocabulary]`.
    pub fn loss(&self, logits: &Tensor, rows: &[usize]) -> Result<Tensor, TrainError> {
        let device = logits.device();
        let logits = logits.f_to_kind(Kind::Float)?;
        match self {
            Targets::Classes(classes) => {
                let targets = select(classes, rows, device)?;
                Ok(logits.f_cross_entropy_loss::<Tensor>(&targets, None, Reduction::Sum, -100, 0.0)?)
            }
            Targets::Values(values) => {
                let targets = select(values, rows, device)?;
                Ok(logits.f_select(1, 0)?.f_mse_loss(&targets, Reduction::Sum)?)
            }
            Targets::Tokens(tokens) => tokens.loss(&logits, rows),
            Targets::Spans(spans) => spans.loss(&logits, rows),
        }
    }
}

/// A label that belongs to a text.
fn part(what: &'static str, row: usize, expected: &str) -> TrainError {
    TrainError::LabelDoesNotFit { what, row, found: "a part of a text".into(), expected: expected.into() }
}

pub(super) fn select<T: tch::kind::Element + Copy>(
    all: &[T],
    rows: &[usize],
    device: Device,
) -> Result<Tensor, TrainError> {
    let chosen: Vec<T> = rows.iter().filter_map(|&row| all.get(row).copied()).collect();
    Ok(Tensor::f_from_slice(&chosen)?.f_to_device(device)?)
}
