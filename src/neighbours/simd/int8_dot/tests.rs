//! Every instruction set gives the products of plain arithmetic.

use proptest::prelude::*;

use super::*;

fn block(isa: Isa, rows: &[Vec<i8>], width: usize) -> (Vec<i8>, Vec<i32>) {
    let mut codes = vec![0; BLOCK * width];
    let mut sums = vec![0; BLOCK];
    for (row, values) in rows.iter().enumerate() {
        for (column, &value) in values.iter().enumerate() {
            codes[isa.place(width, row, column)] = value;
            sums[row] += i32::from(value);
        }
    }
    (codes, sums)
}

/// What a block is made of.
#[derive(Debug, Clone, Copy)]
enum Codes {
    /// All of the same size.
    Any,
    /// As large as the instruction set can take, next to each other, so that their products have one sign.
    Largest,
    /// Few codes as large as possible, the others small.
    Peaks,
}

/// Codes that the instruction set takes: where sums of squares would not fit, all are made smaller.
fn rows(isa: Isa, codes: Codes, width: usize, draw: &mut impl FnMut() -> u32) -> Vec<Vec<i8>> {
    let largest = i32::from(isa.largest_code());
    let mut row = || {
        let sign = if draw().is_multiple_of(2) { 1 } else { -1 };
        let mut values: Vec<i32> = (0..width)
            .map(|_| match codes {
                Codes::Any => (draw() % (2 * largest as u32 + 1)) as i32 - largest,
                Codes::Largest => sign * largest,
                Codes::Peaks if draw().is_multiple_of(7) => sign * largest,
                Codes::Peaks => (draw() % 9) as i32 - 4,
            })
            .collect();
        loop {
            let row: Vec<i8> = values.iter().map(|&value| value as i8).collect();
            if isa.excess(&row) <= 1.0 {
                return row;
            }
            values.iter_mut().for_each(|value| *value = *value * 99 / 100);
        }
    };
    (0..BLOCK).map(|_| row()).collect()
}

fn product(a: &[i8], b: &[i8]) -> i32 {
    a.iter().zip(b).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum()
}

/// What a way to compare two blocks finds.
struct Answer {
    found: Vec<Pair>,
    tile: Vec<f32>,
    products: [[i32; BLOCK]; 2],
}

fn answer(
    isa: Isa,
    pair: (BlockCodes<'_>, BlockCodes<'_>),
    width: usize,
    terms: &Terms<'_>,
    vectors: [&[i8]; 2],
) -> Answer {
    let (mut found, mut tile, mut products) = (Vec::new(), vec![0.0; BLOCK * BLOCK], [[0; BLOCK]; 2]);
    pairs_within(isa, pair, width, terms, &mut Scratch::default(), &mut found);
    squared_distances(isa, pair, width, terms, &mut Scratch::default(), &mut tile);
    let [first, second] = &mut products;
    products_with(isa, pair.0, width, vectors, [first, second]);
    Answer { found, tile, products }
}

/// The same with AVX-VNNI, whose instruction is put together of others that more processors have.
#[cfg(target_arch = "x86_64")]
mod emulated {
    use std::arch::x86_64::*;

    use super::*;

    struct Emulated;

    impl avxvnni::MultiplyAdd for Emulated {
        #[inline(always)]
        unsafe fn multiply_add(sums: __m256i, a: __m256i, b: __m256i) -> __m256i {
            let (mut from, mut by, mut to) = ([0u8; 32], [0i8; 32], [0i32; 8]);
            // SAFETY: the arrays have 32 bytes; the caller guarantees AVX2.
            unsafe {
                _mm256_storeu_si256(from.as_mut_ptr().cast(), a);
                _mm256_storeu_si256(by.as_mut_ptr().cast(), b);
                _mm256_storeu_si256(to.as_mut_ptr().cast(), sums);
                for (lane, to) in to.iter_mut().enumerate() {
                    let bytes = 4 * lane..4 * lane + 4;
                    *to += bytes.map(|at| i32::from(from[at]) * i32::from(by[at])).sum::<i32>();
                }
                _mm256_loadu_si256(to.as_ptr().cast())
            }
        }
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn answer(
        (a, b): (BlockCodes<'_>, BlockCodes<'_>),
        width: usize,
        terms: &Terms<'_>,
        vectors: [&[i8]; 2],
    ) -> Answer {
        type Kernel = avxvnni::WithInstruction<Emulated>;
        let (mut found, mut tile, mut products) = (Vec::new(), vec![0.0; BLOCK * BLOCK], [[0; BLOCK]; 2]);
        let scratch = &mut Scratch::default();
        let [first, second] = &mut products;
        // SAFETY: this function has AVX2 and FMA; blocks and vectors are as long as they must be.
        unsafe {
            vectors256::pairs_within::<Kernel>(a, b, width, terms, scratch, &mut found);
            vectors256::squared_distances::<Kernel>(a, b, width, terms, scratch, &mut tile);
            avxvnni::products_by::<Emulated>(a, width, vectors, [first, second]);
        }
        Answer { found, tile, products }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_instruction_set_gives_the_same_products(
        groups in 1usize..40,
        seed in any::<u64>(),
        codes in proptest::sample::select(&[Codes::Any, Codes::Largest, Codes::Peaks][..]),
    ) {
        let width = groups * GROUP;
        let mut state = seed;
        let mut draw = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u32
        };
        let steps: Vec<f32> = (0..BLOCK).map(|row| 1.0 + row as f32 / 256.0).collect();
        let terms: [f32; BLOCK] = std::array::from_fn(|row| row as f32);
        let (near, far) = ([0.0; BLOCK], [-1e3; BLOCK]);
        let terms = Terms { first: &terms, second: &terms, first_radius: &near, second_radius: &far };
        for isa in Isa::all() {
            let (rows_a, rows_b) = (rows(isa, codes, width, &mut draw), rows(isa, codes, width, &mut draw));
            let most = u32::from(isa.largest_code().unsigned_abs());
            let vector: Vec<i8> = (0..2 * width).map(|_| ((draw() % (2 * most + 1)) as i32 - most as i32) as i8).collect();
            let vectors = [&vector[..width], &vector[width..]];
            let ((codes_a, sums_a), (codes_b, sums_b)) = (block(isa, &rows_a, width), block(isa, &rows_b, width));
            let a = BlockCodes { codes: &codes_a, sums: &sums_a, steps: &steps, rows: BLOCK };
            let b = BlockCodes { codes: &codes_b, sums: &sums_b, steps: &steps, rows: BLOCK };
            check(isa, &answer(isa, (a, b), width, &terms, vectors), (&rows_a, &rows_b), &steps, vectors)?;
            #[cfg(target_arch = "x86_64")]
            if isa == Isa::Avx2 {
                // SAFETY: the processor has AVX2 and FMA.
                let emulated = unsafe { emulated::answer((a, b), width, &terms, vectors) };
                check(Isa::AvxVnni, &emulated, (&rows_a, &rows_b), &steps, vectors)?;
            }
        }
    }
}

fn check(
    isa: Isa,
    answer: &Answer,
    (a, b): (&[Vec<i8>], &[Vec<i8>]),
    steps: &[f32],
    vectors: [&[i8]; 2],
) -> Result<(), TestCaseError> {
    let mut found = answer.found.iter().map(|pair| ((pair.first, pair.second), pair.squared)).collect::<Vec<_>>();
    found.sort_by_key(|&(places, _)| places);
    for i in 0..BLOCK {
        for (vector, products) in vectors.iter().zip(&answer.products) {
            prop_assert_eq!(products[i], product(&a[i], vector), "{:?}", isa);
        }
        for j in 0..BLOCK {
            let product = f64::from(product(&a[i], &b[j])) * 2.0 * f64::from(steps[i]) * f64::from(steps[j]);
            let (squared, seen) = (i as f64 + j as f64 - product, answer.tile[i * BLOCK + j]);
            let doubt = 1e-6 * (product.abs() + 500.0);
            prop_assert!((squared - f64::from(seen)).abs() <= doubt, "{:?}: {} is not {}", isa, seen, squared);
            let place = found.binary_search_by_key(&(i as u8, j as u8), |&(places, _)| places);
            // Rounding may decide at the very limit.
            prop_assert!(squared.abs() <= doubt || place.is_ok() == (squared < 0.0), "{:?}: {}", isa, squared);
            prop_assert!(place.is_err() || found[place.unwrap()].1 == seen, "{:?}", isa);
        }
    }
    prop_assert!(found.windows(2).all(|pair| pair[0].0 != pair[1].0));
    Ok(())
}
