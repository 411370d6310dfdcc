//! Every instruction set gives the products of the plain loops.

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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_instruction_set_gives_the_same_products(groups in 1usize..12, seed in any::<u64>(), extreme in any::<bool>()) {
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
        let terms = Terms { first: &terms, second: &terms, first_radius: &near, second_radius: &far };
        let mut answers = Vec::new();
        for isa in Isa::all() {
            let ((codes_a, sums_a), (codes_b, sums_b)) = (block(isa, &a, width), block(isa, &b, width));
            let a = BlockCodes { codes: &codes_a, sums: &sums_a, steps: &steps, rows: BLOCK };
            let b = BlockCodes { codes: &codes_b, sums: &sums_b, steps: &steps, rows: BLOCK };
            let mut found = Vec::new();
            pairs_within(isa, (a, b), width, &terms, &mut Scratch::default(), &mut found);
            found.sort_by_key(|pair| (pair.first, pair.second));
            let vectors: Vec<i8> = (0..2 * width).map(|at| (at as i8).wrapping_mul(37).max(-127)).collect();
            let (one, two) = vectors.split_at(width);
            let (mut first, mut second) = ([0; BLOCK], [0; BLOCK]);
            products_with(isa, a, width, [one, two], [&mut first, &mut second]);
            answers.push((found, first, second));
        }
        let expected = |row: &[i8], vector: &[i8]| row.iter().zip(vector).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum::<i32>();
        let scalar = answers.pop().unwrap();
        for pair in &scalar.0 {
            let (i, j) = (usize::from(pair.first), usize::from(pair.second));
            let product = f64::from(expected(&a[i], &b[j])) * 2.0 * f64::from(steps[i]) * f64::from(steps[j]);
            let squared = i as f64 + j as f64 - product;
            prop_assert!((squared - f64::from(pair.squared)).abs() <= 1e-6 * (product.abs() + 500.0));
            prop_assert!(pair.squared <= 0.0);
        }
        for (found, first, second) in answers {
            prop_assert_eq!(first, scalar.1);
            prop_assert_eq!(second, scalar.2);
            // Rounding may differ at the very limit.
            let close = |pair: &Pair| pair.squared.abs() < 1e-2;
            let clear = |pairs: &[Pair]| pairs.iter().filter(|pair| !close(pair)).map(|p| (p.first, p.second)).collect::<Vec<_>>();
            prop_assert_eq!(clear(&found), clear(&scalar.0));
        }
    }
}
