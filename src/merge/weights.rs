//! The arithmetic of merging: `W + alpha / rank · B · A` in float32, rounded once.

use ndarray::{Array2, ArrayView2};

use super::report::TensorChange;
use crate::adapter::LoraFactors;
use crate::checkpoint::{ElementType, from_f32, to_f32};

/// `alpha / rank · B · A`, `[out, in]`, as PEFT computes it.
pub(super) fn delta(factors: &LoraFactors) -> Array2<f32> {
    let mut product = factors.b.dot(&factors.a);
    let scaling = factors.scaling() as f32;
    product.mapv_inplace(|value| value * scaling);
    product
}

/// Adds a change to stored elements. `transposed` says that the stored matrix is `[in, out]`. `None` where the type is not
/// a floating-point one or the sizes differ.
pub(super) fn add(
    stored: &[u8],
    element_type: &ElementType,
    delta: ArrayView2<f32>,
    transposed: bool,
) -> Option<(Vec<u8>, TensorChange)> {
    let delta = if transposed { delta.reversed_axes() } else { delta };
    let base = to_f32(stored, element_type)?;
    if base.len() != delta.len() {
        return None;
    }
    let exact: Vec<f32> = base.iter().zip(delta.iter()).map(|(weight, change)| weight + change).collect();
    replace(stored, element_type, &exact)
}

/// Puts values in the place of stored elements. `None` as for [`add`].
pub(super) fn replace(stored: &[u8], element_type: &ElementType, exact: &[f32]) -> Option<(Vec<u8>, TensorChange)> {
    let base = to_f32(stored, element_type)?;
    if base.len() != exact.len() {
        return None;
    }
    let bytes = from_f32(exact, element_type)?;
    let change = measure(&base, exact, &to_f32(&bytes, element_type)?);
    Some((bytes, change))
}

/// What was changed, and what rounding to the stored type took from it.
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
