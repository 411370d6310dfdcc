//! Writes the merged checkpoint: the same files with the same headers, only the bytes of changed tensors are new. A head
//! that training added is appended to the last file.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde_json::{Value, json};

use super::report::Changes;
use super::targets::{Change, Target, Targets};
use super::weights::{add, delta, replace};
use super::{MergeError, REPORT_FILE};
use crate::checkpoint::{Checkpoint, CheckpointFile, ElementType, ModelFolder, TensorInfo, from_f32};
use crate::files::{FileError, read_file, write_atomically, write_json};

/// Configuration and tokenizer files are small; anything larger is somebody's weights.
const LARGEST_COMPANION: u64 = 100_000_000;

type Step<'s> = &'s (dyn Fn(&str) -> io::Result<()> + Sync);

/// Writes the checkpoint files and their index.
pub(super) fn write(
    base: &ModelFolder,
    targets: &Targets,
    out: &Path,
    step: Step,
    files: &mut Vec<String>,
) -> Result<Changes, MergeError> {
    let Some(checkpoint) = &base.checkpoint else { return Ok(Changes::new()) };
    let changes = Mutex::new(Changes::new());
    let new: Vec<&Target> = targets.list.iter().filter(|target| checkpoint.tensor(&target.name).is_none()).collect();
    for (index, file) in checkpoint.files().iter().enumerate() {
        let name = file.path.file_name().unwrap_or_default();
        let tensors: Vec<&TensorInfo> = checkpoint.tensors().iter().filter(|tensor| tensor.file == index).collect();
        let appended: &[&Target] = if index + 1 == checkpoint.files().len() { &new } else { &[] };
        write_atomically(&out.join(name), |writer| {
            write_header(writer, file, appended)?;
            write_tensors(writer, file, &tensors, targets, step, &changes)?;
            appended.iter().try_for_each(|target| {
                step(&target.name)?;
                writer.write_all(&new_bytes(target)?)
            })
        })?;
        files.push(name.to_string_lossy().into_owned());
    }
    if let Some(index) = checkpoint.index() {
        files.push(write_index(index, checkpoint, &new, out)?);
    }
    Ok(changes.into_inner().unwrap_or_default())
}

/// The header as it was, with the new tensors behind the others.
fn write_header(writer: &mut impl Write, file: &CheckpointFile, appended: &[&Target]) -> io::Result<()> {
    let old = &file.bytes()[..file.data_start];
    if appended.is_empty() {
        return writer.write_all(old);
    }
    let mut header: serde_json::Map<String, Value> = serde_json::from_slice(&old[8..])?;
    let mut offset = file.bytes().len() - file.data_start;
    for target in appended {
        let Change::Values(saved) = target.change else { continue };
        let end = offset + 4 * saved.values.len();
        let entry = json!({"dtype": "F32", "shape": saved.values.shape(), "data_offsets": [offset, end]});
        header.insert(target.name.clone(), entry);
        offset = end;
    }
    let mut text = serde_json::to_vec(&header)?;
    text.resize(text.len().next_multiple_of(8), b' ');
    writer.write_all(&(text.len() as u64).to_le_bytes())?;
    writer.write_all(&text)
}

fn write_tensors(
    writer: &mut impl Write,
    file: &CheckpointFile,
    tensors: &[&TensorInfo],
    targets: &Targets,
    step: Step,
    changes: &Mutex<Changes>,
) -> io::Result<()> {
    let bytes = file.bytes();
    let mut position = file.data_start;
    for tensor in tensors {
        // Several, where the checkpoint stores several matrices as one.
        let mut of_tensor = targets.list.iter().filter(|target| target.name == tensor.name).peekable();
        if of_tensor.peek().is_none() {
            continue;
        }
        writer.write_all(&bytes[position..tensor.range.start])?;
        let mut merged = bytes[tensor.range.clone()].to_vec();
        for target in of_tensor {
            step(&target.name)?;
            let part = target.bytes_of(tensor);
            let stored = &merged[part.clone()];
            let new = match target.change {
                Change::Factors(factors) => {
                    add(stored, &tensor.element_type, delta(factors).view(), target.stored_in_out)
                }
                Change::Values(saved) => {
                    let values: Vec<f32> = saved.values.iter().copied().collect();
                    replace(stored, &tensor.element_type, &values)
                }
            };
            let refused = || io::Error::other(format!("`{}` is not floating-point", tensor.name));
            let (new, change) = new.ok_or_else(refused)?;
            merged[part].copy_from_slice(&new);
            if let Ok(mut changes) = changes.lock() {
                changes.insert(target.place(), change);
            }
        }
        writer.write_all(&merged)?;
        position = tensor.range.end;
    }
    writer.write_all(&bytes[position..])
}

fn new_bytes(target: &Target) -> io::Result<Vec<u8>> {
    let Change::Values(saved) = target.change else {
        return Err(io::Error::other(format!("the checkpoint has no `{}`", target.name)));
    };
    let values: Vec<f32> = saved.values.iter().copied().collect();
    from_f32(&values, &ElementType::F32).ok_or_else(|| io::Error::other("float32 is a float type"))
}

/// The index as it was; new tensors are in the last shard.
fn write_index(index: &Path, checkpoint: &Checkpoint, new: &[&Target], out: &Path) -> Result<String, MergeError> {
    let name = index.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let bytes = read_file(index)?;
    let target = out.join(&name);
    if new.is_empty() {
        write_atomically(&target, |writer| writer.write_all(&bytes))?;
        return Ok(name);
    }
    let mut value: Value = serde_json::from_slice(&bytes).map_err(|error| {
        crate::checkpoint::CheckpointError::Malformed { path: index.into(), reason: error.to_string() }
    })?;
    let shard = checkpoint.files().last().and_then(|file| file.path.file_name());
    for tensor in new {
        value["weight_map"][&tensor.name] = json!(shard.unwrap_or_default().to_string_lossy());
    }
    let more: u64 = new.iter().filter_map(|target| Some(4 * values_of(target)? as u64)).sum();
    if let Some(total) = value["metadata"]["total_size"].as_u64() {
        value["metadata"]["total_size"] = json!(total + more);
    }
    write_json(&target, &value)?;
    Ok(name)
}

fn values_of(target: &Target) -> Option<usize> {
    match target.change {
        Change::Values(saved) => Some(saved.values.len()),
        Change::Factors(_) => None,
    }
}

/// Copies what belongs to the model beside its weights: configuration, tokenizer, vocabulary, licence texts.
pub(super) fn copy_companions(
    base: &ModelFolder,
    targets: &Targets,
    out: &Path,
    files: &mut Vec<String>,
) -> Result<(), MergeError> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(&base.folder).map_err(FileError::new("read", &base.folder))? {
        paths.push(entry.map_err(FileError::new("read", &base.folder))?.path());
    }
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let known = ["json", "txt", "model", "jinja", "md", "py", "tiktoken"];
        let wanted = path.extension().is_some_and(|extension| known.iter().any(|known| extension == *known));
        let small = std::fs::metadata(&path).is_ok_and(|data| data.is_file() && data.len() <= LARGEST_COMPANION);
        if !wanted || !small || name.ends_with(".safetensors.index.json") || name == REPORT_FILE {
            continue;
        }
        let bytes = read_file(&path)?;
        let changes = targets.added_head.is_some() || targets.labels.is_some();
        match (name.as_str(), changes, &base.config) {
            ("config.json", true, Some(config)) => write_json(&out.join(&name), &with_labels(config, targets))?,
            _ => write_atomically(&out.join(&name), |writer| writer.write_all(&bytes))?,
        }
        files.push(name);
    }
    Ok(())
}

/// The configuration with the names of the classes, and for a model that got a head which vector it reads.
fn with_labels(config: &Value, targets: &Targets) -> Value {
    let mut config = config.clone();
    let Value::Object(fields) = &mut config else { return config };
    let bias = targets.list.iter().find(|target| target.name == "classifier.bias").and_then(values_of);
    let placeholders = |count| (0..count).map(|i| format!("LABEL_{i}")).collect();
    let names: Option<Vec<String>> =
        targets.labels.clone().or_else(|| bias.filter(|_| targets.added_head.is_some()).map(placeholders));
    if let Some(names) = names {
        let named = names.iter().enumerate();
        fields.insert("id2label".into(), named.clone().map(|(i, name)| (i.to_string(), json!(name))).collect());
        fields.insert("label2id".into(), named.map(|(i, name)| (name.clone(), json!(i))).collect());
    }
    if let Some(pooling) = targets.added_head {
        fields.insert("gelora_head".into(), json!({"pooling": pooling.as_str()}));
    }
    config
}
