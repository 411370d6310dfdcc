//! Writes the merged export: a copy in which only the bytes of the adapted weights and of the head differ.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Mutex;

use ndarray::ArrayView2;

use super::report::Changes;
use super::targets::{Change, Targets, unchanged};
use super::weights::Rows;
use super::{Base, MergeError, Writing};
use crate::adapter::SavedTensor;
use crate::checkpoint::{CheckpointError, ElementType, StoredTensor, own_head};
use crate::onnx::{DataType, Edit, Model, OnnxError, Transformer, append_head};

/// Writes the export to the same path relative to `out` as it has in the base folder.
pub(super) fn write(
    base: Base<'_>,
    model: &Transformer,
    targets: &Targets,
    out: &Path,
    writing: &Writing,
    files: &mut Vec<String>,
) -> Result<Changes, MergeError> {
    let changes = Mutex::new(Changes::new());
    let mut edit = Edit::new();
    for target in &targets.list {
        for place in &target.places {
            let tensor = &model.graph.initializers[place.index];
            let change = target.change;
            let changes = &changes;
            let element_type = stored_type(model, place)?;
            let produce = move || {
                writing.step(&place.initializer)?;
                let stored = model.bytes(tensor).map_err(io::Error::other)?;
                let types = (&element_type, &element_type);
                let merged = match change {
                    Change::Factors(factors) => {
                        let part = |weight: ArrayView2<f32>| writing.part_of_export(target, place, weight);
                        let has_part = target.initialization.changes_the_base();
                        let rows = Rows::sum(stored, types, factors, place.transposed, has_part, part);
                        rows.and_then(|rows| rows.whole())
                    }
                    Change::Values(saved) => {
                        let values = values(saved, place.transposed);
                        Rows::replaced(stored, types, &values).and_then(|rows| rows.whole())
                    }
                };
                let refused = |refusal| writing.refuse(model.path(), "initializer", &place.initializer, refusal);
                let (bytes, change) = merged.map_err(refused)?;
                if let Ok(mut changes) = changes.lock() {
                    changes.insert(place.initializer.clone(), change);
                }
                Ok(bytes)
            };
            edit.replace_tensor_with(model, tensor, Box::new(produce))?;
        }
    }
    add_head(base, model, targets, &mut edit)?;
    let relative = model.path().strip_prefix(base.folder).unwrap_or(Path::new("model.onnx"));
    edit.write(model, &out.join(relative))?;
    files.push(relative.display().to_string());
    // External data is relative to the export; the list is relative to the folder.
    let beside = relative.parent().unwrap_or(Path::new(""));
    let external = model.external_files().iter().map(|external| relative_path(&beside.join(&external.location)));
    files.extend(external.map(|path| path.display().to_string()));
    drop(edit);
    Ok(changes.into_inner().unwrap_or_default())
}

/// A relative path without `.` components, in the form in which the files of a folder are listed.
fn relative_path(path: &Path) -> PathBuf {
    path.components().filter(|part| *part != Component::CurDir).collect()
}

fn stored_type(model: &Model, place: &StoredTensor) -> Result<ElementType, MergeError> {
    let tensor = &model.graph.initializers[place.index];
    Ok(match tensor.data_type {
        DataType::Float => ElementType::F32,
        DataType::Float16 => ElementType::F16,
        DataType::BFloat16 => ElementType::Bf16,
        DataType::Double => ElementType::F64,
        other => {
            let found = other.name().to_owned();
            return Err(CheckpointError::NotFloat { tensor: tensor.name.clone(), found }.into());
        }
    })
}

/// The values of a saved tensor in the layout of the export.
fn values(saved: &SavedTensor, transposed: bool) -> Vec<f32> {
    match transposed {
        true => saved.values.t().iter().copied().collect(),
        false => saved.values.iter().copied().collect(),
    }
}

/// Adds what the export lacks of the head: all of a new head, or tensors that the exporter shared or left out.
fn add_head(base: Base<'_>, model: &Transformer, targets: &Targets, edit: &mut Edit) -> Result<(), MergeError> {
    let saved = |name: &str| {
        targets.list.iter().find_map(|target| match target.change {
            Change::Values(saved) if target.name == name => Some(saved),
            _ => None,
        })
    };
    if let Some(pooling) = targets.added_head {
        let (Some(weight), Some(bias)) = (saved("classifier.weight"), saved("classifier.bias")) else {
            let reason = "the adapter's new head has no `classifier.weight` and `classifier.bias`".into();
            return Err(OnnxError::Edit { path: model.path().into(), reason }.into());
        };
        edit.extend(append_head(model, pooling, &values(weight, false), &values(bias, false))?);
        return Ok(());
    }
    let handled = RefCell::new(BTreeSet::new());
    if let Some(checkpoint) = base.checkpoint {
        let trained = |name: &str| {
            let saved = saved(name).filter(|saved| !unchanged(Some(checkpoint), saved))?;
            handled.borrow_mut().insert(name.to_owned());
            Some(values(saved, false))
        };
        edit.extend(own_head(model, checkpoint, &trained)?);
    }
    for target in &targets.list {
        let Change::Values(saved) = target.change else { continue };
        let placed = !target.places.is_empty() || handled.borrow().contains(&target.name);
        if !placed && !unchanged(base.checkpoint, saved) {
            let reason = format!(
                "it has no constant that is `{}`, which was trained whole (modules_to_save); export the model with the outputs \
                 that need it (logits), or merge with PEFT and export that model",
                target.name
            );
            return Err(MergeError::Saved { onnx: model.path().into(), reason });
        }
    }
    Ok(())
}
