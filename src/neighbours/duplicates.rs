//! Rows with the same values: one of each is searched, and its neighbours hold for all.

use rayon::prelude::*;

use super::exact_distance::Points;
use super::row_hash::first_equal;
use super::{Found, Scalar};

/// Rows grouped by their values.
pub(super) struct Duplicates {
    /// `[groups]`: rows with the same values, ascending; groups in the order of their first rows.
    pub rows: Vec<Vec<u32>>,
    /// `[rows]`: the group of a row.
    pub group: Vec<u32>,
}

impl Duplicates {
    pub fn of<T: Scalar>(points: &Points<'_, T>) -> Self {
        let mut rows: Vec<Vec<u32>> = Vec::new();
        let mut group: Vec<u32> = Vec::with_capacity(points.rows());
        for (row, first) in first_equal(&points.rows).into_iter().enumerate() {
            if first as usize == row {
                group.push(rows.len() as u32);
                rows.push(Vec::new());
            } else {
                group.push(group[first as usize]);
            }
            rows[group[row] as usize].push(row as u32);
        }
        Self { rows, group }
    }

    pub fn groups(&self) -> usize {
        self.rows.len()
    }

    /// The first row of every group, by its index in the matrix.
    pub fn distinct_rows<T: Scalar>(&self, points: &Points<'_, T>) -> Vec<u32> {
        self.rows.iter().map(|rows| points.rows.number(rows[0] as usize) as u32).collect()
    }

    /// The `k` nearest rows of every row, from the `k` nearest groups of every group, or from all other groups.
    pub fn expand(&self, found: &Found, k: usize) -> Found {
        let groups = self.groups();
        let wanted = found.squared.len() / groups;
        let nearest: Vec<Vec<(f64, u32)>> = (0..self.group.len())
            .into_par_iter()
            .map(|row| {
                let own = self.group[row] as usize;
                let others =
                    (own * wanted..(own + 1) * wanted).map(|at| (found.squared[at], found.indices[at] as usize));
                let others = std::iter::once((0.0, own)).chain(others);
                // Only the first k other rows of each group can count.
                let members = others.flat_map(|(squared, group)| {
                    self.rows[group].iter().take(k + 1).map(move |&member| (squared, member))
                });
                let mut members: Vec<(f64, u32)> = members.filter(|&(_, member)| member as usize != row).collect();
                members.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
                members.truncate(k);
                members
            })
            .collect();
        let (squared, indices) = nearest.into_iter().flatten().unzip();
        Found { squared, indices, work: found.work }
    }
}
