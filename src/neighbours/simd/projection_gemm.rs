//! Coordinates along axes: products of a block of rows with a few directions, in single precision.
//!
//! Two kernels with one interface: a kernel for AVX-512, chosen when the processor has it, and matrixmultiply's `sgemm`
//! (which detects AVX2, FMA and NEON itself) everywhere else.

use crate::neighbours::simd::int8_dot::BLOCK;

/// The number of axes is a multiple of this.
pub(in crate::neighbours) const AXES: usize = 48;

/// How products are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::neighbours) enum Kernel {
    /// 512-bit vectors; panels of 16 rows, column by column.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// matrixmultiply; row-major.
    Portable,
}

impl Kernel {
    /// The fastest kernel on this processor.
    pub fn detect() -> Kernel {
        #[cfg(target_arch = "x86_64")]
        if super::isa::Vectors::allowed().avx512 {
            return Kernel::Avx512;
        }
        Kernel::Portable
    }

    /// Length of the longest chain of roundings in one scalar product: its error is at most `γ = n·u / (1 − n·u)` times
    /// `Σ|aᵢbᵢ|` (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1).
    pub fn roundings(self, columns: usize) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => columns.min(avx512::DEPTH) + columns.div_ceil(avx512::DEPTH),
            // With or without FMA, and in any order of the terms.
            Kernel::Portable => columns + 1,
        }
    }

    /// The offset of the value of (row, column) in a matrix of `columns` columns.
    #[inline]
    pub fn place(self, columns: usize, row: usize, column: usize) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => (row / avx512::PANEL * columns + column) * avx512::PANEL + row % avx512::PANEL,
            Kernel::Portable => row * columns + column,
        }
    }
}

/// All scalar products between the rows of `a` `[BLOCK, columns]` and those of `b` `[count, columns]`, into `tile`
/// `[BLOCK, count]`, row-major. `a` and `b` are laid out by [`Kernel::place`]; `count` is a multiple of [`AXES`].
pub(in crate::neighbours) fn products(kernel: Kernel, a: &[f32], b: &[f32], columns: usize, tile: &mut [f32]) {
    let count = tile.len() / BLOCK;
    assert!(count.is_multiple_of(AXES) && a.len() == BLOCK * columns && b.len() == count * columns);
    match kernel {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: this kernel is chosen only where AVX-512 was found; lengths were checked.
        Kernel::Avx512 => unsafe { avx512::products(a, b, columns, count, tile) },
        Kernel::Portable => {
            let (across, down) = (columns as isize, count as isize);
            // SAFETY: the lengths were checked; strides say that `a` and `b` are row-major, `b` transposed.
            unsafe {
                let (a, b, tile) = (a.as_ptr(), b.as_ptr(), tile.as_mut_ptr());
                matrixmultiply::sgemm(BLOCK, columns, count, 1.0, a, across, 1, b, 1, across, 0.0, tile, down, 1);
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
    /// Columns summed in registers before the sums are added to the tile: measured to be best, and it bounds the rounding.
    pub const DEPTH: usize = 256;
    const ROWS: usize = 8;
    const PANELS: usize = 3;

    /// # Safety
    /// The processor has AVX-512F; `a` holds `BLOCK · columns` values in panels, `b` `count · columns`, `tile`
    /// `BLOCK · count`; `count` is a multiple of 48.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn products(a: &[f32], b: &[f32], columns: usize, count: usize, tile: &mut [f32]) {
        let panel = PANEL * columns;
        for first in (0..columns).step_by(DEPTH) {
            let depth = DEPTH.min(columns - first);
            for across in 0..count / (PANELS * PANEL) {
                for down in 0..BLOCK / ROWS {
                    let half = down % (PANEL / ROWS) * ROWS;
                    // SAFETY: panel numbers, depth and columns stay inside the matrices and the tile.
                    unsafe {
                        let a = a.as_ptr().add(down * ROWS / PANEL * panel + first * PANEL + half);
                        let b = b.as_ptr().add(across * PANELS * panel + first * PANEL);
                        let c = tile.as_mut_ptr().add(down * ROWS * count + across * PANELS * PANEL);
                        small_tile(a, b, panel, depth, c, count, first == 0);
                    }
                }
            }
        }
    }

    /// `c[8, 48] (+)= Σ_k a[k, 8] · b[3][k, 16]`; `a` and `b` advance by one panel width per column, `c` by `stride` per row.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn small_tile(
        a: *const f32,
        b: *const f32,
        panel: usize,
        depth: usize,
        c: *mut f32,
        stride: usize,
        fresh: bool,
    ) {
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
                    let place = c.add(row * stride + p * PANEL);
                    let sum = if fresh { *sum } else { _mm512_add_ps(_mm512_loadu_ps(place), *sum) };
                    _mm512_storeu_ps(place, sum);
                }
            }
        }
    }
}
