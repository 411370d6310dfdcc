//! The same elements in another shape: reshapes, permutations, concatenations and splits.

use tch::{Kind, Tensor};

use super::creation::{axes, axes_of};
use super::{Building, Built, OpError, axis_of, because, kernel, scalar};

/// A 0 copies the input's dimension (unless `allowzero`); −1 is inferred.
pub(super) fn reshape(building: &Building<'_>) -> Built {
    let allow_zero = building.node.int("allowzero", 0) != 0;
    let fixed = building.node.ints("shape").map(<[i64]>::to_vec);
    kernel(move |call| {
        let x = call.tensor(0)?;
        let mut shape = match &fixed {
            Some(shape) => shape.clone(),
            None => call.ints(1)?,
        };
        if !allow_zero && shape.contains(&0) {
            let size = x.size();
            for (index, wanted) in shape.iter_mut().enumerate().filter(|(_, wanted)| **wanted == 0) {
                match size.get(index) {
                    Some(dimension) => *wanted = *dimension,
                    None => {
                        return because(format!("dimension {index} of {size:?} is to be copied and does not exist"));
                    }
                }
            }
        }
        Ok(x.f_reshape(&shape)?)
    })
}

pub(super) fn flatten(building: &Building<'_>) -> Built {
    let axis = building.node.int("axis", 1);
    kernel(move |call| {
        let x = call.tensor(0)?;
        let size = x.size();
        let rank = size.len() as i64;
        let axis = if axis < 0 { axis + rank } else { axis };
        if !(0..=rank).contains(&axis) {
            return because(format!("axis {axis} does not exist in {size:?}"));
        }
        let (left, right) = size.split_at(axis as usize);
        Ok(x.f_reshape([left.iter().product::<i64>(), right.iter().product()])?)
    })
}

/// Reverses the axes if `perm` is absent.
pub(super) fn transpose(building: &Building<'_>) -> Built {
    let fixed = building.node.ints("perm").map(<[i64]>::to_vec);
    kernel(move |call| {
        let x = call.tensor(0)?;
        match &fixed {
            Some(permutation) => Ok(x.f_permute(permutation)?),
            None => Ok(x.f_permute((0..x.dim() as i64).rev().collect::<Vec<_>>())?),
        }
    })
}

/// Without axes, removes every dimension of 1.
pub(super) fn squeeze(building: &Building<'_>) -> Built {
    let fixed = axes(building);
    kernel(move |call| {
        let x = call.tensor(0)?;
        let size = x.size();
        let mut gone = vec![false; size.len()];
        match axes_of(&fixed, call.optional(1))? {
            None => gone.iter_mut().zip(&size).for_each(|(gone, d)| *gone = *d == 1),
            Some(axes) => {
                for axis in axes {
                    let axis = axis_of(axis, size.len())? as usize;
                    if size.get(axis) != Some(&1) {
                        return because(format!("dimension {axis} of {size:?} is not 1"));
                    }
                    gone[axis] = true;
                }
            }
        }
        let kept: Vec<i64> = size.iter().zip(&gone).filter(|(_, gone)| !**gone).map(|(d, _)| *d).collect();
        Ok(x.f_reshape(&kept)?)
    })
}

/// Axes refer to the output.
pub(super) fn unsqueeze(building: &Building<'_>) -> Built {
    let fixed = axes(building);
    kernel(move |call| {
        let x = call.tensor(0)?;
        let Some(axes) = axes_of(&fixed, call.optional(1))? else { return because("it has no axes") };
        let rank = x.dim() + axes.len();
        let mut axes = axes.into_iter().map(|axis| axis_of(axis, rank)).collect::<Result<Vec<_>, _>>()?;
        axes.sort_unstable();
        if axes.windows(2).any(|pair| pair[0] == pair[1]) {
            return because(format!("an axis is given twice in {axes:?}"));
        }
        axes.iter().try_fold(x.shallow_clone(), |x, axis| Ok(x.f_unsqueeze(*axis)?))
    })
}

/// Broadcasts in both directions: a 1 in the requested shape keeps the input's dimension.
pub(super) fn expand(_: &Building<'_>) -> Built {
    kernel(|call| {
        let x = call.tensor(0)?;
        let shape = broadcast(&x.size(), &call.ints(1)?)?;
        Ok(x.f_expand(&shape, false)?)
    })
}

/// The shape that two shapes broadcast to.
pub(super) fn broadcast(a: &[i64], b: &[i64]) -> Result<Vec<i64>, OpError> {
    let rank = a.len().max(b.len());
    let at = |shape: &[i64], i: usize| (i + shape.len()).checked_sub(rank).map_or(1, |i| shape[i]);
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (x, y) if x == y => Ok(x),
            (1, y) => Ok(y),
            (x, 1) => Ok(x),
            _ => because(format!("shapes {a:?} and {b:?} do not broadcast")),
        })
        .collect()
}

pub(super) fn tile(_: &Building<'_>) -> Built {
    kernel(|call| Ok(call.tensor(0)?.f_repeat(call.ints(1)?)?))
}

pub(super) fn concat(building: &Building<'_>) -> Built {
    let axis = building.node.int("axis", 0);
    kernel(move |call| {
        let parts: Vec<&Tensor> = (0..call.inputs.len()).map(|i| call.tensor(i)).collect::<Result<_, _>>()?;
        match parts.as_slice() {
            [one] => Ok(one.shallow_clone()),
            parts => Ok(Tensor::f_cat(parts, axis)?),
        }
    })
}

/// Sizes come from the attribute or the input; otherwise equal parts (the last may be smaller).
pub(super) fn split(building: &Building<'_>) -> Built {
    let axis = building.node.int("axis", 0);
    let fixed = building.node.ints("split").map(<[i64]>::to_vec);
    let parts = building.node.int("num_outputs", building.outputs() as i64).max(1);
    Ok(Box::new(move |call| {
        let x = call.tensor(0)?;
        let axis = axis_of(axis, x.dim())?;
        let total = x.size()[axis as usize];
        let sizes = match (&fixed, call.optional_ints(1)?) {
            (Some(sizes), _) => sizes.clone(),
            (None, Some(sizes)) => sizes,
            (None, None) => {
                let each = (total + parts - 1) / parts;
                (0..parts).map(|i| (total - i * each).clamp(0, each)).collect()
            }
        };
        Ok(x.f_split_with_sizes(&sizes, axis)?)
    }))
}

/// Constant, reflecting, edge-repeating or wrapping padding; negative amounts crop (constant mode).
pub(super) fn pad(building: &Building<'_>) -> Built {
    let mode = match building.node.string("mode").unwrap_or("constant") {
        "constant" => "constant",
        "reflect" => "reflect",
        "edge" => "replicate",
        "wrap" => "wrap",
        other => return because(format!("the mode `{other}` is not known")),
    };
    let fixed = building.node.ints("pads").map(<[i64]>::to_vec);
    let fixed_value = f64::from(building.node.float("value", 0.0));
    kernel(move |call| {
        let x = call.tensor(0)?;
        let rank = x.dim();
        let pads = match &fixed {
            Some(pads) => pads.clone(),
            None => call.ints(1)?,
        };
        let axes = call.optional_ints(3)?.unwrap_or_else(|| (0..rank as i64).collect());
        if pads.len() != 2 * axes.len() {
            return because(format!("{} amounts for {} axes", pads.len(), axes.len()));
        }
        let mut torch = vec![0; 2 * rank];
        for (i, axis) in axes.iter().enumerate() {
            // libtorch counts pairs from the last axis.
            let place = 2 * (rank - 1 - axis_of(*axis, rank)? as usize);
            torch[place] = pads[i];
            torch[place + 1] = pads[i + axes.len()];
        }
        let value = call.optional(2).map_or(Ok(fixed_value), scalar)?;
        match mode {
            "constant" => Ok(x.f_pad(&torch, "constant", value)?),
            "wrap" => wrapped(x, &torch),
            mode => {
                let used = torch.iter().rposition(|p| *p != 0).map_or(0, |last| last / 2 + 1);
                Ok(x.f_pad(&torch[..2 * used], mode, None)?)
            }
        }
    })
}

/// Pads every axis periodically; the amounts are pairs from the last axis on.
fn wrapped(x: &Tensor, pads: &[i64]) -> Result<Tensor, OpError> {
    let mut result = x.shallow_clone();
    for (axis, pair) in (0..x.dim() as i64).rev().zip(pads.chunks(2)) {
        let length = result.size()[axis as usize];
        if pair == [0, 0] || length == 0 {
            continue;
        }
        let places = Tensor::f_arange_start(-pair[0], length + pair[1], (Kind::Int64, x.device()))?;
        result = result.f_index_select(axis, &places.f_remainder(length)?)?;
    }
    Ok(result)
}
