//! The current working folder.

use anyhow::bail;

/// The working folder must exist: relative paths start from it.
pub(crate) fn check_working_folder() -> anyhow::Result<()> {
    match std::env::current_dir() {
        Ok(_) => Ok(()),
        Err(error) => {
            bail!("the current folder cannot be used ({error}); change to one that exists and run this again")
        }
    }
}
