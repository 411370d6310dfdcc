//! The exit codes of the program.

/// Something the user can mend.
pub(crate) const FAILED: u8 = 1;
/// A bug in gelora.
pub(crate) const BUG: u8 = 2;
/// Stopped half-way; the same command goes on.
pub(crate) const PARTIAL: u8 = 3;
