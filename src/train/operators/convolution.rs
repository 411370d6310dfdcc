//! Convolution over one, two or three spatial axes.

use tch::Tensor;

use super::{Building, Built, OpError, because, kernel};

/// How the borders are padded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Padding {
    /// By the amounts in the attribute `pads`.
    Given,
    /// So that the output is as long as the input divided by the stride, with an odd element at the end.
    SameUpper,
    /// As [`Padding::SameUpper`], with an odd element at the beginning.
    SameLower,
}

/// Input `[batch, channels, …]`, weights `[out, channels / groups, …]`, and an optional bias `[out]`.
pub(super) fn conv(building: &Building<'_>) -> Built {
    let node = building.node;
    let list = |name| node.ints(name).map(<[i64]>::to_vec);
    let (strides, dilations, pads) = (list("strides"), list("dilations"), list("pads"));
    let groups = node.int("group", 1);
    let padding = match node.string("auto_pad").unwrap_or("NOTSET") {
        "NOTSET" | "VALID" => Padding::Given,
        "SAME_UPPER" => Padding::SameUpper,
        "SAME_LOWER" => Padding::SameLower,
        other => return because(format!("the padding `{other}` is unknown")),
    };
    kernel(move |call| {
        let (x, weight) = (call.tensor(0)?, call.tensor(1)?);
        let axes = x.dim().saturating_sub(2);
        if !(1..=3).contains(&axes) || weight.dim() != x.dim() {
            return because(format!("an input of shape {:?} with weights of {:?}", x.size(), weight.size()));
        }
        let ones = || vec![1; axes];
        let strides = strides.clone().unwrap_or_else(ones);
        let dilations = dilations.clone().unwrap_or_else(ones);
        let pads = match padding {
            Padding::Given => pads.clone().unwrap_or_else(|| vec![0; 2 * axes]),
            same => same_pads(x, weight, &strides, &dilations, same == Padding::SameUpper),
        };
        if strides.len() != axes || dilations.len() != axes || pads.len() != 2 * axes {
            return because("its strides, dilations and pads have different lengths");
        }
        let (x, pads) = symmetric(x, &pads)?;
        let bias = call.optional(2);
        Ok(x.f_convolution(weight, bias, &strides, &pads, &dilations, false, vec![0; axes], groups)?)
    })
}

fn same_pads(x: &Tensor, weight: &Tensor, strides: &[i64], dilations: &[i64], upper: bool) -> Vec<i64> {
    let (size, kernel) = (x.size(), weight.size());
    let totals = strides.iter().zip(dilations).enumerate().map(|(axis, (stride, dilation))| {
        let (length, taps) = (size[axis + 2], kernel[axis + 2]);
        let outputs = (length + stride - 1) / stride;
        ((outputs - 1) * stride + (taps - 1) * dilation + 1 - length).max(0)
    });
    let totals: Vec<i64> = totals.collect();
    let less = totals.iter().map(|total| total / 2);
    let more = totals.iter().map(|total| total - total / 2);
    if upper { less.chain(more).collect() } else { more.chain(less).collect() }
}

/// libtorch pads both ends equally: where the amounts differ, the input is padded first.
fn symmetric(x: &Tensor, pads: &[i64]) -> Result<(Tensor, Vec<i64>), OpError> {
    let (begins, ends) = pads.split_at(pads.len() / 2);
    if begins == ends {
        return Ok((x.shallow_clone(), begins.to_vec()));
    }
    // Pairs (begin, end), from the last axis to the first.
    let pairs: Vec<i64> = begins.iter().zip(ends).rev().flat_map(|(begin, end)| [*begin, *end]).collect();
    Ok((x.f_constant_pad_nd(pairs)?, vec![0; begins.len()]))
}
