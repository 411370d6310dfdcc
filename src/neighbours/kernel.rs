//! Scalar products of 8-bit codes between two blocks of rows: the inner loop of the exact search.
//!
//! With AVX-512 VNNI one instruction multiplies and adds 64 pairs of bytes, four times as many as float32 has; elsewhere
//! the compiler makes the best of a plain loop, with AVX2 where there is one.

/// Rows of a block. A multiple of 48 (columns of the kernel's small tile), 16 (panel) and 8 (its rows); below 256, so that
/// a row in its block is a byte.
pub(super) const BLOCK: usize = 240;
/// Codes of a row are filled up with zeros to a multiple of this.
pub(super) const GROUP: usize = 4;

/// How products are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// 512-bit vectors; blocks hold panels of 16 rows, four columns at a time.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// Row-major blocks; a loop for the vectors of AVX2.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Row-major blocks; a loop for whatever vectors every processor of this kind has.
    Portable,
}

impl Way {
    /// The fastest way on this processor.
    pub fn detect() -> Way {
        *Way::all().first().expect("the portable way is always there")
    }

    /// All ways that this processor can take, the fastest first.
    pub fn all() -> Vec<Way> {
        let mut ways = vec![Way::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") {
                ways.insert(0, Way::Avx2);
            }
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni") {
                ways.insert(0, Way::Avx512);
            }
        }
        ways
    }

    /// Where the code of (row in its block, column) stands in a block of `width` columns.
    #[inline]
    pub fn place(self, width: usize, row: usize, column: usize) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Way::Avx512 => {
                let (panel, lane) = (row / avx512::PANEL, row % avx512::PANEL);
                (panel * (width / GROUP) + column / GROUP) * avx512::PANEL * GROUP + lane * GROUP + column % GROUP
            }
            _ => row * width + column,
        }
    }
}

/// The codes of a block as the kernel wants them.
#[derive(Clone, Copy)]
pub(super) struct BlockCodes<'a> {
    /// `[BLOCK · width]`, laid out by [`Way::place`].
    pub codes: &'a [i8],
    /// `[BLOCK]`: the sum of the codes of a row.
    pub sums: &'a [i32],
    /// `[BLOCK]`: what one step of the codes of a row is worth.
    pub steps: &'a [f32],
    /// Rows that are points; the others only fill up the block.
    pub rows: usize,
}

/// What a pair of blocks is tested with. For row `i` of the first and row `j` of the second block
/// `w = first[i] + second[j] − 2 stepᵢ stepⱼ codesᵢ·codesⱼ` is compared with the larger of `first_reach[i]` and
/// `second_reach[j]`.
#[derive(Clone, Copy)]
pub(super) struct Terms<'a> {
    pub first: &'a [f32; BLOCK],
    pub second: &'a [f32; BLOCK],
    pub first_reach: &'a [f32; BLOCK],
    pub second_reach: &'a [f32; BLOCK],
}

/// A pair that was not excluded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pair {
    /// Row in the first block.
    pub first: u8,
    /// Row in the second block.
    pub second: u8,
    /// `w` of [`Terms`].
    pub squared: f32,
}

/// Memory that a thread works in.
#[derive(Default)]
pub(super) struct Scratch {
    /// Codes of the first block plus 128.
    biased: Vec<u8>,
}

/// Adds to `found` all pairs of rows whose `w` does not exceed their reach; some of them may be of rows that only fill up a
/// block.
pub(super) fn pairs_within(
    way: Way,
    (a, b): (BlockCodes<'_>, BlockCodes<'_>),
    width: usize,
    terms: &Terms<'_>,
    scratch: &mut Scratch,
    found: &mut Vec<Pair>,
) {
    check((a, b), width);
    match way {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: this way is chosen only where AVX-512 VNNI was found; lengths were checked.
        Way::Avx512 => unsafe { avx512::pairs_within(a, b, width, terms, scratch, found) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: this way is chosen only where AVX2 was found.
        Way::Avx2 => unsafe { pairs_within_avx2(a, b, width, terms, found) },
        Way::Portable => pairs_within_portable(a, b, width, terms, found),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn pairs_within_avx2(a: BlockCodes<'_>, b: BlockCodes<'_>, width: usize, terms: &Terms<'_>, found: &mut Vec<Pair>) {
    pairs_within_portable(a, b, width, terms, found);
}

#[inline(always)]
fn pairs_within_portable(a: BlockCodes<'_>, b: BlockCodes<'_>, width: usize, terms: &Terms<'_>, found: &mut Vec<Pair>) {
    every_pair(a, b, width, terms, |i, j, squared| {
        if squared <= terms.first_reach[i].max(terms.second_reach[j]) {
            found.push(Pair { first: i as u8, second: j as u8, squared });
        }
    });
}

#[inline(always)]
fn every_pair(
    a: BlockCodes<'_>,
    b: BlockCodes<'_>,
    width: usize,
    terms: &Terms<'_>,
    mut finish: impl FnMut(usize, usize, f32),
) {
    for (i, own) in a.codes.chunks_exact(width).take(a.rows).enumerate() {
        for (j, other) in b.codes.chunks_exact(width).take(b.rows).enumerate() {
            let product = dot(own, other) as f32 * (2.0 * b.steps[j]);
            finish(i, j, terms.first[i] + terms.second[j] - product * a.steps[i]);
        }
    }
}

/// Writes the `w` of all pairs of rows into `tile` `[BLOCK, BLOCK]`; those of rows that only fill up a block mean nothing.
pub(super) fn squared_distances(
    way: Way,
    (a, b): (BlockCodes<'_>, BlockCodes<'_>),
    width: usize,
    terms: &Terms<'_>,
    scratch: &mut Scratch,
    tile: &mut [f32],
) {
    check((a, b), width);
    assert_eq!(tile.len(), BLOCK * BLOCK);
    match way {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: this way is chosen only where AVX-512 VNNI was found; lengths were checked.
        Way::Avx512 => unsafe { avx512::squared_distances(a, b, width, terms, scratch, tile) },
        _ => every_pair(a, b, width, terms, |i, j, squared| tile[i * BLOCK + j] = squared),
    }
}

fn check((a, b): (BlockCodes<'_>, BlockCodes<'_>), width: usize) {
    for block in [a, b] {
        assert!(block.codes.len() == BLOCK * width && block.steps.len() == BLOCK && block.sums.len() == BLOCK);
    }
    assert!(width.is_multiple_of(GROUP));
}

#[inline(always)]
fn dot(a: &[i8], b: &[i8]) -> i32 {
    a.iter().zip(b).map(|(&a, &b)| i32::from(i16::from(a) * i16::from(b))).sum()
}

/// Scalar products of every row of a block with two vectors of codes, `[BLOCK]` each.
pub(super) fn products_with(
    way: Way,
    block: BlockCodes<'_>,
    width: usize,
    vectors: [&[i8]; 2],
    products: [&mut [i32; BLOCK]; 2],
) {
    assert!(block.codes.len() == BLOCK * width && vectors.iter().all(|vector| vector.len() == width));
    assert!(width.is_multiple_of(GROUP));
    match way {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: this way is chosen only where AVX-512 VNNI was found; lengths were checked.
        Way::Avx512 => unsafe { avx512::products_with(block, width, vectors, products) },
        _ => {
            for (vector, products) in vectors.into_iter().zip(products) {
                for (product, row) in products.iter_mut().zip(block.codes.chunks_exact(width).take(block.rows)) {
                    *product = dot(row, vector);
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    //! 8 × 48 scalar products at a time in 24 registers of 16 sums.

    use std::arch::x86_64::*;

    use super::{BLOCK, BlockCodes, GROUP, Pair, Scratch, Terms};

    /// Rows stored side by side: one vector.
    pub const PANEL: usize = 16;
    const ROWS: usize = 8;
    const PANELS: usize = 3;
    /// Bytes of a vector.
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
            unsafe { _mm512_loadu_ps(terms.second_reach.as_ptr().add(at)) }
        };
        // SAFETY: the caller's.
        unsafe {
            tiles(a, b, width, terms, scratch, |row, column, squared| {
                let limit = _mm512_max_ps(_mm512_set1_ps(terms.first_reach[row]), limits(column));
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
        // SAFETY: the caller's.
        unsafe {
            tiles(a, b, width, terms, scratch, |row, column, squared| {
                _mm512_storeu_ps(tile.as_mut_ptr().add(row * BLOCK + column), squared);
            });
        }
    }

    /// Calls `finish(row, column, w)` for all rows of the first block and every sixteenth of the second, with `w` of
    /// [`Terms`] for sixteen rows of the second block from `column` on.
    ///
    /// The instruction multiplies bytes without a sign by bytes with one. So the codes of the first block are stored plus
    /// 128, and the sums begin at −128 times the sum of the codes of the second block's row.
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

    /// `starts[p] + Σ a[8] · b[p][16]`; `a` advances by one vector per group of columns, `b` too, its panels lie `panel`
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
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block(way: Way, rows: &[Vec<i8>], width: usize) -> (Vec<i8>, Vec<i32>) {
        let mut codes = vec![0; BLOCK * width];
        let mut sums = vec![0; BLOCK];
        for (row, values) in rows.iter().enumerate() {
            for (column, &value) in values.iter().enumerate() {
                codes[way.place(width, row, column)] = value;
                sums[row] += i32::from(value);
            }
        }
        (codes, sums)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn every_way_gives_the_same_products(groups in 1usize..12, seed in any::<u64>(), extreme in any::<bool>()) {
            let width = groups * GROUP;
            let mut state = seed;
            let mut draw = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let value = (state >> 40) as u8 as i8;
                if extreme { if value < 0 { -127 } else { 127 } } else { value.max(-127) }
            };
            let mut rows = || -> Vec<Vec<i8>> { (0..BLOCK).map(|_| (0..width).map(|_| draw()).collect()).collect() };
            let (a, b) = (rows(), rows());
            let steps: Vec<f32> = (0..BLOCK).map(|row| 1.0 + row as f32 / 256.0).collect();
            let terms: [f32; BLOCK] = std::array::from_fn(|row| row as f32);
            let (near, far) = ([0.0; BLOCK], [-1e3; BLOCK]);
            let terms = Terms { first: &terms, second: &terms, first_reach: &near, second_reach: &far };
            let mut answers = Vec::new();
            for way in Way::all() {
                let ((codes_a, sums_a), (codes_b, sums_b)) = (block(way, &a, width), block(way, &b, width));
                let a = BlockCodes { codes: &codes_a, sums: &sums_a, steps: &steps, rows: BLOCK };
                let b = BlockCodes { codes: &codes_b, sums: &sums_b, steps: &steps, rows: BLOCK };
                let mut found = Vec::new();
                pairs_within(way, (a, b), width, &terms, &mut Scratch::default(), &mut found);
                found.sort_by_key(|pair| (pair.first, pair.second));
                let vectors: Vec<i8> = (0..2 * width).map(|at| (at as i8).wrapping_mul(37).max(-127)).collect();
                let (one, two) = vectors.split_at(width);
                let (mut first, mut second) = ([0; BLOCK], [0; BLOCK]);
                products_with(way, a, width, [one, two], [&mut first, &mut second]);
                answers.push((found, first, second));
            }
            let expected = |row: &[i8], vector: &[i8]| row.iter().zip(vector).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum::<i32>();
            let portable = answers.pop().unwrap();
            for pair in &portable.0 {
                let (i, j) = (usize::from(pair.first), usize::from(pair.second));
                let product = f64::from(expected(&a[i], &b[j])) * 2.0 * f64::from(steps[i]) * f64::from(steps[j]);
                let squared = i as f64 + j as f64 - product;
                prop_assert!((squared - f64::from(pair.squared)).abs() <= 1e-6 * (product.abs() + 500.0));
                prop_assert!(pair.squared <= 0.0);
            }
            for (found, first, second) in answers {
                prop_assert_eq!(first, portable.1);
                prop_assert_eq!(second, portable.2);
                // Rounding may differ at the very limit.
                let close = |pair: &Pair| pair.squared.abs() < 1e-2;
                let clear = |pairs: &[Pair]| pairs.iter().filter(|pair| !close(pair)).map(|p| (p.first, p.second)).collect::<Vec<_>>();
                prop_assert_eq!(clear(&found), clear(&portable.0));
            }
        }
    }
}
