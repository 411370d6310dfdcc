//! Base and adapter become a checkpoint folder and an ONNX file.
//!
//! `W + alpha / rank · B · A` is computed in float32 and rounded once to the stored type. The folder keeps the layout of the
//! base: the same files, tensors, names, types and bytes, apart from those that the adapter changes.

mod base;
mod checkpoint;
mod error;
mod export;
mod report;
mod targets;
mod weights;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::adapter::{Provenance, read};
use crate::checkpoint::ModelFolder;
use crate::files::write_json;
use crate::onnx::{HiddenStates, Model};
use crate::progress::{Event, Observer};

pub use error::MergeError;
pub use report::{MergeReport, MergedTensor, TensorChange};

use targets::Targets;

/// The report that stands in a merged folder.
pub const REPORT_FILE: &str = "gelora_merge.json";

/// Merges the adapter folder `adapter` into `base` and writes the result to the folder `out`: checkpoint, configuration and
/// tokenizer files, the merged export under its old name, and `gelora_merge.json`. Memory does not grow with the model.
///
/// # Errors
/// When the adapter belongs to another base, changes a weight that serves other purposes too, or a file cannot be read or
/// written. Files that were complete in `out` stay.
pub fn merge(
    base: &ModelFolder,
    adapter: &Path,
    out: &Path,
    observer: &dyn Observer,
) -> Result<MergeReport, MergeError> {
    base::refuse_same_folder(base, out)?;
    let provenance = Provenance::read(adapter)?;
    let changes = read(adapter)?;
    observer.check()?;
    if let Some(provenance) = &provenance {
        base::check(base, provenance, observer)?;
    }
    let model = Model::open(&base.onnx)?;
    let states = HiddenStates::find(&model)?;
    let pooling = provenance.as_ref().map(Provenance::head_pooling).transpose()?.flatten();
    let names = provenance.and_then(|provenance| provenance.labels).filter(|names| !are_numbers(names));
    let targets = Targets { labels: names, ..Targets::find(base, &model, &states, &changes, pooling)? };

    let steps = targets.steps();
    observer.observe(Event::Begin { stage: "merging", total: Some(steps), done: 0, unit: "tensors" });
    let done = AtomicU64::new(0);
    let step = |name: &str| -> std::io::Result<()> {
        observer.check().map_err(std::io::Error::other)?;
        observer.observe(Event::Advance { done: done.fetch_add(1, Ordering::Relaxed) + 1, detail: name });
        Ok(())
    };
    let written = write_all(base, &model, &targets, out, &step);
    observer.observe(Event::End);
    // A cancelled write comes back as an I/O error: say what it was.
    observer.check()?;
    let (tensors, files) = written?;
    let report = MergeReport {
        format_version: report::FORMAT_VERSION,
        gelora_version: env!("CARGO_PKG_VERSION").into(),
        base: base.folder.display().to_string(),
        adapter: adapter.display().to_string(),
        added_head: pooling.map(|pooling| pooling.as_str().to_owned()),
        files,
        tensors,
        warnings: targets.warnings.clone(),
    };
    write_json(&out.join(REPORT_FILE), &report)?;
    Ok(report)
}

/// Whether the classes are called 0, 1, 2 …: then the base may know better names.
fn are_numbers(names: &[String]) -> bool {
    names.iter().enumerate().all(|(class, name)| *name == class.to_string())
}

/// Writes everything; the export comes last, so that a folder with an export is a whole one.
fn write_all(
    base: &ModelFolder,
    model: &Model,
    targets: &Targets,
    out: &Path,
    step: &(dyn Fn(&str) -> std::io::Result<()> + Sync),
) -> Result<(Vec<MergedTensor>, Vec<String>), MergeError> {
    let mut files = Vec::new();
    let in_checkpoint = checkpoint::write(base, targets, out, step, &mut files)?;
    checkpoint::copy_companions(base, targets, out, &mut files)?;
    let in_export = export::write(base, model, targets, out, step, &mut files)?;
    Ok((report::tensors(targets, in_checkpoint, in_export), files))
}
