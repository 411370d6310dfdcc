//! From bytes to a model: the messages of the ONNX schema that gelora reads. Unknown fields are skipped.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::graph::{Attribute, Dimension, Function, Graph, Node, ValueInfo, elements};
use super::tensor::{DataType, Tensor, TensorData};
use super::wire::{Field, Reader, Value, WireError, varints};

/// Subgraphs nested deeper than this are refused.
const MAXIMUM_DEPTH: usize = 16;

/// Reads messages out of one buffer and collects the files they refer to.
pub(super) struct Parser<'a> {
    pub buffer: &'a [u8],
    pub locations: Vec<String>,
    /// Index of each location in `locations`.
    numbers: HashMap<String, usize>,
    /// File number, end of the range, tensor name.
    pub needed: Vec<(usize, usize, String)>,
}

#[derive(Default)]
pub(super) struct ParsedModel {
    pub ir_version: i64,
    pub producer: String,
    pub opsets: BTreeMap<String, i64>,
    pub metadata: Vec<(String, String)>,
    pub functions: Vec<Function>,
    pub graph: Graph,
    pub has_graph: bool,
}

fn malformed<T>(offset: usize, what: &'static str) -> Result<T, WireError> {
    Err(WireError { offset, what })
}

impl<'a> Parser<'a> {
    pub fn new(buffer: &'a [u8]) -> Self {
        Parser { buffer, locations: Vec::new(), numbers: HashMap::new(), needed: Vec::new() }
    }
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

    pub fn model(&mut self) -> Result<ParsedModel, WireError> {
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
                (25, Value::Bytes(r)) => model.functions.push(self.function(r)?),
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

    fn function(&mut self, range: Range<usize>) -> Result<Function, WireError> {
        let mut function = Function::default();
        let mut reader = Reader::new(self.buffer, range);
        while let Some(Field { number, value }) = reader.next_field()? {
            let Value::Bytes(r) = value else { continue };
            match number {
                1 => function.name = self.text(r)?,
                4 => function.inputs.push(self.text(r)?),
                5 => function.outputs.push(self.text(r)?),
                6 => function.attributes.push(self.text(r)?),
                7 => function.nodes.push(self.node(r, 0)?),
                9 => function.opsets.extend([self.opset(r)?]),
                10 => function.domain = normal_domain(self.text(r)?),
                11 => function.defaults.push(self.attribute(r, 0)?),
                _ => {}
            }
        }
        Ok(function)
    }

    /// Merges the graph in `range` into `graph`, as concatenated protobuf messages do.
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
        let mut reference = None;
        let mut reader = Reader::new(self.buffer, range);
        while let Some(Field { number, value }) = reader.next_field()? {
            match (number, value) {
                (1, Value::Bytes(r)) => name = self.text(r)?,
                (21, Value::Bytes(r)) => reference = Some(self.text(r)?),
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
        // Scalars equal to the default may be left out of the file, so the kind decides, not which fields are present.
        let attribute = match kind {
            _ if reference.as_ref().is_some_and(|name| !name.is_empty()) => {
                Attribute::Reference(reference.unwrap_or_default())
            }
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
        let file = match self.numbers.get(location) {
            Some(file) => *file,
            None => {
                self.locations.push(location.clone());
                self.numbers.insert(location.clone(), self.locations.len() - 1);
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

#[cfg(test)]
mod tests {
    use super::super::wire::Writer;
    use super::super::{Model, Transformer};

    const MANY: usize = 30_000;

    /// With a linear search per name this would take minutes.
    #[test]
    fn many_names_take_time_in_proportion() {
        let mut model = Writer::new();
        model.int(1, 8).message(7, |graph| {
            let mut identity = |from: &str, to: &str| {
                graph.message(1, |node| {
                    node.string(1, from).string(2, to).string(4, "Identity");
                });
            };
            identity("x", "hidden_states.0");
            for copy in 0..MANY {
                identity("hidden_states.0", &format!("copy {copy}"));
            }
            graph.message(1, |node| {
                node.string(1, "copy 7").string(2, "hidden_states.1").string(4, "Tanh");
            });
            for output in ["hidden_states.0", "hidden_states.1"] {
                graph.message(12, |value| _ = value.string(1, output));
            }
        });
        let model = Model::from_bytes("copies.onnx", model.into_bytes()).unwrap();
        assert_eq!(Transformer::new(model).blocks().unwrap()[0].nodes, [MANY + 1]);

        let mut model = Writer::new();
        model.int(1, 8).message(7, |graph| {
            for file in 0..MANY {
                graph.message(5, |tensor| {
                    tensor.int(2, 1).string(8, "w").int(14, 1).message(13, |entry| {
                        entry.string(1, "location").string(2, &format!("file {file}"));
                    });
                });
            }
        });
        let error = Model::from_bytes("/nowhere/externals.onnx", model.into_bytes()).unwrap_err().to_string();
        assert!(error.contains("file 0"), "{error}");
    }
}
