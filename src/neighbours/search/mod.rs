//! The exact search for the nearest neighbours: for few of them by a radius that shrinks, for many by collecting candidates.

pub(super) mod candidate_lists;
pub(super) mod candidates;
pub(super) mod radius;
