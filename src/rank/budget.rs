//! Ranks within a total number of parameters.

use super::RankError;

/// A block as the budget sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Share {
    /// Its rank.
    pub rank: usize,
    /// Parameters per rank: the sum of input and output widths of its modules.
    pub cost: u64,
    /// The rank that the geometry asks for, unrounded.
    pub bound: f64,
}

/// Parameters of all blocks together.
pub(super) fn total(shares: &[Share]) -> u64 {
    shares.iter().map(|share| share.rank as u64 * share.cost).sum()
}

/// Lowers ranks, one at a time, until the total is within the budget.
///
/// The largest rank is lowered first; among equals the one that loses least, which is the one with the smallest bound;
/// among equals still, the last block. No rank goes below `minimum`, and blocks that cost nothing are left alone.
pub(super) fn fit(shares: &mut [Share], budget: u64, minimum: usize) -> Result<(), RankError> {
    while total(shares) > budget {
        let candidates = shares.iter_mut().filter(|share| share.rank > minimum && share.cost > 0);
        // `max_by` returns the last of equals.
        let Some(share) = candidates.max_by(|a, b| a.rank.cmp(&b.rank).then(b.bound.total_cmp(&a.bound))) else {
            return Err(RankError::Budget { needed: total(shares), budget });
        };
        share.rank -= 1;
    }
    Ok(())
}
