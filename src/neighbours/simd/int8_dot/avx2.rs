//! Products of bytes in sums of 16 bits, which are exact because codes are short.
//!
//! `vpmaddubsw` multiplies unsigned bytes by signed ones and adds pairs of products, saturated to 16 bits. With codes from
//! −90 to 90, of which the first block's have 90 added, a pair is at most 2 · 180 · 90 = 32,400. The pairs of a slice of
//! columns are then added in 16 bits, which may wrap on the way: the sums start at what undoes the offset, so they end as
//! `Σ q q′` over the columns of a lane, and that is at most `√(Σ q² · Σ q′²)`. Codes are written so that no row has a `Σ q²`
//! above 32,767 ([`excess`]). Sums of slices are added in 32 bits.

use std::arch::x86_64::*;

use super::vectors256::{Kernel, PANEL, PANELS, Panels, ROWS, Rows, SmallTile, Start, VECTOR, four_of_row, load};
use super::vectors256::{pairs_within as pairs, squared_distances as distances};
use super::{BLOCK, BlockCodes, GROUP, Pair, Scratch, Terms};

/// The largest absolute value of a code.
pub const LARGEST: i8 = 90;
/// Groups of columns that are summed in 16 bits.
const SLICE: usize = 12;
/// Panels whose products with a vector are computed side by side.
const SIDE: usize = 3;
/// The largest sum of squares in a lane of a slice.
const LANE: i32 = i16::MAX as i32;

/// The largest sum of squares in any lane, relative to what fits: above 1 the codes are too large.
pub fn excess(codes: &[i8]) -> f64 {
    let lanes = codes.chunks(SLICE * GROUP).map(|slice| {
        let mut sums = [0; 2];
        for four in slice.chunks(GROUP) {
            for (column, &code) in four.iter().enumerate() {
                sums[column / 2] += i32::from(code) * i32::from(code);
            }
        }
        sums[0].max(sums[1])
    });
    f64::from(lanes.max().unwrap_or(0)) / f64::from(LANE)
}

struct Avx2;

impl Kernel for Avx2 {
    const OFFSET: u8 = LARGEST as u8;

    fn starts(groups: usize) -> usize {
        groups.div_ceil(SLICE)
    }

    #[inline(always)]
    unsafe fn prepare(block: BlockCodes<'_>, groups: usize, starts: &mut [Start]) {
        let each = Self::starts(groups);
        for (panel, starts) in starts.chunks_exact_mut(each).enumerate() {
            for (slice, start) in starts.iter_mut().enumerate() {
                // SAFETY: panels and groups stay inside the block.
                unsafe {
                    let offset = _mm256_set1_epi8(LARGEST);
                    let mut sums = _mm256_setzero_si256();
                    for group in slice * SLICE..groups.min((slice + 1) * SLICE) {
                        let codes = load(block.codes.as_ptr().add((panel * groups + group) * VECTOR));
                        sums = _mm256_sub_epi16(sums, _mm256_maddubs_epi16(offset, codes));
                    }
                    start.store(sums);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn small_tile<const SPLIT: usize>(a: Rows<SPLIT>, b: Panels) -> SmallTile {
        let each = Self::starts(b.groups);
        // SAFETY: guaranteed by the caller.
        unsafe {
            let ones = _mm256_set1_epi16(1);
            let mut totals = [[_mm256_setzero_si256(); PANELS]; ROWS];
            for slice in 0..each {
                let start: [__m256i; PANELS] = std::array::from_fn(|p| Start::load(b.starts.add(p * each + slice)));
                let mut sums = [start; ROWS];
                for group in slice * SLICE..b.groups.min((slice + 1) * SLICE) {
                    let columns = b.group(group);
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let four = a.four(row, group);
                        for p in 0..PANELS {
                            sums[p] = _mm256_add_epi16(sums[p], _mm256_maddubs_epi16(four, columns[p]));
                        }
                    }
                }
                for (totals, sums) in totals.iter_mut().zip(sums) {
                    for (total, sums) in totals.iter_mut().zip(sums) {
                        *total = _mm256_add_epi32(*total, _mm256_madd_epi16(sums, ones));
                    }
                }
            }
            totals
        }
    }
}

/// # Safety
/// The processor has AVX2 and FMA; blocks hold `BLOCK · width` codes in panels and `BLOCK` sums and steps; `width` is a
/// multiple of `GROUP`; no code exceeds [`LARGEST`], and no row has an [`excess`].
#[target_feature(enable = "avx2,fma")]
pub unsafe fn pairs_within(
    a: BlockCodes<'_>,
    b: BlockCodes<'_>,
    width: usize,
    terms: &Terms<'_>,
    scratch: &mut Scratch,
    found: &mut Vec<Pair>,
) {
    // SAFETY: guaranteed by the caller.
    unsafe { pairs::<Avx2>(a, b, width, terms, scratch, found) }
}

/// # Safety
/// As [`pairs_within`]; `tile` holds `BLOCK · BLOCK` values.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn squared_distances(
    a: BlockCodes<'_>,
    b: BlockCodes<'_>,
    width: usize,
    terms: &Terms<'_>,
    scratch: &mut Scratch,
    tile: &mut [f32],
) {
    // SAFETY: guaranteed by the caller.
    unsafe { distances::<Avx2>(a, b, width, terms, scratch, tile) }
}

/// # Safety
/// As [`pairs_within`]; vectors hold `width` codes, none above [`LARGEST`].
#[target_feature(enable = "avx2")]
pub unsafe fn products_with(
    block: BlockCodes<'_>,
    width: usize,
    vectors: [&[i8]; 2],
    products: [&mut [i32; BLOCK]; 2],
) {
    let [first, second] = products;
    let (ones, offset) = (_mm256_set1_epi16(1), _mm256_set1_epi8(LARGEST));
    for panel in (0..BLOCK / PANEL).step_by(SIDE) {
        // SAFETY: panels and groups stay inside the block, groups inside the vectors.
        unsafe {
            let start = |side: usize| {
                let sums = _mm256_loadu_si256(block.sums.as_ptr().add((panel + side) * PANEL).cast());
                _mm256_mullo_epi32(sums, _mm256_set1_epi32(-i32::from(LARGEST)))
            };
            let mut totals: [[__m256i; 2]; SIDE] = std::array::from_fn(|side| [start(side); 2]);
            let codes = block.codes.as_ptr().add(panel * PANEL * width);
            for group in 0..width / GROUP {
                let fours = vectors
                    .map(|vector| _mm256_add_epi8(four_of_row(vector.as_ptr().add(group * GROUP).cast()), offset));
                for (side, totals) in totals.iter_mut().enumerate() {
                    let rows = load(codes.add(side * PANEL * width + group * VECTOR));
                    for (total, four) in totals.iter_mut().zip(fours) {
                        *total = _mm256_add_epi32(*total, _mm256_madd_epi16(_mm256_maddubs_epi16(four, rows), ones));
                    }
                }
            }
            for (side, totals) in totals.iter().enumerate() {
                _mm256_storeu_si256(first.as_mut_ptr().add((panel + side) * PANEL).cast(), totals[0]);
                _mm256_storeu_si256(second.as_mut_ptr().add((panel + side) * PANEL).cast(), totals[1]);
            }
        }
    }
}
