//! Vectors as 8-bit codes, block by block, with the exact size of what is lost.
//!
//! A vector is written as `u = c + s·q + e`: the centre of its block, a step size times whole numbers of at most 8 bits, and
//! a remainder whose length is measured. Between blocks with centres c and c′, `Δ = c − c′`,
//!
//! ```text
//! |c + s q − c′ − s′ q′|² = (|s q|² + 2 s q·Δ + |Δ|²) + (|s′ q′|² − 2 s′ q′·Δ) − 2 s s′ q·q′,
//! ```
//!
//! of which only the last term depends on the pair of rows. Δ is written in 16-bit codes, so that `q·Δ` is two products of
//! codes; the loss is a single number per pair of blocks.

use rayon::prelude::*;

use super::Scalar;
use super::projection::{Projection, Space};
use super::simd::int8_dot::{BLOCK, BlockCodes, GROUP, Terms, products_with};
use super::simd::isa::Isa;
use super::simd::multiversion::for_widest_vectors;

/// Number of blocks before and after a block that are searched for the nearest ones.
const SOON: usize = 128;
/// Weight of the large part of a code of Δ relative to the small one.
const RADIX: f64 = 128.0;
/// Largest effect of rounding on a squared distance, as a share of the terms it is computed from.
const ROUNDING: f64 = 16.0 * f32::EPSILON as f64;

pub(super) struct QuantizedBlocks {
    pub isa: Isa,
    pub width: usize,
    rows: usize,
    /// `[blocks][BLOCK · width]`: the codes q.
    codes: Vec<i8>,
    /// `[blocks · BLOCK]`: sum of the codes of each row.
    sums: Vec<i32>,
    /// `[blocks · BLOCK]`: step size of each row.
    steps: Vec<f32>,
    /// `[blocks · BLOCK]`: |s q|².
    squares: Vec<f64>,
    /// `[blocks · BLOCK]`: |e| plus the error of the vector itself.
    errors: Vec<f64>,
    /// `[blocks]`: largest error of each block.
    largest_errors: Vec<f64>,
    /// `[blocks · width]`: centre of each block.
    centres: Vec<f32>,
}

/// Terms of a pair of blocks from which each pair of rows is tested.
pub(super) struct BlockPair {
    first: [f32; BLOCK],
    second: [f32; BLOCK],
    first_radius: [f32; BLOCK],
    second_radius: [f32; BLOCK],
    /// The distances up to which the rows of each block look for neighbours.
    sought: [[f64; BLOCK]; 2],
    /// Largest effect of rounding on the squared distance of any pair.
    rounding: f64,
    /// Length of what the codes of Δ lose.
    lost: f64,
}

impl BlockPair {
    pub fn new() -> Box<Self> {
        let zeros = [0.0; BLOCK];
        let (first, second, first_radius, second_radius) = (zeros, zeros, zeros, zeros);
        let sought = [[0.0; BLOCK]; 2];
        Box::new(Self { first, second, first_radius, second_radius, sought, rounding: 0.0, lost: 0.0 })
    }

    /// The distance up to which the row of one block or that of the other looks for neighbours.
    #[inline]
    pub fn sought(&self, one: u8, other: u8) -> f64 {
        self.sought[0][usize::from(one)].max(self.sought[1][usize::from(other)])
    }

    pub fn terms(&self) -> Terms<'_> {
        let Self { first, second, first_radius, second_radius, .. } = self;
        Terms { first, second, first_radius, second_radius }
    }
}

impl QuantizedBlocks {
    /// Encodes all rows in the order given.
    pub fn of<T: Scalar>(projection: &Projection<'_, T>, order: &[u32], isa: Isa) -> Self {
        let (width, blocks) = (projection.width, order.len().div_ceil(BLOCK));
        let rows = blocks * BLOCK;
        let mut made = Self {
            isa,
            width,
            rows: order.len(),
            codes: vec![0; rows * width],
            sums: vec![0; rows],
            steps: vec![0.0; rows],
            squares: vec![0.0; rows],
            errors: vec![0.0; rows],
            largest_errors: vec![0.0; blocks],
            centres: vec![0.0; blocks * width],
        };
        let parts = made.codes.par_chunks_exact_mut(BLOCK * width);
        let parts = parts.zip(made.sums.par_chunks_exact_mut(BLOCK)).zip(made.steps.par_chunks_exact_mut(BLOCK));
        let parts = parts.zip(made.squares.par_chunks_exact_mut(BLOCK)).zip(made.errors.par_chunks_exact_mut(BLOCK));
        let parts = parts.zip(made.centres.par_chunks_exact_mut(width)).zip(&mut made.largest_errors);
        parts.zip(order.par_chunks(BLOCK)).for_each_init(
            || (Vec::new(), Vec::new(), vec![0; width], Space::default()),
            |(vectors, inexact, coded, space),
             (((((((codes, sums), steps), squares), errors), centre), largest), rows)| {
                projection.vectors(rows, vectors, inexact, space);
                let real = rows.len();
                mean(&vectors[..real * width], centre);
                for (row, vector) in vectors.chunks_exact_mut(width).enumerate().take(real) {
                    let written = write(vector, centre, coded, isa);
                    // Groups of columns are equally far apart in every layout.
                    let first = isa.place(width, row, 0);
                    let apart = isa.place(width, row, GROUP) - first;
                    for (group, four) in coded.as_chunks::<GROUP>().0.iter().enumerate() {
                        let at = first + group * apart;
                        codes[at..at + GROUP].copy_from_slice(four);
                    }
                    (sums[row], steps[row], squares[row]) = (written.sum, written.step, written.square);
                    errors[row] = (written.lost + inexact[row]) * (1.0 + 1e-9);
                    *largest = errors[row].max(*largest);
                }
            },
        );
        made
    }

    pub fn blocks(&self) -> usize {
        self.largest_errors.len()
    }

    fn block(&self, block: usize) -> BlockCodes<'_> {
        let rows = block * BLOCK..(block + 1) * BLOCK;
        BlockCodes {
            codes: &self.codes[rows.start * self.width..rows.end * self.width],
            sums: &self.sums[rows.clone()],
            steps: &self.steps[rows.clone()],
            rows: BLOCK.min(self.rows - rows.start),
        }
    }

    pub fn pair(&self, a: usize, b: usize) -> (BlockCodes<'_>, BlockCodes<'_>) {
        (self.block(a), self.block(b))
    }

    /// Prepares the test of a pair of blocks, before their products. `radius` gives, for a position, the distance up to
    /// which neighbours are sought, −∞ for none at all; [`super::simd::int8_dot::pairs_within`] excludes what is beyond
    /// where the codes prove it.
    pub fn block_pair(&self, a: usize, b: usize, radius: impl Fn(usize) -> f64, block_pair: &mut BlockPair) {
        let mut products = [[0; BLOCK]; 4];
        let (mut step, mut square) = (0.0, 0.0);
        block_pair.lost = 0.0;
        if a != b {
            let difference = Difference::of(self.centre(a), self.centre(b), self.isa);
            (step, square, block_pair.lost) = (difference.step, difference.square, difference.lost);
            let vectors = [&difference.large[..], &difference.small[..]];
            let [large_a, small_a, large_b, small_b] = &mut products;
            products_with(self.isa, self.block(a), self.width, vectors, [large_a, small_a]);
            products_with(self.isa, self.block(b), self.width, vectors, [large_b, small_b]);
        }
        let [large_a, small_a, large_b, small_b] = &products;
        let along = |row: usize, large: i32, small: i32| {
            2.0 * f64::from(self.steps[row]) * step * (RADIX * f64::from(large) + f64::from(small))
        };
        let (mut largest_a, mut largest_b) = (0.0f64, 0.0f64);
        for row in 0..BLOCK {
            let (i, j) = (a * BLOCK + row, b * BLOCK + row);
            let first = self.squares[i] + along(i, large_a[row], small_a[row]) + square;
            let second = self.squares[j] - along(j, large_b[row], small_b[row]);
            largest_a = largest_a.max(first.abs() + self.squares[i]);
            largest_b = largest_b.max(second.abs() + self.squares[j]);
            (block_pair.first[row], block_pair.second[row]) = (first as f32, second as f32);
        }
        block_pair.rounding = ROUNDING * (largest_a + largest_b) + f64::from(f32::MIN_POSITIVE);
        for (block, sought) in [a, b].into_iter().zip(&mut block_pair.sought) {
            sought.iter_mut().enumerate().for_each(|(row, sought)| *sought = radius(block * BLOCK + row));
        }
        let limit = |radius: f64, row: usize, error: f64| {
            let radius = radius + self.errors[row] + error + block_pair.lost;
            // A row that looks for nothing has a radius of −∞.
            if radius < 0.0 { f32::NEG_INFINITY } else { round_up(radius * radius + block_pair.rounding) }
        };
        for row in 0..BLOCK {
            block_pair.first_radius[row] = limit(block_pair.sought[0][row], a * BLOCK + row, self.largest_errors[b]);
            block_pair.second_radius[row] = limit(block_pair.sought[1][row], b * BLOCK + row, self.largest_errors[a]);
        }
    }

    /// Whether a pair may be nearer than `radius`, given the errors of its own two rows.
    pub fn may_be_within(&self, block_pair: &BlockPair, (i, j): (usize, usize), squared: f32, radius: f64) -> bool {
        let limit = radius + self.errors[i] + self.errors[j] + block_pair.lost;
        limit >= 0.0 && f64::from(squared) <= limit * limit + block_pair.rounding
    }

    /// Lower and upper bound of the distance of a pair, where the vectors keep distances: the lower one rounded down, the
    /// upper one up.
    pub fn bounds(&self, block_pair: &BlockPair, (i, j): (usize, usize), squared: f32) -> (f32, f32) {
        let error = self.errors[i] + self.errors[j] + block_pair.lost;
        between(f64::from(squared), block_pair.rounding, error)
    }

    /// A fast version of the upper bound of [`QuantizedBlocks::bounds`].
    pub fn upper_bound(&self, block_pair: &BlockPair, (i, j): (usize, usize), squared: f32) -> f32 {
        let error = self.errors[i] + self.errors[j] + block_pair.lost;
        // Square roots and sums are rounded by less than these factors.
        let distance = (f64::from(squared) + block_pair.rounding).max(0.0) as f32 * (1.0 + 4.0 * f32::EPSILON);
        (distance.sqrt() + error as f32) * (1.0 + 4.0 * f32::EPSILON)
    }

    /// At most `wanted` blocks with the nearest centres, the block itself first. Only the [`SOON`] blocks before and after
    /// it are searched.
    pub fn nearest_blocks(&self, block: usize, wanted: usize) -> Vec<usize> {
        let first = block.saturating_sub(SOON);
        let distance = |other: usize| squared_distance(self.centre(block), self.centre(other));
        let others = (first..self.blocks().min(block + SOON + 1)).map(|other| (distance(other), other));
        let mut others: Vec<(f32, usize)> = others.collect();
        others.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then((a.1 != block).cmp(&(b.1 != block))));
        others.truncate(wanted);
        others.into_iter().map(|(_, other)| other).collect()
    }

    fn centre(&self, block: usize) -> &[f32] {
        &self.centres[block * self.width..(block + 1) * self.width]
    }
}

/// A vector in codes.
struct Written {
    step: f32,
    sum: i32,
    /// Squared length of what the codes represent.
    square: f64,
    /// Length of what the codes lose.
    lost: f64,
}

/// Subtracts the centre from a vector and writes the rest as codes that the kernel can take.
fn write(vector: &mut [f32], centre: &[f32], codes: &mut [i8], isa: Isa) -> Written {
    let mut largest = subtract(vector, centre);
    loop {
        let written = write_codes(vector, largest, f32::from(isa.largest_code()), codes);
        let excess = isa.excess(codes);
        if excess <= 1.0 {
            return written;
        }
        // A larger step makes the codes smaller; a little more, as they are rounded.
        largest *= 1.01 * excess.sqrt() as f32;
    }
}

for_widest_vectors! {
    /// Subtracts the centre from a vector; returns the largest absolute value of the rest.
    fn subtract(vector: &mut [f32], centre: &[f32]) -> f32 {
        const LANES: usize = 16;
        let mut largest = [0.0f32; LANES];
        for (values, centres) in vector.chunks_mut(LANES).zip(centre.chunks(LANES)) {
            for (lane, (value, centre)) in values.iter_mut().zip(centres).enumerate() {
                *value -= centre;
                largest[lane] = if value.abs() > largest[lane] { value.abs() } else { largest[lane] };
            }
        }
        largest.into_iter().fold(0.0, f32::max)
    }
}

for_widest_vectors! {
    /// Writes a vector as codes: `largest_code` stands for `largest`.
    fn write_codes(vector: &[f32], largest: f32, largest_code: f32, codes: &mut [i8]) -> Written {
        const LANES: usize = 16;
        let step = largest / largest_code;
        // A step of zero would divide by zero.
        let inverse = if step > 0.0 { step.recip() } else { 0.0 };
        let inverse = if inverse.is_finite() { inverse } else { 0.0 };
        let (mut sums, mut squares, mut lost, mut lengths) = ([0i32; LANES], [0i32; LANES], [0.0f64; LANES], [0.0f64; LANES]);
        for (values, codes) in vector.chunks(LANES).zip(codes.chunks_mut(LANES)) {
            for (lane, (&value, to)) in values.iter().zip(codes).enumerate() {
                let code = (value * inverse).round_ties_even().clamp(-largest_code, largest_code);
                let rest = f64::from(value) - f64::from(step) * f64::from(code);
                lost[lane] += rest * rest;
                lengths[lane] += f64::from(value) * f64::from(value);
                let code = code as i32;
                sums[lane] += code;
                squares[lane] += code * code;
                *to = code as i8;
            }
        }
        let square: i64 = squares.iter().map(|&square| i64::from(square)).sum();
        // Computing the difference from the centre was rounded as well.
        let rounding = f64::from(f32::EPSILON) * lengths.iter().sum::<f64>().sqrt();
        Written {
            step,
            sum: sums.iter().sum(),
            square: f64::from(step) * f64::from(step) * square as f64,
            lost: lost.iter().sum::<f64>().sqrt() + rounding,
        }
    }
}

for_widest_vectors! {
    fn squared_distance(a: &[f32], b: &[f32]) -> f32 {
        const LANES: usize = 16;
        let mut sums = [0.0; LANES];
        for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
            for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
                *sum += (a - b) * (a - b);
            }
        }
        sums.into_iter().sum()
    }
}

fn mean(vectors: &[f32], mean: &mut [f32]) {
    mean.fill(0.0);
    for vector in vectors.chunks_exact(mean.len()) {
        mean.iter_mut().zip(vector).for_each(|(sum, value)| *sum += value);
    }
    let rows = (vectors.len() / mean.len()) as f32;
    mean.iter_mut().for_each(|sum| *sum /= rows);
}

/// The difference of two centres as two codes per coordinate, `step · (RADIX · large + small)`.
struct Difference {
    large: Vec<i8>,
    small: Vec<i8>,
    step: f64,
    /// Squared length of what the codes represent.
    square: f64,
    /// Length of what the codes lose.
    lost: f64,
}

impl Difference {
    fn of(a: &[f32], b: &[f32], isa: Isa) -> Self {
        let most = f64::from(isa.largest_code() - 1);
        let difference = || a.iter().zip(b).map(|(&a, &b)| f64::from(a) - f64::from(b));
        let step = difference().fold(0.0, |largest: f64, value| largest.max(value.abs())) / (RADIX * most);
        let (mut large, mut small) = (Vec::with_capacity(a.len()), Vec::with_capacity(a.len()));
        let (mut square, mut lost) = (0.0, 0.0);
        for value in difference() {
            let whole = if step > 0.0 { (value / step).round() } else { 0.0 };
            let high = (whole / RADIX).round();
            large.push(high as i8);
            small.push((whole - RADIX * high) as i8);
            let said = step * whole;
            square += said * said;
            lost += (value - said) * (value - said);
        }
        Self { large, small, step, square, lost: lost.sqrt() * (1.0 + 1e-9) }
    }
}

/// Lower and upper bound of the distance of a pair from the squared distance of its codes: the lower one rounded down, the
/// upper one up.
pub(super) fn between(squared: f64, rounding: f64, error: f64) -> (f32, f32) {
    let lower = (squared - rounding).max(0.0).sqrt() * (1.0 - 1e-9) - error;
    let upper = (squared + rounding).max(0.0).sqrt() * (1.0 + 1e-9) + error;
    (-round_up(-lower.max(0.0)), round_up(upper))
}

/// The smallest float32 that is not below the value.
pub(super) fn round_up(value: f64) -> f32 {
    let near = value as f32;
    if f64::from(near) < value { near.next_up() } else { near }
}
