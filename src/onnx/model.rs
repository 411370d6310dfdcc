//! An ONNX file, memory-mapped and parsed without copying its weights.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::OnnxError;
use super::constants::list_constants;
use super::order::sort;
use super::parser::{Parser, open_externals};
use super::tensor::{DataType, Tensor, TensorData};
use super::wire::WireError;
use crate::files::{FileError, refuse_pointer};

/// A parsed ONNX model. The weights stay in the mapped file(s).
#[derive(Debug)]
pub struct Model {
    path: PathBuf,
    buffer: Buffer,
    externals: Vec<ExternalFile>,
    /// The place in the file of every node; empty where they are in the order of the file.
    places: Vec<usize>,
    /// The node at every place of the file; empty likewise.
    nodes_at: Vec<usize>,
    /// `ModelProto.ir_version`.
    pub ir_version: i64,
    /// Name of the exporter and its version, as it wrote them.
    pub producer: String,
    /// Operator set versions by domain; the default domain is `""`.
    pub opsets: BTreeMap<String, i64>,
    /// `ModelProto.metadata_props`.
    pub metadata: Vec<(String, String)>,
    /// Model-local functions.
    pub functions: Vec<Function>,
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
    pub(super) map: Mmap,
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
    /// Nodes in topological order: that of the file, as far as that is one.
    pub nodes: Vec<Node>,
    /// Constants of the graph (initializers); in the main graph of a model also the tensors of `Constant` nodes that may be
    /// weights.
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

/// A model-local function: nodes that stand for an operator of the model's own.
#[derive(Debug, Default, Clone)]
pub struct Function {
    /// Domain of the operator that it defines.
    pub domain: String,
    /// Name of the operator that it defines.
    pub name: String,
    /// Names of its inputs, in order; a node may give fewer.
    pub inputs: Vec<String>,
    /// Names of its outputs, in order.
    pub outputs: Vec<String>,
    /// Attributes that a node must give.
    pub attributes: Vec<String>,
    /// Attributes that a node may give, with the value they have otherwise.
    pub defaults: Vec<(String, Attribute)>,
    /// Nodes in topological order.
    pub nodes: Vec<Node>,
    /// Operator set versions by domain that its nodes are written for.
    pub opsets: BTreeMap<String, i64>,
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
    /// Inside of a function: the attribute of this name of the node that uses the function.
    Reference(String),
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
        let mut parser = Parser::new(buffer.bytes());
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
            places: Vec::new(),
            nodes_at: Vec::new(),
        };
        let circle = |node: String| OnnxError::Malformed {
            path: path.into(),
            reason: format!(
                "its nodes go round in a circle: `{}` reads what is made of its own output; export it again",
                node.escape_debug()
            ),
        };
        model.places = sort(&mut model.graph.nodes).map_err(circle)?.unwrap_or_default();
        model.nodes_at = vec![0; model.places.len()];
        model.places.iter().enumerate().for_each(|(node, place)| model.nodes_at[*place] = node);
        list_constants(&mut model.graph);
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
                        tensor.name.escape_debug(),
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

    /// The place of a node among those of the file.
    pub(crate) fn place_in_file(&self, node: usize) -> usize {
        self.places.get(node).copied().unwrap_or(node)
    }

    /// The node that stands at a place of the file.
    pub(crate) fn node_at(&self, place: usize) -> usize {
        self.nodes_at.get(place).copied().unwrap_or(place)
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
            reason: format!("tensor `{}` is {}, not {expected}", tensor.name.escape_debug(), tensor.data_type.name()),
        }
    }
}

pub(super) fn elements<const N: usize, T>(bytes: &[u8], convert: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|chunk| convert(*chunk)).collect()
}

pub(super) fn map_file(path: &Path) -> Result<Mmap, OnnxError> {
    let open = |source| OnnxError::Open { path: path.into(), source };
    let file = crate::files::open(path).map_err(open)?;
    // SAFETY: the map is read-only; a file that another process shortens meanwhile is outside what gelora can guard.
    let map = unsafe { Mmap::map(&file) }.map_err(open)?;
    refuse_pointer(&map).map_err(FileError::new("read", path))?;
    Ok(map)
}
