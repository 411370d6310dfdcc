//! Writes the merged checkpoint: the same files with the same headers; only the bytes of changed tensors are new.
//!
//! Where the checkpoint lacks the head that was trained, its tensors are appended to the last file. The names of the others then
//! change too: transformers finds the head of a class only where the base model is under its prefix (`bert.encoder…`).
//! A head that no transformers class has is written to a file of its own.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use ndarray::ArrayView2;
use serde_json::{Value, json};

use super::report::Changes;
use super::targets::{Change, Target, Targets};
use super::weights::{add, replace};
use super::{MergeError, REPORT_FILE, Writing};
use crate::adapter::HEAD_FILE;
use crate::checkpoint::{
    Checkpoint, CheckpointFile, ElementType, ModelFolder, ModelTask, TensorInfo, from_f32, model_class,
    write_safetensors,
};
use crate::files::{FileError, read_file, write_atomically, write_json};

/// Largest configuration or tokenizer file, in bytes; a larger file holds somebody's weights.
const LARGEST_COMPANION: u64 = 100_000_000;

/// Writes the checkpoint files and their index.
pub(super) fn write(
    base: &ModelFolder,
    targets: &Targets,
    out: &Path,
    writing: &Writing,
    files: &mut Vec<String>,
) -> Result<Changes, MergeError> {
    let Some(checkpoint) = &base.checkpoint else { return Ok(Changes::new()) };
    let changes = Mutex::new(Changes::new());
    let new: Vec<&Target> = targets.list.iter().filter(|target| !target.is_in(checkpoint)).collect();
    let names = Names { prefix: targets.prefix.as_deref(), appended: if targets.head_apart { &[] } else { &new } };
    for (index, file) in checkpoint.files().iter().enumerate() {
        let name = file.path.file_name().unwrap_or_default();
        let tensors: Vec<&TensorInfo> = checkpoint.tensors().iter().filter(|tensor| tensor.file == index).collect();
        let last = index + 1 == checkpoint.files().len();
        let names = Names { appended: if last { names.appended } else { &[] }, ..names };
        write_atomically(&out.join(name), |writer| {
            write_header(writer, file, &names)?;
            write_tensors(writer, file, &tensors, targets, writing, &changes)?;
            names.appended.iter().try_for_each(|target| {
                writing.step(&target.name)?;
                writer.write_all(&new_bytes(target)?)
            })
        })?;
        files.push(name.to_string_lossy().into_owned());
    }
    if let Some(index) = checkpoint.index() {
        files.push(write_index(index, checkpoint, &names, out)?);
    }
    if targets.head_apart && !new.is_empty() {
        let entry = |target: &&Target| Some((target.name.clone(), ElementType::F32, shape(target)?));
        let layout: Vec<_> = new.iter().filter_map(entry).collect();
        write_safetensors(&out.join(HEAD_FILE), &layout, |index| {
            writing.step(&new[index].name)?;
            new_bytes(new[index])
        })?;
        files.push(HEAD_FILE.into());
    }
    Ok(changes.into_inner().unwrap_or_default())
}

/// The changes of the names in a checkpoint.
#[derive(Clone, Copy)]
struct Names<'t> {
    /// Prefix for the existing names.
    prefix: Option<&'t str>,
    /// New tensors, after the others.
    appended: &'t [&'t Target<'t>],
}

impl Names<'_> {
    fn of(&self, name: &str) -> String {
        self.prefix.map_or_else(|| name.to_owned(), |prefix| format!("{prefix}.{name}"))
    }

    fn changes_nothing(&self) -> bool {
        self.prefix.is_none() && self.appended.is_empty()
    }
}

/// The header, unchanged or with other names and the new tensors after the others.
fn write_header(writer: &mut impl Write, file: &CheckpointFile, names: &Names) -> io::Result<()> {
    let old = &file.bytes()[..file.data_start];
    if names.changes_nothing() {
        return writer.write_all(old);
    }
    let before: serde_json::Map<String, Value> = serde_json::from_slice(&old[8..])?;
    let rename = |(name, entry): (String, Value)| match name.as_str() {
        "__metadata__" => (name, entry),
        _ => (names.of(&name), entry),
    };
    let mut header: serde_json::Map<String, Value> = before.into_iter().map(rename).collect();
    let mut offset = file.bytes().len() - file.data_start;
    for target in names.appended {
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
    writing: &Writing,
    changes: &Mutex<Changes>,
) -> io::Result<()> {
    let bytes = file.bytes();
    let mut position = file.data_start;
    for tensor in tensors {
        // Several where the checkpoint stores several matrices as one.
        let mut of_tensor = targets.list.iter().filter(|target| target.name == tensor.name && !target.added).peekable();
        if of_tensor.peek().is_none() {
            continue;
        }
        writer.write_all(&bytes[position..tensor.range.start])?;
        let mut merged = bytes[tensor.range.clone()].to_vec();
        for target in of_tensor {
            writing.step(&target.name)?;
            let part = target.bytes_of(tensor);
            let stored = &merged[part.clone()];
            let new = match target.change {
                Change::Factors(factors) => {
                    let part = |weight: ArrayView2<f32>| writing.part_of_checkpoint(target, weight);
                    add(stored, &tensor.element_type, factors, target.stored_in_out, part)
                }
                Change::Values(saved) => {
                    let values: Vec<f32> = saved.values.iter().copied().collect();
                    replace(stored, &tensor.element_type, &values)
                }
            };
            let refused = |refusal| writing.refuse(&file.path, "tensor", &tensor.name, refusal);
            let (new, change) = new.map_err(refused)?;
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

/// The index, unchanged or with other names; new tensors are in the last shard.
fn write_index(index: &Path, checkpoint: &Checkpoint, names: &Names, out: &Path) -> Result<String, MergeError> {
    let name = index.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let bytes = read_file(index)?;
    let target = out.join(&name);
    if names.changes_nothing() {
        write_atomically(&target, |writer| writer.write_all(&bytes))?;
        return Ok(name);
    }
    let mut value: Value = serde_json::from_slice(&bytes).map_err(|error| {
        crate::checkpoint::CheckpointError::Malformed { path: index.into(), reason: error.to_string() }
    })?;
    let shard = checkpoint.files().last().and_then(|file| file.path.file_name());
    if let Some(map) = value.get_mut("weight_map").and_then(Value::as_object_mut) {
        *map = std::mem::take(map).into_iter().map(|(name, shard)| (names.of(&name), shard)).collect();
        for tensor in names.appended {
            map.insert(tensor.name.clone(), json!(shard.unwrap_or_default().to_string_lossy()));
        }
    }
    let more: u64 = names.appended.iter().filter_map(|target| Some(4 * values_of(target)? as u64)).sum();
    if let Some(total) = value["metadata"]["total_size"].as_u64() {
        value["metadata"]["total_size"] = json!(total + more);
    }
    write_json(&target, &value)?;
    Ok(name)
}

fn values_of(target: &Target) -> Option<usize> {
    Some(shape(target)?.iter().product())
}

fn shape(target: &Target) -> Option<Vec<usize>> {
    match target.change {
        Change::Values(saved) => Some(saved.values.shape().to_vec()),
        Change::Factors(_) => None,
    }
}

/// Copies the files that accompany the weights: configuration, tokenizer, vocabulary, licence texts.
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
        // macOS keeps `._*` beside a file on other file systems.
        let other = name.ends_with(".safetensors.index.json") || name == REPORT_FILE || name.starts_with("._");
        if !wanted || !small || other {
            continue;
        }
        let bytes = read_file(&path)?;
        let thresholds =
            targets.thresholds.is_some() || base.config.as_ref().is_some_and(|config| config.get(THRESHOLDS).is_some());
        let problem = base.config.as_ref().and_then(|config| other_problem(config, targets));
        let changes = targets.added_head.is_some()
            || targets.labels.is_some()
            || targets.appended
            || problem.is_some()
            || thresholds;
        match (name.as_str(), changes, &base.config) {
            ("config.json", true, Some(config)) => write_json(&out.join(&name), &with_head(config, targets))?,
            _ => write_atomically(&out.join(&name), |writer| writer.write_all(&bytes))?,
        }
        files.push(name);
    }
    let says = targets.labels.is_some() || other_problem(&Value::Null, targets).is_some();
    if base.config.is_none() && says {
        // The export alone would not show the names of its classes, or that a text may have several.
        let name = "config.json".to_owned();
        write_json(&out.join(&name), &with_head(&json!({}), targets))?;
        files.push(name);
    }
    Ok(())
}

/// Key of the probability threshold of every label.
const THRESHOLDS: &str = "gelora_thresholds";
/// transformers' `problem_type` for several labels per text.
const MULTI_LABEL: &str = "multi_label_classification";
/// Number of labels that transformers assumes where a configuration does not give it.
const DEFAULT_LABELS: usize = 2;

/// What the head was trained for, if the base says something else. Several labels are always written: nothing else distinguishes
/// them from classes.
fn other_problem(config: &Value, targets: &Targets) -> Option<String> {
    let found = config.get("problem_type").and_then(Value::as_str);
    let other = |problem: &String| found.map_or(problem == MULTI_LABEL, |found| found != problem);
    targets.problem.clone().filter(other)
}

/// The configuration with the names of the classes; for a checkpoint that got a head, also with its class, its width and its
/// purpose; for an export that got a head, with the pooling of that head.
fn with_head(config: &Value, targets: &Targets) -> Value {
    let mut config = config.clone();
    let class = model_class(&config, targets.task()).filter(|_| targets.appended);
    let other = other_problem(&config, targets);
    let Value::Object(fields) = &mut config else { return config };
    let labels = labels(fields, targets);
    if let Some(names) = labels {
        let named = names.iter().enumerate();
        fields.insert("id2label".into(), named.clone().map(|(i, name)| (i.to_string(), json!(name))).collect());
        fields.insert("label2id".into(), named.map(|(i, name)| (name.clone(), json!(i))).collect());
        fields.shift_remove("num_labels");
    }
    let of_one = (targets.outputs == Some(1)).then(|| "regression".to_owned());
    let appended = targets.problem.clone().or(of_one).filter(|_| targets.appended);
    if let Some(problem) = other.or(appended)
        && targets.task() == ModelTask::SequenceClassification
    {
        fields.insert("problem_type".into(), json!(problem));
    }
    // The thresholds of the base belong to its old head.
    fields.shift_remove(THRESHOLDS);
    if let Some(thresholds) = &targets.thresholds {
        fields.insert(THRESHOLDS.into(), json!(thresholds));
    }
    if let Some(class) = class {
        // The head is that of the class, whatever head an earlier export had.
        fields.shift_remove("gelora_head");
        fields.insert("architectures".into(), json!([class.name]));
    }
    if let Some(pooling) = targets.added_head {
        fields.insert("gelora_head".into(), json!({"pooling": pooling.as_str()}));
    }
    config
}

/// The names of the classes to write; `None` where those of the base are right. For a new head there are as many as its outputs:
/// transformers makes the head as wide as there are names.
fn labels(fields: &serde_json::Map<String, Value>, targets: &Targets) -> Option<Vec<String>> {
    if targets.labels.is_some() {
        return targets.labels.clone();
    }
    let outputs = targets.outputs.filter(|_| targets.added_head.is_some() || targets.appended)?;
    let named = fields.get("id2label").and_then(Value::as_object).map(serde_json::Map::len);
    let known = match targets.task() {
        // The names of another head do not apply to the added one.
        _ if targets.added_head.is_some() => None,
        ModelTask::SequenceClassification | ModelTask::TokenClassification => named,
        ModelTask::QuestionAnswering => {
            let counted = fields.get("num_labels").and_then(Value::as_u64).and_then(|count| count.try_into().ok());
            Some(named.or(counted).unwrap_or(DEFAULT_LABELS))
        }
    };
    (known != Some(outputs)).then(|| (0..outputs).map(|i| format!("LABEL_{i}")).collect())
}
