//! Whether 8-bit products are exact on this processor.

use crate::onnx::{Model, products_that_may_saturate};

/// The warning for an export whose products of 8-bit integers overflow on this processor, so that its values differ from
/// those on others. `None` where they do not.
pub fn saturating_products(model: &Model) -> Option<String> {
    if adds_products_exactly() {
        return None;
    }
    match products_that_may_saturate(model) {
        0 => None,
        products => Some(format!(
            "{products} products of 8-bit weights may overflow on this processor, which has no VNNI: its values differ from those on \
             processors that have, and from the floating-point model; quantize with reduce_range=True or with unsigned weights"
        )),
    }
}

fn adds_products_exactly() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx512vnni") || is_x86_feature_detected!("avxvnni")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        true
    }
}
