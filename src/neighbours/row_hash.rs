//! Which rows are equal.

use std::collections::HashMap;

use ndarray::{ArrayView2, CowArray};
use rayon::prelude::*;

use super::Scalar;
use super::rows::RowView;

/// For every row of `points` `[points, columns]`, the index of the first row with the same values (`+0` and `−0` are equal):
/// a row that gets its own index is the first of its kind.
pub fn first_equal_row<T: Scalar>(points: ArrayView2<'_, T>) -> Vec<u32> {
    if points.ncols() == 0 {
        return vec![0; points.nrows()];
    }
    let contiguous: CowArray<'_, T, _> = points.as_standard_layout();
    first_equal(&RowView::all(contiguous.as_slice().expect("standard layout is contiguous"), points.ncols()))
}

pub(super) fn first_equal<T: Scalar>(rows: &RowView<'_, T>) -> Vec<u32> {
    // Rows that differ in the sampled columns differ.
    let step = rows.columns().div_ceil(SOME_COLUMNS);
    let some = hashes(rows, step);
    if all_different(&some) {
        return (0..rows.len() as u32).collect();
    }
    group(rows, &if step == 1 { some } else { hashes(rows, 1) })
}

/// Columns compared first.
const SOME_COLUMNS: usize = 48;

fn hashes<T: Scalar>(rows: &RowView<'_, T>, step: usize) -> Vec<u64> {
    (0..rows.len()).into_par_iter().map(|row| hash(rows.row(row).iter().step_by(step))).collect()
}

fn all_different(hashes: &[u64]) -> bool {
    let mut sorted = hashes.to_vec();
    sorted.par_sort_unstable();
    sorted.windows(2).all(|pair| pair[0] != pair[1])
}

fn group<T: Scalar>(rows: &RowView<'_, T>, hashes: &[u64]) -> Vec<u32> {
    let mut firsts: HashMap<u64, Vec<u32>> = HashMap::with_capacity(rows.len());
    let same = |a: usize, b: u32| rows.row(a) == rows.row(b as usize);
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

/// Multiply and rotate, in four lanes, so that multiplications need not wait for each other.
fn hash<'a, T: Scalar>(values: impl Iterator<Item = &'a T>) -> u64 {
    let mut lanes = [0x9e37_79b9_7f4a_7c15_u64, 1, 2, 3];
    for (place, value) in values.enumerate() {
        // Adding zero turns −0 into +0.
        let bits = (value.to_f64() + 0.0).to_bits();
        let lane = &mut lanes[place % 4];
        *lane = (lane.rotate_left(26) ^ bits).wrapping_mul(0xd6e8_feb8_6659_fd93);
    }
    lanes.into_iter().fold(0, |all: u64, lane| (all.rotate_left(17) ^ lane ^ (lane >> 32)).wrapping_mul(lanes[0] | 1))
}
