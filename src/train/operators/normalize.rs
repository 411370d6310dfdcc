//! Softmax and the normalisations: over the last axes, over channels, groups of channels, or given axes.

use tch::{Kind, Tensor};

use super::{Building, Built, OpError, axis_of, because, kernel};

/// Since opset 13 along one axis; before, over all axes from `axis` on (the input flattened to two dimensions).
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

/// The second and third output are the mean and the inverse standard deviation.
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
            let axes: Vec<i64> = ((size.len() - shape.len()) as i64..size.len() as i64).collect();
            let [y, mean, inverse] = standardised(x, &axes, epsilon)?;
            let y = match (weight, offset) {
                (Some(weight), Some(offset)) => y.f_mul(weight)?.f_add(offset)?,
                (Some(weight), None) => y.f_mul(weight)?,
                _ => y,
            };
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

/// `(x − mean) / √(variance + ε)`, the mean, and the factor. libtorch's fused form returns the last two without a gradient.
fn standardised(x: &Tensor, axes: &[i64], epsilon: f64) -> Result<[Tensor; 3], OpError> {
    let kind = x.f_kind()?;
    let wide = if matches!(kind, Kind::Half | Kind::BFloat16) { x.f_to_kind(Kind::Float)? } else { x.shallow_clone() };
    let mean = wide.f_mean_dim(axes, true, None)?;
    let centred = wide.f_sub(&mean)?;
    let inverse = centred.f_mul(&centred)?.f_mean_dim(axes, true, None)?.f_add_scalar(epsilon)?.f_rsqrt()?;
    Ok([centred.f_mul(&inverse)?.f_to_kind(kind)?, mean, inverse])
}

/// `x / √(mean(x²) + ε) · scale` over the axes from `axis` on.
pub(super) fn rms_normalization(building: &Building<'_>) -> Built {
    let axis = building.node.int("axis", -1);
    let epsilon = f64::from(building.node.float("epsilon", 1e-5));
    if building.outputs() > 1 {
        return because("its inverse standard deviation is requested, which is not supported");
    }
    kernel(move |call| root_mean_square(call.tensor(0)?, call.tensor(1)?, axis, epsilon))
}

/// Computed in float32 where the values are in half precision.
pub(super) fn root_mean_square(x: &Tensor, scale: &Tensor, axis: i64, epsilon: f64) -> Result<Tensor, OpError> {
    let kind = x.f_kind()?;
    let first = axis_of(axis, x.dim())?;
    let axes: Vec<i64> = (first..x.dim() as i64).collect();
    let wide = if matches!(kind, Kind::Half | Kind::BFloat16) { x.f_to_kind(Kind::Float)? } else { x.shallow_clone() };
    let inverse = wide.f_mul(&wide)?.f_mean_dim(axes.as_slice(), true, None)?.f_add_scalar(epsilon)?.f_rsqrt()?;
    Ok(wide.f_mul(&inverse)?.f_to_kind(kind)?.f_mul(scale)?)
}

/// One at the first largest element along the axis (before opset 13, over all axes from it on), else zero.
pub(super) fn hardmax(building: &Building<'_>) -> Built {
    along(building, |x, axis| {
        let largest = x.f_argmax(axis, true)?;
        x.f_zeros_like()?.f_scatter_value(axis, &largest, 1.0)
    })
}

/// Divides by the L1 or L2 norm along the axis; zero where the norm is zero.
pub(super) fn lp_normalization(building: &Building<'_>) -> Built {
    let axis = building.node.int("axis", -1);
    let p = building.node.int("p", 2);
    if p != 1 && p != 2 {
        return because(format!("a norm of order {p} is unknown"));
    }
    kernel(move |call| {
        let x = call.tensor(0)?;
        let axis = axis_of(axis, x.dim())?;
        let norm = x.f_norm_scalaropt_dim(p as f64, [axis].as_slice(), true)?;
        Ok(x.f_div(&norm.f_masked_fill(&norm.f_eq(0.0)?, 1.0)?)?)
    })
}

/// `(x − mean) / (standard deviation + 10⁻⁹)` over the given axes.
pub(super) fn mean_variance_normalization(building: &Building<'_>) -> Built {
    let axes = building.node.ints("axes").map_or_else(|| vec![0, 2, 3], <[i64]>::to_vec);
    kernel(move |call| {
        let x = call.tensor(0)?;
        let axes: Vec<i64> = axes.iter().map(|axis| axis_of(*axis, x.dim())).collect::<Result<_, _>>()?;
        let centred = x.f_sub(&x.f_mean_dim(axes.as_slice(), true, None)?)?;
        let variance = centred.f_mul(&centred)?.f_mean_dim(axes.as_slice(), true, None)?;
        Ok(centred.f_div(&variance.f_sqrt()?.f_add_scalar(1e-9)?)?)
    })
}

/// Normalises groups of channels of `[batch, channels, …]`. Scale and bias are per channel since opset 21, per group before.
pub(super) fn group_normalization(building: &Building<'_>) -> Built {
    let groups = building.node.int("num_groups", 1);
    let epsilon = f64::from(building.node.float("epsilon", 1e-5));
    let per_group = building.opset < 21;
    kernel(move |call| {
        let (x, scale, bias) = (call.tensor(0)?, call.tensor(1)?, call.tensor(2)?);
        let channels = x.size().get(1).copied().unwrap_or(0);
        if groups < 1 || channels % groups != 0 {
            return because(format!("{channels} channels cannot be divided into {groups} groups"));
        }
        let each = |t: &Tensor| -> Result<Tensor, OpError> {
            if !per_group {
                return Ok(t.shallow_clone());
            }
            Ok(t.f_reshape([groups, 1])?.f_expand([groups, channels / groups], false)?.f_reshape([channels])?)
        };
        Ok(x.f_group_norm(groups, Some(each(scale)?), Some(each(bias)?), epsilon, false)?)
    })
}

/// Normalises every channel of `[batch, channels, …]` by itself.
pub(super) fn instance_normalization(building: &Building<'_>) -> Built {
    let epsilon = f64::from(building.node.float("epsilon", 1e-5));
    kernel(move |call| {
        let (x, scale, bias) = (call.tensor(0)?, call.tensor(1)?, call.tensor(2)?);
        let channels = x.size().get(1).copied().unwrap_or(1);
        Ok(x.f_group_norm(channels, Some(scale), Some(bias), epsilon, false)?)
    })
}

/// Uses the mean and variance that the export holds; an export in training mode would compute its own: refused.
pub(super) fn batch_normalization(building: &Building<'_>) -> Built {
    let epsilon = f64::from(building.node.float("epsilon", 1e-5));
    if building.node.int("training_mode", 0) != 0 || building.outputs() > 1 {
        return because("it normalises by its own batch (training mode)");
    }
    kernel(move |call| {
        let (x, scale, bias) = (call.tensor(0)?, call.tensor(1)?, call.tensor(2)?);
        let (mean, variance) = (call.tensor(3)?, call.tensor(4)?);
        Ok(x.f_batch_norm(Some(scale), Some(bias), Some(mean), Some(variance), false, 0.0, epsilon, false)?)
    })
}
