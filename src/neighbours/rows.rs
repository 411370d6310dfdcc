//! The rows that are searched: all of a matrix, or some of them, read in place.

use super::Scalar;

/// All or some rows of a row-major matrix.
#[derive(Clone, Copy)]
pub(super) struct RowView<'a, T> {
    values: &'a [T],
    columns: usize,
    /// Indices of the rows in the matrix; `None` for all rows.
    chosen: Option<&'a [u32]>,
}

impl<'a, T: Scalar> RowView<'a, T> {
    pub fn all(values: &'a [T], columns: usize) -> Self {
        Self { values, columns, chosen: None }
    }

    /// Some rows of the matrix, given by their indices in it.
    pub fn chosen(values: &'a [T], columns: usize, chosen: &'a [u32]) -> Self {
        Self { values, columns, chosen: Some(chosen) }
    }

    pub fn len(&self) -> usize {
        self.chosen.map_or(self.values.len() / self.columns, <[u32]>::len)
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    /// All values of the underlying matrix.
    pub fn values(&self) -> &'a [T] {
        self.values
    }

    /// The index in the matrix of a row of this view.
    pub fn number(&self, index: usize) -> usize {
        self.chosen.map_or(index, |chosen| chosen[index] as usize)
    }

    pub fn row(&self, index: usize) -> &'a [T] {
        let number = self.number(index);
        &self.values[number * self.columns..(number + 1) * self.columns]
    }
}
