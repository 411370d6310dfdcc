//! The scalar loop compiled for AVX2.

use super::{BlockCodes, Pair, Terms, scalar};

#[target_feature(enable = "avx2")]
pub fn pairs_within(a: BlockCodes<'_>, b: BlockCodes<'_>, width: usize, terms: &Terms<'_>, found: &mut Vec<Pair>) {
    scalar::pairs_within(a, b, width, terms, found);
}
