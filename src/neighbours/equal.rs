//! Which rows are equal.

use std::collections::HashMap;

use ndarray::ArrayView2;
use rayon::prelude::*;

use super::Real;

/// For every row of `points` `[points, columns]` the first row with the same values (`+0` and `−0` are the same): a row
/// that gets its own number is the first of its kind.
pub fn first_equal_row<T: Real>(points: ArrayView2<'_, T>) -> Vec<u32> {
    let hashes: Vec<u64> = (0..points.nrows()).into_par_iter().map(|row| hash(points.row(row).iter())).collect();
    let mut firsts: HashMap<u64, Vec<u32>> = HashMap::with_capacity(points.nrows());
    let same = |a: usize, b: u32| points.row(a) == points.row(b as usize);
    hashes
        .iter()
        .enumerate()
        .map(|(row, &hash)| {
            let known = firsts.entry(hash).or_default();
            let first = known.iter().copied().find(|&first| same(row, first));
            first.unwrap_or_else(|| {
                known.push(row as u32);
                row as u32
            })
        })
        .collect()
}

/// Multiply and rotate; four lanes, so that one multiplication need not wait for the other.
fn hash<'a, T: Real>(values: impl Iterator<Item = &'a T>) -> u64 {
    let mut lanes = [0x9e37_79b9_7f4a_7c15_u64, 1, 2, 3];
    for (place, value) in values.enumerate() {
        // Adding zero makes +0 of −0.
        let bits = (value.to_f64() + 0.0).to_bits();
        let lane = &mut lanes[place % 4];
        *lane = (lane.rotate_left(26) ^ bits).wrapping_mul(0xd6e8_feb8_6659_fd93);
    }
    lanes.into_iter().fold(0, |all: u64, lane| (all.rotate_left(17) ^ lane ^ (lane >> 32)).wrapping_mul(lanes[0] | 1))
}
