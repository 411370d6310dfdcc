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
    /// There is nothing to extract.
    #[error("there are no rows to extract activations from; check the data file and its columns")]
    NoRows,
    /// A row without tokens.
    #[error("row {row} of the data has no tokens; remove it or check the tokenizer")]
    EmptyRow {
        /// Counted from 0.
        row: usize,
    },
    /// The tokenizer knows more tokens than the model.
    #[error(
        "token id {id} in row {row} is outside the model's vocabulary of {vocabulary}: tokenizer and model do not fit; use the tokenizer.json that belongs to this model"
    )]
    TokenOutOfRange {
        /// Counted from 0.
        row: usize,
        /// The token id.
        id: u32,
        /// Rows of the embedding table.
        vocabulary: usize,
    },
    /// The export gives other values every time.
    #[error(
        "{} gives other hidden states every time it runs (they differ by up to {absolute:.2}): it was exported in training mode; switch dropout off in a copy with {}",
        path.display(), Hint::SwitchOffDropout.with(path.display())
    )]
    Random {
        /// The export.
        path: PathBuf,
        /// Largest difference between two runs.
        absolute: f32,
    },
    /// The folder holds activations of something else.
    #[error(
        "{} holds activations of another {what} ({found} there, {wanted} now); name another folder, or replace it with {}",
        path.display(), Hint::ReplaceStore
    )]
    OtherStore {
        /// The store.
        path: PathBuf,
        /// What differs: `model`, `data`, `tokenizer`, `pooling` …
        what: &'static str,
        /// What the store was made with.
        found: String,
        /// What this run wants.
        wanted: String,
    },
    /// No store there.
    #[error("{} holds no activations (no manifest.json); make them with `gelora extract`", path.display())]
    NoStore {
        /// The folder.
        path: PathBuf,
    },
    /// An extraction was stopped before its end.
    #[error("{} is not complete ({done} of {total} rows); run the command that made it (`gelora extract` or `gelora plan`) again to finish it", path.display())]
    Incomplete {
        /// The store.
        path: PathBuf,
        /// Rows in finished shards.
        done: usize,
        /// Rows of the data.
        total: usize,
    },
    /// The manifest of a store cannot be used.
    #[error("{} cannot be read: {reason}; remove the folder it is in and extract again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// A later gelora wrote the store.
    #[error("{} is of format {found}, this gelora reads formats 1 to {}; update gelora", path.display(), super::FORMAT)]
    NewerFormat {
        /// The manifest.
        path: PathBuf,
        /// Its format.
        found: u64,
    },
    /// A file of a shard is not what was written.
    #[error(
        "{} is damaged: {reason}; run the command that made the store (`gelora extract` or `gelora plan`) again: it makes this \
         shard anew",
        path.display()
    )]
    DamagedShard {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// There is no such hidden state.
    #[error("hidden state {wanted} does not exist; the store has hidden states 0 to {last}")]
    NoHiddenState {
        /// As asked for.
        wanted: usize,
        /// The last one.
        last: usize,
    },
    /// Some vectors are not numbers.
    #[error(
        "activations are NaN or infinite in {count} row{} ({rows}, counted from 0); export the model as float32, or leave {} out \
         of the data",
        if *count == 1 { "" } else { "s" },
        if *count == 1 { "this row" } else { "these rows" }
    )]
    NonFinite {
        /// Number of such rows.
        count: usize,
        /// The first of them, counted from 0.
        rows: String,
    },
    /// `tokens` needs an operator of a later operator set.
    #[error("{} uses operator set {found}, pooling `tokens` needs 12; export it with opset 12 or later, or pool by mean", path.display())]
    OldOperatorSet {
        /// The export.
        path: PathBuf,
        /// Its operator set.
        found: i64,
    },
    /// ONNX Runtime.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The model.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// The data.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// Reading or writing the store.
    #[error(transparent)]
    File(#[from] FileError),
    /// The user asked to stop.
    #[error("{0}")]
    Cancelled(#[from] Cancelled),
}
