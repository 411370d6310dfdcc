//! Candidate neighbours for the rows of a block, with bounds of their distances, unordered.

use crate::neighbours::search_radius::{at_least, at_most};
use crate::neighbours::simd::int8_dot::BLOCK;

/// A candidate neighbour, with bounds of its distance; once settled, a neighbour with its squared distance.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::neighbours) struct Candidate {
    /// Bits of the lower and the upper bound in float32, or of the squared distance in float64.
    bits: [u32; 2],
    pub row: u32,
}

impl Candidate {
    pub fn new(row: u32, (lower, upper): (f32, f32)) -> Self {
        Self { bits: [lower.to_bits(), upper.to_bits()], row }
    }

    /// A candidate with the tightest float32 bounds around a distance in float64.
    pub fn measured(row: u32, distance: f64) -> Self {
        Self::new(row, (at_least(distance), at_most(distance)))
    }

    pub fn lower(self) -> f32 {
        f32::from_bits(self.bits[0])
    }

    pub fn upper(self) -> f32 {
        f32::from_bits(self.bits[1])
    }

    /// A settled neighbour with its squared distance.
    pub fn neighbour(row: u32, squared: f64) -> Self {
        let bits = squared.to_bits();
        Self { bits: [(bits >> 32) as u32, bits as u32], row }
    }

    /// The squared distance of a settled neighbour.
    pub fn squared(self) -> f64 {
        f64::from_bits(u64::from(self.bits[0]) << 32 | u64::from(self.bits[1]))
    }
}

/// The candidates of a block in one allocation: many small ones would not be returned to the system.
#[derive(Default)]
pub(in crate::neighbours) struct Candidates {
    /// Capacity of each row, in candidates.
    room: usize,
    /// `[BLOCK, room]`: candidates of each row.
    all: Vec<Candidate>,
    /// `[BLOCK]`: number of candidates of each row.
    lengths: Vec<u32>,
}

impl Candidates {
    pub fn new(room: usize) -> Self {
        Self { room, all: vec![Candidate::default(); BLOCK * room], lengths: vec![0; BLOCK] }
    }

    pub fn room(&self) -> usize {
        self.room
    }

    /// Raises the capacity of every row to `room`.
    pub fn widen(&mut self, room: usize) {
        let mut wider = Self::new(room);
        for row in 0..BLOCK {
            wider.row_with_room(row)[..self.lengths[row] as usize].copy_from_slice(self.row(row));
        }
        wider.lengths = std::mem::take(&mut self.lengths);
        *self = wider;
    }

    fn row_with_room(&mut self, row: usize) -> &mut [Candidate] {
        &mut self.all[row * self.room..(row + 1) * self.room]
    }

    pub fn row(&self, row: usize) -> &[Candidate] {
        &self.all[row * self.room..][..self.lengths[row] as usize]
    }

    pub fn row_mut(&mut self, row: usize) -> &mut [Candidate] {
        &mut self.all[row * self.room..][..self.lengths[row] as usize]
    }

    /// Adds a candidate to a row that is not full; returns whether the row is now full.
    pub fn push(&mut self, row: usize, candidate: Candidate) -> bool {
        let length = self.lengths[row] as usize;
        self.row_with_room(row)[length] = candidate;
        self.lengths[row] += 1;
        length + 1 == self.room
    }

    /// Drops candidates that are surely farther than the `k`-th of a row with at least `k`; returns an upper bound of its
    /// distance.
    pub fn drop_farther(&mut self, row: usize, k: usize) -> f32 {
        let all = self.row_mut(row);
        let (_, kth, _) = all.select_nth_unstable_by(k - 1, |a, b| a.upper().total_cmp(&b.upper()));
        let radius = kth.upper();
        let mut kept = 0;
        for at in 0..all.len() {
            if all[at].lower() <= radius {
                all[kept] = all[at];
                kept += 1;
            }
        }
        self.lengths[row] = kept as u32;
        radius
    }
}

/// Returns freed memory to the system, which glibc's allocator otherwise keeps: what follows a search over very many points
/// reads them from a file, whose pages need it.
pub(in crate::neighbours) fn give_memory_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `malloc_trim` may be called at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_stay_and_room_grows() {
        let mut candidates = Candidates::new(4);
        for (number, lower) in [3.0, 1.0, 2.0].into_iter().enumerate() {
            assert!(!candidates.push(7, Candidate::new(number as u32, (lower, lower + 0.5))));
        }
        assert!(candidates.push(7, Candidate::new(3, (1.2, 9.0))));
        // The second smallest upper bound is 2.5.
        assert_eq!(candidates.drop_farther(7, 2), 2.5);
        candidates.widen(6);
        assert_eq!(candidates.room(), 6);
        let mut rows: Vec<u32> = candidates.row(7).iter().map(|candidate| candidate.row).collect();
        rows.sort_unstable();
        assert_eq!(rows, [1, 2, 3]);
        assert!(candidates.row(6).is_empty() && candidates.row(8).is_empty());
    }

    #[test]
    fn squared_distances_take_the_place_of_bounds() {
        for squared in [0.0, 1.0 / 3.0, f64::MIN_POSITIVE / 3.0, f64::MAX, f64::from_bits(0x7fa0_0000_7fa0_0000)] {
            let neighbour = Candidate::neighbour(5, squared);
            assert_eq!((neighbour.squared().to_bits(), neighbour.row), (squared.to_bits(), 5));
        }
    }
}
