//! Tensors of an ONNX file: element type, shape, and where the bytes lie.

use std::ops::Range;

/// Element type of a tensor (`TensorProto.DataType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are those of the ONNX specification")]
pub enum DataType {
    Float,
    Uint8,
    Int8,
    Uint16,
    Int16,
    Int32,
    Int64,
    String,
    Bool,
    Float16,
    Double,
    Uint32,
    Uint64,
    BFloat16,
    /// A type that gelora carries along but does not compute with (complex, 8-bit floats, 4-bit integers).
    Other(i32),
}

impl DataType {
    /// The type with this number in the file.
    pub fn from_code(code: i32) -> Self {
        match code {
            1 => Self::Float,
            2 => Self::Uint8,
            3 => Self::Int8,
            4 => Self::Uint16,
            5 => Self::Int16,
            6 => Self::Int32,
            7 => Self::Int64,
            8 => Self::String,
            9 => Self::Bool,
            10 => Self::Float16,
            11 => Self::Double,
            12 => Self::Uint32,
            13 => Self::Uint64,
            16 => Self::BFloat16,
            other => Self::Other(other),
        }
    }

    /// The number of the type in the file.
    pub fn code(self) -> i32 {
        match self {
            Self::Float => 1,
            Self::Uint8 => 2,
            Self::Int8 => 3,
            Self::Uint16 => 4,
            Self::Int16 => 5,
            Self::Int32 => 6,
            Self::Int64 => 7,
            Self::String => 8,
            Self::Bool => 9,
            Self::Float16 => 10,
            Self::Double => 11,
            Self::Uint32 => 12,
            Self::Uint64 => 13,
            Self::BFloat16 => 16,
            Self::Other(code) => code,
        }
    }

    /// Bytes per element; `None` for strings and for types below one byte.
    pub fn size(self) -> Option<usize> {
        match self {
            Self::Uint8 | Self::Int8 | Self::Bool => Some(1),
            Self::Uint16 | Self::Int16 | Self::Float16 | Self::BFloat16 => Some(2),
            Self::Float | Self::Int32 | Self::Uint32 => Some(4),
            Self::Int64 | Self::Double | Self::Uint64 => Some(8),
            Self::String | Self::Other(_) => None,
        }
    }

    /// The common name of the type (`float32`, `int64` …).
    pub fn name(self) -> &'static str {
        match self {
            Self::Float => "float32",
            Self::Uint8 => "uint8",
            Self::Int8 => "int8",
            Self::Uint16 => "uint16",
            Self::Int16 => "int16",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::String => "string",
            Self::Bool => "bool",
            Self::Float16 => "float16",
            Self::Double => "float64",
            Self::Uint32 => "uint32",
            Self::Uint64 => "uint64",
            Self::BFloat16 => "bfloat16",
            Self::Other(_) => "an unsupported type",
        }
    }

    /// Whether it is a floating-point type.
    pub fn is_float(self) -> bool {
        matches!(self, Self::Float | Self::Float16 | Self::Double | Self::BFloat16)
    }
}

/// Location of the elements of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TensorData {
    /// Little-endian elements at this absolute byte range of the `.onnx` file.
    InFile(Range<usize>),
    /// Little-endian elements at this byte range of external file number `file` (see `Model::external_files`).
    External {
        /// Index into `Model::external_files`.
        file: usize,
        /// Byte range in that file.
        range: Range<usize>,
    },
    /// Elements that the file holds as varints, decoded to little-endian bytes. Cannot be replaced in place.
    Decoded(Vec<u8>),
    /// String elements.
    Strings(Vec<Vec<u8>>),
}

/// A named constant of the graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Name of the constant in the graph; empty for the value of a `Constant` node.
    pub name: String,
    /// Element type.
    pub data_type: DataType,
    /// Shape; empty for a scalar.
    pub dims: Vec<usize>,
    /// The elements, or where they are.
    pub data: TensorData,
}

impl Tensor {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.dims.iter().product()
    }

    /// Whether the tensor has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
