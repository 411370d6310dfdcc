//! Changes to a model at byte level: what is appended or replaced is new, everything else stays identical to the bit.
//!
//! Protobuf messages concatenate: a second `graph` field of the model merges with the first one, so nodes, inputs, outputs
//! and initializers are appended to the file. A tensor of unchanged size is replaced in place. Only a rewritten node
//! changes the length of the graph around it; that length is then rewritten.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;

use super::graph::{Dimension, ValueInfo};
use super::node_spec::NodeSpec;
use super::splice::{GraphField, graph_fields};
use super::tensor::{DataType, Tensor, TensorData};
use super::wire::Writer;
use super::{Model, OnnxError};
use crate::files::{self, write_atomically};

/// Protobuf readers refuse larger files.
const MAXIMUM_FILE: usize = i32::MAX as usize;

/// Produces the bytes of a tensor when they are written, so that not all tensors are in memory at once.
pub type Produce<'a> = Box<dyn Fn() -> io::Result<Vec<u8>> + Send + Sync + 'a>;

/// A change to a model. Nothing happens until it is applied or written.
#[derive(Default)]
pub struct Edit<'a> {
    /// Fields that are appended to the graph.
    graph: Writer,
    /// Names of values that must not exist in the model yet.
    new_values: Vec<String>,
    /// New initializers with their types and shapes: old models list them as inputs too.
    new_initializers: Vec<(String, DataType, Vec<usize>)>,
    new_outputs: Vec<String>,
    replacements: Vec<Replacement<'a>>,
    /// Node index to its new encoding; `None` removes the node.
    nodes: BTreeMap<usize, Option<Vec<u8>>>,
}

struct Replacement<'a> {
    tensor: String,
    place: TensorData,
    length: usize,
    produce: Produce<'a>,
}

impl std::fmt::Debug for Edit<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let replaced: Vec<&str> = self.replacements.iter().map(|replacement| replacement.tensor.as_str()).collect();
        formatter
            .debug_struct("Edit")
            .field("appended_bytes", &self.graph.len())
            .field("new_values", &self.new_values)
            .field("new_outputs", &self.new_outputs)
            .field("replaced", &replaced)
            .field("rewritten_nodes", &self.nodes.keys())
            .finish()
    }
}

impl<'a> Edit<'a> {
    /// An edit that changes nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the edit changes nothing.
    pub fn is_empty(&self) -> bool {
        self.graph.is_empty() && self.replacements.is_empty() && self.nodes.is_empty()
    }

    /// Makes a value of the graph an output.
    pub fn add_output(&mut self, name: &str, data_type: DataType, shape: &[Dimension]) -> &mut Self {
        self.graph.message(12, |info| ValueInfo::tensor(name, data_type, Some(shape)).encode(info));
        self.new_outputs.push(name.into());
        self
    }

    /// Adds a graph input.
    pub fn add_input(&mut self, name: &str, data_type: DataType, shape: &[Dimension]) -> &mut Self {
        self.graph.message(11, |info| ValueInfo::tensor(name, data_type, Some(shape)).encode(info));
        self.new_values.push(name.into());
        self
    }

    /// Appends a node after all others.
    pub fn add_node(&mut self, node: NodeSpec) -> &mut Self {
        self.graph.message(1, |writer| node.encode(writer));
        self.new_values.extend(node.outputs);
        self
    }

    /// Adds a constant; `bytes` are its little-endian elements.
    pub fn add_initializer(&mut self, name: &str, data_type: DataType, dims: &[usize], bytes: &[u8]) -> &mut Self {
        self.graph.message(5, |tensor| {
            dims.iter().for_each(|dim| {
                tensor.int(1, *dim as i64);
            });
            tensor.int(2, i64::from(data_type.code())).string(8, name).bytes(9, bytes);
        });
        self.new_values.push(name.into());
        self.new_initializers.push((name.into(), data_type, dims.to_vec()));
        self
    }

    /// Replaces the elements of a tensor with the same number of new ones of the same type, given as little-endian bytes.
    ///
    /// # Errors
    /// When the tensor is not stored as plain bytes, or the number of bytes differs.
    pub fn replace_tensor(&mut self, model: &Model, tensor: &Tensor, bytes: Vec<u8>) -> Result<&mut Self, OnnxError> {
        let (expected, found) = (model.bytes(tensor)?.len(), bytes.len());
        if expected != found {
            let reason = format!("tensor `{}` has {expected} bytes, its replacement {found}", tensor.name);
            return Err(OnnxError::Edit { path: model.path().into(), reason });
        }
        self.replace_tensor_with(model, tensor, Box::new(move || Ok(bytes.clone())))
    }

    /// As [`Edit::replace_tensor`], with bytes produced when they are written.
    ///
    /// # Errors
    /// When the tensor is not stored as plain bytes.
    pub fn replace_tensor_with(
        &mut self,
        model: &Model,
        tensor: &Tensor,
        produce: Produce<'a>,
    ) -> Result<&mut Self, OnnxError> {
        if !matches!(tensor.data, TensorData::InFile(_) | TensorData::External { .. }) {
            let reason = format!(
                "tensor `{}` is stored as single numbers, not as bytes, and cannot be replaced in place; export the model with raw data (torch.onnx does so), or run it through onnx.numpy_helper once",
                tensor.name
            );
            return Err(OnnxError::Edit { path: model.path().into(), reason });
        }
        let length = model.bytes(tensor)?.len();
        let replacement = Replacement { tensor: tensor.name.clone(), place: tensor.data.clone(), length, produce };
        self.replacements.push(replacement);
        Ok(self)
    }

    /// Replaces a node with another encoding of it, or removes it. No remaining node may need an output that is removed.
    pub(crate) fn rewrite_node(&mut self, index: usize, encoding: Option<Vec<u8>>) -> &mut Self {
        self.nodes.insert(index, encoding);
        self
    }

    /// Whether the edit rewrites this node.
    pub(crate) fn rewrites(&self, index: usize) -> bool {
        self.nodes.contains_key(&index)
    }

    /// Adds all changes of another edit.
    pub fn extend(&mut self, other: Edit<'a>) -> &mut Self {
        self.graph.raw(&other.graph.into_bytes());
        self.new_values.extend(other.new_values);
        self.new_initializers.extend(other.new_initializers);
        self.new_outputs.extend(other.new_outputs);
        self.replacements.extend(other.replacements);
        self.nodes.extend(other.nodes);
        self
    }

    /// The changed `.onnx` file. External data stays where it is.
    ///
    /// # Errors
    /// When the change does not fit the model, or replaces external data.
    pub fn apply_to_bytes(&self, model: &Model) -> Result<Vec<u8>, OnnxError> {
        if let Some(outside) = self.replacements.iter().find(|r| matches!(r.place, TensorData::External { .. })) {
            let reason =
                format!("tensor `{}` lies in another file; write the changed model to a folder", outside.tensor);
            return Err(OnnxError::Edit { path: model.path().into(), reason });
        }
        let pieces = self.pieces(model)?;
        let mut out = Vec::with_capacity(pieces.iter().map(Piece::len).sum());
        write_pieces(&pieces, model.file_bytes(), &mut out)
            .map_err(|error| OnnxError::Edit { path: model.path().into(), reason: error.to_string() })?;
        Ok(out)
    }

    /// Writes the changed model, its external data files beside it under their old names. Each file is streamed under a
    /// temporary name and renamed; the `.onnx` file comes last.
    ///
    /// # Errors
    /// When the change does not fit the model, would overwrite external data of the original, or cannot be written.
    pub fn write(&self, model: &Model, out: &Path) -> Result<(), OnnxError> {
        let pieces = self.pieces(model)?;
        self.write_externals(model, out)?;
        write_atomically(out, |writer| write_pieces(&pieces, model.file_bytes(), writer))?;
        Ok(())
    }

    fn write_externals(&self, model: &Model, out: &Path) -> Result<(), OnnxError> {
        let folder = out.parent().unwrap_or(Path::new("."));
        for (number, external) in model.external_files().iter().enumerate() {
            let target = folder.join(&external.location);
            let mut patches: Vec<(&Range<usize>, &Replacement)> = Vec::new();
            for replacement in &self.replacements {
                if let TensorData::External { file, range } = &replacement.place
                    && *file == number
                {
                    patches.push((range, replacement));
                }
            }
            if same_file(&external.path, &target) {
                if patches.is_empty() {
                    continue;
                }
                let reason = format!(
                    "its weights lie in {}, which a copy in the same folder would overwrite; write to another folder",
                    external.path.display()
                );
                return Err(OnnxError::Edit { path: model.path().into(), reason });
            }
            if patches.is_empty() {
                // Read the file rather than its map: mapped pages count as memory of the process.
                let failed = |source| OnnxError::Open { path: external.path.clone(), source };
                let mut file = files::open(&external.path).map_err(failed)?;
                write_atomically(&target, |writer| io::copy(&mut file, writer).map(|_| ()))?;
                continue;
            }
            let pieces = replaced_pieces(model, 0..external.bytes().len(), patches)?;
            write_atomically(&target, |writer| write_pieces(&pieces, external.bytes(), writer))?;
        }
        Ok(())
    }

    /// The pieces that make up the new `.onnx` file.
    fn pieces(&self, model: &Model) -> Result<Vec<Piece<'_>>, OnnxError> {
        self.check_names(model)?;
        let length = model.file_bytes().len();
        let mut patches: Vec<(&Range<usize>, &Replacement)> = Vec::new();
        for replacement in &self.replacements {
            if let TensorData::InFile(range) = &replacement.place {
                patches.push((range, replacement));
            }
        }
        let mut pieces = match self.nodes.is_empty() {
            true => replaced_pieces(model, 0..length, patches)?,
            false => self.spliced_pieces(model, patches)?,
        };
        let appended = self.appended(model);
        if !appended.is_empty() {
            pieces.push(Piece::Bytes(appended));
        }
        let total: usize = pieces.iter().map(Piece::len).sum();
        if total > MAXIMUM_FILE && total > length {
            let reason =
                "the result would be larger than the 2 GB an .onnx file can have; export it with external data";
            return Err(OnnxError::Edit { path: model.path().into(), reason: reason.into() });
        }
        Ok(pieces)
    }

    /// The second `graph` field, which holds everything appended.
    fn appended(&self, model: &Model) -> Vec<u8> {
        if self.graph.is_empty() {
            return Vec::new();
        }
        let mut graph = self.graph.clone();
        if model.ir_version < 4 {
            for (name, data_type, dims) in &self.new_initializers {
                let shape: Vec<Dimension> = dims.iter().map(|dim| Dimension::Fixed(*dim)).collect();
                graph.message(11, |info| ValueInfo::tensor(name, *data_type, Some(&shape)).encode(info));
            }
        }
        let mut writer = Writer::new();
        writer.bytes(7, &graph.into_bytes());
        writer.into_bytes()
    }

    /// The pieces with rewritten nodes: the fields around them are copied one by one, and the graph gets its new length.
    fn spliced_pieces<'e>(
        &'e self,
        model: &Model,
        patches: Vec<(&'e Range<usize>, &'e Replacement<'a>)>,
    ) -> Result<Vec<Piece<'e>>, OnnxError> {
        let bytes = model.file_bytes();
        let fields = graph_fields(bytes);
        let known: usize = fields.iter().map(|field| field.nodes.len()).sum();
        let nodes: BTreeMap<usize, &Option<Vec<u8>>> =
            self.nodes.iter().map(|(index, encoding)| (model.place_in_file(*index), encoding)).collect();
        if let Some(index) = nodes.keys().find(|index| **index >= known) {
            let reason = format!("it has {known} nodes, number {index} is not among them");
            return Err(OnnxError::Edit { path: model.path().into(), reason });
        }
        let mut pieces = Vec::new();
        let wanted = patches.len();
        let (mut position, mut first) = (0, 0);
        for GraphField { header, payload, nodes: ranges } in fields {
            let mut inner = Vec::new();
            let mut from = payload.start;
            for (&index, encoding) in nodes.range(first..first + ranges.len()) {
                let node = &ranges[index - first];
                inner.extend(replaced_pieces(model, from..node.start, inside(&patches, from..node.start))?);
                if let Some(encoding) = encoding {
                    let mut writer = Writer::new();
                    writer.bytes(1, encoding);
                    inner.push(Piece::Bytes(writer.into_bytes()));
                }
                from = node.end;
            }
            inner.extend(replaced_pieces(model, from..payload.end, inside(&patches, from..payload.end))?);
            let mut writer = Writer::new();
            writer.header(7, inner.iter().map(Piece::len).sum());
            pieces.push(Piece::Copy(position..header.start));
            pieces.push(Piece::Bytes(writer.into_bytes()));
            pieces.extend(inner);
            position = payload.end;
            first += ranges.len();
        }
        pieces.push(Piece::Copy(position..bytes.len()));
        if pieces.iter().filter(|piece| matches!(piece, Piece::Produced { .. })).count() != wanted {
            let reason = "a node and a tensor in it are changed at once; change one after the other";
            return Err(OnnxError::Edit { path: model.path().into(), reason: reason.into() });
        }
        Ok(pieces)
    }

    fn check_names(&self, model: &Model) -> Result<(), OnnxError> {
        let graph = &model.graph;
        let removed = |index: usize| matches!(self.nodes.get(&index), Some(None));
        let mut values: HashSet<&str> = graph.inputs.iter().map(|input| input.name.as_str()).collect();
        values.extend(graph.initializers.iter().map(|tensor| tensor.name.as_str()));
        let nodes = graph.nodes.iter().enumerate().filter(|(index, _)| !removed(*index));
        values.extend(nodes.flat_map(|(_, node)| node.outputs.iter().map(String::as_str)));
        let fail = |reason: String| Err(OnnxError::Edit { path: model.path().into(), reason });
        for name in &self.new_values {
            if !values.insert(name) {
                return fail(format!("it has a value named `{name}` already; was it changed by gelora before?"));
            }
        }
        let mut outputs: HashSet<&str> = graph.outputs.iter().map(|output| output.name.as_str()).collect();
        for name in &self.new_outputs {
            if !values.contains(name.as_str()) {
                return fail(format!("there is no value named `{name}` to make an output of"));
            }
            if !outputs.insert(name) {
                return fail(format!("`{name}` is an output already"));
            }
        }
        Ok(())
    }
}

/// A contiguous part of the new file.
enum Piece<'a> {
    /// Byte range copied from the old file.
    Copy(Range<usize>),
    /// New bytes.
    Bytes(Vec<u8>),
    /// New bytes, produced when they are written.
    Produced { tensor: &'a str, length: usize, produce: &'a Produce<'a> },
}

impl Piece<'_> {
    fn len(&self) -> usize {
        match self {
            Piece::Copy(range) => range.len(),
            Piece::Bytes(bytes) => bytes.len(),
            Piece::Produced { length, .. } => *length,
        }
    }
}

fn inside<'p, 'a>(
    patches: &[(&'p Range<usize>, &'p Replacement<'a>)],
    range: Range<usize>,
) -> Vec<(&'p Range<usize>, &'p Replacement<'a>)> {
    patches.iter().copied().filter(|(patch, _)| range.start <= patch.start && patch.end <= range.end).collect()
}

/// The bytes of `range` with the patched ranges replaced.
fn replaced_pieces<'p>(
    model: &Model,
    range: Range<usize>,
    mut patches: Vec<(&Range<usize>, &'p Replacement<'_>)>,
) -> Result<Vec<Piece<'p>>, OnnxError> {
    patches.sort_by_key(|(range, _)| range.start);
    let mut pieces = Vec::with_capacity(2 * patches.len() + 1);
    let mut position = range.start;
    for (patch, Replacement { tensor, length, produce, .. }) in patches {
        if patch.start < position {
            let reason = format!("tensor `{tensor}` is replaced twice, or shares its bytes with another that is");
            return Err(OnnxError::Edit { path: model.path().into(), reason });
        }
        pieces.push(Piece::Copy(position..patch.start));
        pieces.push(Piece::Produced { tensor, length: *length, produce });
        position = patch.end;
    }
    pieces.push(Piece::Copy(position..range.end));
    Ok(pieces)
}

fn write_pieces(pieces: &[Piece], original: &[u8], out: &mut impl Write) -> io::Result<()> {
    for piece in pieces {
        match piece {
            Piece::Copy(range) => out.write_all(&original[range.clone()])?,
            Piece::Bytes(bytes) => out.write_all(bytes)?,
            Piece::Produced { tensor, length, produce } => {
                let bytes = produce()?;
                if bytes.len() != *length {
                    let found = bytes.len();
                    return Err(io::Error::other(format!("tensor `{tensor}` has {length} bytes, not {found}")));
                }
                out.write_all(&bytes)?;
            }
        }
    }
    Ok(())
}

fn same_file(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}
