use std::path::PathBuf;

use crate::checkpoint::CheckpointError;
use crate::files::FileError;

/// What can be wrong with an adapter or its folder.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// There is no adapter here.
    #[error("{} is no adapter folder: it has no {missing}; name the folder that `gelora train` or PEFT wrote", folder.display())]
    Missing {
        /// The folder.
        folder: PathBuf,
        /// The file that is not there.
        missing: &'static str,
    },
    /// A file of the folder is not what it should be.
    #[error("{} cannot be used: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What was found, and what to do.
        reason: String,
    },
    /// The trained factors are not those of the plan.
    #[error("module `{module}` {reason}; train again with this plan")]
    NotThePlan {
        /// The module.
        module: String,
        /// What differs.
        reason: String,
    },
    /// A plan that PEFT's configuration cannot express.
    #[error("the plan cannot be written as a PEFT configuration: {reason}")]
    Config {
        /// Why, and what to do.
        reason: String,
    },
    /// A tensor file cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
}
