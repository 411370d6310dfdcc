//! All coordinates of every point in 12-bit codes, row after row. Where the codes of blocks hold only some of the
//! coordinates, they bound distances only from below; these bound them from above as well, and closely, in three eighths of
//! the memory of the points, which need not be read while pairs are compared.
//!
//! A centred point is written as `u = s·v + e`: a step size times whole numbers from −2032 to 2032, and a remainder whose
//! length is measured. Then `|u − u′|` is `|s v − s′ v′|` up to `|e| + |e′|`, and
//!
//! ```text
//! |s v − s′ v′|² = |s v|² + |s′ v′|² − 2 s s′ v·v′.
//! ```
//!
//! Each whole number is `v = 16 q + r`: a byte `q` and a half byte `0 ≤ r < 16`.

use rayon::prelude::*;

use super::Scalar;
use super::projection::{Projection, Space};
use super::quantized_blocks::between;
use super::simd::int8_dot::BLOCK;
use super::simd::int12_dot::{INT12_GROUP, Int12Row, int12_dot};
use super::simd::isa::Isa;
use super::simd::multiversion::for_widest_vectors;

/// The largest whole number: its byte `q` is 127.
const LARGEST: f32 = 2032.0;
/// Largest effect of rounding on a squared distance, as a share of the squares it is computed from.
const ROUNDING: f64 = 8.0 * f64::EPSILON;

pub(super) struct Int12Codes {
    isa: Isa,
    width: usize,
    /// `[rows, width]`: the bytes `q`.
    bytes: Vec<i8>,
    /// `[rows, width / 2]`: the half bytes `r`; the second half of every [`INT12_GROUP`] is in the upper bits.
    halves: Vec<u8>,
    /// `[rows]`: step size, sums and error of each row.
    rows: Vec<Row>,
}

/// What one row needs besides its codes.
#[derive(Debug, Clone, Copy, Default)]
struct Row {
    step: f32,
    /// Sum of the bytes `q`.
    sum: i32,
    /// |s v|²
    square: f64,
    /// |e| plus the error of the vector itself.
    error: f64,
}

impl Int12Codes {
    /// Encodes the rows in the order given; the projection holds all coordinates.
    pub fn of<T: Scalar>(projection: &Projection<'_, T>, order: &[u32], isa: Isa) -> Self {
        assert!(projection.keeps_distances());
        let (rows, width) = (order.len(), projection.width.next_multiple_of(INT12_GROUP));
        let (bytes, halves) = (vec![0; rows * width], vec![0; rows * width / 2]);
        let mut made = Self { isa, width, bytes, halves, rows: vec![Row::default(); rows] };
        let parts = made.bytes.par_chunks_mut(BLOCK * width).zip(made.halves.par_chunks_mut(BLOCK * width / 2));
        let parts = parts.zip(made.rows.par_chunks_mut(BLOCK));
        parts.zip(order.par_chunks(BLOCK)).for_each_init(
            || (Vec::new(), Vec::new(), Space::default(), vec![0; width]),
            |(vectors, inexact, space, numbers), (((bytes, halves), rows), order)| {
                projection.vectors(order, vectors, inexact, space);
                let codes = bytes.chunks_exact_mut(width).zip(halves.chunks_exact_mut(width / 2));
                let parts = vectors.chunks_exact(projection.width).zip(codes).zip(rows).zip(inexact);
                for (((vector, (bytes, halves)), row), inexact) in parts {
                    let (step, square, lost) = write(vector, &mut numbers[..projection.width]);
                    let sum = split(numbers, bytes, halves);
                    *row = Row { step, sum, square, error: (lost + *inexact) * (1.0 + 1e-9) };
                }
            },
        );
        made
    }

    /// Lower and upper bound of the distance between two rows: the lower one rounded down, the upper one up.
    pub fn bounds(&self, i: usize, j: usize) -> (f32, f32) {
        let (squared, rounding, error) = self.squared_distance(i, j);
        between(squared, rounding, error)
    }

    /// Whether two rows are surely farther apart than `radius`.
    pub fn farther(&self, i: usize, j: usize, radius: f64) -> bool {
        let (squared, rounding, error) = self.squared_distance(i, j);
        let limit = (radius + error) * (1.0 + 1e-9);
        squared - rounding > limit * limit
    }

    /// The squared distance of what the codes represent, the error of computing it, and by how much its root may differ
    /// from the distance of the rows.
    fn squared_distance(&self, i: usize, j: usize) -> (f64, f64, f64) {
        let (a, b) = (&self.rows[i], &self.rows[j]);
        let product = int12_dot(self.isa, self.codes(i), self.codes(j));
        let squares = a.square + b.square;
        let squared = squares - 2.0 * f64::from(a.step) * f64::from(b.step) * product as f64;
        (squared, ROUNDING * squares, a.error + b.error)
    }

    fn codes(&self, row: usize) -> Int12Row<'_> {
        let (bytes, halves) = (row * self.width, row * self.width / 2);
        Int12Row {
            bytes: &self.bytes[bytes..bytes + self.width],
            halves: &self.halves[halves..halves + self.width / 2],
            sum: self.rows[row].sum,
        }
    }
}

for_widest_vectors! {
    /// Writes a vector as whole numbers; returns the step, the squared length of what they represent and the length of what
    /// is lost.
    fn write(vector: &[f32], numbers: &mut [i16]) -> (f32, f64, f64) {
        const LANES: usize = 16;
        let mut largest = [0.0f32; LANES];
        for values in vector.chunks(LANES) {
            for (largest, value) in largest.iter_mut().zip(values) {
                *largest = if value.abs() > *largest { value.abs() } else { *largest };
            }
        }
        let step = largest.into_iter().fold(0.0, f32::max) / LARGEST;
        // A step of zero would divide by zero.
        let inverse = if step > 0.0 { step.recip() } else { 0.0 };
        let inverse = if inverse.is_finite() { inverse } else { 0.0 };
        let (mut squares, mut lost) = ([0.0f64; LANES], [0.0f64; LANES]);
        for (values, numbers) in vector.chunks(LANES).zip(numbers.chunks_mut(LANES)) {
            for (lane, (&value, to)) in values.iter().zip(numbers).enumerate() {
                let number = (value * inverse).round_ties_even().clamp(-LARGEST, LARGEST);
                let rest = f64::from(value) - f64::from(step) * f64::from(number);
                lost[lane] += rest * rest;
                squares[lane] += f64::from(number) * f64::from(number);
                *to = number as i16;
            }
        }
        // Whole numbers below 2⁵³: the sum is exact.
        let square: f64 = squares.iter().sum();
        (step, f64::from(step) * f64::from(step) * square, lost.iter().sum::<f64>().sqrt())
    }
}

/// Splits whole numbers into bytes and half bytes; returns the sum of the bytes.
fn split(numbers: &[i16], bytes: &mut [i8], halves: &mut [u8]) -> i32 {
    let mut sum = 0;
    for (byte, number) in bytes.iter_mut().zip(numbers) {
        *byte = (number >> 4) as i8;
        sum += i32::from(*byte);
    }
    for (halves, numbers) in halves.chunks_exact_mut(INT12_GROUP / 2).zip(numbers.chunks_exact(INT12_GROUP)) {
        let (lower, upper) = numbers.split_at(INT12_GROUP / 2);
        for ((both, lower), upper) in halves.iter_mut().zip(lower).zip(upper) {
            *both = (lower & 15) as u8 | ((upper & 15) as u8) << 4;
        }
    }
    sum
}
