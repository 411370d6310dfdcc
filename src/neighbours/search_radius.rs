//! How far away what a row looks for may still be: float32 that threads lower while the search goes on.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use super::quantized_blocks::round_up;
use super::simd::int8_dot::BLOCK;

/// Distances are rounded to float32 after this factor, which covers their rounding in float64.
const UP: f64 = 1.0 + 1e-9;

/// A distance in float32 that is not smaller.
pub(super) fn at_most(distance: f64) -> f32 {
    round_up(distance * UP)
}

/// A distance in float32 that is not larger.
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

    /// Distances are not negative: their bits are in the same order as they are.
    pub fn lower(&self, distance: f64) {
        self.0.fetch_min(at_most(distance).to_bits(), Ordering::Relaxed);
    }
}

/// The radii of all places and the largest of every block.
pub(super) struct SearchRadii {
    /// `[blocks · BLOCK]`
    places: Vec<SearchRadius>,
    /// `[blocks]`
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

    /// Lowers the radius of a place; that of its block follows with [`SearchRadii::look_at_block`].
    pub fn lower(&self, place: usize, distance: f64) {
        self.places[place].lower(distance);
    }

    /// Lowers the radius of a block to the largest of its places that are points.
    pub fn look_at_block(&self, block: usize, places: Range<usize>) {
        self.blocks[block].lower(places.map(|place| self.of_place(place)).fold(0.0, f64::max));
    }
}
