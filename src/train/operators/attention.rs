//! Attention and rotary position embeddings as single operators, as in opsets 23 and later.

use tch::{Kind, Tensor};

use super::matrix::attend;
use super::{Building, Built, Call, OpError, Outputs, because, kernel, kind_of};
use crate::onnx::{Attribute, DataType};

/// `softmax(scale · Q·Kᵀ + mask)·V` with grouped heads, a cache of past keys and values, causal and sliding windows.
struct Attention {
    scale: Option<f64>,
    softcap: f64,
    is_causal: bool,
    /// Tokens that a query sees before and after itself; −1 means no limit.
    window: (i64, i64),
    /// Heads of queries and of keys, for inputs of rank 3.
    heads: (Option<i64>, Option<i64>),
    precision: Option<Kind>,
    scores_mode: i64,
    outputs: usize,
}

pub(super) fn attention(building: &Building<'_>) -> Built {
    let node = building.node;
    let heads = |name| match node.attribute(name) {
        Some(Attribute::Int(count)) if *count > 0 => Some(*count),
        _ => None,
    };
    let precision = match node.int("softmax_precision", 0) {
        0 => None,
        code => Some(kind_of(DataType::from_code(code as i32))?),
    };
    let attention = Attention {
        scale: node.attribute("scale").map(|_| f64::from(node.float("scale", 1.0))),
        softcap: f64::from(node.float("softcap", 0.0)),
        is_causal: node.int("is_causal", 0) != 0,
        window: (node.int("left_window_size", -1), node.int("right_window_size", -1)),
        heads: (heads("q_num_heads"), heads("kv_num_heads")),
        precision,
        scores_mode: node.int("qk_matmul_output_mode", 0),
        outputs: building.outputs(),
    };
    Ok(Box::new(move |call| attention.run(call)))
}

impl Attention {
    fn run(&self, call: &Call<'_>) -> Outputs {
        let flat = call.tensor(0)?.dim() == 3;
        let q = split_heads(call.tensor(0)?, self.heads.0)?;
        let with_past = |past: Option<&Tensor>, new: Tensor| match past {
            Some(past) => Tensor::f_cat(&[past, &new], 2),
            None => Ok(new),
        };
        let past = call.optional(4).map_or(0, |past| past.size().get(2).copied().unwrap_or(0));
        let k = with_past(call.optional(4), split_heads(call.tensor(1)?, self.heads.1)?)?;
        let v = with_past(call.optional(5), split_heads(call.tensor(2)?, self.heads.1)?)?;
        let groups = q.size()[1] / k.size()[1].max(1);
        let (bias, masked) = self.bias(call, &q, k.size()[2], past)?;

        let scale = self.scale.unwrap_or_else(|| 1.0 / (q.size()[3] as f64).sqrt());
        if self.outputs == 1 && self.softcap == 0.0 && self.precision.is_none() {
            let key = repeat_heads(&k, groups)?.f_transpose(-2, -1)?;
            // libtorch's fused attention needs rank 4.
            let bias = match bias {
                Some(bias) => Some((bias.dim()..4).try_fold(bias, |bias, _| bias.f_unsqueeze(0))?),
                None => None,
            };
            let mut y = attend(&q, &key, &repeat_heads(&v, groups)?, bias.as_ref(), scale)?;
            if let Some(masked) = &masked {
                y = y.f_masked_fill(masked, 0.0)?;
            }
            return Ok(vec![if flat { y.f_transpose(1, 2)?.f_flatten(2, 3)? } else { y }]);
        }
        let scale = scale.sqrt();
        let key = repeat_heads(&k, groups)?.f_mul_scalar(scale)?.f_transpose(-2, -1)?;
        let mut scores = q.f_mul_scalar(scale)?.f_matmul(&key)?;
        let mut shown = scores.shallow_clone();
        if self.softcap > 0.0 {
            scores = scores.f_div_scalar(self.softcap)?.f_tanh()?.f_mul_scalar(self.softcap)?;
        }
        if self.scores_mode == 1 {
            shown = scores.shallow_clone();
        }
        if let Some(bias) = &bias {
            scores = scores.f_add(bias)?;
        }
        if self.scores_mode == 2 {
            shown = match &masked {
                Some(masked) => scores.f_masked_fill(masked, f64::NEG_INFINITY)?,
                None => scores.shallow_clone(),
            };
        }
        let mut weights = scores.f_softmax(-1, self.precision)?.f_to_kind(q.f_kind()?)?;
        if let Some(masked) = &masked {
            weights = weights.f_masked_fill(masked, 0.0)?;
        }
        if self.scores_mode == 3 {
            shown = weights.shallow_clone();
        }
        let mut y = weights.f_matmul(&repeat_heads(&v, groups)?)?;
        if flat {
            y = y.f_transpose(1, 2)?.f_flatten(2, 3)?;
        }
        let mut result = vec![y, k, v, shown];
        result.truncate(self.outputs);
        Ok(result)
    }

    /// The bias that is added to the scores, and a mask of its fully masked rows: these become zero in the output, and
    /// hold no −∞ in the bias, so that neither value nor gradient is undefined.
    fn bias(
        &self,
        call: &Call<'_>,
        q: &Tensor,
        keys: i64,
        past: i64,
    ) -> Result<(Option<Tensor>, Option<Tensor>), OpError> {
        let hidden = |allowed: &Tensor| -> Result<Tensor, OpError> {
            let zero = Tensor::f_zeros([1i64; 0], (q.f_kind()?, q.device()))?;
            Ok(zero.f_where_self(allowed, &zero.f_full_like(f64::NEG_INFINITY)?)?)
        };
        let mut bias = match call.optional(3) {
            Some(mask) if mask.f_kind()? == Kind::Bool => Some(hidden(mask)?),
            Some(mask) => Some(mask.shallow_clone()),
            None => None,
        };
        if let Some(mask) = &mut bias
            && let Some(missing) = mask.size().last().map(|known| keys - known).filter(|missing| *missing > 0)
        {
            *mask = mask.f_pad([0, missing], "constant", f64::NEG_INFINITY)?;
        }
        if let Some(allowed) = self.allowed(call, q, keys, past)? {
            let own = hidden(&allowed)?;
            bias = Some(match bias {
                Some(mask) => mask.f_add(&own)?,
                None => own,
            });
        }
        let Some(bias) = bias else { return Ok((None, None)) };
        let masked = bias.f_amax([-1i64].as_slice(), true)?.f_isneginf()?;
        Ok((Some(bias.f_masked_fill(&masked, 0.0)?), Some(masked)))
    }

    /// `[queries, keys]` or `[batch, 1, queries, keys]`: which keys each query sees, by position alone. Positions count from the
    /// end of the past keys.
    fn allowed(&self, call: &Call<'_>, q: &Tensor, keys: i64, past: i64) -> Result<Option<Tensor>, OpError> {
        let queries = q.size()[2];
        let options = (Kind::Int64, q.device());
        let real = match call.optional(6) {
            Some(count) => Some(count.f_to_device(q.device())?.f_to_kind(Kind::Int64)?.f_reshape([-1, 1, 1, 1])?),
            None => None,
        };
        let key = Tensor::f_arange(keys, options)?.f_reshape([1, keys])?;
        let query = Tensor::f_arange(queries, options)?.f_reshape([queries, 1])?;
        let query = match &real {
            Some(real) if call.optional(4).is_none() => query.f_add(&real.f_sub_scalar(queries)?)?,
            _ => query.f_add_scalar(past)?,
        };
        let ahead = key.f_sub(&query)?;
        let mut rules = Vec::new();
        if self.is_causal {
            rules.push(ahead.f_le(0)?);
        }
        if self.window.0 >= 0 {
            rules.push(ahead.f_ge(-self.window.0)?);
        }
        if self.window.1 >= 0 {
            rules.push(ahead.f_le(self.window.1)?);
        }
        if let Some(real) = &real {
            rules.push(key.f_lt_tensor(real)?);
        }
        let mut rules = rules.into_iter();
        let Some(first) = rules.next() else { return Ok(None) };
        Ok(Some(rules.try_fold(first, |all, rule| all.f_logical_and(&rule))?))
    }
}

/// `[batch, length, heads · width]` to `[batch, heads, length, width]`; rank 4 has that form already.
fn split_heads(x: &Tensor, heads: Option<i64>) -> Result<Tensor, OpError> {
    match (x.size().as_slice(), heads) {
        ([_, _, _, _], _) => Ok(x.shallow_clone()),
        ([batch, length, width], Some(heads)) if width % heads == 0 => {
            Ok(x.f_reshape([*batch, *length, heads, width / heads])?.f_transpose(1, 2)?)
        }
        (size, None) => because(format!("an input of shape {size:?} without a number of heads")),
        (size, Some(heads)) => because(format!("an input of shape {size:?} cannot be split into {heads} heads")),
    }
}

/// Repeats the key heads: each serves `groups` neighbouring query heads.
fn repeat_heads(x: &Tensor, groups: i64) -> Result<Tensor, OpError> {
    let [batch, heads, length, width] = x.size()[..] else { return because("keys and values need four dimensions") };
    if groups <= 1 {
        return Ok(x.shallow_clone());
    }
    let repeated = x.f_unsqueeze(2)?.f_expand([batch, heads, groups, length, width], false)?;
    Ok(repeated.f_reshape([batch, heads * groups, length, width])?)
}

/// Rotates pairs of elements of every head by angles whose cosines and sines are given per position.
pub(super) fn rotary_embedding(building: &Building<'_>) -> Built {
    let node = building.node;
    let interleaved = node.int("interleaved", 0) != 0;
    let (heads, rotated) = (node.int("num_heads", 0), node.int("rotary_embedding_dim", 0));
    kernel(move |call| {
        let x = call.tensor(0)?;
        let flat = x.dim() == 3;
        let x = split_heads(x, (heads > 0).then_some(heads))?;
        let width = x.size()[3];
        let turned = if rotated == 0 { width } else { rotated };
        if turned > width || turned % 2 != 0 {
            return because(format!("{turned} of {width} elements cannot be rotated in pairs"));
        }
        // `[batch, 1, length, turned / 2]`; without positions the tables are per token already.
        let angles = |table: &Tensor| -> Result<Tensor, OpError> {
            let rows = match call.optional(3) {
                Some(positions) => {
                    let positions = positions.f_to_device(table.device())?.f_to_kind(Kind::Int64)?;
                    table.f_index(&[Some(positions)])?
                }
                None => table.shallow_clone(),
            };
            Ok(rows.f_unsqueeze(1)?)
        };
        let (cosine, sine) = (angles(call.tensor(1)?)?, angles(call.tensor(2)?)?);
        let part = x.f_narrow(3, 0, turned)?;
        let half = turned / 2;
        let (a, b) = if interleaved {
            (part.f_slice(3, 0, turned, 2)?, part.f_slice(3, 1, turned, 2)?)
        } else {
            (part.f_narrow(3, 0, half)?, part.f_narrow(3, half, half)?)
        };
        let real = a.f_mul(&cosine)?.f_sub(&b.f_mul(&sine)?)?;
        let imaginary = a.f_mul(&sine)?.f_add(&b.f_mul(&cosine)?)?;
        let mut y = if interleaved {
            Tensor::f_stack(&[real, imaginary], -1)?.f_flatten(3, 4)?
        } else {
            Tensor::f_cat(&[real, imaginary], 3)?
        };
        if turned < width {
            y = Tensor::f_cat(&[y, x.f_narrow(3, turned, width - turned)?], 3)?;
        }
        Ok(if flat { y.f_transpose(1, 2)?.f_flatten(2, 3)? } else { y })
    })
}
