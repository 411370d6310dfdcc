//! From tokens to the inputs that a model declares.

use half::f16;

use super::{FixedSizes, InputTensor, RuntimeError};
use crate::dataset::{Batch, Positions};
use crate::onnx::{DataType, Dimension, TokenInput, ValueInfo, token_input};

/// A batch of padded token rows, borrowed. All three slices are row-major `[rows, length]`.
#[derive(Debug, Clone, Copy)]
pub struct Tokens<'a> {
    /// Number of rows.
    pub rows: usize,
    /// Tokens per row, padding included.
    pub length: usize,
    /// Token ids.
    pub ids: &'a [i64],
    /// 1 at tokens, 0 at padding.
    pub mask: &'a [i64],
    /// Segment of each token.
    pub type_ids: &'a [i64],
    /// How the model counts positions.
    pub positions: Positions,
}

impl<'a> From<&'a Batch> for Tokens<'a> {
    fn from(batch: &'a Batch) -> Self {
        let Batch { rows, length, ids, mask, type_ids, positions } = batch;
        Tokens { rows: rows.len(), length: *length, ids, mask, type_ids, positions: *positions }
    }
}

/// How an input of the model is filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Ids,
    Mask,
    TypeIds,
    Positions,
    /// Keys or values of an empty past.
    EmptyPast,
    /// `use_cache_branch`: false.
    NoCache,
}

/// Fills the inputs of one model.
#[derive(Debug, Clone)]
pub struct Feeder {
    inputs: Vec<(ValueInfo, DataType, Content)>,
    sizes: FixedSizes,
}

/// The inputs of one batch, in the types that the model declares.
#[derive(Debug, Clone)]
pub struct Feed {
    values: Vec<(String, Vec<usize>, Values)>,
}

#[derive(Debug, Clone)]
enum Values {
    I64(Vec<i64>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bool(Vec<bool>),
}

impl Feeder {
    /// Examines the inputs of a model; the caller fills those named in `others`.
    pub fn new(inputs: &[ValueInfo], others: &[&str]) -> Result<Self, RuntimeError> {
        let mut known = Vec::new();
        let sizes = FixedSizes::of(inputs);
        for input in inputs.iter().filter(|input| !others.contains(&input.name.as_str())) {
            let data_type = input.data_type.unwrap_or(DataType::Other(0));
            let unknown =
                || RuntimeError::UnknownInput { name: input.name.clone(), data_type: data_type.name().into() };
            let content = content(&input.name).ok_or_else(unknown)?;
            let fits = match content {
                Content::NoCache => data_type == DataType::Bool,
                Content::EmptyPast => matches!(data_type, DataType::Float | DataType::Float16),
                Content::Mask => {
                    matches!(data_type, DataType::Int64 | DataType::Int32 | DataType::Float | DataType::Bool)
                }
                _ => matches!(data_type, DataType::Int64 | DataType::Int32),
            };
            if !fits {
                return Err(unknown());
            }
            if content == Content::EmptyPast && input.shape.as_deref().unwrap_or_default().is_empty() {
                return Err(RuntimeError::InputShape {
                    name: input.name.clone(),
                    shape: "unknown".into(),
                    expected: "[batch, heads, past, width] with heads and width given",
                });
            }
            if matches!(content, Content::Ids | Content::Mask | Content::TypeIds | Content::Positions) {
                check_axes(input, sizes)?;
            }
            known.push((input.clone(), data_type, content));
        }
        Ok(Self { inputs: known, sizes })
    }

    /// The sizes of batches that the model fixes.
    pub fn sizes(&self) -> FixedSizes {
        self.sizes
    }

    /// Makes the inputs of a batch.
    pub fn feed(&self, tokens: &Tokens<'_>) -> Feed {
        let shape = vec![tokens.rows, tokens.length];
        let values = self.inputs.iter().map(|(input, data_type, content)| {
            let name = input.name.clone();
            match content {
                Content::Ids => (name, shape.clone(), convert(tokens.ids, *data_type)),
                Content::Mask => (name, shape.clone(), convert(tokens.mask, *data_type)),
                Content::TypeIds => (name, shape.clone(), convert(tokens.type_ids, *data_type)),
                Content::Positions => {
                    let positions = tokens.positions.of(tokens.ids, tokens.length);
                    (name, shape.clone(), convert(&positions, *data_type))
                }
                Content::EmptyPast => (name, past_shape(input, tokens.rows, self.sizes), convert(&[], *data_type)),
                Content::NoCache => (name, vec![1], Values::Bool(vec![false])),
            }
        });
        Feed { values: values.collect() }
    }
}

/// The inputs of one batch, for a model whose inputs gelora fills entirely.
pub fn feed(inputs: &[ValueInfo], tokens: &Tokens<'_>) -> Result<Feed, RuntimeError> {
    Ok(Feeder::new(inputs, &[])?.feed(tokens))
}

impl Feed {
    /// The inputs in the form that [`super::InferenceSession::run`] accepts.
    pub fn tensors(&self) -> Vec<(&str, InputTensor<'_>)> {
        let tensors = self.values.iter().map(|(name, shape, values)| {
            let tensor = match values {
                Values::I64(data) => InputTensor::I64 { shape, data },
                Values::I32(data) => InputTensor::I32 { shape, data },
                Values::F32(data) => InputTensor::F32 { shape, data },
                Values::F16(data) => InputTensor::F16 { shape, data },
                Values::Bool(data) => InputTensor::Bool { shape, data },
            };
            (name.as_str(), tensor)
        });
        tensors.collect()
    }
}

fn content(name: &str) -> Option<Content> {
    if let Some(input) = token_input(name) {
        return Some(match input {
            TokenInput::Ids => Content::Ids,
            TokenInput::Mask => Content::Mask,
            TokenInput::TypeIds => Content::TypeIds,
            TokenInput::Positions => Content::Positions,
        });
    }
    match name {
        "use_cache_branch" => Some(Content::NoCache),
        _ if name.starts_with("past_key_values.") || name.starts_with("past.") => Some(Content::EmptyPast),
        _ => None,
    }
}

/// Checks the batch and sequence axes; where the export fixes one of them, all inputs must fix it alike.
fn check_axes(input: &ValueInfo, sizes: FixedSizes) -> Result<(), RuntimeError> {
    let fits = |dimension: &Dimension, fixed: Option<usize>| match dimension {
        Dimension::Fixed(size) => Some(*size) == fixed,
        _ => true,
    };
    match input.shape.as_deref() {
        // ONNX Runtime reports an input without a shape as one without axes: any shape will do.
        None | Some([]) => Ok(()),
        Some([batch, sequence]) if fits(batch, sizes.rows) && fits(sequence, sizes.length) => Ok(()),
        Some(shape) => Err(RuntimeError::InputShape {
            name: input.name.clone(),
            shape: shape_text(shape),
            expected: "[batch, sequence], free or fixed alike in all inputs",
        }),
    }
}

fn shape_text(shape: &[Dimension]) -> String {
    let axes = shape.iter().map(|dimension| match dimension {
        Dimension::Fixed(size) => size.to_string(),
        Dimension::Named(name) => name.clone(),
        Dimension::Unknown => "?".into(),
    });
    format!("[{}]", axes.collect::<Vec<_>>().join(", "))
}

/// The first free axis is the batch, unless the export fixes the batch; further free axes are the past, of length 0.
fn past_shape(input: &ValueInfo, rows: usize, sizes: FixedSizes) -> Vec<usize> {
    let axes = input.shape.as_deref().unwrap_or_default();
    let is_free = |dimension: &Dimension| !matches!(dimension, Dimension::Fixed(_));
    let before = axes.iter().take_while(|dimension| !is_free(dimension));
    let fixes_batch =
        before.into_iter().any(|dimension| matches!(dimension, Dimension::Fixed(size) if Some(*size) == sizes.rows))
            && axes.iter().filter(|dimension| is_free(dimension)).count() == 1;
    let mut free = usize::from(fixes_batch);
    let axes = axes.iter().map(|dimension| match dimension {
        Dimension::Fixed(size) => *size,
        _ => {
            free += 1;
            if free == 1 { rows } else { 0 }
        }
    });
    axes.collect()
}

fn convert(values: &[i64], data_type: DataType) -> Values {
    match data_type {
        DataType::Int32 => Values::I32(values.iter().map(|v| i32::try_from(*v).unwrap_or(i32::MAX)).collect()),
        DataType::Float => Values::F32(values.iter().map(|v| *v as f32).collect()),
        DataType::Float16 => Values::F16(values.iter().map(|v| f16::from_f32(*v as f32)).collect()),
        DataType::Bool => Values::Bool(values.iter().map(|v| *v != 0).collect()),
        _ => Values::I64(values.to_vec()),
    }
}
