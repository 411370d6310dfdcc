//! Matrix products.

use tch::{Device, Kind, Tensor};

use super::{Building, Built, OpError, because, binary, kernel};

pub(super) fn matmul(_: &Building<'_>) -> Built {
    binary(Tensor::f_matmul)
}

/// `alpha · A′·B′ + beta · C`.
pub(super) fn gemm(building: &Building<'_>) -> Built {
    let node = building.node;
    let (alpha, beta) = (f64::from(node.float("alpha", 1.0)), f64::from(node.float("beta", 1.0)));
    let (turn_a, turn_b) = (node.int("transA", 0) != 0, node.int("transB", 0) != 0);
    kernel(move |call| {
        let turned = |x: &Tensor, turn: bool| if turn { x.f_transpose(0, 1) } else { Ok(x.shallow_clone()) };
        let a = turned(call.tensor(0)?, turn_a)?;
        let b = turned(call.tensor(1)?, turn_b)?;
        let mut product = a.f_matmul(&b)?;
        if alpha != 1.0 {
            product = product.f_mul_scalar(alpha)?;
        }
        match call.optional(2) {
            None => Ok(product),
            Some(c) if beta == 1.0 => Ok(product.f_add(c)?),
            Some(c) => Ok(product.f_add(&c.f_mul_scalar(beta)?)?),
        }
    })
}

pub(super) fn einsum(building: &Building<'_>) -> Built {
    let Some(equation) = building.node.string("equation").map(str::to_owned) else {
        return because("it has no equation");
    };
    kernel(move |call| {
        let parts: Vec<&Tensor> = (0..call.inputs.len()).map(|i| call.tensor(i)).collect::<Result<_, _>>()?;
        Ok(Tensor::f_einsum(&equation, &parts, None::<&[i64]>)?)
    })
}

/// Below this length the plain products are faster than libtorch's fused attention. [measured on a CPU, heads of 32]
const SHORT: i64 = 24;

/// The fused `softmax(scale · Q·Kᵀ + mask)·V`; Q and V are `[batch, heads, length, width]`, K arrives as
/// `[batch, heads, width, length]`.
pub(super) fn attention(building: &Building<'_>) -> Built {
    let scale = f64::from(building.node.float("scale", 1.0));
    kernel(move |call| {
        let (q, k, v, mask) = (call.tensor(0)?, call.tensor(1)?, call.tensor(2)?, call.optional(3));
        let groups = match call.optional(4) {
            Some(tokens) if can_group(q, k, v, mask, tokens) => length_groups(tokens)?,
            _ => Vec::new(),
        };
        match groups.len() {
            0 | 1 => attend(q, k, v, mask, scale),
            _ => attend_by_length(q, k, v, mask, scale, &groups),
        }
    })
}

/// `softmax(scale · Q·K + mask) · V`; K is `[…, width, keys]`.
pub(super) fn attend(q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>, scale: f64) -> Result<Tensor, OpError> {
    let plain = q.dim() != 4 || k.size().last().is_some_and(|length| *length < SHORT);
    if !plain && mask.is_none_or(|mask| is_float_mask(mask, q)) {
        let k = k.f_transpose(-2, -1)?;
        return Ok(Tensor::f_scaled_dot_product_attention(q, &k, v, mask, 0.0, false, scale, false)?);
    }
    let mut scores = q.f_matmul(k)?;
    if scale != 1.0 {
        // In place: the product itself is not needed for its gradient.
        scores = scores.f_mul_scalar_(scale)?;
    }
    if let Some(mask) = mask {
        scores = scores.f_add(mask)?;
    }
    Ok(scores.f_softmax(-1, None)?.f_matmul(v)?)
}

/// Number of groups that the rows of a batch are split into for attention.
const GROUPS: usize = 4;

/// Rows in the smallest group: below, more calls cost more than they save.
const SMALLEST_GROUP: usize = 4;

/// Shortest batch that is grouped, in tokens. [measured: saves 15 % of a step at 80 tokens, nothing below 30]
const LONG: i64 = 40;

/// Largest share of the cost of ungrouped attention at which grouping is used.
const WORTH_GROUPING: f64 = 0.85;

/// On the CPU, where the amount of work decides, and where keys and queries have a position for every token of the mask.
fn can_group(q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>, tokens: &Tensor) -> bool {
    let (Ok((rows, _, _, _)), Ok((key_rows, _, _, keys)), Ok((value_rows, _, values, _)), Ok((batch, length))) =
        (q.size4(), k.size4(), v.size4(), tokens.size2())
    else {
        return false;
    };
    q.device() == Device::Cpu
        && [rows, key_rows, value_rows] == [batch; 3]
        && [keys, values] == [length; 2]
        && length >= LONG
        && mask.is_none_or(|mask| mask.dim() == 4)
}

/// Groups of neighbouring rows, as (number of rows, length up to the last real token). One group where it would not pay.
fn length_groups(tokens: &Tensor) -> Result<Vec<(i64, i64)>, OpError> {
    let (batch, length) = tokens.size2()?;
    let places = Tensor::f_arange_start(1, length + 1, (Kind::Int64, Device::Cpu))?;
    let last = tokens.f_ne(0)?.f_to_kind(Kind::Int64)?.f_mul(&places)?.f_amax([1].as_slice(), false)?;
    let last = Vec::<i64>::try_from(&last)?;
    let size = last.len().div_ceil(GROUPS).max(SMALLEST_GROUP);
    let group = |rows: &[i64]| (rows.len() as i64, rows.iter().copied().max().unwrap_or(length).max(1));
    let groups: Vec<(i64, i64)> = last.chunks(size).map(group).collect();
    let cost: i64 = groups.iter().map(|(rows, length)| rows * length * length).sum();
    let pays = cost as f64 <= WORTH_GROUPING * (batch * length * length) as f64;
    Ok(if pays { groups } else { vec![(batch, length)] })
}

/// Attention over groups of rows, each as long as its longest row; what lies beyond is padding and becomes zero.
fn attend_by_length(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    mask: Option<&Tensor>,
    scale: f64,
    groups: &[(i64, i64)],
) -> Result<Tensor, OpError> {
    let (queries, length) = (q.size()[2], k.size()[3]);
    let rows: Vec<i64> = groups.iter().map(|(rows, _)| *rows).collect();
    let split = |tensor: &Tensor| tensor.f_split_with_sizes(&rows, 0);
    let (qs, ks, vs) = (split(q)?, split(k)?, split(v)?);
    let masks = match mask {
        Some(mask) if mask.size()[0] == q.size()[0] => Some(split(mask)?),
        Some(mask) => Some(vec![mask.shallow_clone()]),
        None => None,
    };
    let mut outputs = Vec::with_capacity(groups.len());
    for (index, &(_, own)) in groups.iter().enumerate() {
        let cut = |tensor: &Tensor, axis: i64| {
            if tensor.size()[axis as usize] == length {
                tensor.f_narrow(axis, 0, own)
            } else {
                Ok(tensor.shallow_clone())
            }
        };
        let mask = match &masks {
            Some(masks) => Some(cut(&cut(masks.get(index).unwrap_or(&masks[0]), 2)?, 3)?),
            None => None,
        };
        let output = attend(&cut(&qs[index], 2)?, &cut(&ks[index], 3)?, &cut(&vs[index], 2)?, mask.as_ref(), scale)?;
        outputs.push(if queries == length { output.f_constant_pad_nd([0, 0, 0, length - own])? } else { output });
    }
    Ok(Tensor::f_cat(&outputs, 0)?)
}

fn is_float_mask(mask: &Tensor, q: &Tensor) -> bool {
    mask.dim() == 4 && mask.kind() == q.kind() && !mask.requires_grad()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::tests::support::{reseed, uniform};

    /// Outputs at real tokens, and the gradients of the sum of their squares.
    fn results(inputs: &[Tensor; 3], mask: &Tensor, tokens: &Tensor, groups: &[(i64, i64)]) -> Vec<Tensor> {
        let leaves = inputs.each_ref().map(|x| x.copy().set_requires_grad(true));
        let [q, k, v] = &leaves;
        let k = k.transpose(-2, -1);
        let output = match groups.len() {
            1 => attend(q, &k, v, Some(mask), 0.25).unwrap(),
            _ => attend_by_length(q, &k, v, Some(mask), 0.25, groups).unwrap(),
        };
        let real = output * tokens.to_kind(Kind::Float).unsqueeze(1).unsqueeze(-1);
        real.square().sum(Kind::Float).backward();
        leaves.iter().map(Tensor::grad).chain([real.detach()]).collect()
    }

    #[test]
    fn attention_by_length_is_attention_at_real_tokens() {
        reseed(1);
        let lengths = [5i64, 9, 12, 13, 30, 31, 40, 48, 47];
        let (batch, length) = (lengths.len() as i64, 48);
        let places = Tensor::arange(length, (Kind::Int64, Device::Cpu));
        let tokens = Tensor::from_slice(&lengths).unsqueeze(1).gt_tensor(&places).to_kind(Kind::Int64);
        let inputs = [(); 3].map(|()| uniform(-2.0, 2.0, &[batch, 2, length, 16]).to_kind(Kind::Float));
        let groups = length_groups(&tokens).unwrap();
        assert_eq!(groups, [(4, 13), (4, 48), (1, 47)]);
        let padding = (tokens.unsqueeze(1).unsqueeze(1).to_kind(Kind::Float) - 1.0) * 1e9;
        let causal =
            padding.to_kind(Kind::Float) + Tensor::full([length, length], -1e9, (Kind::Float, Device::Cpu)).triu(1);
        for mask in [&padding, &causal] {
            let expected = results(&inputs, mask, &tokens, &[(batch, length)]);
            let found = results(&inputs, mask, &tokens, &groups);
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found - expected).abs().max().double_value(&[]) < 1e-5);
            }
        }
        let q = &inputs[0];
        assert!(can_group(q, &q.transpose(-2, -1), q, Some(&padding), &tokens));
        assert!(!can_group(q, &q.transpose(-2, -1).narrow(3, 0, 20), q, None, &tokens), "keys of something else");
        // With equal lengths there is nothing to gain.
        assert_eq!(length_groups(&tokens.ones_like()).unwrap(), [(batch, length)]);
    }
}
