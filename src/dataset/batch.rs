//! Batches: rows of similar length together, padded to the longest of them.

use std::cmp::Reverse;

use super::Encoding;

/// Rows as the model takes them. All arrays are row-major `[rows, length]`; padding stands on the right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Which rows of the data set these are.
    pub rows: Vec<usize>,
    /// Tokens per row, padding included.
    pub length: usize,
    /// Token ids.
    pub ids: Vec<i64>,
    /// 1 on tokens, 0 on padding.
    pub mask: Vec<i64>,
    /// 0 in the first text, 1 in the second.
    pub type_ids: Vec<i64>,
}

/// Groups rows into batches whose size `rows × longest row` stays within `budget_tokens`.
///
/// The rows are sorted by length, longest first, so that little is padded and a batch that does not fit into memory fails
/// at once; rows of equal length keep their order. A row that is longer than the budget gets a batch of its own. With
/// `equal_lengths`, all rows of a batch have the same length: nothing is padded at all, for exports that ignore their mask.
///
/// `lengths` is indexed by row; `rows` says which rows to take.
pub fn token_budget_batches(
    lengths: &[usize],
    rows: &[usize],
    budget_tokens: usize,
    equal_lengths: bool,
) -> Vec<Vec<usize>> {
    let mut sorted = rows.to_vec();
    sorted.sort_by_key(|&row| Reverse(lengths[row]));
    let mut batches: Vec<Vec<usize>> = Vec::new();
    for row in sorted {
        let joins = |batch: &Vec<usize>| {
            let longest = lengths[batch[0]];
            (batch.len() + 1) * longest <= budget_tokens && (!equal_lengths || lengths[row] == longest)
        };
        match batches.last_mut() {
            Some(batch) if joins(batch) => batch.push(row),
            _ => batches.push(vec![row]),
        }
    }
    batches
}

/// Puts rows side by side and fills them up to the longest with `pad_id` and `pad_type_id`, masked out.
pub fn pad(encodings: &[Encoding], rows: &[usize], pad_id: u32, pad_type_id: u32) -> Batch {
    let length = rows.iter().map(|&row| encodings[row].len()).max().unwrap_or(0);
    let size = rows.len() * length;
    let mut batch = Batch {
        rows: rows.to_vec(),
        length,
        ids: Vec::with_capacity(size),
        mask: Vec::with_capacity(size),
        type_ids: Vec::with_capacity(size),
    };
    for (place, &row) in rows.iter().enumerate() {
        let end = (place + 1) * length;
        batch.ids.extend(encodings[row].ids.iter().map(|&id| i64::from(id)));
        batch.mask.resize(batch.ids.len(), 1);
        batch.type_ids.extend(encodings[row].type_ids.iter().map(|&id| i64::from(id)));
        batch.ids.resize(end, i64::from(pad_id));
        batch.mask.resize(end, 0);
        batch.type_ids.resize(end, i64::from(pad_type_id));
    }
    batch
}
