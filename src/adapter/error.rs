use std::path::PathBuf;

use crate::checkpoint::CheckpointError;
use crate::files::FileError;

/// Why an adapter or its folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// The folder is not an adapter folder.
    #[error("{} is no adapter folder: it has no {missing}; name the folder that `gelora train` or PEFT wrote", folder.display())]
    Missing {
        /// Path of the folder.
        folder: PathBuf,
        /// Name of the missing file.
        missing: &'static str,
    },
    /// The tensors are in the format of older versions of PEFT, which runs code when it is read.
    #[error(
        "{} is a pickle of an older PEFT, which gelora does not read; write it as safetensors once: python -c \"import torch; \
         from safetensors.torch import save_file; save_file(torch.load('adapter_model.bin', map_location='cpu'), \
         'adapter_model.safetensors', {{'format': 'pt'}})\" in that folder", path.display()
    )]
    Pickled {
        /// Path of the file.
        path: PathBuf,
    },
    /// A value is infinite or not a number.
    #[error(
        "{} cannot be used: tensor `{}` holds {value}; the training diverged, or the file was damaged: train again, or \
         copy it again", path.display(), tensor.escape_debug()
    )]
    NotFinite {
        /// Path of the file.
        path: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// The value: NaN or an infinity.
        value: f32,
    },
    /// The content of a file in the folder is not valid.
    #[error("{} cannot be used: {reason}", path.display())]
    Malformed {
        /// Path of the file.
        path: PathBuf,
        /// What was found, and what to do.
        reason: String,
    },
    /// The trained factors are not those of the plan.
    #[error("module `{module}` {reason}; train again with this plan")]
    NotThePlan {
        /// Path of the module.
        module: String,
        /// What differs.
        reason: String,
    },
    /// PEFT's configuration cannot express the plan.
    #[error("the plan cannot be written as a PEFT configuration: {reason}")]
    Config {
        /// The reason, and the cure.
        reason: String,
    },
    /// A tensor file cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
}
