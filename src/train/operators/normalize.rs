//! Softmax and the normalisations over the last axes.

use tch::{Kind, Tensor};

use super::{Building, Built, OpError, axis_of, because, kernel};

/// Since opset 13 along one axis; before, over all axes from `axis` on (flattened to two dimensions).
fn along(building: &Building<'_>, compute: fn(&Tensor, i64) -> Result<Tensor, tch::TchError>) -> Built {
    let old = building.opset < 13;
    let axis = building.node.int("axis", if old { 1 } else { -1 });
    kernel(move |call| {
        let x = call.tensor(0)?;
        let axis = axis_of(axis, x.dim())?;
        if !old || axis + 1 == x.dim() as i64 {
            return Ok(compute(x, axis)?);
        }
        let size = x.size();
        let rows: i64 = size[..axis as usize].iter().product();
        let columns: i64 = size[axis as usize..].iter().product();
        Ok(compute(&x.f_reshape([rows, columns])?, 1)?.f_reshape(&size)?)
    })
}

pub(super) fn softmax(building: &Building<'_>) -> Built {
    along(building, |x, axis| x.f_softmax(axis, None))
}

pub(super) fn log_softmax(building: &Building<'_>) -> Built {
    along(building, |x, axis| x.f_log_softmax(axis, None))
}

/// Second and third output: mean and inverse standard deviation.
pub(super) fn layer_normalization(building: &Building<'_>) -> Built {
    let axis = building.node.int("axis", -1);
    let epsilon = f64::from(building.node.float("epsilon", 1e-5));
    let outputs = building.outputs();
    Ok(Box::new(move |call| {
        let (x, scale, bias) = (call.tensor(0)?, call.tensor(1)?, call.optional(2));
        let size = x.size();
        let shape = &size[axis_of(axis, size.len())? as usize..];
        let fits = |t: &Tensor| t.size() == shape;
        let fused = fits(scale) && bias.is_none_or(fits);
        let (weight, offset) = if fused { (Some(scale), bias) } else { (None, None) };
        let mut result = if outputs == 1 {
            vec![x.f_layer_norm(shape, weight, offset, epsilon, false)?]
        } else {
            let (y, mean, inverse) = x.f_native_layer_norm(shape, weight, offset, epsilon)?;
            vec![y, mean, inverse]
        };
        if !fused {
            result[0] = result[0].f_mul(scale)?;
            if let Some(bias) = bias {
                result[0] = result[0].f_add(bias)?;
            }
        }
        result.truncate(outputs);
        Ok(result)
    }))
}

/// `x / √(mean(x²) + ε) · scale` over the axes from `axis` on.
pub(super) fn rms_normalization(building: &Building<'_>) -> Built {
    let axis = building.node.int("axis", -1);
    let epsilon = f64::from(building.node.float("epsilon", 1e-5));
    if building.outputs() > 1 {
        return because("its inverse standard deviation is asked for, which is not computed here");
    }
    kernel(move |call| root_mean_square(call.tensor(0)?, call.tensor(1)?, axis, epsilon))
}

/// Computed in float32 where the values are of half precision.
pub(super) fn root_mean_square(x: &Tensor, scale: &Tensor, axis: i64, epsilon: f64) -> Result<Tensor, OpError> {
    let kind = x.f_kind()?;
    let first = axis_of(axis, x.dim())?;
    let axes: Vec<i64> = (first..x.dim() as i64).collect();
    let wide = if matches!(kind, Kind::Half | Kind::BFloat16) { x.f_to_kind(Kind::Float)? } else { x.shallow_clone() };
    let inverse = wide.f_mul(&wide)?.f_mean_dim(axes.as_slice(), true, None)?.f_add_scalar(epsilon)?.f_rsqrt()?;
    Ok(wide.f_mul(&inverse)?.f_to_kind(kind)?.f_mul(scale)?)
}
