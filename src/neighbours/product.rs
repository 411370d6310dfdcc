//! Scalar products between two blocks of rows in single precision: the inner loop of the exact search.
//!
//! Two ways with one interface: a kernel for AVX-512, chosen when the processor has it, and matrixmultiply's `sgemm`
//! (which looks for AVX2, FMA and NEON itself) everywhere else.

/// Rows of a block. A multiple of 48 (columns of the kernel's small tile), 16 (panel) and 8 (its rows).
pub(super) const BLOCK: usize = 240;

/// A float32 matrix cut into blocks of [`BLOCK`] rows, stored as the chosen way wants it; the last block is filled up
/// with rows of zeros.
pub(super) struct Blocks {
    values: Vec<f32>,
    columns: usize,
    way: Way,
}

/// How products are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// 512-bit vectors; blocks hold panels of 16 rows, column by column.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// matrixmultiply; blocks are row-major.
    Portable,
}

impl Way {
    /// The fastest way on this processor.
    pub fn detect() -> Way {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f") {
            return Way::Avx512;
        }
        Way::Portable
    }

    /// Length of the longest chain of roundings in one scalar product: its error is at most
    /// `γ = n·u / (1 − n·u)` times `Σ|aᵢbᵢ|` (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1).
    pub fn roundings(self, columns: usize) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Way::Avx512 => columns.min(avx512::DEPTH) + columns.div_ceil(avx512::DEPTH),
            // With or without FMA, and in whatever order the terms are added.
            Way::Portable => columns + 1,
        }
    }
}

impl Blocks {
    pub fn new(rows: usize, columns: usize, way: Way) -> Self {
        Self { values: vec![0.0; rows.div_ceil(BLOCK) * BLOCK * columns], columns, way }
    }

    pub fn count(&self) -> usize {
        self.values.len() / (BLOCK * self.columns)
    }

    /// The blocks, to be filled with [`Blocks::place`].
    pub fn blocks_mut(&mut self) -> std::slice::ChunksExactMut<'_, f32> {
        self.values.chunks_exact_mut(BLOCK * self.columns)
    }

    /// Where the value of (row in its block, column) stands in the block.
    #[inline]
    pub fn place(way: Way, columns: usize, row: usize, column: usize) -> usize {
        match way {
            #[cfg(target_arch = "x86_64")]
            Way::Avx512 => (row / avx512::PANEL * columns + column) * avx512::PANEL + row % avx512::PANEL,
            Way::Portable => row * columns + column,
        }
    }

    fn block(&self, index: usize) -> &[f32] {
        &self.values[index * BLOCK * self.columns..(index + 1) * BLOCK * self.columns]
    }

    /// All scalar products between the rows of block `a` and those of block `b`, into `tile` `[BLOCK, BLOCK]`.
    pub fn products(&self, a: usize, b: usize, tile: &mut [f32]) {
        assert_eq!(tile.len(), BLOCK * BLOCK);
        let (a, b) = (self.block(a), self.block(b));
        match self.way {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: this way is chosen only where AVX-512 was found; blocks and tile have the lengths asked for.
            Way::Avx512 => unsafe { avx512::products(a, b, self.columns, tile) },
            Way::Portable => portable(a, b, self.columns, tile),
        }
    }
}

fn portable(a: &[f32], b: &[f32], columns: usize, tile: &mut [f32]) {
    let (across, down) = (columns as isize, BLOCK as isize);
    // SAFETY: `a` and `b` hold BLOCK rows of `columns` values, `tile` BLOCK rows of BLOCK values; strides say so.
    unsafe {
        let (a, b, tile) = (a.as_ptr(), b.as_ptr(), tile.as_mut_ptr());
        matrixmultiply::sgemm(BLOCK, columns, BLOCK, 1.0, a, across, 1, b, 1, across, 0.0, tile, down, 1);
    }
}

/// For every row `i` of the tile: calls `hit(i, j)` where `addend[j] − tile[i][j] < limits[i]`.
pub(super) fn rows_below(way: Way, tile: &[f32], addend: &[f32], limits: &[f32], hit: impl FnMut(usize, usize)) {
    match way {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: this way is chosen only where AVX-512 was found.
        Way::Avx512 => unsafe { avx512::rows_below(tile, addend, limits, hit) },
        Way::Portable => scan(tile, |i, j| (addend[j], limits[i]), hit),
    }
}

/// The same the other way round, for every column `j`: `hit(i, j)` where `addend[i] − tile[i][j] < limits[j]`.
pub(super) fn columns_below(way: Way, tile: &[f32], addend: &[f32], limits: &[f32], hit: impl FnMut(usize, usize)) {
    match way {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: this way is chosen only where AVX-512 was found.
        Way::Avx512 => unsafe { avx512::columns_below(tile, addend, limits, hit) },
        Way::Portable => scan(tile, |i, j| (addend[i], limits[j]), hit),
    }
}

/// Sixteen values are compared at once; only where one of them is a hit are they looked at singly.
#[inline(always)]
fn scan(tile: &[f32], terms: impl Fn(usize, usize) -> (f32, f32), mut hit: impl FnMut(usize, usize)) {
    const WIDTH: usize = 16;
    for (i, row) in tile.chunks_exact(BLOCK).enumerate() {
        for (chunk, products) in row.as_chunks::<WIDTH>().0.iter().enumerate() {
            let mut any = false;
            for (lane, product) in products.iter().enumerate() {
                let (addend, limit) = terms(i, chunk * WIDTH + lane);
                any |= addend - product < limit;
            }
            if any {
                for (lane, product) in products.iter().enumerate() {
                    let (addend, limit) = terms(i, chunk * WIDTH + lane);
                    if addend - product < limit {
                        hit(i, chunk * WIDTH + lane);
                    }
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    //! The kernel: 8 × 48 scalar products at a time in 24 registers of 16 floats.

    use std::arch::x86_64::*;

    use super::BLOCK;

    /// Rows stored side by side: one vector.
    pub const PANEL: usize = 16;
    /// Columns summed in registers before the sums are added to the tile: measured best, and it bounds the rounding.
    pub const DEPTH: usize = 256;
    const ROWS: usize = 8;
    const PANELS: usize = 3;

    /// # Safety
    /// The processor has AVX-512F; `a` and `b` hold `BLOCK · columns` values in panels, `tile` `BLOCK · BLOCK`.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn products(a: &[f32], b: &[f32], columns: usize, tile: &mut [f32]) {
        let panel = PANEL * columns;
        for first in (0..columns).step_by(DEPTH) {
            let depth = DEPTH.min(columns - first);
            for across in 0..BLOCK / (PANELS * PANEL) {
                for down in 0..BLOCK / ROWS {
                    let half = down % (PANEL / ROWS) * ROWS;
                    // SAFETY: panel numbers, depth and columns stay inside the blocks and the tile.
                    unsafe {
                        let a = a.as_ptr().add(down * ROWS / PANEL * panel + first * PANEL + half);
                        let b = b.as_ptr().add(across * PANELS * panel + first * PANEL);
                        let c = tile.as_mut_ptr().add(down * ROWS * BLOCK + across * PANELS * PANEL);
                        small_tile(a, b, panel, depth, c, first == 0);
                    }
                }
            }
        }
    }

    /// `c[8, 48] (+)= Σ_k a[k, 8] · b[3][k, 16]`; `a` and `b` advance by one panel width per column.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn small_tile(a: *const f32, b: *const f32, panel: usize, depth: usize, c: *mut f32, fresh: bool) {
        // SAFETY: see `products`, the only caller.
        unsafe {
            let mut sums = [[_mm512_setzero_ps(); PANELS]; ROWS];
            for k in 0..depth {
                let (a, b) = (a.add(k * PANEL), b.add(k * PANEL));
                let columns: [__m512; PANELS] = std::array::from_fn(|p| _mm512_loadu_ps(b.add(p * panel)));
                for (row, sums) in sums.iter_mut().enumerate() {
                    let value = _mm512_set1_ps(*a.add(row));
                    for p in 0..PANELS {
                        sums[p] = _mm512_fmadd_ps(value, columns[p], sums[p]);
                    }
                }
            }
            for (row, sums) in sums.iter().enumerate() {
                for (p, sum) in sums.iter().enumerate() {
                    let place = c.add(row * BLOCK + p * PANEL);
                    let sum = if fresh { *sum } else { _mm512_add_ps(_mm512_loadu_ps(place), *sum) };
                    _mm512_storeu_ps(place, sum);
                }
            }
        }
    }

    /// # Safety
    /// The processor has AVX-512F.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn rows_below(tile: &[f32], addend: &[f32], limits: &[f32], hit: impl FnMut(usize, usize)) {
        let (addend, limits) = (&addend[..BLOCK], &limits[..BLOCK]);
        super::scan(tile, |i, j| (addend[j], limits[i]), hit);
    }

    /// # Safety
    /// The processor has AVX-512F.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn columns_below(tile: &[f32], addend: &[f32], limits: &[f32], hit: impl FnMut(usize, usize)) {
        let (addend, limits) = (&addend[..BLOCK], &limits[..BLOCK]);
        super::scan(tile, |i, j| (addend[i], limits[j]), hit);
    }
}
