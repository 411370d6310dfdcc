//! The arithmetic of merging: `W + alpha / rank · B · A` in float32, rounded once.

use std::sync::Arc;

use ndarray::{Array2, ArrayView2};

use super::report::TensorChange;
use super::residual::{NoPart, Part};
use crate::adapter::LoraFactors;
use crate::checkpoint::{ElementType, from_f32, to_f32};

/// Why a change cannot be applied to a tensor.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(super) enum Refusal {
    /// The tensor is not floating-point, or of another size.
    #[error("is not floating-point, or of another size than the change")]
    Type,
    /// A value is not finite; see [`NotFinite`].
    #[error(transparent)]
    NotFinite(#[from] NotFinite),
    /// The part that PEFT takes out of the base cannot be determined.
    #[error(transparent)]
    Part(#[from] NoPart),
}

/// A value that is infinite or NaN.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum NotFinite {
    /// A value of the base.
    #[error("of the base holds {0}: the file was damaged, or its training diverged; take another copy of the base")]
    Base(f32),
    /// A value after the change.
    #[error(
        "would become infinite: {value:e} is more than {element_type} can hold; take the base in a type of a larger range (bfloat16 or float32)"
    )]
    Overflow {
        /// The value before rounding.
        value: f32,
        /// Name of the stored type.
        element_type: &'static str,
    },
}

/// `alpha / rank · B · A`, `[out, in]`, as PEFT computes it.
pub(super) fn delta(factors: &LoraFactors) -> Array2<f32> {
    let mut product = factors.b.dot(&factors.a);
    let scaling = factors.scaling() as f32;
    product.mapv_inplace(|value| value * scaling);
    product
}

/// Adds factors to stored elements, which lose the part that the initialization takes out of the weight `[out, in]`.
/// `transposed` says that the stored matrix is `[in, out]`.
pub(super) fn add(
    stored: &[u8],
    element_type: &ElementType,
    factors: &LoraFactors,
    transposed: bool,
    part: impl FnOnce(ArrayView2<f32>) -> Result<Option<Arc<Part>>, NoPart>,
) -> Result<(Vec<u8>, TensorChange), Refusal> {
    let delta = delta(factors);
    let base = to_f32(stored, element_type).ok_or(Refusal::Type)?;
    if base.len() != delta.len() {
        return Err(Refusal::Type);
    }
    refuse_base(&base)?;
    let (outputs, inputs) = delta.dim();
    let shape = if transposed { (inputs, outputs) } else { (outputs, inputs) };
    let weight = ArrayView2::from_shape(shape, &base).map_err(|_| Refusal::Type)?;
    let weight = if transposed { weight.reversed_axes() } else { weight };
    let sum = match part(weight)? {
        Some(part) => part.taken_out_of(weight) + &delta,
        None => &weight + &delta,
    };
    let exact: Vec<f32> = match transposed {
        true => sum.reversed_axes().iter().copied().collect(),
        false => sum.iter().copied().collect(),
    };
    stored_as(&base, element_type, &exact)
}

/// Replaces stored elements with new values.
pub(super) fn replace(
    stored: &[u8],
    element_type: &ElementType,
    exact: &[f32],
) -> Result<(Vec<u8>, TensorChange), Refusal> {
    let base = to_f32(stored, element_type).ok_or(Refusal::Type)?;
    if base.len() != exact.len() {
        return Err(Refusal::Type);
    }
    refuse_base(&base)?;
    stored_as(&base, element_type, exact)
}

fn refuse_base(base: &[f32]) -> Result<(), NotFinite> {
    match base.iter().find(|value| !value.is_finite()) {
        Some(value) => Err(NotFinite::Base(*value)),
        None => Ok(()),
    }
}

fn stored_as(base: &[f32], element_type: &ElementType, exact: &[f32]) -> Result<(Vec<u8>, TensorChange), Refusal> {
    let bytes = from_f32(exact, element_type).ok_or(Refusal::Type)?;
    let rounded = to_f32(&bytes, element_type).ok_or(Refusal::Type)?;
    if let Some((value, _)) = exact.iter().zip(&rounded).find(|(_, rounded)| !rounded.is_finite()) {
        let element_type = match element_type {
            ElementType::F16 => "float16",
            ElementType::Bf16 => "bfloat16",
            _ => "float32",
        };
        return Err(NotFinite::Overflow { value: *value, element_type }.into());
    }
    let change = measure(base, exact, &rounded);
    Ok((bytes, change))
}

/// How much changed, and how much of that was lost by rounding to the stored type.
fn measure(base: &[f32], exact: &[f32], rounded: &[f32]) -> TensorChange {
    let (mut weight, mut change, mut lost, mut unchanged, mut wanted) = (0.0, 0.0, 0.0, 0u64, 0u64);
    for ((&base, &exact), &rounded) in base.iter().zip(exact).zip(rounded) {
        weight += f64::from(base).powi(2);
        change += (f64::from(exact) - f64::from(base)).powi(2);
        lost += (f64::from(rounded) - f64::from(exact)).powi(2);
        if exact != base {
            wanted += 1;
            unchanged += u64::from(rounded == base);
        }
    }
    TensorChange {
        weight_norm: weight.sqrt(),
        change_norm: change.sqrt(),
        lost_by_rounding: if change > 0.0 { (lost / change).sqrt() } else { 0.0 },
        unchanged_by_rounding: if wanted > 0 { unchanged as f64 / wanted as f64 } else { 0.0 },
    }
}
