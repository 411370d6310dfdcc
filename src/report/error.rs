//! What can go wrong when a report is made.

use crate::files::FileError;

/// A report could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The file could not be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The template and the values do not fit: a mistake in gelora, not of the user.
    #[error("cannot fill in the report: {0}; please report this plan as a bug, plan.json itself is fine")]
    Template(#[from] minijinja::Error),
}
