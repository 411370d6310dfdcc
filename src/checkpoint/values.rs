//! Whether two arrays hold the same values, in whatever floating-point types.

use super::ElementType;
use crate::onnx::DataType;

/// The checkpoint's name for an ONNX element type.
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

    /// Equality of one element at these byte offsets: to the bit, or after rounding to the coarser type.
    pub fn element(&self, a: usize, b: usize) -> bool {
        if self.a_type == self.b_type {
            let size = self.a_type.size().unwrap_or(1);
            return self.a[a..a + size] == self.b[b..b + size];
        }
        let (x, y) = (number(self.a, a, self.a_type), number(self.b, b, self.b_type));
        x == y || round(y, self.a_type) == x || round(x, self.b_type) == y
    }
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
