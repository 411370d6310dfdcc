//! Why there is no plan.

use std::path::PathBuf;

use crate::dimension::DimensionError;
use crate::files::FileError;
use crate::hint::Hint;
use crate::progress::Cancelled;

use super::PlanFault;

/// What went wrong while a plan was made, read or written.
#[derive(Debug, thiserror::Error)]
pub enum RankError {
    /// The activations of a hidden state could not be had.
    #[error("hidden state {hidden_state}: {source}")]
    Activations {
        /// 0 is the embedding layer.
        hidden_state: usize,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The dimension of a hidden state could not be estimated.
    #[error("hidden state {hidden_state}: {source}")]
    Dimension {
        /// 0 is the embedding layer.
        hidden_state: usize,
        /// Why.
        source: DimensionError,
    },
    /// Hidden states have different numbers of rows.
    #[error(
        "hidden state {hidden_state} has {found} rows, hidden state 0 has {expected}; extract the activations again"
    )]
    RowsDiffer {
        /// The hidden state.
        hidden_state: usize,
        /// Its rows.
        found: usize,
        /// Rows of the first one.
        expected: usize,
    },
    /// More rows are NaN or infinite than an accident explains.
    #[error(
        "hidden state {hidden_state} has NaN or infinity in {non_finite} of {rows} rows; export the model in float32 \
         and check the weights, or drop the rows that cause it"
    )]
    NonFinite {
        /// 0 is the embedding layer.
        hidden_state: usize,
        /// Rows with NaN or infinity.
        non_finite: usize,
        /// All rows.
        rows: usize,
    },
    /// There must be one block between each two hidden states.
    #[error("{hidden_states} hidden states need {} blocks, but there are {blocks}; export all hidden states", hidden_states.saturating_sub(1))]
    Blocks {
        /// Hidden states.
        hidden_states: usize,
        /// Blocks.
        blocks: usize,
    },
    /// No block has a weight of the wanted kind.
    #[error("no weight of the model is one of {wanted}; it has {found}: choose among these with {}", Hint::Projections)]
    NothingToAdapt {
        /// Projections asked for.
        wanted: String,
        /// Projections of the model.
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
        /// Parameters at the smallest ranks.
        needed: u64,
        /// The budget.
        budget: u64,
    },
    /// A setting is out of its range.
    #[error("{setting} is {found}; {cure}")]
    Setting {
        /// Which one.
        setting: &'static str,
        /// Its value.
        found: String,
        /// What it may be.
        cure: &'static str,
    },
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is not a plan.
    #[error("{} is not a plan ({reason}); make it with `gelora plan`", path.display())]
    NotAPlan {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Something in the plan cannot be so: it was edited, or belongs to something else.
    #[error("{}{}: {fault}", path.display(), line.map(|line| format!(", line {line}")).unwrap_or_default())]
    Fault {
        /// The file.
        path: PathBuf,
        /// The line, where it can be told.
        line: Option<usize>,
        /// What is wrong.
        fault: PlanFault,
    },
    /// The plan has a format that this version does not know.
    #[error(
        "{} has plan format {found}, this gelora reads formats {} to {}; {}",
        path.display(), super::OLDEST_FORMAT, super::FORMAT_VERSION,
        if *found > super::FORMAT_VERSION { "update gelora" } else { "make the plan again" }
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The plan belongs to another model.
    #[error(
        "this plan was made for another model: its SHA-256 is {expected}, that of the model {found}; plan again for this model, or give the model of the plan ({file})"
    )]
    OtherModel {
        /// The model of the plan, as it was given.
        file: String,
        /// SHA-256 in the plan.
        expected: String,
        /// SHA-256 of the model at hand.
        found: String,
    },
    /// The user asked to stop.
    #[error("{0}")]
    Cancelled(#[from] Cancelled),
}

impl RankError {
    /// An error of one hidden state; a cancelled one is just cancelled.
    pub(super) fn dimension(hidden_state: usize) -> impl FnOnce(DimensionError) -> RankError {
        move |error| match error {
            DimensionError::Cancelled(cancelled) => RankError::Cancelled(cancelled),
            source => RankError::Dimension { hidden_state, source },
        }
    }
}
