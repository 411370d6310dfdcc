//! An ONNX file, memory-mapped and parsed without copying its weights.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::OnnxError;
use super::constants::list_constants;
use super::external::{ExternalFile, map_file, open_externals};
use super::graph::{Function, Graph, elements};
use super::order::sort;
use super::parser::Parser;
use super::tensor::{DataType, Tensor, TensorData};
use super::wire::WireError;

/// A parsed ONNX model. The weights stay in the mapped file(s).
#[derive(Debug)]
pub struct Model {
    path: PathBuf,
    buffer: Buffer,
    externals: Vec<ExternalFile>,
    /// Position in the file of every node; empty where the nodes are in file order.
    places: Vec<usize>,
    /// Node at every position of the file; empty likewise.
    nodes_at: Vec<usize>,
    /// `ModelProto.ir_version`.
    pub ir_version: i64,
    /// Name and version of the exporter, as written in the file.
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

    /// Sets omitted lengths of external tensors: they follow from type and shape.
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

    /// Path the model was read from.
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

    /// Position of a node in the file.
    pub(crate) fn place_in_file(&self, node: usize) -> usize {
        self.places.get(node).copied().unwrap_or(node)
    }

    /// The node at a position of the file.
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
