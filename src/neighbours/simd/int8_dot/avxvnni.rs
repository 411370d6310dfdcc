//! Products of bytes summed in 32 bits by one instruction, in the tiles that AVX2 uses.
//!
//! The instruction multiplies unsigned bytes by signed ones. So the codes of the first block have 128 added, and the sums
//! start at −128 times the sum of the codes of the second block's row.

use std::arch::x86_64::*;

use super::vectors256::{Kernel, PANEL, PANELS, Panels, ROWS, Rows, SmallTile, Start, VECTOR, four_of_row, load};
use super::vectors256::{pairs_within as pairs, squared_distances as distances};
use super::{BLOCK, BlockCodes, GROUP, Pair, Scratch, Terms};

/// The instruction; the tests put another in its place, with the same result, where the processor lacks it.
pub trait MultiplyAdd {
    /// `sums + Σ a · b` over the four bytes of every lane.
    ///
    /// # Safety
    /// The processor has the instruction.
    unsafe fn multiply_add(sums: __m256i, a: __m256i, b: __m256i) -> __m256i;
}

struct Vnni;

impl MultiplyAdd for Vnni {
    #[inline(always)]
    unsafe fn multiply_add(sums: __m256i, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: guaranteed by the caller.
        unsafe { _mm256_dpbusd_avx_epi32(sums, a, b) }
    }
}

/// The kernel with either instruction.
pub struct WithInstruction<I>(std::marker::PhantomData<I>);

impl<I: MultiplyAdd> Kernel for WithInstruction<I> {
    const OFFSET: u8 = 128;

    fn starts(_: usize) -> usize {
        1
    }

    #[inline(always)]
    unsafe fn prepare(block: BlockCodes<'_>, _: usize, starts: &mut [Start]) {
        for (panel, start) in starts.iter_mut().enumerate() {
            // SAFETY: guaranteed by the caller; the block has eight sums per panel.
            unsafe { start.store(start_of(block, panel)) };
        }
    }

    #[inline(always)]
    unsafe fn small_tile<const SPLIT: usize>(a: Rows<SPLIT>, b: Panels) -> SmallTile {
        // SAFETY: guaranteed by the caller.
        unsafe {
            let start: [__m256i; PANELS] = std::array::from_fn(|p| Start::load(b.starts.add(p)));
            let mut sums = [start; ROWS];
            for group in 0..b.groups {
                let columns = b.group(group);
                for (row, sums) in sums.iter_mut().enumerate() {
                    let four = a.four(row, group);
                    for p in 0..PANELS {
                        sums[p] = I::multiply_add(sums[p], four, columns[p]);
                    }
                }
            }
            sums
        }
    }
}

/// −128 times the sums of the codes of the rows of a panel.
///
/// # Safety
/// The processor has AVX2; the block has eight sums for the panel.
#[inline(always)]
unsafe fn start_of(block: BlockCodes<'_>, panel: usize) -> __m256i {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let sums = _mm256_loadu_si256(block.sums.as_ptr().add(panel * PANEL).cast());
        _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_slli_epi32::<7>(sums))
    }
}

/// # Safety
/// The processor has AVX-VNNI, AVX2 and FMA; blocks hold `BLOCK · width` codes in panels and `BLOCK` sums and steps; `width`
/// is a multiple of `GROUP`.
#[target_feature(enable = "avx2,fma,avxvnni")]
pub unsafe fn pairs_within(
    a: BlockCodes<'_>,
    b: BlockCodes<'_>,
    width: usize,
    terms: &Terms<'_>,
    scratch: &mut Scratch,
    found: &mut Vec<Pair>,
) {
    // SAFETY: guaranteed by the caller.
    unsafe { pairs::<WithInstruction<Vnni>>(a, b, width, terms, scratch, found) }
}

/// # Safety
/// As [`pairs_within`]; `tile` holds `BLOCK · BLOCK` values.
#[target_feature(enable = "avx2,fma,avxvnni")]
pub unsafe fn squared_distances(
    a: BlockCodes<'_>,
    b: BlockCodes<'_>,
    width: usize,
    terms: &Terms<'_>,
    scratch: &mut Scratch,
    tile: &mut [f32],
) {
    // SAFETY: guaranteed by the caller.
    unsafe { distances::<WithInstruction<Vnni>>(a, b, width, terms, scratch, tile) }
}

/// # Safety
/// As [`pairs_within`]; vectors hold `width` codes.
#[target_feature(enable = "avx2,avxvnni")]
pub unsafe fn products_with(
    block: BlockCodes<'_>,
    width: usize,
    vectors: [&[i8]; 2],
    products: [&mut [i32; BLOCK]; 2],
) {
    // SAFETY: guaranteed by the caller.
    unsafe { products_by::<Vnni>(block, width, vectors, products) }
}

/// # Safety
/// As [`products_with`], with the instruction that is named.
#[inline(always)]
pub unsafe fn products_by<I: MultiplyAdd>(
    block: BlockCodes<'_>,
    width: usize,
    vectors: [&[i8]; 2],
    products: [&mut [i32; BLOCK]; 2],
) {
    let [first, second] = products;
    for panel in 0..BLOCK / PANEL {
        // SAFETY: panels and groups stay inside the block, groups inside the vectors.
        unsafe {
            let mut totals = [start_of(block, panel); 2];
            let codes = block.codes.as_ptr().add(panel * PANEL * width);
            let offset = _mm256_set1_epi8(i8::MIN);
            for group in 0..width / GROUP {
                let rows = load(codes.add(group * VECTOR));
                for (total, vector) in totals.iter_mut().zip(vectors) {
                    let four = four_of_row(vector.as_ptr().add(group * GROUP).cast());
                    *total = I::multiply_add(*total, _mm256_xor_si256(four, offset), rows);
                }
            }
            _mm256_storeu_si256(first.as_mut_ptr().add(panel * PANEL).cast(), totals[0]);
            _mm256_storeu_si256(second.as_mut_ptr().add(panel * PANEL).cast(), totals[1]);
        }
    }
}
