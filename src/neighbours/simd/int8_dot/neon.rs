//! 8 × 12 scalar products at a time in 24 registers of 4 sums, by the instruction that multiplies and adds signed bytes.

use std::arch::aarch64::*;
use std::arch::asm;

use super::{BLOCK, BlockCodes, GROUP, Pair, Terms};

/// Rows stored side by side: one vector.
pub const PANEL: usize = 4;
const ROWS: usize = 8;
const PANELS: usize = 3;
/// Bytes per vector.
const VECTOR: usize = PANEL * GROUP;

/// # Safety
/// As [`tiles`].
#[target_feature(enable = "neon,dotprod")]
pub unsafe fn pairs_within(
    a: BlockCodes<'_>,
    b: BlockCodes<'_>,
    width: usize,
    terms: &Terms<'_>,
    found: &mut Vec<Pair>,
) {
    // SAFETY: guaranteed by the caller; four rows from the first one of a panel are in the block.
    unsafe {
        tiles(a, b, width, terms, |row, column, squared| {
            let second = vld1q_f32(terms.second_radius.as_ptr().add(column));
            let limit = vmaxq_f32(vdupq_n_f32(terms.first_radius[row]), second);
            let within = vcleq_f32(squared, limit);
            if vmaxvq_u32(within) != 0 {
                let (mut values, mut lanes) = ([0.0; PANEL], [0; PANEL]);
                vst1q_f32(values.as_mut_ptr(), squared);
                vst1q_u32(lanes.as_mut_ptr(), within);
                for (lane, &squared) in values.iter().enumerate().filter(|(lane, _)| lanes[*lane] != 0) {
                    found.push(Pair { first: row as u8, second: (column + lane) as u8, squared });
                }
            }
        });
    }
}

/// # Safety
/// As [`tiles`]; `tile` holds `BLOCK · BLOCK` values.
#[target_feature(enable = "neon,dotprod")]
pub unsafe fn squared_distances(
    a: BlockCodes<'_>,
    b: BlockCodes<'_>,
    width: usize,
    terms: &Terms<'_>,
    tile: &mut [f32],
) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        tiles(a, b, width, terms, |row, column, squared| {
            vst1q_f32(tile.as_mut_ptr().add(row * BLOCK + column), squared);
        });
    }
}

/// Calls `finish(row, column, w)` for all rows of the first block and every fourth of the second, with the `w` of [`Terms`]
/// for the four rows of the second block from `column` on.
///
/// # Safety
/// The processor has the products of bytes; blocks hold `BLOCK · width` codes in panels and `BLOCK` steps; `width` is a
/// multiple of `GROUP`.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn tiles(
    a: BlockCodes<'_>,
    b: BlockCodes<'_>,
    width: usize,
    terms: &Terms<'_>,
    mut finish: impl FnMut(usize, usize, float32x4_t),
) {
    let panel = PANEL * width;
    for across in 0..BLOCK / (PANELS * PANEL) {
        let columns: [usize; PANELS] = std::array::from_fn(|p| (across * PANELS + p) * PANEL);
        // SAFETY: columns are below BLOCK, rows too, and all arrays have BLOCK elements.
        unsafe {
            let twice = columns.map(|at| {
                let steps = vld1q_f32(b.steps.as_ptr().add(at));
                vaddq_f32(steps, steps)
            });
            let second = columns.map(|at| vld1q_f32(terms.second.as_ptr().add(at)));
            for down in 0..BLOCK / ROWS {
                let first = down * ROWS;
                let own = a.codes.as_ptr().add(first / PANEL * panel);
                let other = b.codes.as_ptr().add(across * PANELS * panel);
                let sums = small_tile(own, other, panel, width / GROUP);
                for (row, sums) in sums.iter().enumerate() {
                    let i = first + row;
                    let (step, term) = (vdupq_n_f32(a.steps[i]), vdupq_n_f32(terms.first[i]));
                    for p in 0..PANELS {
                        let product = vmulq_f32(vcvtq_f32_s32(sums[p]), twice[p]);
                        finish(i, columns[p], vfmsq_f32(vaddq_f32(second[p], term), product, step));
                    }
                }
            }
        }
    }
}

/// `Σ a[8] · b[3][4]`; `a` and `b` advance by one vector per group of columns; panels are `panel` bytes apart.
///
/// # Safety
/// The processor has the products of bytes; two panels of `a` and three of `b` hold so many groups.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn small_tile(a: *const i8, b: *const i8, panel: usize, groups: usize) -> [[int32x4_t; PANELS]; ROWS] {
    let mut sums = [[vdupq_n_s32(0); PANELS]; ROWS];
    for group in 0..groups {
        // SAFETY: guaranteed by the caller.
        unsafe {
            let (a, b) = (a.add(group * VECTOR), b.add(group * VECTOR));
            let columns: [int8x16_t; PANELS] = std::array::from_fn(|p| vld1q_s8(b.add(p * panel)));
            let rows = [vld1q_s8(a), vld1q_s8(a.add(panel))];
            for (half, rows) in rows.into_iter().enumerate() {
                for p in 0..PANELS {
                    let at = half * PANEL;
                    sums[at][p] = multiply_add::<0>(sums[at][p], columns[p], rows);
                    sums[at + 1][p] = multiply_add::<1>(sums[at + 1][p], columns[p], rows);
                    sums[at + 2][p] = multiply_add::<2>(sums[at + 2][p], columns[p], rows);
                    sums[at + 3][p] = multiply_add::<3>(sums[at + 3][p], columns[p], rows);
                }
            }
        }
    }
    sums
}

/// `sums + Σ b · a` over the four bytes of every lane of `b` and those of one lane of `a`. (The intrinsic is not stable.)
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn multiply_add<const LANE: i32>(mut sums: int32x4_t, b: int8x16_t, a: int8x16_t) -> int32x4_t {
    // SAFETY: the instruction reads and writes these registers only, and this function is compiled for it.
    unsafe {
        asm!("sdot {sums:v}.4s, {b:v}.16b, {a:v}.4b[{lane}]", sums = inout(vreg) sums, b = in(vreg) b, a = in(vreg) a,
            lane = const LANE, options(pure, nomem, nostack, preserves_flags));
    }
    sums
}

/// # Safety
/// The processor has the products of bytes; the block holds `BLOCK · width` codes in panels, vectors `width` codes; `width`
/// is a multiple of `GROUP`.
#[target_feature(enable = "neon,dotprod")]
pub unsafe fn products_with(
    block: BlockCodes<'_>,
    width: usize,
    vectors: [&[i8]; 2],
    products: [&mut [i32; BLOCK]; 2],
) {
    let [first, second] = products;
    for panel in 0..BLOCK / PANEL {
        // SAFETY: panels and groups stay inside the block, groups inside the vectors.
        unsafe {
            let mut totals = [vdupq_n_s32(0); 2];
            let codes = block.codes.as_ptr().add(panel * PANEL * width);
            for group in 0..width / GROUP {
                let rows = vld1q_s8(codes.add(group * VECTOR));
                for (total, vector) in totals.iter_mut().zip(vectors) {
                    let four = vector.as_ptr().add(group * GROUP).cast::<i32>().read_unaligned();
                    *total = multiply_add::<0>(*total, rows, vreinterpretq_s8_s32(vdupq_n_s32(four)));
                }
            }
            vst1q_s32(first.as_mut_ptr().add(panel * PANEL), totals[0]);
            vst1q_s32(second.as_mut_ptr().add(panel * PANEL), totals[1]);
        }
    }
}
