//! Scalar products of 8-bit codes between two blocks of rows: the inner loop of the exact search.
//!
//! With AVX-512 VNNI one instruction multiplies and adds 64 pairs of bytes, four times as many as with float32, AVX-VNNI
//! and NEON have the same for shorter vectors, and with AVX2 two instructions do it for shorter codes. Elsewhere the compiler
//! vectorises a plain loop.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avxvnni;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod vectors256;

use super::isa::Isa;

/// Rows of a block. A multiple of 48 (columns of the widest kernel's small tile), 16 (panel) and 8 (its rows), as of those of
/// the other kernels; below 256, so that
/// a row in its block is a byte.
pub(in crate::neighbours) const BLOCK: usize = 240;
/// The codes of a row are padded with zeros to a multiple of this.
pub(in crate::neighbours) const GROUP: usize = 4;

impl Isa {
    /// The offset of the code of (row in its block, column) in a block of `width` columns.
    #[inline]
    pub fn place(self, width: usize, row: usize, column: usize) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => place_in_panels(avx512::PANEL, width, row, column),
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni | Isa::Avx2 => place_in_panels(vectors256::PANEL, width, row, column),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => place_in_panels(neon::PANEL, width, row, column),
            Isa::Scalar => row * width + column,
        }
    }

    /// The largest absolute value of a code.
    pub fn largest_code(self) -> i8 {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::LARGEST,
            _ => i8::MAX,
        }
    }

    /// By how much sums of squared codes exceed what the kernel can hold: more than 1 where the codes are too large.
    pub fn excess(self, codes: &[i8]) -> f64 {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::excess(codes),
            _ => {
                debug_assert!(!codes.contains(&i8::MIN));
                0.0
            }
        }
    }
}

/// Panels of rows side by side, one group of columns after the other.
#[inline(always)]
fn place_in_panels(panel: usize, width: usize, row: usize, column: usize) -> usize {
    (row / panel * (width / GROUP) + column / GROUP) * panel * GROUP + row % panel * GROUP + column % GROUP
}

/// The codes of a block in the layout of the kernel.
#[derive(Clone, Copy)]
pub(in crate::neighbours) struct BlockCodes<'a> {
    /// `[BLOCK · width]`, laid out by [`Isa::place`].
    pub codes: &'a [i8],
    /// `[BLOCK]`: sum of the codes of each row.
    pub sums: &'a [i32],
    /// `[BLOCK]`: step size of each row.
    pub steps: &'a [f32],
    /// Number of rows that hold points; the others are padding.
    pub rows: usize,
}

/// Terms that test a pair of blocks. For row `i` of the first and row `j` of the second block
/// `w = first[i] + second[j] − 2 stepᵢ stepⱼ codesᵢ·codesⱼ` is compared with the larger of `first_radius[i]` and
/// `second_radius[j]`.
#[derive(Clone, Copy)]
pub(in crate::neighbours) struct Terms<'a> {
    pub first: &'a [f32; BLOCK],
    pub second: &'a [f32; BLOCK],
    pub first_radius: &'a [f32; BLOCK],
    pub second_radius: &'a [f32; BLOCK],
}

/// A pair that the codes do not exclude.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::neighbours) struct Pair {
    /// Row in the first block.
    pub first: u8,
    /// Row in the second block.
    pub second: u8,
    /// `w` of [`Terms`].
    pub squared: f32,
}

/// Working memory of a thread.
#[derive(Default)]
pub(in crate::neighbours) struct Scratch {
    /// Codes of the first block plus an offset.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "other processors multiply signed bytes"))]
    biased: Vec<u8>,
    /// What sums start from.
    #[cfg(target_arch = "x86_64")]
    starts: Vec<vectors256::Start>,
}

/// Adds to `found` all pairs of rows whose `w` does not exceed their radius; some of them may involve padding rows.
pub(in crate::neighbours) fn pairs_within(
    isa: Isa,
    (a, b): (BlockCodes<'_>, BlockCodes<'_>),
    width: usize,
    terms: &Terms<'_>,
    scratch: &mut Scratch,
    found: &mut Vec<Pair>,
) {
    check((a, b), width);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = scratch;
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: this instruction set is chosen only where AVX-512 VNNI was found; lengths were checked.
        Isa::Avx512 => unsafe { avx512::pairs_within(a, b, width, terms, scratch, found) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: this instruction set is chosen only where AVX-VNNI was found; lengths were checked.
        Isa::AvxVnni => unsafe { avxvnni::pairs_within(a, b, width, terms, scratch, found) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: this instruction set is chosen only where AVX2 and FMA were found; lengths were checked.
        Isa::Avx2 => unsafe { avx2::pairs_within(a, b, width, terms, scratch, found) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: this instruction set is chosen only where the products of bytes were found; lengths were checked.
        Isa::Neon => unsafe { neon::pairs_within(a, b, width, terms, found) },
        Isa::Scalar => scalar::pairs_within(a, b, width, terms, found),
    }
}

/// Writes the `w` of all pairs of rows into `tile` `[BLOCK, BLOCK]`; values of padding rows are meaningless.
pub(in crate::neighbours) fn squared_distances(
    isa: Isa,
    (a, b): (BlockCodes<'_>, BlockCodes<'_>),
    width: usize,
    terms: &Terms<'_>,
    scratch: &mut Scratch,
    tile: &mut [f32],
) {
    check((a, b), width);
    assert_eq!(tile.len(), BLOCK * BLOCK);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = scratch;
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: this instruction set is chosen only where AVX-512 VNNI was found; lengths were checked.
        Isa::Avx512 => unsafe { avx512::squared_distances(a, b, width, terms, scratch, tile) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above, of AVX-VNNI.
        Isa::AvxVnni => unsafe { avxvnni::squared_distances(a, b, width, terms, scratch, tile) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above, of AVX2 and FMA.
        Isa::Avx2 => unsafe { avx2::squared_distances(a, b, width, terms, scratch, tile) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above, of the products of bytes.
        Isa::Neon => unsafe { neon::squared_distances(a, b, width, terms, tile) },
        Isa::Scalar => scalar::every_pair(a, b, width, terms, |i, j, squared| tile[i * BLOCK + j] = squared),
    }
}

fn check((a, b): (BlockCodes<'_>, BlockCodes<'_>), width: usize) {
    for block in [a, b] {
        assert!(block.codes.len() == BLOCK * width && block.steps.len() == BLOCK && block.sums.len() == BLOCK);
    }
    assert!(width.is_multiple_of(GROUP));
}

/// Scalar products of every row of a block with two vectors of codes, `[BLOCK]` each.
pub(in crate::neighbours) fn products_with(
    isa: Isa,
    block: BlockCodes<'_>,
    width: usize,
    vectors: [&[i8]; 2],
    products: [&mut [i32; BLOCK]; 2],
) {
    assert!(block.codes.len() == BLOCK * width && block.sums.len() == BLOCK);
    assert!(vectors.iter().all(|vector| vector.len() == width));
    assert!(width.is_multiple_of(GROUP));
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: this instruction set is chosen only where AVX-512 VNNI was found; lengths were checked.
        Isa::Avx512 => unsafe { avx512::products_with(block, width, vectors, products) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above, of AVX-VNNI.
        Isa::AvxVnni => unsafe { avxvnni::products_with(block, width, vectors, products) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above, of AVX2.
        Isa::Avx2 => unsafe { avx2::products_with(block, width, vectors, products) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above, of the products of bytes.
        Isa::Neon => unsafe { neon::products_with(block, width, vectors, products) },
        Isa::Scalar => scalar::products_with(block, width, vectors, products),
    }
}
