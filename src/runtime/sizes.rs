//! Exports for batches of one size: a fixed number of rows, a fixed number of tokens, as they were traced.
//!
//! Their graphs often hold the sizes in many places, so they are used unchanged. Rows are padded to the length; a batch
//! with too few rows is filled with copies of its last one, and their results are cut off again.

use std::cmp::Reverse;

use super::RuntimeError;
use crate::dataset::{Batch, Encoding, Padding, pad, token_budget_batches};
use crate::onnx::{Dimension, ValueInfo, token_input};

/// Sizes that an export fixes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FixedSizes {
    /// Rows of every batch.
    pub rows: Option<usize>,
    /// Tokens of every row.
    pub length: Option<usize>,
}

impl FixedSizes {
    /// The sizes fixed by the inputs that hold tokens.
    pub fn of(inputs: &[ValueInfo]) -> Self {
        let mut sizes = FixedSizes::default();
        for input in inputs.iter().filter(|input| token_input(&input.name).is_some()) {
            let Some([rows, length]) = input.shape.as_deref() else { continue };
            let fixed = |dimension: &Dimension| match dimension {
                Dimension::Fixed(size) => Some(*size),
                _ => None,
            };
            sizes.rows = sizes.rows.or_else(|| fixed(rows));
            sizes.length = sizes.length.or_else(|| fixed(length));
        }
        sizes
    }

    /// What happens to rows of different lengths where padding changes them.
    pub(super) fn where_padding_matters(&self) -> String {
        match self.length {
            Some(length) => format!(
                "it takes exactly {length} tokens a row, so padding is part of every shorter row, here and wherever it runs"
            ),
            None => "only rows of equal length are put together, which is slower".to_owned(),
        }
    }

    /// The rows in chunks that fit into one batch each.
    pub fn parts<'r, T>(&self, rows: &'r [T]) -> std::slice::Chunks<'r, T> {
        rows.chunks(self.rows.unwrap_or(rows.len()).max(1))
    }

    /// Length of a row of `length` tokens after padding to the length that the export requires.
    pub fn padded_length(&self, length: usize) -> usize {
        self.length.map_or(length, |fixed| fixed.max(length))
    }

    /// Groups rows into batches that the export accepts, whose tokens stay within `budget_tokens`, including all padding,
    /// also that to a fixed length ([`token_budget_batches`] knows only the longest row of a batch). An export that fixes
    /// the number of rows computes that many in any case, so there a batch has that many, whatever the budget.
    ///
    /// Rows are sorted by length, longest first. With `equal_lengths`, those of a batch are of one length as the export
    /// sees them: where it fixes the length, all are. `lengths` is indexed by row; `rows` lists the rows to use.
    pub fn batches(
        &self,
        lengths: &[usize],
        rows: &[usize],
        budget_tokens: usize,
        equal_lengths: bool,
    ) -> Vec<Vec<usize>> {
        let lengths: Vec<usize> = lengths.iter().map(|length| self.padded_length(*length)).collect();
        let Some(most) = self.rows else { return token_budget_batches(&lengths, rows, budget_tokens, equal_lengths) };
        let mut sorted = rows.to_vec();
        sorted.sort_by_key(|&row| Reverse(lengths[row]));
        let groups = sorted.chunk_by(|&a, &b| !equal_lengths || lengths[a] == lengths[b]);
        groups.flat_map(|group| group.chunks(most.max(1)).map(<[usize]>::to_vec)).collect()
    }

    /// As [`pad`], to the length that the export requires where that is fixed.
    ///
    /// # Errors
    /// When a row is longer.
    pub fn batch(&self, encodings: &[Encoding], rows: &[usize], padding: Padding) -> Result<Batch, RuntimeError> {
        let batch = pad(encodings, rows, padding);
        match self.length {
            Some(fixed) if batch.length > fixed => Err(RuntimeError::FixedLength { length: batch.length, fixed }),
            Some(fixed) => Ok(widened(batch, fixed, padding)),
            None => Ok(batch),
        }
    }
}

/// The batch with more padding where its rows have fewer than `length` tokens.
pub fn widened(batch: Batch, length: usize, padding: Padding) -> Batch {
    if length <= batch.length {
        return batch;
    }
    let widen = |values: &[i64], fill: i64| -> Vec<i64> {
        let rows = values.chunks(batch.length.max(1));
        rows.flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(fill, length - batch.length))).collect()
    };
    let ids = widen(&batch.ids, i64::from(padding.id));
    let mask = widen(&batch.mask, 0);
    let type_ids = widen(&batch.type_ids, i64::from(padding.type_id));
    Batch { length, ids, mask, type_ids, ..batch }
}

/// Rows of a tensor, extended with copies of the last one.
pub(super) fn filled<T: Copy>(data: &[T], rows: usize, wanted: usize) -> Vec<T> {
    let width = data.len() / rows.max(1);
    let last = &data[data.len() - width..];
    let mut all = data.to_vec();
    (rows..wanted).for_each(|_| all.extend_from_slice(last));
    all
}

/// The batch extended with copies of its last row to `wanted` rows.
pub fn filled_batch(batch: &Batch, wanted: usize) -> Batch {
    let rows = batch.rows.len();
    Batch {
        rows: filled(&batch.rows, rows, wanted),
        length: batch.length,
        ids: filled(&batch.ids, rows, wanted),
        mask: filled(&batch.mask, rows, wanted),
        type_ids: filled(&batch.type_ids, rows, wanted),
        positions: batch.positions,
    }
}

/// A range of rows of a batch.
pub fn part_of(batch: &Batch, rows: std::ops::Range<usize>) -> Batch {
    let tokens = rows.start * batch.length..rows.end * batch.length;
    Batch {
        rows: batch.rows[rows].to_vec(),
        length: batch.length,
        ids: batch.ids[tokens.clone()].to_vec(),
        mask: batch.mask[tokens.clone()].to_vec(),
        type_ids: batch.type_ids[tokens].to_vec(),
        positions: batch.positions,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encodings() -> Vec<Encoding> {
        [&[1u32, 2, 3][..], &[4, 5]]
            .iter()
            .map(|ids| Encoding { ids: ids.to_vec(), type_ids: vec![0; ids.len()] })
            .collect()
    }

    fn nine() -> Padding {
        Padding { id: 9, ..Padding::default() }
    }

    fn sizes(shape: [Dimension; 2]) -> FixedSizes {
        let info = ValueInfo { name: "input_ids".into(), data_type: None, shape: Some(shape.to_vec()) };
        FixedSizes::of(&[info])
    }

    #[test]
    fn rows_are_padded_to_a_fixed_length_and_longer_ones_refused() {
        let fixed = sizes([Dimension::Named("batch".into()), Dimension::Fixed(4)]);
        assert_eq!(fixed, FixedSizes { rows: None, length: Some(4) });
        let batch = fixed.batch(&encodings(), &[0, 1], nine()).unwrap();
        assert_eq!((batch.length, batch.ids), (4, vec![1, 2, 3, 9, 4, 5, 9, 9]));
        assert_eq!(batch.mask, [1, 1, 1, 0, 1, 1, 0, 0]);
        let error = sizes([Dimension::Unknown, Dimension::Fixed(2)]).batch(&encodings(), &[0], nine()).unwrap_err();
        assert!(error.to_string().contains("`max_length = 2`"), "{error}");
    }

    #[test]
    fn batches_stay_within_the_budget_with_the_padding_of_a_fixed_length() {
        let lengths = [3, 8, 2, 5, 1, 8, 4];
        let all: Vec<usize> = (0..lengths.len()).collect();
        let free = FixedSizes::default();
        assert_eq!(free.batches(&lengths, &all, 16, false), [vec![1, 5], vec![3, 6, 0], vec![2, 4]]);
        // Every row costs 8 tokens, so two of them are 16; all have one length, so they may share a batch.
        let fixed = FixedSizes { rows: None, length: Some(8) };
        for equal_lengths in [false, true] {
            let batches = fixed.batches(&lengths, &all, 16, equal_lengths);
            assert_eq!(batches, [vec![0, 1], vec![2, 3], vec![4, 5], vec![6]]);
        }
        assert_eq!(fixed.batches(&lengths, &[6, 2], 1, false), [[6], [2]], "one row is the least");
        // Three rows are computed whatever the budget is, so a batch has three.
        let three = FixedSizes { rows: Some(3), length: Some(8) };
        assert_eq!(three.batches(&lengths, &all, 1, true), [vec![0, 1, 2], vec![3, 4, 5], vec![6]]);
        let rows_only = FixedSizes { rows: Some(3), length: None };
        assert_eq!(rows_only.batches(&lengths, &all, 1, false), [vec![1, 5, 3], vec![6, 0, 2], vec![4]]);
        let apart = rows_only.batches(&lengths, &all, 1, true);
        assert_eq!(apart, [vec![1, 5], vec![3], vec![6], vec![0], vec![2], vec![4]]);
    }

    #[test]
    fn batches_are_filled_up_to_a_fixed_number_of_rows() {
        let fixed = sizes([Dimension::Fixed(2), Dimension::Unknown]);
        assert_eq!(fixed.parts(&[1, 2, 3]).map(<[i32]>::len).collect::<Vec<_>>(), [2, 1]);
        let batch = pad(&encodings(), &[0, 1], Padding::default());
        let last = part_of(&batch, 1..2);
        assert_eq!((last.rows.clone(), last.ids.clone()), (vec![1], vec![4, 5, 0]));
        assert_eq!(filled_batch(&last, 3).ids, [4, 5, 0, 4, 5, 0, 4, 5, 0]);
    }
}
