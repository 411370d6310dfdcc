//! How far away a neighbour of a row may still be: a float32 that threads lower during the search.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use super::quantized_blocks::round_up;
use super::simd::int8_dot::BLOCK;

/// Factor applied before rounding a distance to float32; it covers its rounding in float64.
const UP: f64 = 1.0 + 1e-9;

/// A float32 that is not smaller than the distance: an upper bound.
pub(super) fn at_most(distance: f64) -> f32 {
    round_up(distance * UP)
}

/// A float32 that is not larger than the distance: a lower bound.
pub(super) fn at_least(distance: f64) -> f32 {
    -round_up(-distance / UP)
}

/// A distance that only falls, in float32 and never too small.
pub(super) struct SearchRadius(AtomicU32);

impl SearchRadius {
    pub fn infinite() -> Self {
        Self(AtomicU32::new(f32::INFINITY.to_bits()))
    }

    pub fn get(&self) -> f64 {
        f64::from(f32::from_bits(self.0.load(Ordering::Relaxed)))
    }

    /// Lowers the radius to `distance` where that is smaller. Distances are not negative, so their bits sort like their values.
    pub fn lower(&self, distance: f64) {
        self.0.fetch_min(at_most(distance).to_bits(), Ordering::Relaxed);
    }
}

/// The radius of every position and the largest of every block.
pub(super) struct SearchRadii {
    /// `[blocks · BLOCK]`: radius of each position.
    places: Vec<SearchRadius>,
    /// `[blocks]`: largest radius of each block.
    blocks: Vec<SearchRadius>,
}

impl SearchRadii {
    pub fn infinite(blocks: usize) -> Self {
        let infinite = |count| std::iter::repeat_with(SearchRadius::infinite).take(count).collect();
        Self { places: infinite(blocks * BLOCK), blocks: infinite(blocks) }
    }

    pub fn of_place(&self, place: usize) -> f64 {
        self.places[place].get()
    }

    pub fn of_block(&self, block: usize) -> f64 {
        self.blocks[block].get()
    }

    /// Lowers the radius of a position; that of its block is updated by [`SearchRadii::look_at_block`].
    pub fn lower(&self, place: usize, distance: f64) {
        self.places[place].lower(distance);
    }

    /// Lowers the radius of a block to the largest among its positions that hold points.
    pub fn look_at_block(&self, block: usize, places: Range<usize>) {
        self.blocks[block].lower(places.map(|place| self.of_place(place)).fold(0.0, f64::max));
    }
}
