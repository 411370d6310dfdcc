//! Whether two arrays hold the same values, in any floating-point types.

use super::ElementType;
use crate::onnx::DataType;

/// The checkpoint element type that corresponds to an ONNX element type.
pub(super) fn element_type(data_type: DataType) -> Option<ElementType> {
    match data_type {
        DataType::Float => Some(ElementType::F32),
        DataType::Float16 => Some(ElementType::F16),
        DataType::BFloat16 => Some(ElementType::Bf16),
        DataType::Double => Some(ElementType::F64),
        _ => None,
    }
}

/// Compares two arrays of possibly different types. Other weights differ within the first few elements, so only the right
/// tensor is read to its end.
pub(super) struct Equality<'a> {
    pub a: &'a [u8],
    pub a_type: &'a ElementType,
    pub b: &'a [u8],
    pub b_type: &'a ElementType,
}

/// Whether two arrays, given by their bytes and types, hold the same values in the same order, except for rounding to the
/// coarser of the two types.
pub fn same_values(one: (&[u8], &ElementType), other: (&[u8], &ElementType)) -> bool {
    Equality { a: one.0, a_type: one.1, b: other.0, b_type: other.1 }.straight()
}

impl Equality<'_> {
    pub fn straight(&self) -> bool {
        if self.a_type == self.b_type {
            return self.a == self.b;
        }
        let Some((a, b)) = self.sizes() else { return false };
        let count = self.a.len() / a;
        count == self.b.len() / b && (0..count).all(|i| self.element(i * a, i * b))
    }

    /// Whether `a` `[rows, columns]` is `b` `[columns, rows]` transposed; in tiles, so that both stay in the cache.
    pub fn transposed(&self, rows: usize, columns: usize) -> bool {
        const TILE: usize = 64;
        let Some((a, b)) = self.sizes() else { return false };
        let count = rows * columns;
        if self.a.len() != count * a || self.b.len() != count * b {
            return false;
        }
        for top in (0..rows).step_by(TILE) {
            for left in (0..columns).step_by(TILE) {
                for row in top..rows.min(top + TILE) {
                    for column in left..columns.min(left + TILE) {
                        if !self.element((row * columns + column) * a, (column * rows + row) * b) {
                            return false;
                        }
                    }
                }
            }
        }
        true
    }

    fn sizes(&self) -> Option<(usize, usize)> {
        Some((self.a_type.size()?, self.b_type.size()?))
    }

    /// Whether the elements at these byte offsets are equal: to the bit, or after rounding to the coarser type.
    pub fn element(&self, a: usize, b: usize) -> bool {
        if self.a_type == self.b_type {
            let size = self.a_type.size().unwrap_or(1);
            return self.a[a..a + size] == self.b[b..b + size];
        }
        let (x, y) = (number(self.a, a, self.a_type), number(self.b, b, self.b_type));
        x == y
            || round(y, self.a_type) == x
            || round(x, self.b_type) == y
            || clamped(y, x, self.a_type)
            || clamped(x, y, self.b_type)
    }
}

/// The largest values that converters to float16 keep: the maximum of float16, and the bound of onnxconverter-common.
const LARGEST: [f64; 2] = [65504.0, 10000.0];
/// What converters write for values that would vanish: the smallest float16, and 1e-7 rounded to float16.
const SMALLEST: f64 = 1.2e-7;

/// Whether a converter to float16 kept `value` within the range of that type, and `stored` is the result: ONNX Runtime's
/// and Microsoft's converters clamp what is too large, and raise what would round to zero.
fn clamped(value: f64, stored: f64, element_type: &ElementType) -> bool {
    let same_sign = value.is_sign_negative() == stored.is_sign_negative();
    let cut = LARGEST.contains(&stored.abs()) && value.abs() >= stored.abs();
    let lifted = value != 0.0 && value.abs() < SMALLEST && stored.abs() <= SMALLEST;
    *element_type == ElementType::F16 && same_sign && (cut || lifted)
}

fn number(bytes: &[u8], at: usize, element_type: &ElementType) -> f64 {
    fn take<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
        bytes[at..].first_chunk::<N>().copied().unwrap_or([0; N])
    }
    match element_type {
        ElementType::F32 => f64::from(f32::from_le_bytes(take(bytes, at))),
        ElementType::F16 => half::f16::from_le_bytes(take(bytes, at)).to_f64(),
        ElementType::Bf16 => half::bf16::from_le_bytes(take(bytes, at)).to_f64(),
        ElementType::F64 => f64::from_le_bytes(take(bytes, at)),
        ElementType::Other(_) => f64::NAN,
    }
}

fn round(value: f64, element_type: &ElementType) -> f64 {
    match element_type {
        ElementType::F32 => f64::from(value as f32),
        ElementType::F16 => half::f16::from_f32(value as f32).to_f64(),
        ElementType::Bf16 => half::bf16::from_f32(value as f32).to_f64(),
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn equal(stored: &[f64], values: &[f32], stored_type: ElementType) -> bool {
        let stored: Vec<u8> = match stored_type {
            ElementType::F16 => stored.iter().flat_map(|v| half::f16::from_f64(*v).to_le_bytes()).collect(),
            _ => stored.iter().flat_map(|v| half::bf16::from_f64(*v).to_le_bytes()).collect(),
        };
        let values: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Equality { a: &stored, a_type: &stored_type, b: &values, b_type: &ElementType::F32 }.straight()
    }

    #[test]
    fn what_a_converter_clamped_is_still_the_same_weight() {
        let f16 = || ElementType::F16;
        // As onnxruntime.transformers.float16 and onnxconverter-common write them.
        assert!(equal(&[65504.0, -65504.0, 0.5, 5.96e-8, -5.96e-8], &[1e5, -3e38, 0.5, 1e-9, -1e-12], f16()));
        assert!(equal(&[10000.0, -10000.0, 1e-7, 0.0], &[20000.0, -65504.0, 3e-8, 0.0], f16()));
        // Plain rounding, without a converter.
        assert!(equal(&[f64::INFINITY, 0.0], &[1e5, 1e-9], f16()));
        assert!(!equal(&[65504.0], &[-1e5], f16()), "another sign");
        assert!(!equal(&[65504.0], &[60000.0], f16()), "within the range");
        assert!(!equal(&[5.96e-8], &[0.0], f16()), "zero stays zero");
        assert!(!equal(&[1e-4], &[1e-9], f16()));
        assert!(!equal(&[65504.0], &[1e5], ElementType::Bf16), "bfloat16 has the range of float32");
    }
}
