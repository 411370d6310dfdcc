//! The files of a merged checkpoint and what each holds: those of the base, or others where types or sizes are asked for.

use std::collections::BTreeMap;
use std::io;

use serde_json::{Map, Value, json};

use super::MergeError;
use super::settings::MergeSettings;
use super::targets::{Change, Target, Targets};
use crate::checkpoint::{Checkpoint, CheckpointError, CheckpointFile, ElementType, TensorInfo};
use crate::files::read_file;

/// Name of a checkpoint of one file.
const SINGLE: &str = "model.safetensors";
/// Name of the index of a checkpoint of several files.
const INDEX: &str = "model.safetensors.index.json";

/// All files of a merged checkpoint.
#[derive(Debug)]
pub(super) struct Layout<'b> {
    pub files: Vec<NewFile<'b>>,
    /// Name and content of the index, if there is one.
    pub index: Option<(String, Vec<u8>)>,
}

/// One file.
#[derive(Debug)]
pub(super) struct NewFile<'b> {
    pub name: String,
    /// The header with its length field.
    pub header: Vec<u8>,
    /// The tensors in the order of their bytes.
    pub tensors: Vec<NewTensor<'b>>,
}

/// One tensor.
#[derive(Debug, Clone)]
pub(super) struct NewTensor<'b> {
    pub name: String,
    pub element_type: ElementType,
    pub shape: Vec<usize>,
    pub source: Source<'b>,
}

/// Where its elements come from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source<'b> {
    /// A tensor of the base, with the changes that apply to it.
    Base(&'b TensorInfo),
    /// A tensor of the adapter that the base lacks.
    Appended(&'b Target<'b>),
}

impl NewTensor<'_> {
    /// Length in bytes.
    pub fn len(&self) -> usize {
        match self.source {
            Source::Base(tensor) if tensor.element_type == self.element_type => tensor.range.len(),
            _ => self.shape.iter().product::<usize>() * self.element_type.size().unwrap_or(0),
        }
    }
}

impl<'b> Layout<'b> {
    /// The files of the base with the same headers, as far as nothing else is asked for. New tensors are the last.
    pub fn new(
        checkpoint: &'b Checkpoint,
        targets: &'b Targets<'b>,
        settings: &MergeSettings,
    ) -> Result<Self, MergeError> {
        let lacking = targets.list.iter().filter(|target| !target.is_in(checkpoint));
        let appended: Vec<NewTensor> = match targets.head_apart {
            true => Vec::new(),
            false => lacking.filter_map(|target| appended(target, settings)).collect(),
        };
        let renamed = targets.prefix.is_some();
        let kept = |tensor: &'b TensorInfo| NewTensor {
            name: targets
                .prefix
                .as_ref()
                .map_or_else(|| tensor.name.clone(), |prefix| format!("{prefix}.{}", tensor.name)),
            element_type: settings.stored_as(&tensor.element_type),
            shape: tensor.shape.clone(),
            source: Source::Base(tensor),
        };
        let files = checkpoint.files().iter().enumerate();
        let of_file = |index| checkpoint.tensors().iter().filter(move |tensor| tensor.file == index).map(kept);
        let mut groups: Vec<(&CheckpointFile, Vec<NewTensor>)> =
            files.map(|(index, file)| (file, of_file(index).collect())).collect();
        let grows = !appended.is_empty();
        if let Some((_, last)) = groups.last_mut() {
            last.extend(appended);
        }
        let number = groups.len();
        let (files, named): (Vec<_>, bool) = match settings.shard_size {
            Some(size) => (sharded(groups, size), true),
            None => {
                let file = |(place, (file, tensors)): (usize, (&CheckpointFile, Vec<NewTensor<'b>>))| {
                    let same = settings.dtype.is_none() && !renamed && !(grows && place + 1 == number);
                    let name = file.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    let header = match same {
                        true => file.bytes()[..file.data_start].to_vec(),
                        false => header(metadata(file), &tensors),
                    };
                    NewFile { name, header, tensors }
                };
                (groups.into_iter().enumerate().map(file).collect(), renamed || grows || settings.dtype.is_some())
            }
        };
        let index = index(checkpoint, &files, named, settings.shard_size.is_some())?;
        Ok(Layout { files, index })
    }
}

/// A tensor that the base lacks; the values of an adapter are float32.
fn appended<'b>(target: &'b Target<'b>, settings: &MergeSettings) -> Option<NewTensor<'b>> {
    let Change::Values(saved) = target.change else { return None };
    Some(NewTensor {
        name: target.name.clone(),
        element_type: settings.stored_as(&ElementType::F32),
        shape: saved.values.shape().to_vec(),
        source: Source::Appended(target),
    })
}

/// Fills files of at most `size` bytes in order; a larger tensor has a file of its own.
fn sharded<'b>(groups: Vec<(&CheckpointFile, Vec<NewTensor<'b>>)>, size: u64) -> Vec<NewFile<'b>> {
    let of_first = groups.first().map(|(file, _)| metadata(file)).unwrap_or_default();
    let mut files: Vec<Vec<NewTensor>> = vec![Vec::new()];
    let mut filled = 0;
    for tensor in groups.into_iter().flat_map(|(_, tensors)| tensors) {
        let length = tensor.len() as u64;
        if filled > 0 && filled + length > size {
            files.push(Vec::new());
            filled = 0;
        }
        filled += length;
        if let Some(file) = files.last_mut() {
            file.push(tensor);
        }
    }
    let number = files.len();
    let file = |(place, tensors): (usize, Vec<NewTensor<'b>>)| {
        let name = match number {
            1 => SINGLE.to_owned(),
            _ => format!("model-{:05}-of-{number:05}.safetensors", place + 1),
        };
        NewFile { name, header: header(of_first.clone(), &tensors), tensors }
    };
    files.into_iter().enumerate().map(file).collect()
}

/// The entry `__metadata__` of a file.
fn metadata(file: &CheckpointFile) -> Map<String, Value> {
    let header: Map<String, Value> = serde_json::from_slice(&file.bytes()[8..file.data_start]).unwrap_or_default();
    header.into_iter().filter(|(name, _)| name == "__metadata__").collect()
}

fn header(mut entries: Map<String, Value>, tensors: &[NewTensor]) -> Vec<u8> {
    let mut offset = 0;
    for tensor in tensors {
        let end = offset + tensor.len();
        let entry = json!({"dtype": tensor.element_type.name(), "shape": tensor.shape, "data_offsets": [offset, end]});
        entries.insert(tensor.name.clone(), entry);
        offset = end;
    }
    let mut text = Value::Object(entries).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.extend(text);
    header
}

/// The index: that of the base, to the byte where no name, type or file is another.
fn index(
    checkpoint: &Checkpoint,
    files: &[NewFile],
    changed: bool,
    sharded: bool,
) -> Result<Option<(String, Vec<u8>)>, MergeError> {
    let known = checkpoint.index().map(|path| Ok::<_, MergeError>((path, read_file(path)?))).transpose()?;
    let name = match &known {
        Some((path, _)) => path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        None => INDEX.to_owned(),
    };
    match known {
        None if files.len() == 1 => return Ok(None),
        Some(_) if sharded && files.len() == 1 => return Ok(None),
        Some((_, bytes)) if !changed => return Ok(Some((name, bytes))),
        _ => {}
    }
    let mut value: Value = match known {
        Some((path, bytes)) => serde_json::from_slice(&bytes)
            .map_err(|error| CheckpointError::Malformed { path: path.into(), reason: error.to_string() })?,
        None => json!({"metadata": {}}),
    };
    let total: usize = files.iter().flat_map(|file| &file.tensors).map(NewTensor::len).sum();
    let map: BTreeMap<&str, &str> = files
        .iter()
        .flat_map(|file| file.tensors.iter().map(|tensor| (tensor.name.as_str(), file.name.as_str())))
        .collect();
    value["weight_map"] = json!(map);
    value["metadata"]["total_size"] = json!(total);
    let text = serde_json::to_vec_pretty(&value).map_err(io::Error::other);
    let text = text.map_err(crate::files::FileError::new("write", &name))?;
    Ok(Some((name, text)))
}
