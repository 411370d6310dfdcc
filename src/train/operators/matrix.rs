//! Matrix products.

use tch::Tensor;

use super::{Building, Built, because, binary, kernel};

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

/// Made by fusion: `softmax(scale · Q·Kᵀ + mask)·V`; Q and V are `[batch, heads, length, width]`, K arrives as
/// `[batch, heads, width, length]`.
pub(super) fn attention(building: &Building<'_>) -> Built {
    let scale = f64::from(building.node.float("scale", 1.0));
    kernel(move |call| {
        let (q, k, v, mask) = (call.tensor(0)?, call.tensor(1)?, call.tensor(2)?, call.optional(3));
        let plain = q.dim() != 4 || k.size().last().is_some_and(|length| *length < SHORT);
        if !plain && mask.is_none_or(|mask| is_float_mask(mask, q)) {
            let k = k.f_transpose(-2, -1)?;
            return Ok(Tensor::f_scaled_dot_product_attention(q, &k, v, mask, 0.0, false, scale, false)?);
        }
        let mut scores = q.f_matmul(k)?;
        if scale != 1.0 {
            // In place: a product's own values are not needed for its gradient.
            scores = scores.f_mul_scalar_(scale)?;
        }
        if let Some(mask) = mask {
            scores = scores.f_add(mask)?;
        }
        Ok(scores.f_softmax(-1, None)?.f_matmul(v)?)
    })
}

fn is_float_mask(mask: &Tensor, q: &Tensor) -> bool {
    mask.dim() == 4 && mask.kind() == q.kind() && !mask.requires_grad()
}
