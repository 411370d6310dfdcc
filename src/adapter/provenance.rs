//! `gelora.json`: the provenance of an adapter. PEFT does not read it; merging does.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{AdapterError, Flavour};
use crate::files::read_file;
use crate::onnx::HeadPooling;

/// Name of the file.
pub const PROVENANCE_FILE: &str = "gelora.json";
/// Version of the file format.
pub(super) const FORMAT_VERSION: u32 = 1;

/// The model and the settings that an adapter was trained with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// Version of the file format.
    pub format_version: u32,
    /// Version of gelora that wrote it.
    pub gelora_version: String,
    /// SHA-256 of the `.onnx` file that the plan was made for, in hex.
    pub onnx_sha256: String,
    /// The external data files of the export, and the checkpoint files.
    pub files: Vec<BaseFile>,
    /// SHA-256 of the plan as JSON without spaces, in hex; empty where there was no plan.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub plan_sha256: String,
    /// The training method, if it is not LoRA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// How ranks are written.
    pub flavour: Flavour,
    /// The pooling of a head that training added to an export without one: `first`, `mean`, `last` or `tokens`.
    pub added_head: Option<String>,
    /// Names of the classes in the order of the logits; absent for regression, and in folders of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
    /// The kind of problem that the head solves (transformers' `problem_type`), where names or numbers alone do not show it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem_type: Option<String>,
    /// For every label the probability threshold from which a text has it, where thresholds were chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thresholds: Option<Vec<f64>>,
}

/// A file of the base model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseFile {
    /// File name, without the folder.
    pub name: String,
    /// SHA-256 of the file, in hex.
    pub sha256: String,
}

impl Provenance {
    /// Reads `gelora.json` of an adapter folder; `None` where PEFT or another tool wrote the folder.
    ///
    /// # Errors
    /// If the file exists and cannot be read, or its format is newer.
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
    /// If the file names a pooling that does not exist.
    pub fn head_pooling(&self) -> Result<Option<HeadPooling>, AdapterError> {
        let malformed = |reason| AdapterError::Malformed { path: PROVENANCE_FILE.into(), reason };
        self.added_head.as_deref().map(|name| name.parse().map_err(malformed)).transpose()
    }
}
