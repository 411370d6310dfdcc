//! Operations that the program's own passes create: real tokens as rows, and one position of an axis.

use tch::Tensor;

use super::{Building, Built, OpError, because, kernel};

/// Flat indices of the ones in a mask `[batch, length]`.
pub(super) fn real_tokens(_: &Building<'_>) -> Built {
    kernel(|call| {
        let mask = call.tensor(0)?;
        Ok(mask.f_reshape([-1])?.f_nonzero()?.f_reshape([-1])?)
    })
}

/// `[batch, length, width]` to `[tokens, width]`.
pub(super) fn pack(_: &Building<'_>) -> Built {
    kernel(|call| {
        let (x, tokens) = (call.tensor(0)?, call.tensor(1)?);
        let [batch, length, width] = x.size()[..] else { return because("only three dimensions can be packed") };
        let rows = x.f_reshape([batch * length, width])?;
        if tokens.size()[0] == batch * length { Ok(rows) } else { Ok(rows.f_index_select(0, tokens)?) }
    })
}

/// `[tokens, width]` to `[batch, length, width]`, zero at padding; the third input is the mask.
pub(super) fn unpack(_: &Building<'_>) -> Built {
    kernel(|call| -> Result<Tensor, OpError> {
        let (rows, tokens, mask) = (call.tensor(0)?, call.tensor(1)?, call.tensor(2)?);
        let ([count, width], [batch, length]) = (&rows.size()[..], &mask.size()[..]) else {
            return because("only rows can be unpacked");
        };
        if *count == batch * length {
            return Ok(rows.f_reshape([*batch, *length, *width])?);
        }
        let mut empty = Tensor::f_zeros([batch * length, *width], (rows.f_kind()?, rows.device()))?;
        // Every position is written once, so the sum is the row itself, and its gradient is a plain selection.
        Ok(empty.f_index_add_(0, tokens, rows)?.f_reshape([*batch, *length, *width])?)
    })
}

/// One position of an axis, which is kept with length 1.
pub(super) fn row(building: &Building<'_>) -> Built {
    let axis = building.node.int("axis", 0);
    let index = building.node.int("index", 0);
    kernel(move |call| {
        let x = call.tensor(0)?;
        let Some(n) = x.size().get(axis as usize).copied() else { return because("the axis does not exist") };
        let index = if index < 0 { index + n } else { index };
        if !(0..n).contains(&index) {
            return because(format!("position {index} is outside of a length of {n}"));
        }
        Ok(x.f_narrow(axis, index, 1)?)
    })
}
