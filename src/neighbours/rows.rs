//! The rows that are searched: all of a matrix, or some of them where they lie.

use super::Scalar;

/// RowView of a row-major matrix.
#[derive(Clone, Copy)]
pub(super) struct RowView<'a, T> {
    values: &'a [T],
    columns: usize,
    /// Which rows; all where there are none.
    chosen: Option<&'a [u32]>,
}

impl<'a, T: Scalar> RowView<'a, T> {
    pub fn all(values: &'a [T], columns: usize) -> Self {
        Self { values, columns, chosen: None }
    }

    /// Some rows of the matrix, given by their numbers in it.
    pub fn chosen(values: &'a [T], columns: usize, chosen: &'a [u32]) -> Self {
        Self { values, columns, chosen: Some(chosen) }
    }

    pub fn len(&self) -> usize {
        self.chosen.map_or(self.values.len() / self.columns, <[u32]>::len)
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The matrix, of which these are rows.
    pub fn values(&self) -> &'a [T] {
        self.values
    }

    /// The number of a row in the matrix.
    pub fn number(&self, index: usize) -> usize {
        self.chosen.map_or(index, |chosen| chosen[index] as usize)
    }

    pub fn row(&self, index: usize) -> &'a [T] {
        let number = self.number(index);
        &self.values[number * self.columns..(number + 1) * self.columns]
    }
}
