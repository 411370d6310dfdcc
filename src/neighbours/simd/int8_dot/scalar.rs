//! The plain loops, which the other files are tested against.

use super::{BLOCK, BlockCodes, Pair, Terms};

#[inline(always)]
pub fn pairs_within(a: BlockCodes<'_>, b: BlockCodes<'_>, width: usize, terms: &Terms<'_>, found: &mut Vec<Pair>) {
    every_pair(a, b, width, terms, |i, j, squared| {
        if squared <= terms.first_radius[i].max(terms.second_radius[j]) {
            found.push(Pair { first: i as u8, second: j as u8, squared });
        }
    });
}

#[inline(always)]
pub fn every_pair(
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

/// [`super::products_with`]
pub fn products_with(block: BlockCodes<'_>, width: usize, vectors: [&[i8]; 2], products: [&mut [i32; BLOCK]; 2]) {
    for (vector, products) in vectors.into_iter().zip(products) {
        for (product, row) in products.iter_mut().zip(block.codes.chunks_exact(width).take(block.rows)) {
            *product = dot(row, vector);
        }
    }
}

#[inline(always)]
fn dot(a: &[i8], b: &[i8]) -> i32 {
    a.iter().zip(b).map(|(&a, &b)| i32::from(i16::from(a) * i16::from(b))).sum()
}
