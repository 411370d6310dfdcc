//! The adapter that training starts from.

use std::path::Path;

use super::WorkflowError;
use crate::adapter::Provenance;
use crate::hint::Hint;
use crate::rank::Plan;

/// Refuses a starting adapter that belongs to another export, or whose head reads another vector: its values would be
/// misinterpreted. One written by PEFT records neither, and is accepted.
pub(super) fn check_start(folder: &Path, plan: &Plan, head: Option<&str>) -> Result<(), WorkflowError> {
    let Some(known) = Provenance::read(folder)? else { return Ok(()) };
    if known.onnx_sha256 != plan.model.onnx_sha256 {
        return Err(WorkflowError::Start(format!(
            "the adapter in {} was trained on another export than {}; start from one of this export, or leave {} out",
            folder.display(),
            plan.model.onnx,
            Hint::Start
        )));
    }
    let in_words =
        |head: Option<&str>| head.map_or("the export's own".to_owned(), |head| format!("one that reads the {head}"));
    if known.added_head.as_deref() != head {
        return Err(WorkflowError::Start(format!(
            "the head of the adapter in {} is {}, and {} is wanted; give the same {}, or leave {} out",
            folder.display(),
            in_words(known.added_head.as_deref()),
            in_words(head),
            Hint::Head,
            Hint::Start
        )));
    }
    Ok(())
}
