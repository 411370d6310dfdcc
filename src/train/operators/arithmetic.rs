//! Element by element: functions of one value, and sums, products, minima and maxima of several.

use tch::{Kind, Tensor};

use super::{Building, Built, OpError, because, binary, kernel, scalar, unary};

fn is_float(tensor: &Tensor) -> bool {
    matches!(tensor.kind(), Kind::Float | Kind::Double | Kind::Half | Kind::BFloat16)
}

pub(super) fn abs(_: &Building<'_>) -> Built {
    unary(Tensor::f_abs)
}

pub(super) fn acos(_: &Building<'_>) -> Built {
    unary(Tensor::f_acos)
}

pub(super) fn acosh(_: &Building<'_>) -> Built {
    unary(Tensor::f_acosh)
}

pub(super) fn asin(_: &Building<'_>) -> Built {
    unary(Tensor::f_asin)
}

pub(super) fn asinh(_: &Building<'_>) -> Built {
    unary(Tensor::f_asinh)
}

pub(super) fn atan(_: &Building<'_>) -> Built {
    unary(Tensor::f_atan)
}

pub(super) fn atanh(_: &Building<'_>) -> Built {
    unary(Tensor::f_atanh)
}

pub(super) fn ceil(_: &Building<'_>) -> Built {
    unary(Tensor::f_ceil)
}

pub(super) fn cos(_: &Building<'_>) -> Built {
    unary(Tensor::f_cos)
}

pub(super) fn cosh(_: &Building<'_>) -> Built {
    unary(Tensor::f_cosh)
}

/// `x` where it is positive, else `alpha · (exp(x / width) − 1)`; both times `scale`. libtorch's own functions accept
/// no parameters through this binding.
fn exponential_unit(alpha: f64, width: f64, scale: f64) -> Built {
    unary(move |x| {
        let negative = x.f_clamp_max(0.0)?.f_div_scalar(width)?.f_expm1()?.f_mul_scalar(alpha)?;
        x.f_clamp_min(0.0)?.f_add(&negative)?.f_mul_scalar(scale)
    })
}

pub(super) fn celu(building: &Building<'_>) -> Built {
    let alpha = f64::from(building.node.float("alpha", 1.0));
    exponential_unit(alpha, alpha, 1.0)
}

pub(super) fn elu(building: &Building<'_>) -> Built {
    exponential_unit(f64::from(building.node.float("alpha", 1.0)), 1.0, 1.0)
}

pub(super) fn selu(building: &Building<'_>) -> Built {
    let alpha = f64::from(building.node.float("alpha", 1.673_263_2));
    let gamma = f64::from(building.node.float("gamma", 1.050_701));
    exponential_unit(alpha, 1.0, gamma)
}

pub(super) fn erf(_: &Building<'_>) -> Built {
    unary(Tensor::f_erf)
}

pub(super) fn exp(_: &Building<'_>) -> Built {
    unary(Tensor::f_exp)
}

pub(super) fn floor(_: &Building<'_>) -> Built {
    unary(Tensor::f_floor)
}

pub(super) fn gelu(building: &Building<'_>) -> Built {
    let approximate = match building.node.string("approximate").unwrap_or("none") {
        "none" => "none",
        "tanh" => "tanh",
        other => return because(format!("the approximation `{other}` is unknown")),
    };
    unary(move |x| x.f_gelu(approximate))
}

pub(super) fn hard_sigmoid(building: &Building<'_>) -> Built {
    let alpha = f64::from(building.node.float("alpha", 0.2));
    let beta = f64::from(building.node.float("beta", 0.5));
    unary(move |x| x.f_mul_scalar(alpha)?.f_add_scalar(beta)?.f_clamp(0.0, 1.0))
}

pub(super) fn hard_swish(_: &Building<'_>) -> Built {
    unary(Tensor::f_hardswish)
}

pub(super) fn identity(_: &Building<'_>) -> Built {
    unary(|x| Ok(x.shallow_clone()))
}

pub(super) fn leaky_relu(building: &Building<'_>) -> Built {
    let alpha = f64::from(building.node.float("alpha", 0.01));
    unary(move |x| x.f_clamp_min(0.0)?.f_add(&x.f_clamp_max(0.0)?.f_mul_scalar(alpha)?))
}

pub(super) fn log(_: &Building<'_>) -> Built {
    unary(Tensor::f_log)
}

pub(super) fn mish(_: &Building<'_>) -> Built {
    unary(Tensor::f_mish)
}

pub(super) fn neg(_: &Building<'_>) -> Built {
    unary(Tensor::f_neg)
}

pub(super) fn reciprocal(_: &Building<'_>) -> Built {
    unary(Tensor::f_reciprocal)
}

pub(super) fn relu(_: &Building<'_>) -> Built {
    unary(Tensor::f_relu)
}

/// Ties go to the even neighbour, in ONNX and in libtorch.
pub(super) fn round(_: &Building<'_>) -> Built {
    unary(Tensor::f_round)
}

/// Moves values towards zero by `bias`; values within `lambd` of zero become zero.
pub(super) fn shrink(building: &Building<'_>) -> Built {
    let bias = f64::from(building.node.float("bias", 0.0));
    let threshold = f64::from(building.node.float("lambd", 0.5));
    unary(move |x| {
        let zero = x.f_zeros_like()?;
        let above = x.f_sub_scalar(bias)?.f_where_self(&x.f_gt(threshold)?, &zero)?;
        x.f_add_scalar(bias)?.f_where_self(&x.f_lt(-threshold)?, &above)
    })
}

pub(super) fn sigmoid(_: &Building<'_>) -> Built {
    unary(Tensor::f_sigmoid)
}

pub(super) fn sign(_: &Building<'_>) -> Built {
    unary(Tensor::f_sign)
}

pub(super) fn sin(_: &Building<'_>) -> Built {
    unary(Tensor::f_sin)
}

pub(super) fn sinh(_: &Building<'_>) -> Built {
    unary(Tensor::f_sinh)
}

pub(super) fn softplus(_: &Building<'_>) -> Built {
    unary(|x| Tensor::f_zeros_like(x)?.f_logaddexp(x))
}

pub(super) fn softsign(_: &Building<'_>) -> Built {
    unary(|x| x.f_div(&x.f_abs()?.f_add_scalar(1.0)?))
}

pub(super) fn sqrt(_: &Building<'_>) -> Built {
    unary(Tensor::f_sqrt)
}

pub(super) fn swish(building: &Building<'_>) -> Built {
    let alpha = f64::from(building.node.float("alpha", 1.0));
    if alpha == 1.0 {
        return unary(Tensor::f_silu);
    }
    unary(move |x| x.f_mul(&x.f_mul_scalar(alpha)?.f_sigmoid()?))
}

pub(super) fn tan(_: &Building<'_>) -> Built {
    unary(Tensor::f_tan)
}

pub(super) fn tanh(_: &Building<'_>) -> Built {
    unary(Tensor::f_tanh)
}

pub(super) fn thresholded_relu(building: &Building<'_>) -> Built {
    let alpha = f64::from(building.node.float("alpha", 1.0));
    unary(move |x| x.f_where_self(&x.f_gt(alpha)?, &x.f_zeros_like()?))
}

/// Dropout in its inference form. With `training_mode` the export would be random: refused.
pub(super) fn dropout(building: &Building<'_>) -> Built {
    let outputs = building.outputs();
    let old_training = building.opset < 7 && building.node.int("is_test", 0) == 0;
    if old_training {
        return because("it drops values at random (is_test = 0)");
    }
    Ok(Box::new(move |call| {
        let ratio = call.optional(1).map_or(Ok(0.5), scalar)?;
        if let Some(training) = call.optional(2)
            && scalar(training)? != 0.0
            && ratio != 0.0
        {
            return because("it drops values at random (training_mode is true)");
        }
        let x = call.tensor(0)?;
        let mut result = vec![x.shallow_clone()];
        if outputs > 1 {
            result.push(x.f_ones_like()?.f_to_kind(Kind::Bool)?);
        }
        Ok(result)
    }))
}

pub(super) fn add(_: &Building<'_>) -> Built {
    binary(Tensor::f_add)
}

pub(super) fn sub(_: &Building<'_>) -> Built {
    binary(Tensor::f_sub)
}

pub(super) fn mul(_: &Building<'_>) -> Built {
    binary(Tensor::f_mul)
}

/// Integer division truncates towards zero.
pub(super) fn div(_: &Building<'_>) -> Built {
    binary(|a, b| if is_float(a) { a.f_div(b) } else { a.f_div_tensor_mode(b, "trunc") })
}

/// `fmod = 0`: the sign of the divisor (as in Python); `fmod = 1`: the sign of the dividend (as in C).
pub(super) fn modulo(building: &Building<'_>) -> Built {
    if building.node.int("fmod", 0) != 0 { binary(Tensor::f_fmod_tensor) } else { binary(Tensor::f_remainder_tensor) }
}

/// The result has the type of the base.
pub(super) fn pow(_: &Building<'_>) -> Built {
    kernel(|call| {
        let (base, exponent) = (call.tensor(0)?, call.tensor(1)?);
        let kind = base.kind();
        // A single exponent that requires no gradient: the scalar form has the cheaper derivative.
        if exponent.numel() == 1 && exponent.dim() <= base.dim() && is_float(base) && !exponent.requires_grad() {
            return Ok(base.f_pow_tensor_scalar(scalar(exponent)?)?);
        }
        let result = if is_float(exponent) && !is_float(base) {
            base.f_to_kind(exponent.kind())?.f_pow(exponent)?
        } else {
            base.f_pow(&exponent.f_to_kind(kind)?)?
        };
        Ok(result.f_to_kind(kind)?)
    })
}

fn fold(combine: fn(&Tensor, &Tensor) -> Result<Tensor, tch::TchError>) -> Built {
    kernel(move |call| {
        let mut result = call.tensor(0)?.shallow_clone();
        for index in 1..call.inputs.len() {
            result = combine(&result, call.tensor(index)?)?;
        }
        Ok(result)
    })
}

pub(super) fn min(_: &Building<'_>) -> Built {
    fold(Tensor::f_minimum)
}

pub(super) fn max(_: &Building<'_>) -> Built {
    fold(Tensor::f_maximum)
}

pub(super) fn sum(_: &Building<'_>) -> Built {
    fold(Tensor::f_add)
}

pub(super) fn mean(building: &Building<'_>) -> Built {
    let count = building.node.inputs.len().max(1) as f64;
    let total = fold(Tensor::f_add)?;
    Ok(Box::new(move |call| total(call)?.into_iter().map(|t| Ok(t.f_div_scalar(count)?)).collect()))
}

/// The bounds are attributes before opset 11 and inputs since.
pub(super) fn clip(building: &Building<'_>) -> Built {
    if building.opset < 11 {
        let low = f64::from(building.node.float("min", f32::MIN));
        let high = f64::from(building.node.float("max", f32::MAX));
        return unary(move |x| x.f_clamp(low, high));
    }
    kernel(|call| {
        let mut x = call.tensor(0)?.shallow_clone();
        if let Some(low) = call.optional(1) {
            x = x.f_maximum(low)?;
        }
        if let Some(high) = call.optional(2) {
            x = x.f_minimum(high)?;
        }
        Ok(x)
    })
}

pub(super) fn prelu(_: &Building<'_>) -> Built {
    kernel(|call| -> Result<Tensor, OpError> {
        let (x, slope) = (call.tensor(0)?, call.tensor(1)?);
        Ok(x.f_clamp_min(0.0)?.f_add(&x.f_clamp_max(0.0)?.f_mul(slope)?)?)
    })
}

/// `a · sigmoid(alpha · a) · b`.
pub(super) fn swiglu(building: &Building<'_>) -> Built {
    let gate = swish(building)?;
    Ok(Box::new(move |call| {
        let b = call.tensor(1)?;
        gate(call)?.into_iter().map(|a| Ok(a.f_mul(b)?)).collect()
    }))
}
