//! Merges base and adapter into a checkpoint folder and an ONNX file.
//!
//! `W + alpha / rank · B · A` is computed in float32 and rounded once to the stored type. The folder keeps the layout of the
//! base: the same files, tensors, names, types and bytes, except for those that the adapter changes.

mod base;
mod checkpoint;
mod error;
mod export;
mod finder;
mod folder;
mod leading;
mod report;
mod residual;
mod saved;
mod targets;
mod weights;

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use ndarray::ArrayView2;

use crate::adapter::{AdapterFolder, Initialization, Provenance};
use crate::checkpoint::{ModelFolder, StoredTensor};
use crate::files::write_json;
use crate::onnx::{Model, Transformer};
use crate::progress::{Event, Observer};

pub use error::MergeError;
pub use report::{MergeReport, MergedTensor, TensorChange};
pub use weights::NotFinite;

use folder::NewFolder;
use residual::{NoPart, Part};
use targets::{Change, Target, Targets};
use weights::Refusal;

/// Name of the report in a merged folder.
pub const REPORT_FILE: &str = "gelora_merge.json";

/// Settings of a merge.
#[derive(Debug, Clone, Copy, Default)]
pub struct MergeSettings {
    /// Whether the base may differ from the one the adapter was trained with.
    pub base_changed: bool,
}

/// Merges the adapter folder `adapter` into `base` and writes the result to the folder `out`: checkpoint, configuration and
/// tokenizer files, the merged export under its old name, and `gelora_merge.json`. Memory does not grow with the model.
///
/// The folder is written beside `out` and takes its place at the end, at once. Files in an earlier merged folder that no merge
/// wrote are taken over.
///
/// # Errors
/// If the adapter belongs to another base, is incomplete, or changes a weight that has other uses too; if `out` may not be
/// replaced; or if a file cannot be read or written. `out` is then unchanged.
pub fn merge(
    base: &ModelFolder,
    adapter: &Path,
    out: &Path,
    settings: &MergeSettings,
    observer: &dyn Observer,
) -> Result<MergeReport, MergeError> {
    let folder = AdapterFolder::read(adapter)?;
    let new = NewFolder::new(base, adapter, out)?;
    observer.check()?;
    let model = Transformer::open(&base.onnx)?;
    let mut warnings = warnings(base, &model, &folder, settings, observer)?;
    let changes = targets::named_as_base(base, &model, &folder)?;
    let targets = Targets::find(base, &model, adapter, &folder, &changes)?;
    warnings.extend(targets.warnings.iter().cloned());

    let steps = targets.steps();
    observer.observe(Event::Begin { stage: "merging", total: Some(steps), done: 0, unit: "tensors" });
    let writing = Writing { observer, done: AtomicU64::new(0), refusal: Mutex::new(None), parts: Mutex::default() };
    let written = write_all(base, &model, &targets, new.path(), &writing);
    observer.observe(Event::End);
    // What stopped a write comes back as an I/O error: report the original reason.
    observer.check()?;
    if let Some(refusal) = writing.refusal.into_inner().unwrap_or_default() {
        return Err(refusal);
    }
    let (tensors, files) = written?;
    let report = MergeReport {
        format_version: report::FORMAT_VERSION,
        gelora_version: env!("CARGO_PKG_VERSION").into(),
        base: base.folder.display().to_string(),
        adapter: adapter.display().to_string(),
        added_head: targets.added_head.map(|pooling| pooling.as_str().to_owned()),
        files,
        tensors,
        warnings,
    };
    write_json(&new.path().join(REPORT_FILE), &report)?;
    let kept = new.finish()?;
    if kept > 0 {
        let text = format!("{kept} files in {} that no merge wrote stay there", out.display());
        observer.observe(Event::Notice(&text));
    }
    Ok(report)
}

/// Warnings for the user about base and adapter.
fn warnings(
    base: &ModelFolder,
    model: &Model,
    folder: &AdapterFolder,
    settings: &MergeSettings,
    observer: &dyn Observer,
) -> Result<Vec<String>, MergeError> {
    let mut warnings = Vec::new();
    if let Some(provenance) = &folder.provenance {
        let changed = base::changed_files(base, model, provenance, observer)?;
        if !changed.is_empty() && !settings.base_changed {
            return Err(MergeError::OtherBase { files: changed.join(", ") });
        }
        warnings.extend(changed.into_iter().map(|file| {
            format!("{file} differs from what the adapter was trained with: the merged model is not the one that was trained")
        }));
    }
    if folder.config.initialization == Initialization::LoraGa {
        warnings.push(
            "`init_lora_weights` is lora_ga, whose training starts from a changed base: this is what PEFT gives when it loads the \
             adapter over this base; if it was saved without `path_initial_model_for_weight_conversion`, it is not the model that \
             was trained"
                .into(),
        );
    }
    Ok(warnings)
}

/// A merge in progress: its observer, and the reason why a tensor could not be written.
struct Writing<'a> {
    observer: &'a dyn Observer,
    done: AtomicU64,
    refusal: Mutex<Option<MergeError>>,
    /// The parts taken out of the weights of the checkpoint, by [`Target::place`].
    parts: Mutex<HashMap<String, Arc<Part>>>,
}

impl Writing<'_> {
    /// Reports the next tensor.
    fn step(&self, name: &str) -> io::Result<()> {
        self.observer.check().map_err(io::Error::other)?;
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        self.observer.observe(Event::Advance { done, detail: name });
        Ok(())
    }

    /// The part that is taken out of a weight.
    fn part(&self, target: &Target, weight: ArrayView2<f32>) -> Result<Option<Arc<Part>>, NoPart> {
        let Change::Factors(factors) = target.change else { return Ok(None) };
        let scale = (factors.rank(), factors.scaling());
        Ok(Part::of(weight, scale, target.initialization, self.observer)?.map(Arc::new))
    }

    /// The part that is taken out of a weight of the checkpoint, kept for the export.
    fn part_of_checkpoint(&self, target: &Target, weight: ArrayView2<f32>) -> Result<Option<Arc<Part>>, NoPart> {
        let part = self.part(target, weight)?;
        if let (Some(part), Ok(mut parts)) = (&part, self.parts.lock()) {
            parts.insert(target.place(), Arc::clone(part));
        }
        Ok(part)
    }

    /// The part that is taken out of a weight of the export: that of the checkpoint if there is one, because decomposing is slow.
    fn part_of_export(
        &self,
        target: &Target,
        place: &StoredTensor,
        weight: ArrayView2<f32>,
    ) -> Result<Option<Arc<Part>>, NoPart> {
        let known = self.parts.lock().ok().and_then(|parts| parts.get(&target.place()).cloned());
        match known.filter(|_| place.of_checkpoint) {
            Some(part) => Ok(Some(part)),
            None => self.part(target, weight),
        }
    }

    /// Keeps the reason, and returns an error that ends the write.
    fn refuse(&self, file: &Path, what: &'static str, tensor: &str, refusal: Refusal) -> io::Error {
        let error = io::Error::other(refusal.to_string());
        let (file, tensor) = (file.to_owned(), tensor.to_owned());
        let refusal = match refusal {
            Refusal::NotFinite(found) => MergeError::NotFinite { file, what, tensor, found },
            other => MergeError::NotMergeable { file, what, tensor, reason: other.to_string() },
        };
        if let Ok(mut kept) = self.refusal.lock() {
            kept.get_or_insert(refusal);
        }
        error
    }
}

/// Whether the classes are named 0, 1, 2 …: then the base may have better names.
fn are_numbers(names: &[String]) -> bool {
    names.iter().enumerate().all(|(class, name)| *name == class.to_string())
}

/// The labels that the adapter was trained with, if they are more than numbers.
fn labels(provenance: Option<&Provenance>) -> Option<Vec<String>> {
    provenance.and_then(|provenance| provenance.labels.clone()).filter(|names| !are_numbers(names))
}

/// Writes all files.
fn write_all(
    base: &ModelFolder,
    model: &Transformer,
    targets: &Targets,
    out: &Path,
    writing: &Writing,
) -> Result<(Vec<MergedTensor>, Vec<String>), MergeError> {
    let mut files = Vec::new();
    let in_checkpoint = checkpoint::write(base, targets, out, writing, &mut files)?;
    checkpoint::copy_companions(base, targets, out, &mut files)?;
    let in_export = export::write(base, model, targets, out, writing, &mut files)?;
    Ok((report::tensors(targets, in_checkpoint, in_export), files))
}
