//! A model folder as Hugging Face lays it out, with the export in it.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Checkpoint, CheckpointError};
use crate::files::{FileError, read_file};

/// What belongs to a model.
#[derive(Debug)]
pub struct ModelFolder {
    /// The export.
    pub onnx: PathBuf,
    /// The folder of configuration, checkpoint and tokenizer: that of the export, or the one above a folder `onnx/`.
    pub folder: PathBuf,
    /// The checkpoint, if there is one.
    pub checkpoint: Option<Checkpoint>,
    /// `config.json`, if there is one.
    pub config: Option<Value>,
    /// `tokenizer.json`, if there is one.
    pub tokenizer: Option<PathBuf>,
}

impl ModelFolder {
    /// Opens a folder or an `.onnx` file. In a folder the export is `model.onnx`, `onnx/model.onnx` or the only `.onnx`
    /// file.
    ///
    /// # Errors
    /// When there is no export or more than one to choose from, or the checkpoint or `config.json` cannot be read.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let onnx = if path.is_dir() {
            export_in(path)?
        } else if path.exists() {
            path.to_owned()
        } else {
            return Err(CheckpointError::Missing { path: path.into() });
        };
        let folder = folder_of(&onnx);
        let config_path = folder.join("config.json");
        let config = if config_path.exists() {
            let bytes = read_file(&config_path)?;
            let malformed = |error: serde_json::Error| CheckpointError::Malformed {
                path: config_path.clone(),
                reason: error.to_string(),
            };
            Some(serde_json::from_slice(&bytes).map_err(malformed)?)
        } else {
            None
        };
        let tokenizer = Some(folder.join("tokenizer.json")).filter(|path| path.exists());
        Ok(ModelFolder { checkpoint: Checkpoint::open(&folder)?, onnx, config, tokenizer, folder })
    }

    /// Files that identify the base model: the export, its external data and the checkpoint, in this order, each once.
    pub fn weight_files(&self) -> Vec<PathBuf> {
        let mut files = vec![self.onnx.clone()];
        files.extend(self.checkpoint.iter().flat_map(|checkpoint| checkpoint.files()).map(|file| file.path.clone()));
        files
    }
}

fn folder_of(onnx: &Path) -> PathBuf {
    let own = match onnx.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    let above = own.parent().filter(|_| own.file_name().is_some_and(|name| name == "onnx"));
    match above {
        Some(above) if !own.join("config.json").exists() && above.join("config.json").exists() => above.to_owned(),
        _ => own,
    }
}

fn export_in(folder: &Path) -> Result<PathBuf, CheckpointError> {
    for name in ["model.onnx", "onnx/model.onnx"] {
        if folder.join(name).is_file() {
            return Ok(folder.join(name));
        }
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(FileError::new("read", folder))? {
        let path = entry.map_err(FileError::new("read", folder))?.path();
        if path.extension().is_some_and(|extension| extension == "onnx") {
            found.push(path);
        }
    }
    found.sort();
    match found.as_slice() {
        [] => Err(CheckpointError::NoExport { folder: folder.into() }),
        [one] => Ok(one.clone()),
        several => {
            let names = several.iter().filter_map(|path| path.file_name()).map(|name| name.to_string_lossy());
            let names = names.collect::<Vec<_>>().join(", ");
            Err(CheckpointError::SeveralExports { folder: folder.into(), names })
        }
    }
}
