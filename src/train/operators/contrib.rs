//! ONNX Runtime's own operations (`com.microsoft`), with which its optimizer replaces several standard ones.

use tch::Tensor;

use super::normalize::root_mean_square;
use super::{Building, Built, Call, OpError, because, kernel};

/// The erf form, after adding the bias if there is one.
pub(super) fn gelu(_: &Building<'_>) -> Built {
    kernel(|call| Ok(with_bias(call)?.f_gelu("none")?))
}

/// The tanh form, after adding the bias if there is one.
pub(super) fn fast_gelu(_: &Building<'_>) -> Built {
    kernel(|call| Ok(with_bias(call)?.f_gelu("tanh")?))
}

fn with_bias(call: &Call<'_>) -> Result<Tensor, OpError> {
    let x = call.tensor(0)?;
    Ok(match call.optional(1) {
        Some(bias) => x.f_add(bias)?,
        None => x.shallow_clone(),
    })
}

/// `x · sigmoid(alpha · x)`.
pub(super) fn quick_gelu(building: &Building<'_>) -> Built {
    let alpha = f64::from(building.node.float("alpha", 1.702));
    kernel(move |call| {
        let x = call.tensor(0)?;
        if alpha == 1.0 {
            return Ok(x.f_silu()?);
        }
        Ok(x.f_mul(&x.f_mul_scalar(alpha)?.f_sigmoid()?)?)
    })
}

/// Whether a fused addition and normalisation must also give the sum, its fourth output.
fn wants_sum(building: &Building<'_>) -> Result<bool, OpError> {
    let asked = |place: usize| building.node.outputs.get(place).is_some_and(|name| !name.is_empty());
    if asked(1) || asked(2) {
        return because("its mean or inverse deviation is requested, which is not supported");
    }
    Ok(asked(3))
}

/// The normalised sum, two unused outputs, then the sum if it is wanted.
fn outputs(normalised: Tensor, sum: Tensor, wants_sum: bool) -> Vec<Tensor> {
    if !wants_sum {
        return vec![normalised];
    }
    let unused = || Tensor::new();
    vec![normalised, unused(), unused(), sum]
}

fn sum_of(call: &Call<'_>, bias: usize) -> Result<Tensor, OpError> {
    let sum = call.tensor(0)?.f_add(call.tensor(1)?)?;
    Ok(match call.optional(bias) {
        Some(bias) => sum.f_add(bias)?,
        None => sum,
    })
}

/// The inputs are x, skip, scale, offset, and the bias of the sum.
pub(super) fn skip_layer_normalization(building: &Building<'_>) -> Built {
    let epsilon = f64::from(building.node.float("epsilon", 1e-12));
    let wants_sum = wants_sum(building)?;
    Ok(Box::new(move |call| {
        let sum = sum_of(call, 4)?;
        let scale = call.tensor(2)?;
        let normalised = sum.f_layer_norm(scale.size(), Some(scale), call.optional(3), epsilon, false)?;
        Ok(outputs(normalised, sum, wants_sum))
    }))
}

/// The inputs are x, skip, scale, and the bias of the sum.
pub(super) fn skip_rms_normalization(building: &Building<'_>) -> Built {
    let epsilon = f64::from(building.node.float("epsilon", 1e-12));
    let wants_sum = wants_sum(building)?;
    Ok(Box::new(move |call| {
        let sum = sum_of(call, 3)?;
        let normalised = root_mean_square(&sum, call.tensor(2)?, -1, epsilon)?;
        Ok(outputs(normalised, sum, wants_sum))
    }))
}

/// `alpha · A′·B′`, each transposed in its last two axes where requested.
pub(super) fn fused_matmul(building: &Building<'_>) -> Built {
    let node = building.node;
    if node.int("transBatchA", 0) != 0 || node.int("transBatchB", 0) != 0 {
        return because("it turns its batch axes, which is not done here");
    }
    let alpha = f64::from(node.float("alpha", 1.0));
    let (turn_a, turn_b) = (node.int("transA", 0) != 0, node.int("transB", 0) != 0);
    kernel(move |call| {
        let turned = |x: &Tensor, turn: bool| if turn { x.f_transpose(-2, -1) } else { Ok(x.shallow_clone()) };
        let product = turned(call.tensor(0)?, turn_a)?.f_matmul(&turned(call.tensor(1)?, turn_b)?)?;
        Ok(if alpha == 1.0 { product } else { product.f_mul_scalar(alpha)? })
    })
}
