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
    /// The tensors are in the format of older versions of PEFT, which runs code when it is read.
    #[error(
        "{} is a pickle of an older PEFT, which gelora does not read; write it as safetensors once: python -c \"import torch; \
         from safetensors.torch import save_file; save_file(torch.load('adapter_model.bin', map_location='cpu'), \
         'adapter_model.safetensors', {{'format': 'pt'}})\" in that folder", path.display()
    )]
    Pickled {
        /// The file.
        path: PathBuf,
    },
    /// A value is infinite or not a number.
    #[error(
        "{} cannot be used: tensor `{}` holds {value}; the training diverged, or the file was damaged: train again, or \
         copy it again", path.display(), tensor.escape_debug()
    )]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// NaN or an infinity.
        value: f32,
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
