//! Which vectors stand for a row.

use std::fmt;

use rand::seq::index;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};

use crate::dataset::Batch;

/// The kinds of [`Pooling`], by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PoolingKind {
    /// The mean over the tokens.
    #[default]
    Mean,
    /// The first token.
    First,
    /// The last token.
    Last,
    /// Several token vectors of each row.
    Tokens,
}

impl fmt::Display for PoolingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mean => "mean",
            Self::First => "first",
            Self::Last => "last",
            Self::Tokens => "tokens",
        })
    }
}

/// Which vectors of a hidden state stand for a row. Padding never counts; special tokens do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Pooling {
    /// The mean over the tokens.
    #[default]
    Mean,
    /// The first token.
    First,
    /// The last token.
    Last,
    /// Token vectors themselves: at most `per_row` of each row, drawn without replacement. What is drawn from a row depends
    /// only on the seed and the row.
    Tokens {
        /// Maximum number of tokens per row.
        per_row: usize,
        /// Seed of the draw.
        seed: u64,
    },
    /// Token vectors themselves: `total` of the whole data set, drawn without replacement.
    SampledTokens {
        /// Number of tokens in all; all tokens if there are fewer.
        total: usize,
        /// Seed of the draw.
        seed: u64,
    },
}

impl fmt::Display for Pooling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mean => f.write_str("mean"),
            Self::First => f.write_str("first"),
            Self::Last => f.write_str("last"),
            Self::Tokens { per_row, seed } => write!(f, "tokens ({per_row} per row, seed {seed})"),
            Self::SampledTokens { total, seed } => write!(f, "tokens ({total} in all, seed {seed})"),
        }
    }
}

impl Pooling {
    /// Whether the vectors are those of single tokens.
    pub fn is_tokens(&self) -> bool {
        matches!(self, Self::Tokens { .. } | Self::SampledTokens { .. })
    }

    /// One weight per token position of a batch, `[rows, length]`; each row sums to 1.
    pub(super) fn weights(&self, batch: &Batch) -> Vec<f32> {
        let mut weights = vec![0.0; batch.ids.len()];
        let rows = weights.chunks_mut(batch.length.max(1)).zip(batch.mask.chunks(batch.length.max(1)));
        for (weights, mask) in rows {
            let tokens = mask.iter().filter(|m| **m != 0).count();
            match self {
                Self::First => weights[0] = 1.0,
                Self::Last => weights[tokens.saturating_sub(1)] = 1.0,
                _ => weights[..tokens].fill(1.0 / tokens as f32),
            }
        }
        weights
    }
}

/// Selects the tokens of each row.
#[derive(Debug)]
pub(super) enum TokenSample {
    PerRow {
        count: usize,
        seed: u64,
    },
    /// Index of every drawn token, counted over all kept rows in order; ascending.
    Drawn(Vec<u64>),
}

impl TokenSample {
    /// Draws `total` of `available` tokens.
    pub(super) fn draw(total: usize, available: usize, seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut drawn: Vec<u64> =
            index::sample(&mut random, available, total.min(available)).into_iter().map(|i| i as u64).collect();
        drawn.sort_unstable();
        Self::Drawn(drawn)
    }

    /// Selected positions of a row of `length` tokens, ascending. `row` is its index in the data; `before` is the number of
    /// tokens in the kept rows before it.
    pub(super) fn of_row(&self, row: usize, length: usize, before: u64) -> Vec<u32> {
        match self {
            Self::PerRow { count, seed } => {
                let mut random = ChaCha8Rng::seed_from_u64(*seed);
                random.set_stream(row as u64);
                let mut drawn: Vec<u32> = index::sample(&mut random, length, (*count).min(length))
                    .into_iter()
                    .map(|position| position as u32)
                    .collect();
                drawn.sort_unstable();
                drawn
            }
            Self::Drawn(drawn) => {
                let from = drawn.partition_point(|&token| token < before);
                let to = drawn.partition_point(|&token| token < before + length as u64);
                drawn[from..to].iter().map(|&token| (token - before) as u32).collect()
            }
        }
    }
}
