//! Batches: rows of similar length together, padded to the length of the longest.

use std::cmp::Reverse;

use serde_json::{Map, Value};

use super::Encoding;

/// How rows are padded, and how the model counts positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Padding {
    /// Token id of the padding.
    pub id: u32,
    /// Type id of the padding.
    pub type_id: u32,
    /// How positions are counted.
    pub positions: Positions,
}

/// How a model counts the positions of its tokens, for exports that have positions as an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Positions {
    /// 0, 1, 2 … in every row.
    #[default]
    FromZero,
    /// 2, 3, 4 … in every row.
    FromTwo,
    /// Tokens are counted from the number after this padding id, and padding has that id: RoBERTa and its relatives.
    BehindPadding(u32),
}

/// Models whose `create_position_ids_from_input_ids` counts from the number after the padding id, with the padding id used
/// where `config.json` names none. MPNet always uses its own.
const BEHIND_PADDING: [(&str, u64); 16] = [
    ("roberta", 1),
    ("xlm-roberta", 1),
    ("xlm-roberta-xl", 1),
    ("camembert", 1),
    ("data2vec-text", 1),
    ("roberta-prelayernorm", 1),
    ("longformer", 1),
    ("ibert", 1),
    ("mpnet", 1),
    ("luke", 1),
    ("mluke", 1),
    ("xmod", 1),
    ("layoutlmv3", 1),
    ("lilt", 0),
    ("markuplm", 0),
    ("esm", 1),
];

impl Positions {
    /// The way the model of this `config.json` counts in transformers 5.
    pub fn of_model(config: &Map<String, Value>) -> Self {
        let kind = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
        if matches!(kind, "nystromformer" | "yoso" | "mra") {
            return Positions::FromTwo;
        }
        match BEHIND_PADDING.iter().find(|(known, _)| *known == kind) {
            Some((_, usual)) => {
                let named = config.get("pad_token_id").and_then(Value::as_u64).filter(|_| kind != "mpnet");
                Positions::BehindPadding(u32::try_from(named.unwrap_or(*usual)).unwrap_or(u32::MAX))
            }
            None => Positions::FromZero,
        }
    }

    /// Position ids for token ids of shape `[rows, length]`.
    pub fn of(self, ids: &[i64], length: usize) -> Vec<i64> {
        let row = |ids: &[i64]| -> Vec<i64> {
            match self {
                Positions::FromZero => (0..ids.len() as i64).collect(),
                Positions::FromTwo => (2..ids.len() as i64 + 2).collect(),
                Positions::BehindPadding(padding) => {
                    let padding = i64::from(padding);
                    let mut last = padding;
                    let position = |&id: &i64| {
                        last += i64::from(id != padding);
                        if id == padding { padding } else { last }
                    };
                    ids.iter().map(position).collect()
                }
            }
        };
        ids.chunks(length.max(1)).flat_map(row).collect()
    }
}

/// Rows in the form that the model reads. All arrays are row-major `[rows, length]`; padding is on the right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Indices of these rows in the data set.
    pub rows: Vec<usize>,
    /// Tokens per row, padding included.
    pub length: usize,
    /// Token ids.
    pub ids: Vec<i64>,
    /// 1 on tokens, 0 on padding.
    pub mask: Vec<i64>,
    /// Type ids: 0 in the first text, 1 in the second.
    pub type_ids: Vec<i64>,
    /// How the model counts positions.
    pub positions: Positions,
}

/// Groups rows into batches whose size `rows × longest row` stays within `budget_tokens`.
///
/// The rows are sorted by length, longest first, so that little is padded and a batch that does not fit into memory fails
/// at once; rows of equal length keep their order. A row longer than the budget gets a batch of its own. With
/// `equal_lengths`, all rows of a batch have the same length: nothing is padded at all, for exports that ignore their mask.
///
/// `lengths` is indexed by row; `rows` lists the rows to batch.
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

/// Stacks rows into one batch, padded to the longest; the padding is masked out.
pub fn pad(encodings: &[Encoding], rows: &[usize], padding: Padding) -> Batch {
    let length = rows.iter().map(|&row| encodings[row].len()).max().unwrap_or(0);
    let size = rows.len() * length;
    let mut batch = Batch {
        rows: rows.to_vec(),
        length,
        ids: Vec::with_capacity(size),
        mask: Vec::with_capacity(size),
        type_ids: Vec::with_capacity(size),
        positions: padding.positions,
    };
    for (place, &row) in rows.iter().enumerate() {
        let end = (place + 1) * length;
        batch.ids.extend(encodings[row].ids.iter().map(|&id| i64::from(id)));
        batch.mask.resize(batch.ids.len(), 1);
        batch.type_ids.extend(encodings[row].type_ids.iter().map(|&id| i64::from(id)));
        batch.ids.resize(end, i64::from(padding.id));
        batch.mask.resize(end, 0);
        batch.type_ids.resize(end, i64::from(padding.type_id));
    }
    batch
}
