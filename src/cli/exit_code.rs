//! The exit codes of the program.

/// An error that the user can fix.
pub(crate) const FAILED: u8 = 1;
/// A bug in gelora.
pub(crate) const BUG: u8 = 2;
/// Interrupted; the same command resumes.
pub(crate) const PARTIAL: u8 = 3;
