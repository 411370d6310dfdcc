//! What the kernels with 256-bit vectors share: 6 × 16 scalar products at a time in 12 registers of 8 sums. (With 4 × 24 the
//! compiler runs out of registers: a fifth slower.)

use std::arch::x86_64::*;

use super::{BLOCK, BlockCodes, GROUP, Pair, Scratch, Terms};

/// Rows stored side by side: one vector.
pub const PANEL: usize = 8;
/// Rows of the small tile.
pub const ROWS: usize = 6;
/// Panels of the small tile.
pub const PANELS: usize = 2;
/// Rows of four small tiles: whole panels.
const TURN: usize = 24;
/// Bytes per vector.
pub const VECTOR: usize = PANEL * GROUP;

/// Eight sums for each row and panel.
pub type SmallTile = [[__m256i; PANELS]; ROWS];

/// How bytes are multiplied and summed: unsigned ones of the first block by signed ones of the second.
///
/// Methods are inlined into functions compiled for the instructions that they need.
pub trait Kernel {
    /// What is added to the codes of the first block, so that none is negative.
    const OFFSET: u8;

    /// Vectors per panel of the second block that sums start from.
    fn starts(groups: usize) -> usize;

    /// Writes these vectors: what undoes the offset.
    ///
    /// # Safety
    /// The processor has the instructions; the block holds `BLOCK · 4 · groups` codes in panels and `BLOCK` sums.
    unsafe fn prepare(block: BlockCodes<'_>, groups: usize, starts: &mut [Start]);

    /// `Σ a[6] · b[2][8]`.
    ///
    /// # Safety
    /// The processor has the instructions; the rows hold as many groups as the panels, whose starts are what
    /// [`Kernel::prepare`] wrote for them.
    unsafe fn small_tile<const SPLIT: usize>(a: Rows<SPLIT>, b: Panels) -> SmallTile;
}

/// The rows of a small tile: the first `SPLIT` in one panel, the others in the next.
#[derive(Clone, Copy)]
pub struct Rows<const SPLIT: usize>([*const u8; 2]);

impl<const SPLIT: usize> Rows<SPLIT> {
    /// Four codes of a row in every lane, in a group of columns.
    ///
    /// # Safety
    /// The processor has AVX2; the row and the group exist.
    #[inline(always)]
    pub unsafe fn four(self, row: usize, group: usize) -> __m256i {
        let (panel, row) = if row < SPLIT { (self.0[0], row) } else { (self.0[1], row - SPLIT) };
        // SAFETY: guaranteed by the caller.
        unsafe { four_of_row(panel.add(group * VECTOR + row * GROUP)) }
    }
}

/// The panels of the second block in a small tile, one after the other.
#[derive(Clone, Copy)]
pub struct Panels {
    /// The first row.
    column: usize,
    codes: *const i8,
    /// Groups of columns.
    pub groups: usize,
    /// What their sums start from.
    pub starts: *const Start,
}

impl Panels {
    /// The codes of the rows of each panel in a group of columns.
    ///
    /// # Safety
    /// The processor has AVX2; the group exists.
    #[inline(always)]
    pub unsafe fn group(self, group: usize) -> [__m256i; PANELS] {
        // SAFETY: guaranteed by the caller.
        std::array::from_fn(|p| unsafe { load(self.codes.add((p * self.groups + group) * VECTOR)) })
    }
}

/// A vector that sums start from.
#[derive(Clone, Copy, Default)]
#[repr(C, align(32))]
pub struct Start([i32; PANEL]);

impl Start {
    /// # Safety
    /// The processor has AVX2; the pointer is valid.
    #[inline(always)]
    pub unsafe fn load(from: *const Start) -> __m256i {
        // SAFETY: guaranteed by the caller; the type is aligned.
        unsafe { _mm256_load_si256(from.cast()) }
    }

    /// # Safety
    /// The processor has AVX2.
    #[inline(always)]
    pub unsafe fn store(&mut self, vector: __m256i) {
        // SAFETY: guaranteed by the caller; the type is aligned.
        unsafe { _mm256_store_si256(self.0.as_mut_ptr().cast(), vector) };
    }
}

/// What is done with the squared distances of a small tile. (Closures would not be inlined, and then not compiled for AVX2.)
trait Finish {
    /// Takes the `w` of [`Terms`] of a row of the first block and the eight rows of the second one from `column` on.
    ///
    /// # Safety
    /// The processor has AVX2; row and column are below `BLOCK`.
    unsafe fn finish(&mut self, row: usize, column: usize, squared: __m256);
}

/// Collects pairs within their radius.
struct Within<'a> {
    terms: &'a Terms<'a>,
    found: &'a mut Vec<Pair>,
}

impl Finish for Within<'_> {
    #[inline(always)]
    unsafe fn finish(&mut self, row: usize, column: usize, squared: __m256) {
        // SAFETY: guaranteed by the caller; 8 rows from the first one of a panel are in the block.
        unsafe {
            let second = _mm256_loadu_ps(self.terms.second_radius.as_ptr().add(column));
            let limit = _mm256_max_ps(_mm256_set1_ps(self.terms.first_radius[row]), second);
            let within = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_LE_OQ>(squared, limit));
            if within != 0 {
                push(within, squared, row, column, self.found);
            }
        }
    }
}

/// Writes all into a tile `[BLOCK, BLOCK]`.
struct Everything<'a>(&'a mut [f32]);

impl Finish for Everything<'_> {
    #[inline(always)]
    unsafe fn finish(&mut self, row: usize, column: usize, squared: __m256) {
        let place = &mut self.0[row * BLOCK + column..][..PANEL];
        // SAFETY: guaranteed by the caller; the slice holds a vector.
        unsafe { _mm256_storeu_ps(place.as_mut_ptr(), squared) };
    }
}

/// # Safety
/// As [`tiles`].
#[inline(always)]
pub unsafe fn pairs_within<K: Kernel>(
    a: BlockCodes<'_>,
    b: BlockCodes<'_>,
    width: usize,
    terms: &Terms<'_>,
    scratch: &mut Scratch,
    found: &mut Vec<Pair>,
) {
    // SAFETY: guaranteed by the caller.
    unsafe { tiles::<K>(a, b, width, terms, scratch, &mut Within { terms, found }) }
}

/// # Safety
/// As [`tiles`]; `tile` holds `BLOCK · BLOCK` values.
#[inline(always)]
pub unsafe fn squared_distances<K: Kernel>(
    a: BlockCodes<'_>,
    b: BlockCodes<'_>,
    width: usize,
    terms: &Terms<'_>,
    scratch: &mut Scratch,
    tile: &mut [f32],
) {
    // SAFETY: guaranteed by the caller.
    unsafe { tiles::<K>(a, b, width, terms, scratch, &mut Everything(tile)) }
}

/// Finishes the `w` of [`Terms`] for all rows of the first block and every eighth of the second.
///
/// # Safety
/// The processor has AVX2, FMA and what the kernel needs; blocks hold `BLOCK · width` codes in panels and `BLOCK` sums and
/// steps; `width` is a multiple of `GROUP`.
#[inline(always)]
unsafe fn tiles<K: Kernel>(
    a: BlockCodes<'_>,
    b: BlockCodes<'_>,
    width: usize,
    terms: &Terms<'_>,
    scratch: &mut Scratch,
    finish: &mut impl Finish,
) {
    let groups = width / GROUP;
    let panel = PANEL * width;
    let starts = K::starts(groups);
    scratch.biased.clear();
    scratch.biased.extend(a.codes.iter().map(|&code| code.cast_unsigned().wrapping_add(K::OFFSET)));
    scratch.starts.resize(BLOCK / PANEL * starts, Start::default());
    // SAFETY: panels and rows are inside the blocks, and all arrays have BLOCK elements.
    unsafe {
        K::prepare(b, groups, &mut scratch.starts);
        for across in 0..BLOCK / (PANELS * PANEL) {
            let second = Panels {
                column: across * PANELS * PANEL,
                codes: b.codes.as_ptr().add(across * PANELS * panel),
                groups,
                starts: scratch.starts.as_ptr().add(across * PANELS * starts),
            };
            let blocks = Blocks { a, b, terms };
            for turn in 0..BLOCK / TURN {
                let first = turn * TURN;
                let own = scratch.biased.as_ptr().add(first / PANEL * panel);
                let row = |row: usize| own.wrapping_add(row / PANEL * panel + row % PANEL * GROUP);
                one_tile::<K, 6>(Rows([row(0), row(0)]), first, second, blocks, finish);
                one_tile::<K, 2>(Rows([row(6), row(8)]), first + 6, second, blocks, finish);
                one_tile::<K, 4>(Rows([row(12), row(16)]), first + 12, second, blocks, finish);
                one_tile::<K, 6>(Rows([row(18), row(18)]), first + 18, second, blocks, finish);
            }
        }
    }
}

/// The blocks that are compared.
#[derive(Clone, Copy)]
struct Blocks<'a> {
    a: BlockCodes<'a>,
    b: BlockCodes<'a>,
    terms: &'a Terms<'a>,
}

/// Computes a small tile and finishes it; `first` is its first row.
///
/// # Safety
/// As [`tiles`]; rows and panels are those of the blocks.
#[inline(always)]
unsafe fn one_tile<K: Kernel, const SPLIT: usize>(
    rows: Rows<SPLIT>,
    first: usize,
    panels: Panels,
    Blocks { a, b, terms }: Blocks<'_>,
    finish: &mut impl Finish,
) {
    // SAFETY: guaranteed by the caller; rows and columns are below BLOCK.
    unsafe {
        let sums = K::small_tile(rows, panels);
        let columns: [usize; PANELS] = std::array::from_fn(|p| panels.column + p * PANEL);
        let twice = columns.map(|at| {
            let steps = _mm256_loadu_ps(b.steps.as_ptr().add(at));
            _mm256_add_ps(steps, steps)
        });
        let second = columns.map(|at| _mm256_loadu_ps(terms.second.as_ptr().add(at)));
        for (row, sums) in sums.iter().enumerate() {
            let i = first + row;
            let (step, term) = (_mm256_set1_ps(a.steps[i]), _mm256_set1_ps(terms.first[i]));
            for p in 0..PANELS {
                let product = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[p]), twice[p]);
                finish.finish(i, columns[p], _mm256_fnmadd_ps(product, step, _mm256_add_ps(second[p], term)));
            }
        }
    }
}

/// # Safety
/// The processor has AVX2.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn push(mut within: i32, squared: __m256, row: usize, column: usize, found: &mut Vec<Pair>) {
    let mut values = [0.0; PANEL];
    // SAFETY: the array has 8 elements.
    unsafe { _mm256_storeu_ps(values.as_mut_ptr(), squared) };
    while within != 0 {
        let lane = within.trailing_zeros() as usize;
        found.push(Pair { first: row as u8, second: (column + lane) as u8, squared: values[lane] });
        within &= within - 1;
    }
}

/// The codes of the rows of a panel in a group of columns.
///
/// # Safety
/// The processor has AVX2; the pointer is valid for a vector.
#[inline(always)]
pub unsafe fn load(b: *const i8) -> __m256i {
    // SAFETY: guaranteed by the caller.
    unsafe { _mm256_loadu_si256(b.cast()) }
}

/// Four bytes of a row in every lane.
///
/// # Safety
/// The processor has AVX2; the pointer is valid for four bytes.
#[inline(always)]
pub unsafe fn four_of_row(a: *const u8) -> __m256i {
    // SAFETY: guaranteed by the caller.
    unsafe { _mm256_set1_epi32(a.cast::<i32>().read_unaligned()) }
}
