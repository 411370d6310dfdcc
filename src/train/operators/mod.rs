//! The operators that the program supports: one small function per operator, grouped in files by subject.
//!
//! An operator is built once per node (attributes are read and checked then) into a [`Kernel`], a closure over libtorch
//! calls that autograd can follow. Semantics are those of the ONNX operator specification at the node's opset.

mod arithmetic;
mod attention;
mod compare;
mod contrib;
mod control;
mod convolution;
mod creation;
mod index;
mod layout;
mod matrix;
mod normalize;
mod promotion;
mod reduce;
mod tokens;

use tch::{Device, Kind, TchError, Tensor};

pub(crate) use control::{captured_names, graph as subgraph, lift};
pub(crate) use promotion::build;

use super::dropout::Dropout;
use super::error::first_line;
use crate::onnx::{DataType, Node, TensorData};

/// Why an operator could not be built or executed.
#[derive(Debug)]
pub(crate) enum OpError {
    /// A call of libtorch failed.
    Torch(TchError),
    /// The node or its inputs are invalid or not supported; the reason.
    Because(String),
}

impl From<TchError> for OpError {
    fn from(error: TchError) -> Self {
        OpError::Torch(error)
    }
}

impl std::fmt::Display for OpError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            OpError::Torch(error) => f.write_str(&first_line(error)),
            OpError::Because(reason) => f.write_str(reason),
        }
    }
}

/// A shorthand for `Err(OpError::Because(…))`.
pub(crate) fn because<T>(reason: impl Into<String>) -> Result<T, OpError> {
    Err(OpError::Because(reason.into()))
}

/// The outputs of one execution of an operator.
pub(crate) type Outputs = Result<Vec<Tensor>, OpError>;

/// An operator with its attributes fixed.
pub(crate) type Kernel = Box<dyn Fn(&Call<'_>) -> Outputs + Send>;

/// The result of building a kernel.
pub(crate) type Built = Result<Kernel, OpError>;

/// The inputs of one execution.
pub(crate) struct Call<'a> {
    /// Inputs by position; `None` is an omitted optional input.
    pub inputs: &'a [Option<&'a Tensor>],
    /// Dropout of the adapters, where it is active.
    pub dropout: Option<&'a Dropout>,
}

impl<'a> Call<'a> {
    /// A required input.
    pub fn tensor(&self, index: usize) -> Result<&'a Tensor, OpError> {
        self.optional(index).ok_or_else(|| OpError::Because(format!("input {index} is missing")))
    }

    /// An optional input.
    pub fn optional(&self, index: usize) -> Option<&'a Tensor> {
        self.inputs.get(index).copied().flatten()
    }

    /// A required input as integers on the host (a shape, axes, starts …).
    pub fn ints(&self, index: usize) -> Result<Vec<i64>, OpError> {
        ints(self.tensor(index)?)
    }

    /// An optional input as integers on the host.
    pub fn optional_ints(&self, index: usize) -> Result<Option<Vec<i64>>, OpError> {
        self.optional(index).map(ints).transpose()
    }
}

/// The elements of an integer tensor, in row-major order.
pub(crate) fn ints(tensor: &Tensor) -> Result<Vec<i64>, OpError> {
    let kind = tensor.f_kind()?;
    if matches!(kind, Kind::Float | Kind::Double | Kind::Half | Kind::BFloat16) {
        return because(format!("expected integers, found {kind:?}"));
    }
    let host = tensor.f_to_device(Device::Cpu)?.f_to_kind(Kind::Int64)?.f_contiguous()?;
    let mut values = vec![0; host.numel()];
    let count = values.len();
    host.f_copy_data(&mut values, count)?;
    Ok(values)
}

/// The single element of a tensor as a float.
pub(crate) fn scalar(tensor: &Tensor) -> Result<f64, OpError> {
    if tensor.numel() != 1 {
        return because(format!("expected one number, found shape {:?}", tensor.size()));
    }
    Ok(tensor.f_double_value(&vec![0; tensor.dim()])?)
}

/// The single element of an integer tensor, exactly.
pub(crate) fn scalar_int(tensor: &Tensor) -> Result<i64, OpError> {
    match ints(tensor)?.as_slice() {
        [value] => Ok(*value),
        _ => because(format!("expected one number, found shape {:?}", tensor.size())),
    }
}

/// An axis counted from the front, from 0.
pub(crate) fn axis_of(axis: i64, rank: usize) -> Result<i64, OpError> {
    let rank = rank as i64;
    if axis < -rank || axis >= rank.max(1) {
        return because(format!("axis {axis} does not exist in a tensor of rank {rank}"));
    }
    Ok(if axis < 0 { axis + rank } else { axis })
}

/// A node while its kernel is built.
pub(crate) struct Building<'a> {
    /// The node in the graph.
    pub node: &'a Node,
    /// Version of the default operator set.
    pub opset: i64,
}

impl Building<'_> {
    /// Number of outputs that the node has in the graph.
    pub fn outputs(&self) -> usize {
        self.node.outputs.len()
    }
}

/// An entry in the table of operators.
pub(crate) struct Operator {
    domain: &'static str,
    name: &'static str,
    /// Builds the kernel of a node for inputs of the types that the specification requires; see [`build`].
    make: fn(&Building<'_>) -> Built,
    /// Indices of inputs that are read as numbers on the host: shapes, axes, bounds. The output shape depends on their values.
    pub host: &'static [usize],
    /// What the output depends on.
    pub nature: Nature,
}

/// On what an operator's output depends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nature {
    /// On the values of the inputs; its shape on their shapes and on the host inputs.
    Values,
    /// On the shapes of the inputs alone.
    Shapes,
    /// On the values of the inputs, and its shape too.
    UnknownShape,
    /// On all inputs in ways that only the graph inside the node shows: if one depends on data, so does the shape.
    Body,
    /// Its shape depends on the shapes of the graph's inputs alone, even where that of an input does not.
    KnownShape,
}

const fn values(domain: &'static str, name: &'static str, build: fn(&Building<'_>) -> Built) -> Operator {
    Operator { domain, name, make: build, host: &[], nature: Nature::Values }
}

const fn hosted(name: &'static str, build: fn(&Building<'_>) -> Built, host: &'static [usize]) -> Operator {
    Operator { domain: "", name, make: build, host, nature: Nature::Values }
}

const fn op(name: &'static str, build: fn(&Building<'_>) -> Built) -> Operator {
    values("", name, build)
}

const fn natured(name: &'static str, build: fn(&Building<'_>) -> Built, nature: Nature) -> Operator {
    Operator { domain: "", name, make: build, host: &[], nature }
}

/// Domain of the operations that fusion creates.
pub(crate) const FUSED: &str = "gelora";

/// Domain of ONNX Runtime's own operations.
const CONTRIB: &str = "com.microsoft";

static TABLE: &[Operator] = &[
    // One value in, one value out.
    op("Abs", arithmetic::abs),
    op("Acos", arithmetic::acos),
    op("Acosh", arithmetic::acosh),
    op("Asin", arithmetic::asin),
    op("Asinh", arithmetic::asinh),
    op("Atan", arithmetic::atan),
    op("Atanh", arithmetic::atanh),
    op("Ceil", arithmetic::ceil),
    op("Celu", arithmetic::celu),
    op("Cos", arithmetic::cos),
    op("Cosh", arithmetic::cosh),
    op("Elu", arithmetic::elu),
    op("Erf", arithmetic::erf),
    op("Exp", arithmetic::exp),
    op("Floor", arithmetic::floor),
    op("Gelu", arithmetic::gelu),
    op("HardSigmoid", arithmetic::hard_sigmoid),
    op("HardSwish", arithmetic::hard_swish),
    op("Identity", arithmetic::identity),
    op("LeakyRelu", arithmetic::leaky_relu),
    op("Log", arithmetic::log),
    op("Mish", arithmetic::mish),
    op("Neg", arithmetic::neg),
    op("Reciprocal", arithmetic::reciprocal),
    op("Relu", arithmetic::relu),
    op("Round", arithmetic::round),
    op("Selu", arithmetic::selu),
    op("Shrink", arithmetic::shrink),
    op("Sigmoid", arithmetic::sigmoid),
    op("Sign", arithmetic::sign),
    op("Sin", arithmetic::sin),
    op("Sinh", arithmetic::sinh),
    op("Softplus", arithmetic::softplus),
    op("Softsign", arithmetic::softsign),
    op("Sqrt", arithmetic::sqrt),
    op("Swish", arithmetic::swish),
    op("Tan", arithmetic::tan),
    op("Tanh", arithmetic::tanh),
    op("ThresholdedRelu", arithmetic::thresholded_relu),
    op("Dropout", arithmetic::dropout),
    // Several values, element by element.
    op("Add", arithmetic::add),
    op("Sub", arithmetic::sub),
    op("Mul", arithmetic::mul),
    op("Div", arithmetic::div),
    op("Mod", arithmetic::modulo),
    op("Pow", arithmetic::pow),
    op("Min", arithmetic::min),
    op("Max", arithmetic::max),
    op("Sum", arithmetic::sum),
    op("Mean", arithmetic::mean),
    op("Clip", arithmetic::clip),
    op("PRelu", arithmetic::prelu),
    op("SwiGLU", arithmetic::swiglu),
    // Truth values.
    op("And", compare::and),
    op("Or", compare::or),
    op("Xor", compare::xor),
    op("Not", compare::not),
    op("Equal", compare::equal),
    op("Less", compare::less),
    op("LessOrEqual", compare::less_or_equal),
    op("Greater", compare::greater),
    op("GreaterOrEqual", compare::greater_or_equal),
    op("IsNaN", compare::is_nan),
    op("IsInf", compare::is_inf),
    op("Where", compare::select),
    op("BitwiseAnd", compare::bitwise_and),
    op("BitwiseOr", compare::bitwise_or),
    op("BitwiseXor", compare::bitwise_xor),
    op("BitwiseNot", compare::bitwise_not),
    // Values without inputs, types and shapes.
    op("Constant", creation::constant),
    hosted("ConstantOfShape", creation::constant_of_shape, &[0]),
    hosted("Range", creation::range, &[0, 1, 2]),
    natured("EyeLike", creation::eye_like, Nature::Shapes),
    natured("Shape", creation::shape, Nature::Shapes),
    natured("Size", creation::size, Nature::Shapes),
    op("Cast", creation::cast),
    op("CastLike", creation::cast_like),
    // The same elements in another shape.
    hosted("Reshape", layout::reshape, &[1]),
    op("Flatten", layout::flatten),
    op("Transpose", layout::transpose),
    hosted("Squeeze", layout::squeeze, &[1]),
    hosted("Unsqueeze", layout::unsqueeze, &[1]),
    hosted("Expand", layout::expand, &[1]),
    hosted("Tile", layout::tile, &[1]),
    op("Concat", layout::concat),
    hosted("Split", layout::split, &[1]),
    hosted("Pad", layout::pad, &[1, 3]),
    // Selection of elements.
    hosted("Slice", index::slice, &[1, 2, 3, 4]),
    op("Gather", index::gather),
    op("GatherElements", index::gather_elements),
    op("GatherND", index::gather_nd),
    op("ScatterElements", index::scatter_elements),
    op("ScatterND", index::scatter_nd),
    hosted("OneHot", index::one_hot, &[1]),
    hosted("Trilu", index::trilu, &[1]),
    op("TensorScatter", index::tensor_scatter),
    natured("Compress", index::compress, Nature::UnknownShape),
    natured("NonZero", index::non_zero, Nature::UnknownShape),
    // Along axes.
    hosted("ReduceMax", reduce::max, &[1]),
    hosted("ReduceMean", reduce::mean, &[1]),
    hosted("ReduceMin", reduce::min, &[1]),
    hosted("ReduceProd", reduce::prod, &[1]),
    hosted("ReduceSum", reduce::sum, &[1]),
    hosted("ReduceSumSquare", reduce::sum_square, &[1]),
    hosted("ReduceL1", reduce::l1, &[1]),
    hosted("ReduceL2", reduce::l2, &[1]),
    hosted("ReduceLogSum", reduce::log_sum, &[1]),
    hosted("ReduceLogSumExp", reduce::log_sum_exp, &[1]),
    op("ArgMax", reduce::arg_max),
    op("ArgMin", reduce::arg_min),
    hosted("CumSum", reduce::cum_sum, &[1]),
    hosted("TopK", reduce::top_k, &[1]),
    op("Softmax", normalize::softmax),
    op("LogSoftmax", normalize::log_softmax),
    op("Hardmax", normalize::hardmax),
    op("BatchNormalization", normalize::batch_normalization),
    op("GroupNormalization", normalize::group_normalization),
    op("InstanceNormalization", normalize::instance_normalization),
    op("LpNormalization", normalize::lp_normalization),
    op("MeanVarianceNormalization", normalize::mean_variance_normalization),
    op("LayerNormalization", normalize::layer_normalization),
    op("RMSNormalization", normalize::rms_normalization),
    op("SimplifiedLayerNormalization", normalize::rms_normalization),
    // Products.
    op("MatMul", matrix::matmul),
    op("Gemm", matrix::gemm),
    op("Einsum", matrix::einsum),
    op("Conv", convolution::conv),
    op("Attention", attention::attention),
    op("RotaryEmbedding", attention::rotary_embedding),
    values(FUSED, "Attention", matrix::attention),
    // ONNX Runtime's own.
    values(CONTRIB, "Gelu", contrib::gelu),
    values(CONTRIB, "BiasGelu", contrib::gelu),
    values(CONTRIB, "FastGelu", contrib::fast_gelu),
    values(CONTRIB, "QuickGelu", contrib::quick_gelu),
    values(CONTRIB, "SkipLayerNormalization", contrib::skip_layer_normalization),
    values(CONTRIB, "SkipSimplifiedLayerNormalization", contrib::skip_rms_normalization),
    values(CONTRIB, "FusedMatMul", contrib::fused_matmul),
    // Graphs inside a node.
    Operator { nature: Nature::Body, ..hosted("If", control::conditional, &[0]) },
    Operator { nature: Nature::Body, ..hosted("Loop", control::repeated, &[0, 1]) },
    // Created by the program's own passes.
    Operator { nature: Nature::UnknownShape, ..values(FUSED, "RealTokens", tokens::real_tokens) },
    values(FUSED, "Pack", tokens::pack),
    Operator { nature: Nature::KnownShape, ..values(FUSED, "Unpack", tokens::unpack) },
    values(FUSED, "Row", tokens::row),
];

/// The operator of this domain and name.
pub(crate) fn find(domain: &str, name: &str) -> Option<&'static Operator> {
    TABLE.iter().find(|operator| operator.domain == domain && operator.name == name)
}

/// Names of the operators that a graph may use, `domain.Name` outside the default domain.
pub fn supported_operators() -> Vec<String> {
    let public = TABLE.iter().filter(|operator| operator.domain != FUSED);
    public.map(|o| if o.domain.is_empty() { o.name.to_owned() } else { format!("{}.{}", o.domain, o.name) }).collect()
}

/// Name of a node's operator as shown to users, with its domain.
pub(crate) fn full_name(node: &Node) -> String {
    if node.domain.is_empty() { node.op_type.clone() } else { format!("{}.{}", node.domain, node.op_type) }
}

/// The libtorch kind of an ONNX element type.
pub(crate) fn kind_of(data_type: DataType) -> Result<Kind, OpError> {
    Ok(match data_type {
        DataType::Float => Kind::Float,
        DataType::Double => Kind::Double,
        DataType::Float16 => Kind::Half,
        DataType::BFloat16 => Kind::BFloat16,
        DataType::Int64 => Kind::Int64,
        DataType::Int32 => Kind::Int,
        DataType::Int16 => Kind::Int16,
        DataType::Int8 => Kind::Int8,
        DataType::Uint8 => Kind::Uint8,
        DataType::Bool => Kind::Bool,
        other => return because(format!("the element type {} has no counterpart in libtorch", other.name())),
    })
}

/// A tensor of the model, given its bytes, as a libtorch tensor on the CPU (the bytes are copied).
pub(crate) fn load(tensor: &crate::onnx::Tensor, bytes: &[u8]) -> Result<Tensor, OpError> {
    let kind = kind_of(tensor.data_type)?;
    let dims: Vec<i64> = tensor.dims.iter().map(|d| *d as i64).collect();
    if tensor.is_empty() {
        return Ok(Tensor::f_zeros(&dims, (kind, Device::Cpu))?);
    }
    // libtorch reads as many bytes as the shape implies, however few there are.
    if tensor.len().checked_mul(kind.elt_size_in_bytes()) != Some(bytes.len()) {
        return because(format!(
            "a tensor of shape {dims:?} and type {} has {} bytes",
            tensor.data_type.name(),
            bytes.len()
        ));
    }
    Ok(Tensor::f_from_data_size(bytes, &dims, kind)?)
}

/// An attribute that is a tensor. The program keeps the bytes of attributes beside the node (see `program::graph`).
pub(crate) fn load_attribute(tensor: &crate::onnx::Tensor) -> Result<Tensor, OpError> {
    match &tensor.data {
        TensorData::Decoded(bytes) => load(tensor, bytes),
        _ => because("a tensor attribute was not read from the file"),
    }
}

/// A kernel with one output.
pub(crate) fn kernel(compute: impl Fn(&Call<'_>) -> Result<Tensor, OpError> + Send + 'static) -> Built {
    Ok(Box::new(move |call| Ok(vec![compute(call)?])))
}

/// A kernel with one input tensor.
pub(crate) fn unary(compute: impl Fn(&Tensor) -> Result<Tensor, TchError> + Send + 'static) -> Built {
    kernel(move |call| Ok(compute(call.tensor(0)?)?))
}

/// A kernel with two input tensors.
pub(crate) fn binary(compute: impl Fn(&Tensor, &Tensor) -> Result<Tensor, TchError> + Send + 'static) -> Built {
    kernel(move |call| Ok(compute(call.tensor(0)?, call.tensor(1)?)?))
}
