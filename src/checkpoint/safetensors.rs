//! Checkpoints in safetensors files: one file, or shards with an index. The files are memory-mapped and checked before use.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use memmap2::Mmap;
use serde_json::Value;

use super::CheckpointError;
use crate::files::{self, FileError, open_file, read_file, write_atomically};

/// Headers larger than this are refused, as the reference implementation does.
const MAXIMUM_HEADER: u64 = 100_000_000;

/// The type of the elements of a checkpoint tensor.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ElementType {
    /// float32.
    F32,
    /// float16.
    F16,
    /// bfloat16.
    Bf16,
    /// float64.
    F64,
    /// Any other type, under the name the file gives it; such tensors are only copied.
    Other(String),
}

impl ElementType {
    fn parse(name: &str) -> Self {
        match name {
            "F32" => Self::F32,
            "F16" => Self::F16,
            "BF16" => Self::Bf16,
            "F64" => Self::F64,
            other => Self::Other(other.to_owned()),
        }
    }

    /// Name of the type in the file.
    pub fn name(&self) -> &str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::F64 => "F64",
            Self::Other(name) => name,
        }
    }

    /// Bytes per element; `None` where it is not a whole number or not known.
    pub fn size(&self) -> Option<usize> {
        match self {
            Self::F16 | Self::Bf16 => Some(2),
            Self::F32 => Some(4),
            Self::F64 => Some(8),
            Self::Other(name) => match name.as_str() {
                "BOOL" | "I8" | "U8" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" | "F8_E4M3FNUZ" | "F8_E5M2FNUZ" => Some(1),
                "I16" | "U16" => Some(2),
                "I32" | "U32" => Some(4),
                "I64" | "U64" | "C64" => Some(8),
                _ => None,
            },
        }
    }
}

/// One tensor of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name of the tensor.
    pub name: String,
    /// Element type of the tensor.
    pub element_type: ElementType,
    /// Shape of the tensor.
    pub shape: Vec<usize>,
    /// Index into [`Checkpoint::files`].
    pub file: usize,
    /// Byte range of the tensor in that file.
    pub range: Range<usize>,
}

/// One file of a checkpoint.
#[derive(Debug)]
pub struct CheckpointFile {
    /// Path of the file.
    pub path: PathBuf,
    /// Length of the header including its length field; the tensors start here.
    pub data_start: usize,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl CheckpointFile {
    /// The bytes of the whole file.
    pub fn bytes(&self) -> &[u8] {
        match &self.content {
            Content::Mapped(map) => map,
            Content::Owned(bytes) => bytes,
        }
    }

    /// Advises the system that a range of bytes will be read soon.
    pub fn will_read(&self, range: Range<usize>) {
        if let Content::Mapped(map) = &self.content {
            #[cfg(unix)]
            if let Err(error) = map.advise_range(memmap2::Advice::WillNeed, range.start, range.len()) {
                tracing::debug!(%error, "advice about a mapped file was not taken");
            }
            #[cfg(not(unix))]
            let _ = (map, range);
        }
    }

    /// Tells the system that a range of bytes was read for the last time: other programs keep their pages in memory, and not this one.
    pub fn was_read(&self, range: Range<usize>) {
        if let Content::Mapped(map) = &self.content {
            files::was_read(map, &self.path, range);
        }
    }

    /// Advises the system of random access, for tensors of which single rows are read in any order.
    pub fn read_here_and_there(&self) {
        if let Content::Mapped(map) = &self.content {
            files::read_here_and_there(map);
        }
    }
}

/// A checkpoint: names, types, shapes and bytes of its tensors.
#[derive(Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    index: Option<PathBuf>,
    files: Vec<CheckpointFile>,
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
}

impl Checkpoint {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` lists. `None` where a folder has
    /// neither.
    ///
    /// # Errors
    /// When a file is missing, truncated or not safetensors, or the index and its shards disagree.
    pub fn open(folder: &Path) -> Result<Option<Self>, CheckpointError> {
        let index = folder.join("model.safetensors.index.json");
        let single = folder.join("model.safetensors");
        if index.exists() {
            return Self::open_shards(folder, index).map(Some);
        }
        if !single.exists() {
            return Ok(None);
        }
        let mut checkpoint = Self::empty(folder);
        checkpoint.add_file(single)?;
        Ok(Some(checkpoint))
    }

    /// Opens one safetensors file, whatever its name.
    ///
    /// # Errors
    /// When it is missing, truncated or not safetensors.
    pub fn open_file(path: &Path) -> Result<Self, CheckpointError> {
        let mut checkpoint = Self::empty(path.parent().unwrap_or(Path::new(".")));
        checkpoint.add_file(path.into())?;
        Ok(checkpoint)
    }

    /// Parses one safetensors file held in memory; `path` names it in messages.
    ///
    /// # Errors
    /// When it is truncated or not safetensors.
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self, CheckpointError> {
        let mut checkpoint = Self::empty(path.parent().unwrap_or(Path::new(".")));
        checkpoint.add_content(path.into(), Content::Owned(bytes))?;
        Ok(checkpoint)
    }

    fn empty(folder: &Path) -> Self {
        Checkpoint { folder: folder.into(), index: None, files: vec![], tensors: vec![], by_name: HashMap::new() }
    }

    fn open_shards(folder: &Path, index: PathBuf) -> Result<Self, CheckpointError> {
        let malformed = |reason: String| CheckpointError::Malformed { path: index.clone(), reason };
        let text = read_file(&index)?;
        let value: Value = serde_json::from_slice(&text).map_err(|error| malformed(error.to_string()))?;
        let Some(map) = value.get("weight_map").and_then(Value::as_object) else {
            return Err(malformed("it has no `weight_map`".into()));
        };
        let mut checkpoint = Self::empty(folder);
        let mut files: Vec<&str> = map.values().filter_map(Value::as_str).collect();
        files.sort_unstable();
        files.dedup();
        for file in files {
            let name = Path::new(file);
            if !name.components().all(|part| matches!(part, Component::Normal(_))) {
                return Err(malformed(format!("the shard `{}` lies outside the folder", file.escape_debug())));
            }
            checkpoint.add_file(folder.join(name))?;
        }
        if let Some(missing) = map.keys().find(|name| !checkpoint.by_name.contains_key(*name)) {
            return Err(malformed(format!("it lists `{}`, which no shard holds", missing.escape_debug())));
        }
        checkpoint.index = Some(index);
        Ok(checkpoint)
    }

    fn add_file(&mut self, path: PathBuf) -> Result<(), CheckpointError> {
        let handle = open_file(&path)?;
        // SAFETY: the map is read-only; gelora cannot guard against another process that truncates the file meanwhile.
        let map = unsafe { Mmap::map(&handle) }.map_err(FileError::new("read", &path))?;
        self.add_content(path, Content::Mapped(map))
    }

    fn add_content(&mut self, path: PathBuf, content: Content) -> Result<(), CheckpointError> {
        let mut file = CheckpointFile { path, data_start: 0, content };
        let (data_start, tensors) = parse_header(&file.path, file.bytes(), self.files.len())?;
        file.data_start = data_start;
        for tensor in tensors {
            if self.by_name.insert(tensor.name.clone(), self.tensors.len()).is_some() {
                let reason = format!("tensor `{}` is in two files", tensor.name.escape_debug());
                return Err(CheckpointError::Malformed { path: file.path, reason });
            }
            self.tensors.push(tensor);
        }
        self.files.push(file);
        Ok(())
    }

    /// All tensors, file by file in the order of their bytes.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).map(|index| &self.tensors[*index])
    }

    /// The files; shards are ordered by name.
    pub fn files(&self) -> &[CheckpointFile] {
        &self.files
    }

    /// Path of the index of a sharded checkpoint.
    pub fn index(&self) -> Option<&Path> {
        self.index.as_deref()
    }

    /// The bytes of a tensor, little-endian and row-major.
    ///
    /// # Errors
    /// When the checkpoint has no such tensor.
    pub fn bytes(&self, name: &str) -> Result<&[u8], CheckpointError> {
        let missing = || CheckpointError::NoTensor { folder: self.folder.clone(), tensor: name.into() };
        let tensor = self.tensor(name).ok_or_else(missing)?;
        Ok(&self.files[tensor.file].bytes()[tensor.range.clone()])
    }

    /// The elements of a floating-point tensor as float32 (float64 is rounded).
    ///
    /// # Errors
    /// When there is no such tensor or it is of another type.
    pub fn to_f32(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        let bytes = self.bytes(name)?;
        let found = self.tensor(name).map(|tensor| &tensor.element_type);
        found.and_then(|element_type| to_f32(bytes, element_type)).ok_or_else(|| CheckpointError::NotFloat {
            tensor: name.into(),
            found: found.map_or_else(String::new, |element_type| element_type.name().to_owned()),
        })
    }
}

/// Little-endian floating-point elements as float32; `None` for other types.
pub fn to_f32(bytes: &[u8], element_type: &ElementType) -> Option<Vec<f32>> {
    fn each<const N: usize>(bytes: &[u8], convert: impl Fn([u8; N]) -> f32) -> Vec<f32> {
        bytes.as_chunks::<N>().0.iter().map(|chunk| convert(*chunk)).collect()
    }
    Some(match element_type {
        ElementType::F32 => each(bytes, f32::from_le_bytes),
        ElementType::F16 => each(bytes, |b| half::f16::from_le_bytes(b).to_f32()),
        ElementType::Bf16 => each(bytes, |b| half::bf16::from_le_bytes(b).to_f32()),
        ElementType::F64 => each(bytes, |b| f64::from_le_bytes(b) as f32),
        ElementType::Other(_) => return None,
    })
}

/// Values rounded once to the type, as little-endian bytes; `None` for types that are not floating-point.
pub fn from_f32(values: &[f32], element_type: &ElementType) -> Option<Vec<u8>> {
    // Written in place: the compiler makes vector code of it, and not of an iterator over bytes.
    fn each<const N: usize>(values: &[f32], convert: impl Fn(f32) -> [u8; N]) -> Vec<u8> {
        let mut bytes = vec![0; values.len() * N];
        for (bytes, value) in bytes.as_chunks_mut::<N>().0.iter_mut().zip(values) {
            *bytes = convert(*value);
        }
        bytes
    }
    Some(match element_type {
        ElementType::F32 => each(values, f32::to_le_bytes),
        ElementType::F16 => each(values, |v| half::f16::from_f32(v).to_le_bytes()),
        ElementType::Bf16 => each(values, |v| half::bf16::from_f32(v).to_le_bytes()),
        ElementType::F64 => each(values, |v| f64::from(v).to_le_bytes()),
        ElementType::Other(_) => return None,
    })
}

/// The offset where the tensors start, and the tensors in the order of their bytes.
fn parse_header(path: &Path, bytes: &[u8], file: usize) -> Result<(usize, Vec<TensorInfo>), CheckpointError> {
    let malformed = |reason: String| CheckpointError::Malformed { path: path.into(), reason };
    let found = bytes.len() as u64;
    let Some(length) = bytes.first_chunk::<8>().map(|chunk| u64::from_le_bytes(*chunk)) else {
        return Err(CheckpointError::Truncated { path: path.into(), expected: 8, found });
    };
    if length > MAXIMUM_HEADER {
        return Err(malformed("it is not a safetensors file (its header would be larger than 100 MB)".into()));
    }
    let data_start = 8 + length as usize;
    let Some(header) = bytes.get(8..data_start) else {
        return Err(CheckpointError::Truncated { path: path.into(), expected: data_start as u64, found });
    };
    let header: Value = serde_json::from_slice(header)
        .map_err(|error| malformed(format!("it is not a safetensors file (its header is no JSON: {error})")))?;
    let Some(header) = header.as_object() else {
        return Err(malformed("it is not a safetensors file (its header is no JSON object)".into()));
    };
    let mut tensors = Vec::with_capacity(header.len());
    let mut end = data_start;
    for (name, entry) in header.iter().filter(|(name, _)| *name != "__metadata__") {
        let tensor = parse_entry(name, entry, data_start, file).ok_or_else(|| {
            malformed(format!("the entry of tensor `{}` in its header is not valid", name.escape_debug()))
        })?;
        end = end.max(tensor.range.end);
        tensors.push(tensor);
    }
    if end > bytes.len() {
        return Err(CheckpointError::Truncated { path: path.into(), expected: end as u64, found });
    }
    tensors.sort_by_key(|tensor| (tensor.range.start, tensor.range.end));
    // The format allows no byte outside tensors: if there is one, the header belongs to another file.
    let mut reached = data_start;
    for (number, tensor) in tensors.iter().enumerate() {
        let name = tensor.name.escape_debug();
        if tensor.range.start < reached {
            return Err(malformed(format!(
                "tensors `{}` and `{name}` overlap; fetch the file again",
                tensors[number - 1].name.escape_debug()
            )));
        }
        if tensor.range.start > reached {
            let gap = tensor.range.start - reached;
            return Err(malformed(format!(
                "{gap} bytes before tensor `{name}` belong to no tensor; fetch the file again"
            )));
        }
        reached = tensor.range.end;
    }
    if reached < bytes.len() {
        let rest = bytes.len() - reached;
        return Err(malformed(format!("its last {rest} bytes belong to no tensor; fetch the file again")));
    }
    Ok((data_start, tensors))
}

fn parse_entry(name: &str, entry: &Value, data_start: usize, file: usize) -> Option<TensorInfo> {
    let element_type = ElementType::parse(entry.get("dtype")?.as_str()?);
    let number = |value: &Value| value.as_u64().and_then(|number| usize::try_from(number).ok());
    let shape: Vec<usize> = entry.get("shape")?.as_array()?.iter().map(number).collect::<Option<_>>()?;
    let [start, end] = entry.get("data_offsets")?.as_array()?.as_slice() else { return None };
    let (start, end) = (number(start)?.checked_add(data_start)?, number(end)?.checked_add(data_start)?);
    let elements = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d))?;
    let fits = match element_type.size() {
        Some(size) => elements.checked_mul(size)? == end.checked_sub(start)?,
        None => start <= end,
    };
    fits.then(|| TensorInfo { name: name.into(), element_type, shape, file, range: start..end })
}

/// Writes a safetensors file with the metadata `{"format": "pt"}`, atomically, one tensor in memory at a time. `tensors`
/// gives name, type and shape in file order; `bytes` produces the elements of each.
///
/// # Errors
/// When the file cannot be written, or `bytes` fails.
pub fn write_safetensors(
    path: &Path,
    tensors: &[(String, ElementType, Vec<usize>)],
    bytes: impl Fn(usize) -> io::Result<Vec<u8>>,
) -> Result<(), FileError> {
    write_atomically(path, |writer| {
        let mut header = BTreeMap::new();
        let mut lengths = Vec::with_capacity(tensors.len());
        let mut offset = 0;
        for (name, element_type, shape) in tensors {
            let size =
                element_type.size().ok_or_else(|| io::Error::other(format!("`{name}` has no whole-byte type")))?;
            let end = offset + size * shape.iter().product::<usize>();
            let entry =
                serde_json::json!({"dtype": element_type.name(), "shape": shape, "data_offsets": [offset, end]});
            header.insert(name.as_str(), entry);
            lengths.push(end - offset);
            offset = end;
        }
        let mut object = serde_json::Map::new();
        object.insert("__metadata__".into(), serde_json::json!({"format": "pt"}));
        object.extend(header.into_iter().map(|(name, entry)| (name.to_owned(), entry)));
        let mut text = serde_json::to_vec(&object)?;
        text.resize(text.len().next_multiple_of(8), b' ');
        writer.write_all(&(text.len() as u64).to_le_bytes())?;
        writer.write_all(&text)?;
        for (index, length) in lengths.iter().enumerate() {
            let bytes = bytes(index)?;
            if bytes.len() != *length {
                let name = &tensors[index].0;
                return Err(io::Error::other(format!("`{name}` has {length} bytes, not {}", bytes.len())));
            }
            writer.write_all(&bytes)?;
        }
        Ok(())
    })
}
