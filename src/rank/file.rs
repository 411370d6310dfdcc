//! Reading and writing `plan.json`.

use std::path::Path;

use super::{Plan, PlanFault, RankError};
use crate::files::{read_text, write_json};

/// The plan format that this version writes.
pub const FORMAT_VERSION: u32 = 2;

/// The oldest plan format that this version reads. Format 1 has other names for three fields of a hidden state.
pub const OLDEST_FORMAT: u32 = 1;

impl Plan {
    /// Reads a plan.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, is not a plan, has another format version, or is inconsistent
    /// ([`Plan::check`]).
    pub fn read(path: &Path) -> Result<Self, RankError> {
        let text = read_text(path)?;
        let not_a_plan = |reason: String| RankError::NotAPlan { path: path.to_owned(), reason };
        let value: serde_json::Value = serde_json::from_str(&text).map_err(|error| not_a_plan(error.to_string()))?;
        // The version comes first: a plan of another format may lack any other field.
        let version = value.get("format_version").and_then(serde_json::Value::as_u64);
        let version = version.ok_or_else(|| not_a_plan("it has no format_version".into()))?;
        if !(u64::from(OLDEST_FORMAT)..=u64::from(FORMAT_VERSION)).contains(&version) {
            return Err(RankError::Version {
                path: path.to_owned(),
                found: u32::try_from(version).unwrap_or(u32::MAX),
            });
        }
        // Parsed from the text, so that an error names its line.
        let mut plan: Self = serde_json::from_str(&text).map_err(|error| not_a_plan(error.to_string()))?;
        plan.check().map_err(|fault| RankError::fault(path, &text, fault))?;
        // Recomputed from the ranks, which may have been edited.
        plan.adapter_parameters = plan.count_parameters();
        Ok(plan)
    }

    /// Writes the plan in the newest format, whole or not at all.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), RankError> {
        Ok(write_json(path, &Self { format_version: FORMAT_VERSION, ..self.clone() })?)
    }

    /// Whether the plan belongs to the model with this SHA-256 of its `.onnx` file.
    ///
    /// # Errors
    /// Returns an error if it belongs to another model.
    pub fn verify_model(&self, onnx_sha256: &str) -> Result<(), RankError> {
        if self.model.onnx_sha256 == onnx_sha256 {
            return Ok(());
        }
        Err(RankError::OtherModel {
            file: self.model.onnx.clone(),
            expected: self.model.onnx_sha256.clone(),
            found: onnx_sha256.to_owned(),
        })
    }
}

impl RankError {
    /// The error for a fault of the plan in this file, with its line.
    pub fn in_plan(path: &Path, fault: PlanFault) -> Self {
        Self::fault(path, &read_text(path).unwrap_or_default(), fault)
    }

    fn fault(path: &Path, text: &str, fault: PlanFault) -> Self {
        Self::Fault { path: path.to_owned(), line: fault.line(text), fault }
    }
}
