//! Token ids of rows, duplicate rows, and samples of rows.

use std::collections::HashSet;

use rand::seq::index;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// A row as token ids, special tokens included. The attention mask is 1 on all of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Encoding {
    /// Token ids, `[tokens]`.
    pub ids: Vec<u32>,
    /// Type ids: 0 in the first text, 1 in the second, `[tokens]`.
    pub type_ids: Vec<u32>,
}

impl Encoding {
    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether the row has no tokens.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// The rows that are left after duplicates are removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distinct {
    /// Indices of the rows without an earlier duplicate, ascending.
    pub kept: Vec<usize>,
    /// Number of rows that duplicate an earlier one.
    pub duplicates: usize,
}

/// Removes rows whose token ids and type ids repeat those of an earlier row.
///
/// Two copies of a row are neighbours at distance 0 (or, in batches of different shape, at the distance of rounding
/// errors), which ruins an estimate of dimension; so duplicates are removed before inference.
pub fn distinct(encodings: &[Encoding]) -> Distinct {
    let mut seen = HashSet::with_capacity(encodings.len());
    let kept: Vec<usize> = (0..encodings.len()).filter(|&row| seen.insert(&encodings[row])).collect();
    Distinct { duplicates: encodings.len() - kept.len(), kept }
}

/// At most `limit` of the rows, drawn without replacement, in their original order. The same seed draws the same rows.
pub fn sample_rows(rows: &[usize], limit: usize, seed: u64) -> Vec<usize> {
    if limit >= rows.len() {
        return rows.to_vec();
    }
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut drawn = index::sample(&mut random, rows.len(), limit).into_vec();
    drawn.sort_unstable();
    drawn.into_iter().map(|at| rows[at]).collect()
}
