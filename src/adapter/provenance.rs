//! `gelora.json`: what an adapter was trained on. PEFT does not read it; merging does.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{AdapterError, Flavour};
use crate::files::read_file;
use crate::onnx::HeadPooling;

/// The name of the file.
pub const PROVENANCE_FILE: &str = "gelora.json";
/// The version of its format.
pub(super) const FORMAT_VERSION: u32 = 1;

/// What an adapter was trained on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// Version of this format.
    pub format_version: u32,
    /// Version of gelora that wrote it.
    pub gelora_version: String,
    /// SHA-256 of the `.onnx` file the plan was made for.
    pub onnx_sha256: String,
    /// Its external data files and the checkpoint files.
    pub files: Vec<BaseFile>,
    /// SHA-256 of the plan, as JSON without spaces; empty where there was none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub plan_sha256: String,
    /// How it was trained, where that is not LoRA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// How ranks are laid down.
    pub flavour: Flavour,
    /// The pooling of a head that training added to an export without one: `first`, `mean`, `last` or `tokens`.
    pub added_head: Option<String>,
    /// Names of the classes in the order of the logits; absent for regression, and in folders of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
    /// What the head is for (transformers' `problem_type`), where names or numbers alone do not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem_type: Option<String>,
    /// For every label the probability from which on a text has it, where that was chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thresholds: Option<Vec<f64>>,
}

/// A file of the base model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseFile {
    /// Its name without the folder.
    pub name: String,
    /// Its hash.
    pub sha256: String,
}

impl Provenance {
    /// Reads `gelora.json` of an adapter folder; `None` where PEFT or another tool wrote the folder.
    ///
    /// # Errors
    /// When the file is there and cannot be read, or is of a newer format.
    pub fn read(folder: &Path) -> Result<Option<Self>, AdapterError> {
        let path = folder.join(PROVENANCE_FILE);
        if !path.exists() {
            return Ok(None);
        }
        let bytes = read_file(&path)?;
        let malformed = |reason: String| AdapterError::Malformed { path: path.clone(), reason };
        let found: Self = serde_json::from_slice(&bytes)
            .map_err(|error| malformed(format!("{error}; delete it if the adapter is known to fit the base model")))?;
        if found.format_version > FORMAT_VERSION {
            return Err(malformed(format!("it is of format {}; update gelora", found.format_version)));
        }
        Ok(Some(found))
    }

    /// The pooling of an added head.
    ///
    /// # Errors
    /// When the file names one that does not exist.
    pub fn head_pooling(&self) -> Result<Option<HeadPooling>, AdapterError> {
        let malformed = |reason| AdapterError::Malformed { path: PROVENANCE_FILE.into(), reason };
        self.added_head.as_deref().map(|name| name.parse().map_err(malformed)).transpose()
    }
}
