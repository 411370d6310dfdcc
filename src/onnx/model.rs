//! An ONNX file, memory-mapped and parsed without copying its weights.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use memmap2::Mmap;

use super::OnnxError;
use super::tensor::{DataType, Tensor, TensorData};
use super::wire::{Field, Reader, Value, WireError, varints};

/// Subgraphs nested deeper than this are refused.
const MAXIMUM_DEPTH: usize = 16;

/// A parsed ONNX model. The weights stay in the mapped file(s).
#[derive(Debug)]
pub struct Model {
    path: PathBuf,
    buffer: Buffer,
    externals: Vec<ExternalFile>,
    /// `ModelProto.ir_version`.
    pub ir_version: i64,
    /// Name of the exporter and its version, as it wrote them.
    pub producer: String,
    /// Operator set versions by domain; the default domain is `""`.
    pub opsets: BTreeMap<String, i64>,
    /// `ModelProto.metadata_props`.
    pub metadata: Vec<(String, String)>,
    /// Names (domain, name) of model-local functions.
    pub functions: Vec<(String, String)>,
    /// The main graph.
    pub graph: Graph,
}

#[derive(Debug)]
enum Buffer {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl Buffer {
    fn bytes(&self) -> &[u8] {
        match self {
            Buffer::Mapped(map) => map,
            Buffer::Owned(bytes) => bytes,
        }
    }
}

/// A file that holds tensors outside the `.onnx` file.
#[derive(Debug)]
pub struct ExternalFile {
    /// As the model names it, relative to the folder of the `.onnx` file.
    pub location: String,
    /// Where it was found.
    pub path: PathBuf,
    map: Mmap,
}

impl ExternalFile {
    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }
}

/// A graph or subgraph.
#[derive(Debug, Default, Clone)]
pub struct Graph {
    /// Its name.
    pub name: String,
    /// Nodes in file order, which ONNX requires to be topological.
    pub nodes: Vec<Node>,
    /// Constants of the graph (initializers).
    pub initializers: Vec<Tensor>,
    /// Inputs; old exports list the initializers here as well.
    pub inputs: Vec<ValueInfo>,
    /// Outputs.
    pub outputs: Vec<ValueInfo>,
    /// Types and shapes of inner values, where the exporter wrote them.
    pub value_info: Vec<ValueInfo>,
}

/// One operation.
#[derive(Debug, Default, Clone)]
pub struct Node {
    /// Its name, possibly empty.
    pub name: String,
    /// Operator, for instance `MatMul`.
    pub op_type: String,
    /// Operator domain; `""` is the default (`ai.onnx` is normalised to it).
    pub domain: String,
    /// Names of the input values; `""` is an omitted optional input.
    pub inputs: Vec<String>,
    /// Names of the output values; `""` is an omitted optional output.
    pub outputs: Vec<String>,
    /// Attributes by name.
    pub attributes: Vec<(String, Attribute)>,
    /// `metadata_props`, where newer exporters write module paths.
    pub metadata: Vec<(String, String)>,
}

/// The value of an attribute.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the names are those of the ONNX specification")]
pub enum Attribute {
    Float(f32),
    Int(i64),
    String(Vec<u8>),
    Tensor(Tensor),
    Graph(Box<Graph>),
    Floats(Vec<f32>),
    Ints(Vec<i64>),
    Strings(Vec<Vec<u8>>),
    /// A kind that gelora does not use (sparse tensors, type protos, lists of tensors or graphs, function references).
    Other,
}

/// A named value with its type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ValueInfo {
    /// Its name.
    pub name: String,
    /// Element type, if it is a tensor.
    pub data_type: Option<DataType>,
    /// Shape, if it is known.
    pub shape: Option<Vec<Dimension>>,
}

/// One dimension of a shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dimension {
    /// A number.
    Fixed(usize),
    /// A name such as `batch`.
    Named(String),
    /// Not given.
    Unknown,
}

impl Node {
    /// The attribute of this name.
    pub fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attributes.iter().find(|(n, _)| n == name).map(|(_, value)| value)
    }

    /// An integer attribute, or `default` where it is absent.
    pub fn int(&self, name: &str, default: i64) -> i64 {
        match self.attribute(name) {
            Some(Attribute::Int(value)) => *value,
            _ => default,
        }
    }

    /// A float attribute, or `default` where it is absent.
    pub fn float(&self, name: &str, default: f32) -> f32 {
        match self.attribute(name) {
            Some(Attribute::Float(value)) => *value,
            _ => default,
        }
    }

    /// A list of integers.
    pub fn ints(&self, name: &str) -> Option<&[i64]> {
        match self.attribute(name) {
            Some(Attribute::Ints(values)) => Some(values),
            _ => None,
        }
    }

    /// A string attribute.
    pub fn string(&self, name: &str) -> Option<&str> {
        match self.attribute(name) {
            Some(Attribute::String(value)) => std::str::from_utf8(value).ok(),
            _ => None,
        }
    }

    /// A tensor attribute.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        match self.attribute(name) {
            Some(Attribute::Tensor(value)) => Some(value),
            _ => None,
        }
    }

    /// Whether it is this operator of the default domain.
    pub fn is(&self, op_type: &str) -> bool {
        self.domain.is_empty() && self.op_type == op_type
    }

    /// What to call the node in a message: its name, or its first output.
    pub fn label(&self) -> &str {
        if self.name.is_empty() { self.outputs.first().map_or("(unnamed)", String::as_str) } else { &self.name }
    }
}

impl Model {
    /// Opens and parses an `.onnx` file. Its external data files are mapped as well and checked for length.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OnnxError> {
        let path = path.as_ref();
        let map = map_file(path)?;
        if map.is_empty() {
            return Err(OnnxError::Malformed { path: path.into(), reason: "the file is empty".into() });
        }
        Self::parse(path, Buffer::Mapped(map))
    }

    /// Parses a model held in memory; `path` names it in messages, and its folder is where external data is looked up.
    pub fn from_bytes(path: impl AsRef<Path>, bytes: Vec<u8>) -> Result<Self, OnnxError> {
        Self::parse(path.as_ref(), Buffer::Owned(bytes))
    }

    fn parse(path: &Path, buffer: Buffer) -> Result<Self, OnnxError> {
        let malformed = |error: WireError| OnnxError::Malformed {
            path: path.into(),
            reason: format!("{error}; is the file truncated, or not an ONNX model?"),
        };
        let mut parser = Parser { buffer: buffer.bytes(), locations: Vec::new(), needed: Vec::new() };
        let parsed = parser.model().map_err(malformed)?;
        if !parsed.has_graph {
            return Err(OnnxError::Malformed {
                path: path.into(),
                reason: "it holds no graph; is it an ONNX model?".into(),
            });
        }
        let Parser { locations, needed, .. } = parser;
        let externals = open_externals(path, locations, &needed)?;
        let mut model = Model {
            path: path.into(),
            buffer,
            externals,
            ir_version: parsed.ir_version,
            producer: parsed.producer,
            opsets: parsed.opsets,
            metadata: parsed.metadata,
            functions: parsed.functions,
            graph: parsed.graph,
        };
        model.resolve_external_lengths();
        model.check_sizes()?;
        Ok(model)
    }

    /// An external tensor may omit its length: then it is given by type and shape.
    fn resolve_external_lengths(&mut self) {
        for tensor in &mut self.graph.initializers {
            let bytes = tensor.data_type.size().and_then(|size| size.checked_mul(tensor.len()));
            if let (TensorData::External { range, .. }, Some(bytes)) = (&mut tensor.data, bytes)
                && range.start == range.end
            {
                range.end = range.start.saturating_add(bytes);
            }
        }
    }

    fn check_sizes(&self) -> Result<(), OnnxError> {
        for tensor in &self.graph.initializers {
            let Some(size) = tensor.data_type.size() else { continue };
            let bytes = self.bytes(tensor)?;
            let expected = tensor.dims.iter().try_fold(size, |n, d| n.checked_mul(*d));
            if expected != Some(bytes.len()) {
                return Err(OnnxError::Malformed {
                    path: self.path.clone(),
                    reason: format!(
                        "tensor `{}` of shape {:?} and type {} has {} bytes; is the file truncated?",
                        tensor.name,
                        tensor.dims,
                        tensor.data_type.name(),
                        bytes.len()
                    ),
                });
            }
        }
        Ok(())
    }

    /// Where the model was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The `.onnx` file itself.
    pub fn file_bytes(&self) -> &[u8] {
        self.buffer.bytes()
    }

    /// Files that hold tensors outside the `.onnx` file.
    pub fn external_files(&self) -> &[ExternalFile] {
        &self.externals
    }

    /// Version of the default operator set; 0 where the file names none.
    pub fn opset(&self) -> i64 {
        self.opsets.get("").copied().unwrap_or(0)
    }

    /// The little-endian elements of a tensor of this model. Empty for string tensors.
    pub fn bytes<'a>(&'a self, tensor: &'a Tensor) -> Result<&'a [u8], OnnxError> {
        match &tensor.data {
            TensorData::InFile(range) => Ok(&self.buffer.bytes()[range.clone()]),
            TensorData::Decoded(bytes) => Ok(bytes),
            TensorData::Strings(_) => Ok(&[]),
            TensorData::External { file, range } => {
                let external = &self.externals[*file];
                external.bytes().get(range.clone()).ok_or_else(|| OnnxError::ExternalTooShort {
                    path: external.path.clone(),
                    tensor: tensor.name.clone(),
                    needed: range.end,
                    found: external.bytes().len(),
                })
            }
        }
    }

    /// The elements of a floating-point tensor as float32 (float64 is rounded).
    pub fn to_f32(&self, tensor: &Tensor) -> Result<Vec<f32>, OnnxError> {
        let bytes = self.bytes(tensor)?;
        Ok(match tensor.data_type {
            DataType::Float => elements(bytes, f32::from_le_bytes),
            DataType::Double => elements(bytes, |b| f64::from_le_bytes(b) as f32),
            DataType::Float16 => elements(bytes, |b| half::f16::from_le_bytes(b).to_f32()),
            DataType::BFloat16 => elements(bytes, |b| half::bf16::from_le_bytes(b).to_f32()),
            _ => return Err(self.unexpected_type(tensor, "a floating-point type")),
        })
    }

    /// The elements of an integer or boolean tensor.
    pub fn to_i64(&self, tensor: &Tensor) -> Result<Vec<i64>, OnnxError> {
        let bytes = self.bytes(tensor)?;
        Ok(match tensor.data_type {
            DataType::Int64 => elements(bytes, i64::from_le_bytes),
            DataType::Int32 => elements(bytes, |b| i64::from(i32::from_le_bytes(b))),
            DataType::Int16 => elements(bytes, |b| i64::from(i16::from_le_bytes(b))),
            DataType::Uint16 => elements(bytes, |b| i64::from(u16::from_le_bytes(b))),
            DataType::Uint32 => elements(bytes, |b| i64::from(u32::from_le_bytes(b))),
            DataType::Int8 => bytes.iter().map(|b| i64::from(*b as i8)).collect(),
            DataType::Uint8 | DataType::Bool => bytes.iter().map(|b| i64::from(*b)).collect(),
            _ => return Err(self.unexpected_type(tensor, "an integer type")),
        })
    }

    fn unexpected_type(&self, tensor: &Tensor, expected: &str) -> OnnxError {
        OnnxError::Malformed {
            path: self.path.clone(),
            reason: format!("tensor `{}` is {}, not {expected}", tensor.name, tensor.data_type.name()),
        }
    }
}

fn elements<const N: usize, T>(bytes: &[u8], convert: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|chunk| convert(*chunk)).collect()
}

fn map_file(path: &Path) -> Result<Mmap, OnnxError> {
    let open = |source| OnnxError::Open { path: path.into(), source };
    let file = File::open(path).map_err(open)?;
    if file.metadata().map_err(open)?.is_dir() {
        return Err(open(std::io::Error::new(std::io::ErrorKind::IsADirectory, "it is a folder, not a file")));
    }
    // SAFETY: the map is read-only; a file that another process shortens meanwhile is outside what gelora can guard.
    unsafe { Mmap::map(&file) }.map_err(open)
}

fn open_externals(
    model: &Path,
    locations: Vec<String>,
    needed: &[(usize, usize, String)],
) -> Result<Vec<ExternalFile>, OnnxError> {
    let folder = model.parent().unwrap_or(Path::new("."));
    let mut files = Vec::with_capacity(locations.len());
    for location in locations {
        let relative = Path::new(&location);
        let inside = relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        if location.is_empty() || !inside {
            return Err(OnnxError::Malformed {
                path: model.into(),
                reason: format!("external data location `{location}` leads out of the model's folder"),
            });
        }
        let path = folder.join(relative);
        let map = map_file(&path).map_err(|error| match error {
            OnnxError::Open { path, source } => OnnxError::ExternalMissing { model: model.into(), path, source },
            other => other,
        })?;
        files.push(ExternalFile { location, path, map });
    }
    for (file, end, tensor) in needed {
        let external = &files[*file];
        if *end > external.bytes().len() {
            return Err(OnnxError::ExternalTooShort {
                path: external.path.clone(),
                tensor: tensor.clone(),
                needed: *end,
                found: external.bytes().len(),
            });
        }
    }
    Ok(files)
}

struct Parser<'a> {
    buffer: &'a [u8],
    locations: Vec<String>,
    /// File number, end of the range, tensor name.
    needed: Vec<(usize, usize, String)>,
}

#[derive(Default)]
struct ParsedModel {
    ir_version: i64,
    producer: String,
    opsets: BTreeMap<String, i64>,
    metadata: Vec<(String, String)>,
    functions: Vec<(String, String)>,
    graph: Graph,
    has_graph: bool,
}

fn malformed<T>(offset: usize, what: &'static str) -> Result<T, WireError> {
    Err(WireError { offset, what })
}

impl Parser<'_> {
    fn fields(&self, range: Range<usize>) -> Reader<'_> {
        Reader::new(self.buffer, range)
    }

    fn text(&self, range: Range<usize>) -> Result<String, WireError> {
        match std::str::from_utf8(&self.buffer[range.clone()]) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => malformed(range.start, "a name is not UTF-8"),
        }
    }

    fn model(&mut self) -> Result<ParsedModel, WireError> {
        let buffer = self.buffer;
        let mut model = ParsedModel::default();
        let mut producer_version = String::new();
        let mut reader = Reader::new(buffer, 0..buffer.len());
        while let Some(Field { number, value }) = reader.next_field()? {
            match (number, value) {
                (1, Value::Varint(v)) => model.ir_version = v as i64,
                (2, Value::Bytes(r)) => model.producer = self.text(r)?,
                (3, Value::Bytes(r)) => producer_version = self.text(r)?,
                (7, Value::Bytes(r)) => {
                    model.has_graph = true;
                    self.graph(r, &mut model.graph, 0)?;
                }
                (8, Value::Bytes(r)) => {
                    let (domain, version) = self.opset(r)?;
                    model.opsets.insert(domain, version);
                }
                (14, Value::Bytes(r)) => model.metadata.push(self.pair(r)?),
                (25, Value::Bytes(r)) => model.functions.push(self.function_name(r)?),
                _ => {}
            }
        }
        if !producer_version.is_empty() {
            model.producer = format!("{} {producer_version}", model.producer);
        }
        Ok(model)
    }

    fn opset(&self, range: Range<usize>) -> Result<(String, i64), WireError> {
        let (mut domain, mut version) = (String::new(), 0);
        let mut reader = self.fields(range);
        while let Some(Field { number, value }) = reader.next_field()? {
            match (number, value) {
                (1, Value::Bytes(r)) => domain = normal_domain(self.text(r)?),
                (2, Value::Varint(v)) => version = v as i64,
                _ => {}
            }
        }
        Ok((domain, version))
    }

    fn pair(&self, range: Range<usize>) -> Result<(String, String), WireError> {
        let (mut key, mut text) = (String::new(), String::new());
        let mut reader = self.fields(range);
        while let Some(Field { number, value }) = reader.next_field()? {
            match (number, value) {
                (1, Value::Bytes(r)) => key = self.text(r)?,
                (2, Value::Bytes(r)) => text = String::from_utf8_lossy(&self.buffer[r]).into_owned(),
                _ => {}
            }
        }
        Ok((key, text))
    }

    fn function_name(&self, range: Range<usize>) -> Result<(String, String), WireError> {
        let (mut name, mut domain) = (String::new(), String::new());
        let mut reader = self.fields(range);
        while let Some(Field { number, value }) = reader.next_field()? {
            match (number, value) {
                (1, Value::Bytes(r)) => name = self.text(r)?,
                (10, Value::Bytes(r)) => domain = normal_domain(self.text(r)?),
                _ => {}
            }
        }
        Ok((domain, name))
    }

    /// Merges the graph in `range` into `graph`: protobuf messages concatenate.
    fn graph(&mut self, range: Range<usize>, graph: &mut Graph, depth: usize) -> Result<(), WireError> {
        if depth > MAXIMUM_DEPTH {
            return malformed(range.start, "subgraphs are nested too deep");
        }
        let mut reader = Reader::new(self.buffer, range);
        while let Some(Field { number, value }) = reader.next_field()? {
            let Value::Bytes(r) = value else { continue };
            match number {
                1 => graph.nodes.push(self.node(r, depth)?),
                2 => graph.name = self.text(r)?,
                5 => graph.initializers.push(self.tensor(r)?),
                11 => graph.inputs.push(self.value_info(r)?),
                12 => graph.outputs.push(self.value_info(r)?),
                13 => graph.value_info.push(self.value_info(r)?),
                _ => {}
            }
        }
        Ok(())
    }

    fn node(&mut self, range: Range<usize>, depth: usize) -> Result<Node, WireError> {
        let mut node = Node::default();
        let mut reader = Reader::new(self.buffer, range);
        while let Some(Field { number, value }) = reader.next_field()? {
            let Value::Bytes(r) = value else { continue };
            match number {
                1 => node.inputs.push(self.text(r)?),
                2 => node.outputs.push(self.text(r)?),
                3 => node.name = self.text(r)?,
                4 => node.op_type = self.text(r)?,
                5 => node.attributes.push(self.attribute(r, depth)?),
                7 => node.domain = normal_domain(self.text(r)?),
                9 => node.metadata.push(self.pair(r)?),
                _ => {}
            }
        }
        Ok(node)
    }

    fn attribute(&mut self, range: Range<usize>, depth: usize) -> Result<(String, Attribute), WireError> {
        let mut name = String::new();
        let (mut float, mut int, mut string) = (None, None, None);
        let (mut tensor, mut graph) = (None, None);
        let (mut floats, mut ints, mut strings) = (Vec::new(), Vec::new(), Vec::new());
        let mut kind = 0;
        let mut reader = Reader::new(self.buffer, range);
        while let Some(Field { number, value }) = reader.next_field()? {
            match (number, value) {
                (1, Value::Bytes(r)) => name = self.text(r)?,
                (2, Value::Fixed32(v)) => float = Some(f32::from_bits(v)),
                (3, Value::Varint(v)) => int = Some(v as i64),
                (4, Value::Bytes(r)) => string = Some(self.buffer[r].to_vec()),
                (5, Value::Bytes(r)) => tensor = Some(self.tensor(r)?),
                (6, Value::Bytes(r)) => {
                    let mut inner = Graph::default();
                    self.graph(r, &mut inner, depth + 1)?;
                    graph = Some(Box::new(inner));
                }
                (7, Value::Fixed32(v)) => floats.push(f32::from_bits(v)),
                (7, Value::Bytes(r)) => {
                    floats.extend(elements(&self.buffer[r], f32::from_le_bytes));
                }
                (8, ref value) => {
                    let mut raw = Vec::new();
                    varints(self.buffer, value, &mut raw)?;
                    ints.extend(raw.into_iter().map(|v| v as i64));
                }
                (9, Value::Bytes(r)) => strings.push(self.buffer[r].to_vec()),
                (20, Value::Varint(v)) => kind = v,
                _ => {}
            }
        }
        // Scalars equal to the default may be left out of the file, so the kind decides, not what was present.
        let attribute = match kind {
            1 => Attribute::Float(float.unwrap_or(0.0)),
            2 => Attribute::Int(int.unwrap_or(0)),
            3 => Attribute::String(string.unwrap_or_default()),
            4 => tensor.map_or(Attribute::Other, Attribute::Tensor),
            5 => graph.map_or(Attribute::Other, Attribute::Graph),
            6 => Attribute::Floats(floats),
            7 => Attribute::Ints(ints),
            8 => Attribute::Strings(strings),
            _ => Attribute::Other,
        };
        Ok((name, attribute))
    }

    fn tensor(&mut self, range: Range<usize>) -> Result<Tensor, WireError> {
        let start = range.start;
        let mut name = String::new();
        let mut dims = Vec::new();
        let mut code = 0;
        let mut raw = None;
        let mut numbers: Vec<u64> = Vec::new();
        let mut fixed: Vec<u8> = Vec::new();
        let mut packed = Vec::new();
        let mut strings = Vec::new();
        let mut external: HashMap<String, String> = HashMap::new();
        let mut is_external = false;
        let mut reader = Reader::new(self.buffer, range);
        while let Some(Field { number, value }) = reader.next_field()? {
            match (number, value) {
                (1, ref value) => varints(self.buffer, value, &mut dims)?,
                (2, Value::Varint(v)) => code = v as i32,
                // Packed floats and doubles are little-endian elements, as raw data is.
                (4 | 10, Value::Bytes(r)) => packed.push(r),
                (4, Value::Fixed32(v)) => fixed.extend(v.to_le_bytes()),
                (10, Value::Fixed64(v)) => fixed.extend(v.to_le_bytes()),
                (5 | 7 | 11, ref value) => varints(self.buffer, value, &mut numbers)?,
                (6, Value::Bytes(r)) => strings.push(self.buffer[r].to_vec()),
                (8, Value::Bytes(r)) => name = self.text(r)?,
                (9, Value::Bytes(r)) => raw = Some(r),
                (13, Value::Bytes(r)) => {
                    let (key, text) = self.pair(r)?;
                    external.insert(key, text);
                }
                (14, Value::Varint(v)) => is_external = v == 1,
                _ => {}
            }
        }
        let data_type = DataType::from_code(code);
        let mut shape = Vec::with_capacity(dims.len());
        for dim in dims {
            match usize::try_from(dim as i64) {
                Ok(dim) => shape.push(dim),
                Err(_) => return malformed(start, "a tensor has a negative dimension"),
            }
        }
        if shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).is_none() {
            return malformed(start, "a tensor has more elements than can be counted");
        }
        let data = if is_external {
            self.external(start, &name, &external)?
        } else if data_type == DataType::String {
            TensorData::Strings(strings)
        } else if let Some(range) = raw {
            TensorData::InFile(range)
        } else if packed.len() == 1 && fixed.is_empty() {
            TensorData::InFile(packed.remove(0))
        } else if !packed.is_empty() || !fixed.is_empty() {
            let mut bytes: Vec<u8> = packed.into_iter().flat_map(|r| self.buffer[r].to_vec()).collect();
            bytes.extend(fixed);
            TensorData::Decoded(bytes)
        } else {
            let size = data_type.size().unwrap_or(0);
            TensorData::Decoded(numbers.iter().flat_map(|n| n.to_le_bytes().into_iter().take(size)).collect())
        };
        Ok(Tensor { name, data_type, dims: shape, data })
    }

    fn external(
        &mut self,
        start: usize,
        name: &str,
        entries: &HashMap<String, String>,
    ) -> Result<TensorData, WireError> {
        let Some(location) = entries.get("location") else {
            return malformed(start, "an external tensor names no file");
        };
        let number = |key: &str| -> Result<usize, WireError> {
            match entries.get(key).map(|text| text.parse::<usize>()) {
                None => Ok(0),
                Some(Ok(number)) => Ok(number),
                Some(Err(_)) => malformed(start, "an external tensor has an offset or length that is no number"),
            }
        };
        let (offset, length) = (number("offset")?, number("length")?);
        let Some(end) = offset.checked_add(length) else {
            return malformed(start, "an external tensor lies beyond any file");
        };
        let file = match self.locations.iter().position(|known| known == location) {
            Some(file) => file,
            None => {
                self.locations.push(location.clone());
                self.locations.len() - 1
            }
        };
        self.needed.push((file, end, name.to_owned()));
        Ok(TensorData::External { file, range: offset..end })
    }

    fn value_info(&self, range: Range<usize>) -> Result<ValueInfo, WireError> {
        let mut info = ValueInfo::default();
        let mut reader = self.fields(range);
        while let Some(Field { number, value }) = reader.next_field()? {
            match (number, value) {
                (1, Value::Bytes(r)) => info.name = self.text(r)?,
                (2, Value::Bytes(r)) => {
                    let mut kinds = self.fields(r);
                    while let Some(Field { number, value }) = kinds.next_field()? {
                        if let (1, Value::Bytes(r)) = (number, value) {
                            self.tensor_type(r, &mut info)?;
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(info)
    }

    fn tensor_type(&self, range: Range<usize>, info: &mut ValueInfo) -> Result<(), WireError> {
        let mut reader = self.fields(range);
        while let Some(Field { number, value }) = reader.next_field()? {
            match (number, value) {
                (1, Value::Varint(v)) => info.data_type = Some(DataType::from_code(v as i32)),
                (2, Value::Bytes(r)) => {
                    let mut shape = Vec::new();
                    let mut dims = self.fields(r);
                    while let Some(Field { number, value }) = dims.next_field()? {
                        if let (1, Value::Bytes(r)) = (number, value) {
                            shape.push(self.dimension(r)?);
                        }
                    }
                    info.shape = Some(shape);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn dimension(&self, range: Range<usize>) -> Result<Dimension, WireError> {
        let mut reader = self.fields(range);
        let mut dimension = Dimension::Unknown;
        while let Some(Field { number, value }) = reader.next_field()? {
            match (number, value) {
                (1, Value::Varint(v)) => {
                    dimension = usize::try_from(v as i64).map_or(Dimension::Unknown, Dimension::Fixed);
                }
                (2, Value::Bytes(r)) => dimension = Dimension::Named(self.text(r)?),
                _ => {}
            }
        }
        Ok(dimension)
    }
}

fn normal_domain(domain: String) -> String {
    if domain == "ai.onnx" { String::new() } else { domain }
}
