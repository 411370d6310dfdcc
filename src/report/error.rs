//! Errors of making a report.

use crate::files::FileError;

/// Why a report could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The file could not be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The template does not fit the values: a bug in gelora, not a mistake of the user.
    #[error("cannot fill in the report: {0}; please report this plan as a bug, plan.json itself is fine")]
    Template(#[from] minijinja::Error),
}
