//! Errors of making, reading and writing a plan.

use std::path::PathBuf;

use crate::dimension::DimensionError;
use crate::files::FileError;
use crate::hint::Hint;
use crate::progress::Cancelled;

use super::PlanFault;

/// Why a plan could not be made, read or written.
#[derive(Debug, thiserror::Error)]
pub enum RankError {
    /// The activations of a hidden state could not be loaded.
    #[error("hidden state {hidden_state}: {source}")]
    Activations {
        /// Index of the hidden state; 0 is the embedding layer.
        hidden_state: usize,
        /// The underlying error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The dimension of a hidden state could not be estimated.
    #[error("hidden state {hidden_state}: {source}")]
    Dimension {
        /// Index of the hidden state; 0 is the embedding layer.
        hidden_state: usize,
        /// The underlying error.
        source: DimensionError,
    },
    /// Hidden states have different numbers of rows.
    #[error(
        "hidden state {hidden_state} has {found} rows, hidden state 0 has {expected}; extract the activations again"
    )]
    RowsDiffer {
        /// Index of the hidden state with another number of rows.
        hidden_state: usize,
        /// Its number of rows.
        found: usize,
        /// Number of rows of the first hidden state.
        expected: usize,
    },
    /// Too many rows are NaN or infinite to be an accident.
    #[error(
        "hidden state {hidden_state} has NaN or infinity in {non_finite} of {rows} rows; export the model in float32 \
         and check the weights, or drop the rows that cause it"
    )]
    NonFinite {
        /// Index of the hidden state; 0 is the embedding layer.
        hidden_state: usize,
        /// Number of rows with NaN or infinity.
        non_finite: usize,
        /// Number of rows in total.
        rows: usize,
    },
    /// There is not exactly one block between each two hidden states.
    #[error("{hidden_states} hidden states need {} blocks, but there are {blocks}; export all hidden states", hidden_states.saturating_sub(1))]
    Blocks {
        /// Number of hidden states.
        hidden_states: usize,
        /// Number of blocks.
        blocks: usize,
    },
    /// No block has a weight of a requested projection.
    #[error("no weight of the model is one of {wanted}; it has {found}: choose among these with {}", Hint::Projections)]
    NothingToAdapt {
        /// Projections requested.
        wanted: String,
        /// Projections that the model has.
        found: String,
    },
    /// Even the smallest ranks cost more than the budget.
    #[error(
        "the smallest ranks need {needed} parameters, the budget is {budget}; raise {}, lower {} or adapt fewer {}",
        Hint::Budget,
        Hint::MinimumRank,
        Hint::Projections
    )]
    Budget {
        /// Parameters needed at the smallest ranks.
        needed: u64,
        /// Parameters that the budget allows.
        budget: u64,
    },
    /// A setting is out of range.
    #[error("{setting} is {found}; {cure}")]
    Setting {
        /// Name of the setting.
        setting: &'static str,
        /// The value given.
        found: String,
        /// What to give instead.
        cure: &'static str,
    },
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is not a plan.
    #[error("{} is not a plan ({reason}); make it with `gelora plan`", path.display())]
    NotAPlan {
        /// The file that was read.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The plan is inconsistent: it was edited, or belongs to another model.
    #[error("{}{}: {fault}", path.display(), line.map(|line| format!(", line {line}")).unwrap_or_default())]
    Fault {
        /// Path of the plan.
        path: PathBuf,
        /// The line of the fault, from 1, where it can be found.
        line: Option<usize>,
        /// What is wrong, and what to do.
        fault: PlanFault,
    },
    /// The plan has a format that this version cannot read.
    #[error(
        "{} has plan format {found}, this gelora reads formats {} to {}; {}",
        path.display(), super::OLDEST_FORMAT, super::FORMAT_VERSION,
        if *found > super::FORMAT_VERSION { "update gelora" } else { "make the plan again" }
    )]
    Version {
        /// Path of the plan.
        path: PathBuf,
        /// Format version of the plan.
        found: u32,
    },
    /// The plan belongs to another model.
    #[error(
        "this plan was made for another model: its SHA-256 is {expected}, that of the model {found}; plan again for this model, or give the model of the plan ({file})"
    )]
    OtherModel {
        /// The `.onnx` file named in the plan.
        file: String,
        /// SHA-256 of the model in the plan, in hex.
        expected: String,
        /// SHA-256 of the given model, in hex.
        found: String,
    },
    /// The user asked to stop.
    #[error("{0}")]
    Cancelled(#[from] Cancelled),
}

impl RankError {
    /// Converts an error of one hidden state; a cancellation stays a plain cancellation.
    pub(super) fn dimension(hidden_state: usize) -> impl FnOnce(DimensionError) -> RankError {
        move |error| match error {
            DimensionError::Cancelled(cancelled) => RankError::Cancelled(cancelled),
            source => RankError::Dimension { hidden_state, source },
        }
    }
}
