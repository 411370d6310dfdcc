//! A model folder as Hugging Face lays it out, with the export in it.

use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use super::{Checkpoint, CheckpointError};
use crate::files::{FileError, read_file};

/// The files that belong to a model.
#[derive(Debug)]
pub struct ModelFolder {
    /// Path of the `.onnx` file.
    pub onnx: PathBuf,
    /// The folder of the checkpoint: that of the export, or the one above a folder `onnx/`.
    pub folder: PathBuf,
    /// The checkpoint, if present.
    pub checkpoint: Option<Checkpoint>,
    /// Contents of `config.json`, if present: the one beside the export, else that of the folder.
    pub config: Option<Value>,
    /// Path of `tokenizer.json`, if present.
    pub tokenizer: Option<PathBuf>,
}

impl ModelFolder {
    /// Opens a folder or an `.onnx` file. In a folder the export is `model.onnx`, `onnx/model.onnx`, or the only `.onnx` file
    /// in it or in its folder `onnx`.
    ///
    /// Checkpoint, configuration and tokenizer lie beside the export, or above its folder `onnx`; each is looked up
    /// separately, since some tools put copies of only some of them beside the export.
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
        let places = places_of(&onnx);
        let holding = |names: &[&str]| places.iter().find(|place| names.iter().any(|name| place.join(name).is_file()));
        let folder = holding(&WEIGHTS).or_else(|| holding(&["config.json"])).unwrap_or(&places[0]).clone();
        let config = holding(&["config.json"]).map(|place| read_config(&place.join("config.json"))).transpose()?;
        let tokenizer = holding(&["tokenizer.json"]).map(|place| place.join("tokenizer.json"));
        Ok(ModelFolder { checkpoint: Checkpoint::open(&folder)?, onnx, config, tokenizer, folder })
    }
}

/// A checkpoint and its configuration, without an export.
#[derive(Debug)]
pub struct CheckpointFolder {
    /// Path of the folder.
    pub folder: PathBuf,
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// Contents of `config.json`, if present.
    pub config: Option<Value>,
}

impl CheckpointFolder {
    /// Opens the checkpoint of a folder, whatever exports the folder has.
    ///
    /// # Errors
    /// When the folder has no `model.safetensors` and no shards, or they or `config.json` cannot be read.
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        if !folder.exists() {
            return Err(CheckpointError::Missing { path: folder.into() });
        }
        let no_weights = || CheckpointError::NoWeights { folder: folder.into() };
        let checkpoint = Checkpoint::open(folder)?.ok_or_else(no_weights)?;
        let config = Some(folder.join("config.json")).filter(|path| path.is_file());
        let config = config.map(|path| read_config(&path)).transpose()?;
        Ok(CheckpointFolder { folder: folder.into(), checkpoint, config })
    }
}

fn read_config(path: &Path) -> Result<Value, CheckpointError> {
    let malformed =
        |error: serde_json::Error| CheckpointError::Malformed { path: path.into(), reason: error.to_string() };
    serde_json::from_slice(&read_file(path)?).map_err(malformed)
}

/// Files that mark a folder as that of a checkpoint.
const WEIGHTS: [&str; 2] = ["model.safetensors.index.json", "model.safetensors"];

/// The folder of exports in a repository of the Hugging Face Hub.
const EXPORTS: &str = "onnx";

/// Folders where the files of an export may be: its own, and the one above a folder `onnx` that contains it.
fn places_of(onnx: &Path) -> Vec<PathBuf> {
    let own = match onnx.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    // A folder with a model of its own does not belong to a repository above it.
    let whole = ["config.json"].iter().chain(&WEIGHTS).any(|name| own.join(name).is_file());
    let depth = |path: &Path| depth_of_exports(path).filter(|depth| *depth == 0 || !whole);
    // The path as given comes first: `onnx` may be a link to elsewhere. For a path given as `.`, the name is in the full
    // path.
    let above = match depth(&own) {
        // Not `onnx/..`, which would lead above the target of a link.
        Some(depth) => own.ancestors().nth(depth + 1).map(|above| match above.as_os_str().is_empty() {
            true => PathBuf::from("."),
            false => above.to_owned(),
        }),
        None => {
            let full = own.canonicalize().unwrap_or_else(|_| own.clone());
            depth(&full).map(|depth| own.join(["..", "../.."][depth]))
        }
    };
    std::iter::once(own).chain(above).collect()
}

/// How far above the end of a path its folder `onnx` is: 0 for `onnx`, 1 for `onnx/fp16`. `None` where there is none, or
/// where `..` leaves it open which folder the path ends in.
fn depth_of_exports(path: &Path) -> Option<usize> {
    let names = path.components().rev().take(2).map_while(|part| match part {
        Component::Normal(name) => Some(name),
        _ => None,
    });
    names.into_iter().position(|name| name == EXPORTS)
}

fn export_in(folder: &Path) -> Result<PathBuf, CheckpointError> {
    let inner = folder.join(EXPORTS);
    for path in [folder.join("model.onnx"), inner.join("model.onnx")] {
        if path.is_file() {
            return Ok(path);
        }
    }
    let mut found = exports(folder)?;
    if found.is_empty() {
        found = deeper(&inner)?;
    }
    match found.as_slice() {
        [] => {
            let others = deeper(folder)?;
            let others =
                if others.is_empty() { String::new() } else { format!(" itself, but {}", names(folder, &others)) };
            Err(CheckpointError::NoExport { folder: folder.into(), others })
        }
        [one] => Ok(one.clone()),
        several => Err(CheckpointError::SeveralExports { folder: folder.into(), names: names(folder, several) }),
    }
}

/// The exports in a folder and in its subfolders.
fn deeper(folder: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut found = exports(folder)?;
    for path in entries(folder)? {
        if path.is_dir() {
            found.extend(exports(&path)?);
        }
    }
    Ok(found)
}

/// The `.onnx` files of a folder, sorted by name.
fn exports(folder: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    // macOS keeps `._model.onnx` beside a file on other file systems.
    let hidden = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("._"));
    let is_export = |path: &PathBuf| {
        path.extension().is_some_and(|extension| extension == "onnx") && path.is_file() && !hidden(path)
    };
    Ok(entries(folder)?.into_iter().filter(is_export).collect())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(FileError::new("read", folder))? {
        found.push(entry.map_err(FileError::new("read", folder))?.path());
    }
    found.sort();
    Ok(found)
}

/// The names of paths relative to a folder.
fn names(folder: &Path, paths: &[PathBuf]) -> String {
    let name = |path: &PathBuf| path.strip_prefix(folder).unwrap_or(path).display().to_string();
    paths.iter().map(name).collect::<Vec<_>>().join(", ")
}
