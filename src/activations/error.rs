use std::path::PathBuf;

use crate::dataset::DatasetError;
use crate::files::FileError;
use crate::hint::Hint;
use crate::onnx::OnnxError;
use crate::progress::Cancelled;
use crate::runtime::RuntimeError;

/// What can go wrong while activations are extracted or read.
#[derive(Debug, thiserror::Error)]
pub enum ActivationsError {
    /// The data has no rows.
    #[error("there are no rows to extract activations from; check the data file and its columns")]
    NoRows,
    /// A row has no tokens.
    #[error("row {row} of the data has no tokens; remove it or check the tokenizer")]
    EmptyRow {
        /// Row of the data, counted from 0.
        row: usize,
    },
    /// The tokenizer has more tokens than the model.
    #[error(
        "token id {id} in row {row} is outside the model's vocabulary of {vocabulary}: tokenizer and model do not fit; use the tokenizer.json that belongs to this model"
    )]
    TokenOutOfRange {
        /// Row of the data, counted from 0.
        row: usize,
        /// The token id.
        id: u32,
        /// Rows of the embedding table.
        vocabulary: usize,
    },
    /// The export gives different values on every run.
    #[error(
        "{} gives other hidden states every time it runs (they differ by up to {absolute:.2}): it was exported in training mode; switch dropout off in a copy with {}",
        path.display(), Hint::SwitchOffDropout.with(path.display())
    )]
    Random {
        /// Path of the export.
        path: PathBuf,
        /// Largest absolute difference between two runs.
        absolute: f32,
    },
    /// The folder holds activations made from other inputs or settings.
    #[error(
        "{} holds activations of another {what} ({found} there, {wanted} now); name another folder, or replace it with {}",
        path.display(), Hint::ReplaceStore
    )]
    OtherStore {
        /// Folder of the store.
        path: PathBuf,
        /// What differs: `model`, `data`, `tokenizer`, `pooling` …
        what: &'static str,
        /// What the store was made with.
        found: String,
        /// What this run requires.
        wanted: String,
    },
    /// The folder holds no store.
    #[error("{} holds no activations (no manifest.json); make them with `gelora extract`", path.display())]
    NoStore {
        /// The folder that was searched.
        path: PathBuf,
    },
    /// An extraction was interrupted.
    #[error("{} is not complete ({done} of {total} rows); run the command that made it (`gelora extract` or `gelora plan`) again to finish it", path.display())]
    Incomplete {
        /// Folder of the store.
        path: PathBuf,
        /// Rows in finished shards.
        done: usize,
        /// Rows of the data.
        total: usize,
    },
    /// The manifest of a store cannot be used.
    #[error("{} cannot be read: {reason}; remove the folder it is in and extract again", path.display())]
    Damaged {
        /// Path of the manifest.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A later version of gelora wrote the store.
    #[error("{} is of format {found}, this gelora reads formats 1 to {}; update gelora", path.display(), super::FORMAT)]
    NewerFormat {
        /// Path of the manifest.
        path: PathBuf,
        /// Format version of the manifest.
        found: u64,
    },
    /// A file of a shard differs from what was written.
    #[error(
        "{} is damaged: {reason}; run the command that made the store (`gelora extract` or `gelora plan`) again: it makes this \
         shard anew",
        path.display()
    )]
    DamagedShard {
        /// The damaged file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The store has no hidden state of this number.
    #[error("hidden state {wanted} does not exist; the store has hidden states 0 to {last}")]
    NoHiddenState {
        /// The number requested.
        wanted: usize,
        /// The highest number in the store.
        last: usize,
    },
    /// Some rows have vectors that are NaN or infinite.
    #[error(
        "activations are NaN or infinite in {count} row{} ({rows}, counted from 0); export the model as float32, or leave {} out \
         of the data",
        if *count == 1 { "" } else { "s" },
        if *count == 1 { "this row" } else { "these rows" }
    )]
    NonFinite {
        /// Number of such rows.
        count: usize,
        /// The first of these rows, counted from 0.
        rows: String,
    },
    /// Pooling `tokens` needs an operator from a later operator set.
    #[error("{} uses operator set {found}, pooling `tokens` needs 12; export it with opset 12 or later, or pool by mean", path.display())]
    OldOperatorSet {
        /// Path of the export.
        path: PathBuf,
        /// Version of its operator set.
        found: i64,
    },
    /// ONNX Runtime failed.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The model cannot be used.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// The data cannot be used.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// The store cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The user requested a stop.
    #[error("{0}")]
    Cancelled(#[from] Cancelled),
}
