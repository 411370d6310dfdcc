//! 8 × 48 scalar products at a time in 24 registers of 16 sums.

use std::arch::x86_64::*;

use super::{BLOCK, BlockCodes, GROUP, Pair, Scratch, Terms};

/// Rows stored side by side: one vector.
pub const PANEL: usize = 16;
const ROWS: usize = 8;
const PANELS: usize = 3;
/// Bytes per vector.
const VECTOR: usize = PANEL * GROUP;

/// # Safety
/// As [`tiles`].
#[target_feature(enable = "avx512f,avx512vnni")]
pub unsafe fn pairs_within(
    a: BlockCodes<'_>,
    b: BlockCodes<'_>,
    width: usize,
    terms: &Terms<'_>,
    scratch: &mut Scratch,
    found: &mut Vec<Pair>,
) {
    let limits = |at: usize| {
        // SAFETY: 16 rows from the first one of a panel are in the block.
        unsafe { _mm512_loadu_ps(terms.second_radius.as_ptr().add(at)) }
    };
    // SAFETY: guaranteed by the caller.
    unsafe {
        tiles(a, b, width, terms, scratch, |row, column, squared| {
            let limit = _mm512_max_ps(_mm512_set1_ps(terms.first_radius[row]), limits(column));
            let within = _mm512_cmp_ps_mask::<_CMP_LE_OQ>(squared, limit);
            if within != 0 {
                push(within, squared, row, column, found);
            }
        });
    }
}

/// # Safety
/// As [`tiles`]; `tile` holds `BLOCK · BLOCK` values.
#[target_feature(enable = "avx512f,avx512vnni")]
pub unsafe fn squared_distances(
    a: BlockCodes<'_>,
    b: BlockCodes<'_>,
    width: usize,
    terms: &Terms<'_>,
    scratch: &mut Scratch,
    tile: &mut [f32],
) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        tiles(a, b, width, terms, scratch, |row, column, squared| {
            _mm512_storeu_ps(tile.as_mut_ptr().add(row * BLOCK + column), squared);
        });
    }
}

/// Calls `finish(row, column, w)` for all rows of the first block and every sixteenth of the second, with the `w` of
/// [`Terms`] for the sixteen rows of the second block from `column` on.
///
/// The instruction multiplies unsigned bytes by signed ones. So the codes of the first block are stored with 128 added, and
/// the sums start at −128 times the sum of the codes of the second block's row.
///
/// # Safety
/// The processor has AVX-512 VNNI; blocks hold `BLOCK · width` codes in panels and `BLOCK` sums and steps; `width` is a
/// multiple of `GROUP`.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn tiles(
    a: BlockCodes<'_>,
    b: BlockCodes<'_>,
    width: usize,
    terms: &Terms<'_>,
    scratch: &mut Scratch,
    mut finish: impl FnMut(usize, usize, __m512),
) {
    scratch.biased.clear();
    scratch.biased.extend(a.codes.iter().map(|&code| code.cast_unsigned() ^ 0x80));
    let panel = PANEL * width;
    for across in 0..BLOCK / (PANELS * PANEL) {
        let columns: [usize; PANELS] = std::array::from_fn(|p| (across * PANELS + p) * PANEL);
        // SAFETY: columns are below BLOCK, rows too, and all arrays have BLOCK elements.
        unsafe {
            let starts = columns.map(|at| {
                let sums = _mm512_loadu_si512(b.sums.as_ptr().add(at).cast());
                _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32::<7>(sums))
            });
            let twice = columns.map(|at| {
                let steps = _mm512_loadu_ps(b.steps.as_ptr().add(at));
                _mm512_add_ps(steps, steps)
            });
            let second = columns.map(|at| _mm512_loadu_ps(terms.second.as_ptr().add(at)));
            for down in 0..BLOCK / ROWS {
                let first = down * ROWS;
                let own = scratch.biased.as_ptr().add(first / PANEL * panel + first % PANEL * GROUP);
                let other = b.codes.as_ptr().add(across * PANELS * panel);
                let sums = small_tile(own, other, panel, width / GROUP, starts);
                for (row, sums) in sums.iter().enumerate() {
                    let i = first + row;
                    let (step, term) = (_mm512_set1_ps(a.steps[i]), _mm512_set1_ps(terms.first[i]));
                    for p in 0..PANELS {
                        let product = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[p]), twice[p]);
                        finish(i, columns[p], _mm512_fnmadd_ps(product, step, _mm512_add_ps(second[p], term)));
                    }
                }
            }
        }
    }
}

#[target_feature(enable = "avx512f")]
fn push(mut within: u16, squared: __m512, row: usize, column: usize, found: &mut Vec<Pair>) {
    let mut values = [0.0; PANEL];
    // SAFETY: the array has 16 elements.
    unsafe { _mm512_storeu_ps(values.as_mut_ptr(), squared) };
    while within != 0 {
        let lane = within.trailing_zeros() as usize;
        found.push(Pair { first: row as u8, second: (column + lane) as u8, squared: values[lane] });
        within &= within - 1;
    }
}

/// `starts[p] + Σ a[8] · b[p][16]`; `a` and `b` advance by one vector per group of columns; the panels of `b` are `panel`
/// bytes apart.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn small_tile(
    a: *const u8,
    b: *const i8,
    panel: usize,
    groups: usize,
    starts: [__m512i; PANELS],
) -> [[__m512i; PANELS]; ROWS] {
    let mut sums = [starts; ROWS];
    for group in 0..groups {
        // SAFETY: see `pairs_within`, the only caller.
        unsafe {
            let (a, b) = (a.add(group * VECTOR), b.add(group * VECTOR));
            let columns: [__m512i; PANELS] = std::array::from_fn(|p| _mm512_loadu_si512(b.add(p * panel).cast()));
            for (row, sums) in sums.iter_mut().enumerate() {
                let four = _mm512_set1_epi32(a.add(row * GROUP).cast::<i32>().read_unaligned());
                for p in 0..PANELS {
                    sums[p] = _mm512_dpbusd_epi32(sums[p], four, columns[p]);
                }
            }
        }
    }
    sums
}

/// # Safety
/// The processor has AVX-512 VNNI; the block holds `BLOCK · width` codes in panels and `BLOCK` sums, vectors `width`
/// codes; `width` is a multiple of `GROUP`.
#[target_feature(enable = "avx512f,avx512vnni")]
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
            let sums = _mm512_loadu_si512(block.sums.as_ptr().add(panel * PANEL).cast());
            let start = _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32::<7>(sums));
            let mut totals = [start; 2];
            let codes = block.codes.as_ptr().add(panel * PANEL * width);
            for group in 0..width / GROUP {
                let rows = _mm512_loadu_si512(codes.add(group * VECTOR).cast());
                for (total, vector) in totals.iter_mut().zip(vectors) {
                    let four = vector.as_ptr().add(group * GROUP).cast::<u32>().read_unaligned() ^ 0x8080_8080;
                    *total = _mm512_dpbusd_epi32(*total, _mm512_set1_epi32(four.cast_signed()), rows);
                }
            }
            _mm512_storeu_si512(first.as_mut_ptr().add(panel * PANEL).cast(), totals[0]);
            _mm512_storeu_si512(second.as_mut_ptr().add(panel * PANEL).cast(), totals[1]);
        }
    }
}
