//! Values made from attributes and shapes, and conversions of the element type.

use tch::{Device, Kind, Tensor};

use super::{Building, Built, OpError, because, ints, kernel, kind_of, load_attribute, scalar, scalar_int};
use crate::onnx::{Attribute, DataType};

pub(super) fn constant(building: &Building<'_>) -> Built {
    let value = constant_value(building)?;
    kernel(move |_| Ok(value.shallow_clone()))
}

fn constant_value(building: &Building<'_>) -> Result<Tensor, OpError> {
    let node = building.node;
    if let Some(tensor) = node.tensor("value") {
        return load_attribute(tensor);
    }
    Ok(match node.attributes.iter().find(|(name, _)| name.starts_with("value_")).map(|(_, value)| value) {
        Some(Attribute::Int(value)) => Tensor::f_from_slice(&[*value])?.f_reshape([0i64; 0])?,
        Some(Attribute::Float(value)) => Tensor::f_from_slice(&[*value])?.f_reshape([0i64; 0])?,
        Some(Attribute::Ints(values)) => Tensor::f_from_slice(values)?,
        Some(Attribute::Floats(values)) => Tensor::f_from_slice(values)?,
        _ => return because("its value is of a kind that cannot be used in computation"),
    })
}

/// A tensor filled with one value; float32 zero where the attribute is absent.
pub(super) fn constant_of_shape(building: &Building<'_>) -> Built {
    let value = match building.node.tensor("value") {
        Some(tensor) => load_attribute(tensor)?.f_reshape([0i64; 0])?,
        None => Tensor::f_from_slice(&[0.0f32])?.f_reshape([0i64; 0])?,
    };
    kernel(move |call| {
        let shape = call.ints(0)?;
        // The value fills the tensor without passing through a float: int64 keeps all its bits.
        Ok(value.f_expand(&shape, false)?.f_contiguous()?)
    })
}

/// `start, start + delta, …`: `max(ceil((limit − start) / delta), 0)` numbers.
pub(super) fn range(_: &Building<'_>) -> Built {
    kernel(|call| {
        let (start, limit, delta) = (call.tensor(0)?, call.tensor(1)?, call.tensor(2)?);
        let kind = start.f_kind()?;
        if matches!(kind, Kind::Float | Kind::Double | Kind::Half | Kind::BFloat16) {
            let (start, limit, delta) = (scalar(start)?, scalar(limit)?, scalar(delta)?);
            let count = ((limit - start) / delta).ceil().max(0.0);
            if !count.is_finite() {
                return because("its step is zero");
            }
            let steps = Tensor::f_arange(count as i64, (Kind::Double, Device::Cpu))?;
            return Ok(steps.f_mul_scalar(delta)?.f_add_scalar(start)?.f_to_kind(kind)?);
        }
        let (start, limit, delta) = (scalar_int(start)?, scalar_int(limit)?, scalar_int(delta)?);
        if delta == 0 {
            return because("its step is zero");
        }
        let empty = if delta > 0 { limit <= start } else { limit >= start };
        let end = if empty { start } else { limit };
        Ok(Tensor::f_arange_start_step(start, end, delta, (kind, Device::Cpu))?)
    })
}

pub(super) fn eye_like(building: &Building<'_>) -> Built {
    let offset = building.node.int("k", 0);
    let kind = match building.node.attribute("dtype") {
        Some(Attribute::Int(code)) => Some(kind_of(DataType::from_code(*code as i32))?),
        _ => None,
    };
    kernel(move |call| {
        let like = call.tensor(0)?;
        let (rows, columns) = like.size2()?;
        let ones = Tensor::f_ones([rows, columns], (kind.unwrap_or(like.kind()), Device::Cpu))?;
        Ok(ones.f_triu(offset)?.f_tril(offset)?)
    })
}

/// The shape of the input, or its part `start..end`.
pub(super) fn shape(building: &Building<'_>) -> Built {
    let start = building.node.int("start", 0);
    let end = building.node.int("end", i64::MAX);
    kernel(move |call| {
        let size = call.tensor(0)?.size();
        let rank = size.len() as i64;
        let clamp = |i: i64| (if i < 0 { i.saturating_add(rank) } else { i }).clamp(0, rank) as usize;
        let (from, to) = (clamp(start), clamp(end));
        Ok(Tensor::f_from_slice(&size[from..to.max(from)])?)
    })
}

pub(super) fn size(_: &Building<'_>) -> Built {
    kernel(|call| Ok(Tensor::f_from_slice(&[call.tensor(0)?.numel() as i64])?.f_reshape([0i64; 0])?))
}

pub(super) fn cast(building: &Building<'_>) -> Built {
    let kind = kind_of(DataType::from_code(building.node.int("to", 0) as i32))?;
    kernel(move |call| Ok(call.tensor(0)?.f_to_kind(kind)?))
}

pub(super) fn cast_like(_: &Building<'_>) -> Built {
    kernel(|call| Ok(call.tensor(0)?.f_to_kind(call.tensor(1)?.f_kind()?)?))
}

/// The attribute form of a list of axes; `None` for the input form (which came with opsets 11, 13 and 18).
pub(super) fn axes(building: &Building<'_>) -> Option<Vec<i64>> {
    building.node.ints("axes").map(<[i64]>::to_vec)
}

/// The axes of one call: from the attribute, else from the input at `index`.
pub(super) fn axes_of(fixed: &Option<Vec<i64>>, input: Option<&Tensor>) -> Result<Option<Vec<i64>>, OpError> {
    match (fixed, input) {
        (Some(axes), _) => Ok(Some(axes.clone())),
        (None, Some(tensor)) => Ok(Some(ints(tensor)?)),
        (None, None) => Ok(None),
    }
}
