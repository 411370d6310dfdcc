//! Merges base and adapter into a checkpoint folder and an ONNX file.
//!
//! `W + alpha / rank · B · A` is computed in float32 and rounded once to the stored type. The folder keeps the layout of the
//! base: the same files, tensors, names, types and bytes, except for those that the adapter changes.

mod base;
mod by_name;
mod checkpoint;
mod companions;
mod completeness;
mod error;
mod export;
mod finder;
mod folder;
mod journal;
mod layout;
mod leading;
mod output;
mod report;
mod residual;
mod saved;
mod settings;
mod several;
mod targets;
mod weights;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use ndarray::ArrayView2;

use crate::adapter::{AdapterFolder, Initialization, Provenance};
use crate::checkpoint::{CheckpointError, StoredTensor};
use crate::files::write_json;
use crate::onnx::{Model, Transformer};
use crate::progress::{Event, Observer};

pub use base::Base;
pub use error::MergeError;
pub use report::{MergeReport, MergedTensor, TensorChange, WeightedAdapter};
pub use settings::{MergeSettings, StoredType};
pub use weights::NotFinite;

use folder::NewFolder;
use journal::Journal;
use residual::{NoPart, Part};
use several::Named;
use targets::{Change, Target, Targets};
use weights::Refusal;

/// Name of the report in a merged folder.
pub const REPORT_FILE: &str = "gelora_merge.json";

/// Merges the adapter folder `adapter` into `base`; see [`merge_several`].
///
/// # Errors
/// As for [`merge_several`].
pub fn merge<'b>(
    base: impl Into<Base<'b>>,
    adapter: &Path,
    out: &Path,
    settings: &MergeSettings,
    observer: &dyn Observer,
) -> Result<MergeReport, MergeError> {
    merge_several(base, &[adapter], out, settings, observer)
}

/// Merges adapter folders into `base`, which gains the sum of their changes, each multiplied by its weight, and writes the result
/// to the folder `out`: checkpoint, configuration and tokenizer files, the merged export under its old name, and
/// `gelora_merge.json`. Memory does not grow with the model.
///
/// The folder is written beside `out` and takes its place at the end, at once. Files in an earlier merged folder that no merge
/// wrote are taken over. After a kill, the next merge of the same inputs keeps the checkpoint files that were finished.
///
/// # Errors
/// If an adapter belongs to another base, is incomplete, or changes a weight that has other uses too; if `out` may not be
/// replaced; or if a file cannot be read or written. `out` is then unchanged.
pub fn merge_several<'b>(
    base: impl Into<Base<'b>>,
    adapters: &[&Path],
    out: &Path,
    settings: &MergeSettings,
    observer: &dyn Observer,
) -> Result<MergeReport, MergeError> {
    let base = base.into();
    let weights = settings.weights_of(adapters.len())?;
    settings.check(base)?;
    let folders = adapters.iter().map(|path| AdapterFolder::read(path)).collect::<Result<Vec<_>, _>>()?;
    let pairs: Vec<(&Path, &AdapterFolder)> = adapters.iter().copied().zip(&folders).collect();
    let inputs = journal::inputs(base, &pairs, settings)?;
    let new = NewFolder::new(base, adapters, out, &inputs)?;
    observer.check()?;
    let model = base.onnx.map(Transformer::open).transpose()?;
    let mut warnings = Vec::new();
    let mut named = Vec::with_capacity(folders.len());
    for (path, folder) in pairs {
        warnings.extend(self::warnings(base, model.as_deref(), folder, settings, observer)?);
        let adapter = targets::named_as_base(base, model.as_ref(), folder)?;
        warnings.extend(completeness::lacking_biases(base, folder, &adapter));
        named.push(Named { path, folder, adapter });
    }
    let changes = several::sum(&named, &weights)?;
    let targets = match (&model, base.checkpoint) {
        (Some(model), _) => Targets::find(base, model, &named, &changes)?,
        (None, Some(checkpoint)) => Targets::by_name(base, checkpoint, &named, &changes)?,
        (None, None) => return Err(CheckpointError::NoWeights { folder: base.folder.into() }.into()),
    };
    warnings.extend(targets.warnings.iter().cloned());

    let mut journal = Journal::open(new.path(), &inputs);
    if journal.len() > 0 {
        let text = format!("{} files that an earlier merge had finished are taken over", journal.len());
        observer.observe(Event::Notice(&text));
    }
    observer.observe(Event::Begin { stage: "merging", total: Some(targets.steps()), done: 0, unit: "tensors" });
    let writing = Writing { observer, done: AtomicU64::new(0), refusal: Mutex::new(None), parts: Mutex::default() };
    let written = write_all(base, model.as_ref(), &targets, settings, new.path(), &writing, &mut journal);
    observer.observe(Event::End);
    // What stopped a write comes back as an I/O error: report the original reason.
    observer.check()?;
    if let Some(refusal) = writing.refusal.into_inner().unwrap_or_default() {
        return Err(refusal);
    }
    let (tensors, files, sha256) = written?;
    journal.close()?;
    let shown = |path: &Path| path.display().to_string();
    let plain = weights.iter().all(|weight| *weight == 1.0);
    let pairs = adapters.iter().zip(&weights);
    let weighted = pairs.clone().map(|(path, weight)| WeightedAdapter { path: shown(path), weight: *weight });
    let text = |(path, weight): (&&Path, &f64)| match plain {
        true => shown(path),
        false => format!("{weight} × {}", path.display()),
    };
    let report = MergeReport {
        format_version: report::FORMAT_VERSION,
        gelora_version: env!("CARGO_PKG_VERSION").into(),
        base: shown(base.folder),
        adapter: pairs.clone().map(text).collect::<Vec<_>>().join(" + "),
        adapters: if plain && adapters.len() == 1 { Vec::new() } else { weighted.collect() },
        added_head: targets.added_head.map(|pooling| pooling.as_str().to_owned()),
        files,
        sha256,
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

/// How the factors were initialised; several adapters are summed only if all are plain.
fn initialization(adapters: &[Named<'_>]) -> Initialization {
    adapters.first().map_or(Initialization::Plain, |named| named.folder.config.initialization)
}

/// Warnings for the user about base and adapter.
fn warnings(
    base: Base<'_>,
    model: Option<&Model>,
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

/// The changed tensors, the names of the files, and the hashes of those of the checkpoint.
type AllWritten = (Vec<MergedTensor>, Vec<String>, BTreeMap<String, String>);

/// Writes all files.
fn write_all(
    base: Base<'_>,
    model: Option<&Transformer>,
    targets: &Targets,
    settings: &MergeSettings,
    out: &Path,
    writing: &Writing,
    journal: &mut Journal,
) -> Result<AllWritten, MergeError> {
    let mut files = Vec::new();
    let written = checkpoint::write(base, targets, settings, out, writing, journal, &mut files)?;
    companions::copy(base, targets, settings, out, &mut files)?;
    let in_export = match model {
        Some(model) => export::write(base, model, targets, out, writing, &mut files)?,
        None => report::Changes::new(),
    };
    Ok((report::tensors(targets, written.changes, in_export), files, written.sha256))
}
