//! Ranks within a total number of parameters.

use super::RankError;

/// Rank and cost of one block within the budget.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Share {
    /// Current rank of the block.
    pub rank: usize,
    /// Parameters per rank: the sum of input and output widths of its modules.
    pub cost: u64,
    /// The rank required by the geometry, unrounded.
    pub bound: f64,
}

/// Total number of parameters of all blocks.
pub(super) fn total(shares: &[Share]) -> u64 {
    shares.iter().map(|share| share.rank as u64 * share.cost).sum()
}

/// Lowers ranks, one at a time, until the total is within the budget.
///
/// The largest rank is lowered first; among equals the one that loses least, i.e. with the smallest bound; then the last
/// block. No rank goes below `minimum`, and blocks without parameters are left alone.
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
