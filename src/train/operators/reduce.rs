//! Sums, means, minima and maxima, and sorting along axes.

use tch::{Kind, TchError, Tensor};

use super::creation::{axes, axes_of};
use super::index::first;
use super::{Building, Built, OpError, axis_of, because, kernel, scalar_int};

type Reduction = fn(&Tensor, &[i64], bool) -> Result<Tensor, TchError>;

/// Axes come from the attribute or from input 1; no axes means all, or none with `noop_with_empty_axes`.
fn reduce(building: &Building<'_>, compute: Reduction) -> Built {
    let fixed = axes(building);
    let keep = building.node.int("keepdims", 1) != 0;
    let nothing = building.node.int("noop_with_empty_axes", 0) != 0;
    kernel(move |call| {
        let x = call.tensor(0)?;
        let rank = x.dim();
        let axes = axes_of(&fixed, call.optional(1))?.unwrap_or_default();
        if axes.is_empty() && nothing {
            return Ok(x.shallow_clone());
        }
        let axes: Vec<i64> = if axes.is_empty() {
            (0..rank as i64).collect()
        } else {
            axes.into_iter().map(|axis| axis_of(axis, rank)).collect::<Result<_, OpError>>()?
        };
        if axes.is_empty() {
            // A scalar: nothing to reduce over, but the function still applies (L2 of −3 is 3).
            return Ok(compute(&x.f_reshape([1])?, &[0], false)?);
        }
        Ok(compute(x, &axes, keep)?)
    })
}

pub(super) fn max(building: &Building<'_>) -> Built {
    reduce(building, |x, axes, keep| match of_nothing(x, axes, keep) {
        Some((shape, Kind::Bool)) => Tensor::f_zeros(&shape, (Kind::Bool, x.device())),
        Some((shape, kind)) => Tensor::f_full(&shape, f64::NEG_INFINITY, (kind, x.device())),
        None => x.f_amax(axes, keep),
    })
}

pub(super) fn min(building: &Building<'_>) -> Built {
    reduce(building, |x, axes, keep| match of_nothing(x, axes, keep) {
        Some((shape, Kind::Bool)) => Tensor::f_ones(&shape, (Kind::Bool, x.device())),
        Some((shape, kind)) => Tensor::f_full(&shape, f64::INFINITY, (kind, x.device())),
        None => x.f_amin(axes, keep),
    })
}

/// Shape and kind of the result if the axes hold no elements; `None` otherwise.
fn of_nothing(x: &Tensor, axes: &[i64], keep: bool) -> Option<(Vec<i64>, Kind)> {
    let size = x.size();
    if axes.iter().all(|axis| size[*axis as usize] != 0) {
        return None;
    }
    let kept = size.iter().enumerate().filter_map(|(i, d)| match axes.contains(&(i as i64)) {
        true => keep.then_some(1),
        false => Some(*d),
    });
    Some((kept.collect(), x.kind()))
}

pub(super) fn mean(building: &Building<'_>) -> Built {
    reduce(building, |x, axes, keep| x.f_mean_dim(axes, keep, None))
}

pub(super) fn sum(building: &Building<'_>) -> Built {
    // Without an explicit kind, libtorch would widen small integers.
    reduce(building, |x, axes, keep| x.f_sum_dim_intlist(axes, keep, x.f_kind()?))
}

pub(super) fn prod(building: &Building<'_>) -> Built {
    reduce(building, |x, axes, keep| {
        let kind = x.f_kind()?;
        let mut axes = axes.to_vec();
        axes.sort_unstable();
        axes.iter().rev().try_fold(x.shallow_clone(), |x, axis| x.f_prod_dim_int(*axis, keep, kind))
    })
}

pub(super) fn sum_square(building: &Building<'_>) -> Built {
    reduce(building, |x, axes, keep| x.f_mul(x)?.f_sum_dim_intlist(axes, keep, x.f_kind()?))
}

pub(super) fn l1(building: &Building<'_>) -> Built {
    reduce(building, |x, axes, keep| x.f_abs()?.f_sum_dim_intlist(axes, keep, x.f_kind()?))
}

pub(super) fn l2(building: &Building<'_>) -> Built {
    reduce(building, |x, axes, keep| x.f_norm_scalaropt_dim(2.0, axes, keep))
}

pub(super) fn log_sum(building: &Building<'_>) -> Built {
    reduce(building, |x, axes, keep| x.f_sum_dim_intlist(axes, keep, x.f_kind()?)?.f_log())
}

pub(super) fn log_sum_exp(building: &Building<'_>) -> Built {
    reduce(building, |x, axes, keep| x.f_logsumexp(axes, keep))
}

pub(super) fn arg_max(building: &Building<'_>) -> Built {
    arg_extreme(building, Tensor::f_argmax)
}

pub(super) fn arg_min(building: &Building<'_>) -> Built {
    arg_extreme(building, Tensor::f_argmin)
}

fn arg_extreme(building: &Building<'_>, compute: fn(&Tensor, Option<i64>, bool) -> Result<Tensor, TchError>) -> Built {
    let axis = building.node.int("axis", 0);
    let keep = building.node.int("keepdims", 1) != 0;
    let last = building.node.int("select_last_index", 0) != 0;
    kernel(move |call| {
        let x = call.tensor(0)?;
        let axis = axis_of(axis, x.dim())?;
        if !last {
            return Ok(compute(x, Some(axis), keep)?);
        }
        let n = x.size().get(axis as usize).copied().unwrap_or(1);
        Ok(compute(&x.f_flip([axis])?, Some(axis), keep)?.f_neg()?.f_add_scalar(n - 1)?)
    })
}

/// `exclusive` leaves out the element itself, `reverse` sums from the end.
pub(super) fn cum_sum(building: &Building<'_>) -> Built {
    let exclusive = building.node.int("exclusive", 0) != 0;
    let reverse = building.node.int("reverse", 0) != 0;
    kernel(move |call| {
        let x = call.tensor(0)?;
        let kind = x.f_kind()?;
        let axis = axis_of(scalar_int(call.tensor(1)?)?, x.dim())?;
        let source = if reverse { x.f_flip([axis])? } else { x.shallow_clone() };
        let mut total = source.f_cumsum(axis, kind)?;
        if exclusive {
            total = total.f_sub(&source)?;
        }
        Ok(if reverse { total.f_flip([axis])? } else { total })
    })
}

pub(super) fn top_k(building: &Building<'_>) -> Built {
    let axis = building.node.int("axis", -1);
    let largest = building.node.int("largest", 1) != 0;
    let fixed = building.node.attribute("k").map(|_| building.node.int("k", 1));
    Ok(Box::new(move |call| {
        let x = call.tensor(0)?;
        let k = match fixed {
            Some(k) => k,
            None => first(call.tensor(1)?)?,
        };
        if x.f_kind()? == Kind::Bool {
            return because("truth values have no order");
        }
        let axis = axis_of(axis, x.dim())?;
        // Among equal values the one with the lower index comes first, which libtorch's `topk` does not guarantee.
        let (values, indices) = x.f_sort_stable(true, axis, largest)?;
        Ok(vec![values.f_narrow(axis, 0, k)?, indices.f_narrow(axis, 0, k)?])
    }))
}
