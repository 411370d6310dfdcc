//! Selection of elements: slices, gathers, scatters and masks by position.

use tch::{Device, Kind, Tensor};

use super::{Building, Built, OpError, axis_of, because, ints, kernel, scalar, scalar_int};
use crate::onnx::Node;

pub(super) fn slice(building: &Building<'_>) -> Built {
    let attributes = if building.opset < 10 { Some(old_slice(building.node)) } else { None };
    kernel(move |call| {
        let x = call.tensor(0)?;
        let (starts, ends, axes, steps) = match &attributes {
            Some((starts, ends, axes)) => (starts.clone(), ends.clone(), axes.clone(), None),
            None => (call.ints(1)?, call.ints(2)?, call.optional_ints(3)?, call.optional_ints(4)?),
        };
        let axes = axes.unwrap_or_else(|| (0..starts.len() as i64).collect());
        let steps = steps.unwrap_or_else(|| vec![1; starts.len()]);
        if ends.len() != starts.len() || axes.len() != starts.len() || steps.len() != starts.len() {
            return because("its starts, ends, axes and steps have different lengths");
        }
        let mut x = x.shallow_clone();
        for (((start, end), axis), step) in starts.iter().zip(&ends).zip(&axes).zip(&steps) {
            x = slice_axis(&x, axis_of(*axis, x.dim())?, *start, *end, *step)?;
        }
        Ok(x)
    })
}

type OldSlice = (Vec<i64>, Vec<i64>, Option<Vec<i64>>);

fn old_slice(node: &Node) -> OldSlice {
    let list = |name| node.ints(name).map(<[i64]>::to_vec);
    (list("starts").unwrap_or_default(), list("ends").unwrap_or_default(), list("axes"))
}

/// Bounds beyond the ends are clamped; a negative step goes backwards.
fn slice_axis(x: &Tensor, axis: i64, start: i64, end: i64, step: i64) -> Result<Tensor, OpError> {
    let n = x.size()[axis as usize];
    let from_front = |i: i64| if i < 0 { i.saturating_add(n) } else { i };
    match step {
        0 => because("a step of 0"),
        1.. => {
            let (start, end) = (from_front(start).clamp(0, n), from_front(end).clamp(0, n));
            if start == 0 && end == n && step == 1 {
                return Ok(x.shallow_clone());
            }
            Ok(x.f_slice(axis, start, end.max(start), step)?)
        }
        _ => {
            let (start, end) = (from_front(start).clamp(-1, n - 1), from_front(end).clamp(-1, n - 1));
            let (start, end) = (n - 1 - start, n - 1 - end);
            Ok(x.f_flip([axis])?.f_slice(axis, start, end.max(start), step.saturating_neg())?)
        }
    }
}

/// Negative indices count from the end. libtorch's own kernels reject them, so they are converted first.
fn from_front(indices: &Tensor, n: i64) -> Result<Tensor, OpError> {
    let indices = indices.f_to_kind(Kind::Int64)?;
    if indices.numel() == 0 || (indices.device() == Device::Cpu && indices.f_min()?.f_int64_value(&[])? >= 0) {
        return Ok(indices);
    }
    Ok(indices.f_add_scalar(n)?.f_where_self(&indices.f_lt(0)?, &indices)?)
}

pub(super) fn gather(building: &Building<'_>) -> Built {
    let axis = building.node.int("axis", 0);
    kernel(move |call| {
        let (data, indices) = (call.tensor(0)?, call.tensor(1)?);
        let axis = axis_of(axis, data.dim())?;
        let size = data.size();
        let n = size[axis as usize];
        if indices.dim() == 0 && indices.device() == Device::Cpu {
            let index = scalar_int(indices)?;
            if index < -n || index >= n {
                return because(format!("index {index} is outside of a dimension of {n}"));
            }
            return Ok(data.f_select(axis, index)?);
        }
        let chosen = data.f_index_select(axis, &from_front(indices, n)?.f_reshape([-1])?).map_err(|error| {
            let text = error.to_string();
            let outside = text.contains("out of range");
            if outside { OpError::Because(format!("an index is outside of 0..{n}")) } else { OpError::Torch(error) }
        })?;
        if indices.dim() == 1 {
            return Ok(chosen);
        }
        let mut shape = size[..axis as usize].to_vec();
        shape.extend(indices.size());
        shape.extend(&size[axis as usize + 1..]);
        Ok(chosen.f_reshape(&shape)?)
    })
}

pub(super) fn gather_elements(building: &Building<'_>) -> Built {
    let axis = building.node.int("axis", 0);
    kernel(move |call| {
        let (data, indices) = (call.tensor(0)?, call.tensor(1)?);
        let axis = axis_of(axis, data.dim())?;
        let indices = from_front(indices, data.size()[axis as usize])?;
        Ok(data.f_gather(axis, &indices, false)?)
    })
}

/// The last axis of `indices` as one index tensor per dimension of the data, after `batch` leading dimensions.
fn coordinates(data: &Tensor, indices: &Tensor, batch: usize) -> Result<Vec<Option<Tensor>>, OpError> {
    let size = indices.size();
    let Some((depth, outer)) = size.split_last() else { return because("its indices are a single number") };
    if batch + *depth as usize > data.dim() || batch > outer.len() {
        return because(format!("indices of shape {size:?} for data of shape {:?}", data.size()));
    }
    let indices = indices.f_to_kind(Kind::Int64)?;
    let mut result = Vec::with_capacity(batch + *depth as usize);
    for (dimension, length) in outer.iter().take(batch).enumerate() {
        let mut shape = vec![1; outer.len()];
        shape[dimension] = *length;
        result.push(Some(Tensor::f_arange(*length, (Kind::Int64, indices.device()))?.f_reshape(&shape)?));
    }
    for position in 0..*depth {
        result.push(Some(indices.f_select(-1, position)?));
    }
    Ok(result)
}

pub(super) fn gather_nd(building: &Building<'_>) -> Built {
    let batch = building.node.int("batch_dims", 0).max(0) as usize;
    kernel(move |call| {
        let (data, indices) = (call.tensor(0)?, call.tensor(1)?);
        Ok(data.f_index(&coordinates(data, indices, batch)?)?)
    })
}

fn reduction(building: &Building<'_>) -> Result<&'static str, OpError> {
    match building.node.string("reduction").unwrap_or("none") {
        "none" => Ok("none"),
        "add" => Ok("sum"),
        "mul" => Ok("prod"),
        "max" => Ok("amax"),
        "min" => Ok("amin"),
        other => because(format!("the reduction `{other}` is unknown")),
    }
}

pub(super) fn scatter_elements(building: &Building<'_>) -> Built {
    let axis = building.node.int("axis", 0);
    let reduction = reduction(building)?;
    kernel(move |call| {
        let (data, indices, updates) = (call.tensor(0)?, call.tensor(1)?, call.tensor(2)?);
        let axis = axis_of(axis, data.dim())?;
        let indices = from_front(indices, data.size()[axis as usize])?;
        match reduction {
            "none" => Ok(data.f_scatter(axis, &indices, updates)?),
            reduction => Ok(data.f_internal_scatter_reduce(axis, &indices, updates, reduction, true)?),
        }
    })
}

pub(super) fn scatter_nd(building: &Building<'_>) -> Built {
    let reduction = reduction(building)?;
    kernel(move |call| {
        let (data, indices, updates) = (call.tensor(0)?, call.tensor(1)?, call.tensor(2)?);
        let coordinates = coordinates(data, indices, 0)?;
        match reduction {
            "none" => Ok(data.f_index_put(&coordinates, updates, false)?),
            "sum" => Ok(data.f_index_put(&coordinates, updates, true)?),
            reduction => scatter_rows(data, &coordinates, updates, reduction),
        }
    })
}

/// Flattens the leading dimensions that the coordinates cover, so that every update is a row.
fn scatter_rows(
    data: &Tensor,
    coordinates: &[Option<Tensor>],
    updates: &Tensor,
    reduction: &str,
) -> Result<Tensor, OpError> {
    let size = data.size();
    let (covered, rest) = size.split_at(coordinates.len());
    let width: i64 = rest.iter().product();
    let rows: i64 = covered.iter().product();
    let updates = updates.f_reshape([-1, width])?;
    let mut place = Tensor::f_zeros([updates.size()[0]], (Kind::Int64, data.device()))?;
    for (coordinate, length) in coordinates.iter().flatten().zip(covered) {
        let coordinate = from_front(coordinate, *length)?.f_reshape([-1])?;
        place = place.f_mul_scalar(*length)?.f_add(&coordinate)?;
    }
    let place = place.f_unsqueeze(1)?.f_expand([-1, width], false)?;
    let result = data.f_reshape([rows, width])?.f_internal_scatter_reduce(0, &place, &updates, reduction, true)?;
    Ok(result.f_reshape(&size)?)
}

/// The input `values` is `[off, on]`; an index outside `−depth..depth` gives a row of `off`.
pub(super) fn one_hot(building: &Building<'_>) -> Built {
    let axis = building.node.int("axis", -1);
    kernel(move |call| {
        let (indices, values) = (call.tensor(0)?, call.tensor(2)?);
        let depth = scalar(call.tensor(1)?)? as i64;
        let axis = axis_of(axis, indices.dim() + 1)?;
        let indices = indices.f_to_kind(Kind::Int64)?;
        let indices = indices.f_add_scalar(depth)?.f_where_self(&indices.f_lt(0)?, &indices)?;
        let mut shape = vec![1; indices.dim() + 1];
        shape[axis as usize] = depth;
        let classes = Tensor::f_arange(depth, (Kind::Int64, indices.device()))?.f_reshape(&shape)?;
        let hot = indices.f_unsqueeze(axis)?.f_eq_tensor(&classes)?;
        Ok(values.f_select(0, 1)?.f_where_self(&hot, &values.f_select(0, 0)?)?)
    })
}

pub(super) fn trilu(building: &Building<'_>) -> Built {
    let upper = building.node.int("upper", 1) != 0;
    kernel(move |call| {
        let diagonal = call.optional(1).map_or(Ok(0), scalar_int)?;
        let x = call.tensor(0)?;
        Ok(if upper { x.f_triu(diagonal)? } else { x.f_tril(diagonal)? })
    })
}

/// The result is `[rank, count]`, where libtorch gives `[count, rank]`.
pub(super) fn non_zero(_: &Building<'_>) -> Built {
    kernel(|call| Ok(call.tensor(0)?.f_nonzero()?.f_transpose(0, 1)?))
}

/// The elements (along an axis, or of all in row-major order) whose condition is true; a short condition drops the rest.
pub(super) fn compress(building: &Building<'_>) -> Built {
    let axis = building.node.attribute("axis").map(|_| building.node.int("axis", 0));
    kernel(move |call| {
        let x = call.tensor(0)?;
        let chosen = call.tensor(1)?.f_nonzero()?.f_reshape([-1])?;
        match axis {
            Some(axis) => Ok(x.f_index_select(axis_of(axis, x.dim())?, &chosen)?),
            None => Ok(x.f_reshape([-1])?.f_index_select(0, &chosen)?),
        }
    })
}

/// A cache with new rows written into it along the axis, starting at `write_indices[row of the batch]`.
pub(super) fn tensor_scatter(building: &Building<'_>) -> Built {
    let axis = building.node.int("axis", -2);
    let circular = match building.node.string("mode").unwrap_or("linear") {
        "linear" => false,
        "circular" => true,
        other => return because(format!("the mode `{other}` is unknown")),
    };
    kernel(move |call| {
        let (cache, update) = (call.tensor(0)?, call.tensor(1)?);
        let axis = axis_of(axis, cache.dim())?;
        let (size, new) = (cache.size(), update.size());
        if axis == 0 || new.len() != size.len() {
            return because(format!("an update of shape {new:?} along axis {axis} of {size:?}"));
        }
        let mut shape = vec![1; size.len()];
        shape[axis as usize] = new[axis as usize];
        let options = (Kind::Int64, cache.device());
        let mut places = Tensor::f_arange(new[axis as usize], options)?.f_reshape(&shape)?;
        if let Some(starts) = call.optional(2) {
            let mut shape = vec![1; size.len()];
            shape[0] = size[0];
            places = places.f_add(&starts.f_to_device(cache.device())?.f_to_kind(Kind::Int64)?.f_reshape(&shape)?)?;
        }
        if circular {
            places = places.f_remainder(size[axis as usize])?;
        }
        Ok(cache.f_scatter(axis, &places.f_expand(&new, false)?, update)?)
    })
}

/// The first element of an integer tensor, read on the host.
pub(super) fn first(tensor: &Tensor) -> Result<i64, OpError> {
    ints(tensor)?.first().copied().ok_or_else(|| OpError::Because("expected a number, found none".into()))
}
