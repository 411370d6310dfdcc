//! Truth values: comparisons, logic, choice, and the bits of integers.

use tch::{Kind, Tensor};

use super::{Building, Built, binary, kernel, unary};

pub(super) fn and(_: &Building<'_>) -> Built {
    binary(Tensor::f_logical_and)
}

pub(super) fn or(_: &Building<'_>) -> Built {
    binary(Tensor::f_logical_or)
}

pub(super) fn xor(_: &Building<'_>) -> Built {
    binary(Tensor::f_logical_xor)
}

pub(super) fn not(_: &Building<'_>) -> Built {
    unary(Tensor::f_logical_not)
}

pub(super) fn equal(_: &Building<'_>) -> Built {
    binary(Tensor::f_eq_tensor)
}

pub(super) fn less(_: &Building<'_>) -> Built {
    binary(Tensor::f_lt_tensor)
}

pub(super) fn less_or_equal(_: &Building<'_>) -> Built {
    binary(Tensor::f_le_tensor)
}

pub(super) fn greater(_: &Building<'_>) -> Built {
    binary(Tensor::f_gt_tensor)
}

pub(super) fn greater_or_equal(_: &Building<'_>) -> Built {
    binary(Tensor::f_ge_tensor)
}

pub(super) fn is_nan(_: &Building<'_>) -> Built {
    unary(Tensor::f_isnan)
}

pub(super) fn is_inf(building: &Building<'_>) -> Built {
    let negative = building.node.int("detect_negative", 1) != 0;
    let positive = building.node.int("detect_positive", 1) != 0;
    unary(move |x| match (negative, positive) {
        (true, true) => x.f_isinf(),
        (true, false) => x.f_isneginf(),
        (false, true) => x.f_isposinf(),
        (false, false) => x.f_zeros_like()?.f_to_kind(Kind::Bool),
    })
}

pub(super) fn select(_: &Building<'_>) -> Built {
    kernel(|call| Ok(call.tensor(1)?.f_where_self(call.tensor(0)?, call.tensor(2)?)?))
}

pub(super) fn bitwise_and(_: &Building<'_>) -> Built {
    binary(Tensor::f_bitwise_and_tensor)
}

pub(super) fn bitwise_or(_: &Building<'_>) -> Built {
    binary(Tensor::f_bitwise_or_tensor)
}

pub(super) fn bitwise_xor(_: &Building<'_>) -> Built {
    binary(Tensor::f_bitwise_xor_tensor)
}

pub(super) fn bitwise_not(_: &Building<'_>) -> Built {
    unary(Tensor::f_bitwise_not)
}
