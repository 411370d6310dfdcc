//! What every operator means for the structure of a graph: one table, by domain and name.
//!
//! A graph is read for hidden states, blocks, linear layers and heads by what its operators are, not by what they are
//! called. A new operator is added here, with its traits; `train/operators` defines what it computes. An operator that the
//! table does not list has the traits that its name implies.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::{DataType, Node};

/// One property of an operator that matters to the structure of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trait {
    /// Multiplies matrices, of whatever type, or is a convolution or a mixture of experts.
    Product,
    /// Multiplies two floating-point matrices.
    MatrixProduct,
    /// Is a linear layer where one of its matrices is a constant.
    LinearProduct,
    /// Multiplies by a matrix of integers that encode floats.
    IntegerProduct,
    /// Multiplies by a matrix packed into fewer than 8 bits; its attributes `K` and `N` give the numbers of inputs and
    /// outputs.
    PackedProduct,
    /// Is a whole attention.
    Attention,
    /// Is an attention that holds the matrices of its projections, as its second input.
    HoldsProjections,
    /// Normalises, or computes what normalisations start with: a mean, a norm of a vector.
    Normalisation,
    /// Normalises its first input along the last axes.
    LayerNorm,
    /// Adds its first two inputs and normalises the sum; a fourth output is the sum itself.
    SkipNorm,
    /// Index of the input that is the scale of a norm, as wide as what is normalised.
    Scale(usize),
    /// Occurs inside norms that are written out, beside [`Trait::Normalisation`]: it treats every token by itself.
    NormPart,
    /// Computes each element of its output from the input elements at the same position, with broadcasting.
    ElementWise,
    /// Is one of the four arithmetic operations.
    Arithmetic,
    /// Passes its input through unchanged, or in another type.
    Copies,
    /// Gives the same elements in the same order, in another shape.
    Reshapes,
    /// May be applied to the probabilities of an attention on their way to the values.
    PassesScores,
    /// Depends on the shape of its input, not on the values.
    ReadsShape,
    /// Reduces along axes: `axes` as an attribute or as the second input.
    Reduction,
    /// Pools neighbouring positions, or all of them.
    Pooling,
    /// Outputs probabilities.
    Probabilities,
    /// Outputs logarithms of probabilities.
    LogProbabilities,
    /// Looks up rows of a table: the indices of the inputs that are the table and the row numbers.
    #[allow(missing_docs, reason = "said above")]
    Lookup { table: usize, rows: usize },
    /// Computes with integers that encode floats.
    Quantized,
    /// Has weights that are stored as integers.
    IntegerWeights,
    /// Quantizes by the range of the whole tensor that it is given: all rows of a batch, padding included.
    DynamicRange,
    /// Multiplies unsigned activations by weights of 8 bits, and may add pairs of products in 16 bits.
    Saturating,
    /// Outputs this element type.
    Gives(DataType),
    /// Outputs the element type of this input; without it, and without [`Trait::Gives`], the type is that of the first
    /// input.
    TypeOf(usize),
}

use Trait::{
    Arithmetic, Attention, Copies, DynamicRange, ElementWise, Gives, HoldsProjections, IntegerProduct, IntegerWeights,
    LayerNorm, LinearProduct, LogProbabilities, Lookup, MatrixProduct, NormPart, Normalisation, PackedProduct,
    PassesScores, Pooling, Probabilities, Product, Quantized, ReadsShape, Reduction, Reshapes, Saturating, Scale,
    SkipNorm, TypeOf,
};

/// Operators that have the same traits, each once.
type Row = (&'static [&'static str], &'static [Trait]);

/// Operators of ONNX.
static ONNX: &[Row] = &[
    // Element by element.
    (&["Abs", "Max", "Min", "Neg", "Pow", "Reciprocal", "Sqrt"], &[ElementWise, NormPart]),
    (&["Add", "Div", "Sub"], &[ElementWise, NormPart, Arithmetic]),
    (&["Mul"], &[ElementWise, NormPart, Arithmetic, PassesScores]),
    (&["Celu", "Elu", "Erf", "Exp", "Gelu", "HardSwish", "LeakyRelu", "Log", "Mish"], &[ElementWise]),
    (&["Relu", "Selu", "Softplus", "Softsign", "SwiGLU", "Swish", "Tanh"], &[ElementWise]),
    (&["HardSigmoid", "Sigmoid"], &[ElementWise, Probabilities]),
    (&["Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cos", "Cosh", "Sin", "Sinh", "Tan"], &[]),
    (&["Ceil", "Floor", "Mean", "Mod", "PRelu", "Round", "Shrink", "Sign", "Sum", "ThresholdedRelu"], &[]),
    (&["BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor"], &[]),
    // How overflow is avoided in half precision: values beyond a bound are clipped where there are any.
    (&["Clip"], &[NormPart]),
    (&["Greater", "IsInf", "IsNaN", "Not", "Or"], &[NormPart, Gives(DataType::Bool)]),
    (&["And", "Equal", "GreaterOrEqual", "Less", "LessOrEqual", "Xor"], &[Gives(DataType::Bool)]),
    (&["Where"], &[NormPart, PassesScores, TypeOf(1)]),
    (&["Dropout"], &[NormPart, PassesScores]),
    // Types and shapes.
    (&["Cast", "Identity"], &[Copies, ElementWise, NormPart, PassesScores]),
    (&["CastLike"], &[NormPart, TypeOf(1)]),
    (&["Constant", "ConstantOfShape", "EyeLike", "Range"], &[]),
    (&["Shape", "Size"], &[ReadsShape, Gives(DataType::Int64)]),
    (&["Reshape", "Squeeze", "Unsqueeze"], &[Reshapes, PassesScores]),
    (&["Flatten"], &[Reshapes]),
    (&["Expand", "Slice", "Transpose"], &[PassesScores]),
    (&["Concat", "Pad", "Split", "Tile"], &[]),
    // Choosing elements.
    (&["Gather"], &[Lookup { table: 0, rows: 1 }]),
    (&["Compress", "GatherElements", "GatherND", "OneHot", "ScatterElements", "ScatterND"], &[]),
    (&["TensorScatter", "Trilu"], &[]),
    (&["ArgMax", "ArgMin", "NonZero"], &[Gives(DataType::Int64)]),
    // Along axes.
    (&["ReduceL2", "ReduceMean", "ReduceSumSquare"], &[Reduction, Normalisation]),
    (&["ReduceMax", "ReduceSum"], &[Reduction, NormPart]),
    (&["ReduceL1", "ReduceLogSum", "ReduceLogSumExp", "ReduceMin", "ReduceProd"], &[Reduction]),
    (&["CumSum", "Hardmax", "TopK"], &[]),
    (&["Softmax"], &[Probabilities]),
    (&["LogSoftmax"], &[LogProbabilities]),
    (&["AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"], &[Pooling]),
    (&["LayerNormalization", "RMSNormalization"], &[Normalisation, LayerNorm, Scale(1)]),
    (&["SimplifiedLayerNormalization"], &[Normalisation, LayerNorm, Scale(1)]),
    (&["BatchNormalization", "GroupNormalization", "InstanceNormalization"], &[Normalisation]),
    (&["LpNormalization", "MeanVarianceNormalization"], &[Normalisation]),
    // Products.
    (&["Gemm", "MatMul"], &[Product, MatrixProduct, LinearProduct]),
    (&["Einsum"], &[Product, MatrixProduct]),
    (&["Conv"], &[Product]),
    (&["Attention"], &[Attention]),
    (&["RotaryEmbedding"], &[]),
    // Products of integers.
    (&["QuantizeLinear"], &[Quantized]),
    (&["DynamicQuantizeLinear"], &[Quantized, DynamicRange]),
    (&["DequantizeLinear"], &[Quantized, IntegerWeights, TypeOf(1)]),
    (&["MatMulInteger"], &[Product, IntegerProduct, Quantized, IntegerWeights, Saturating, Gives(DataType::Int32)]),
    (&["QLinearMatMul"], &[Product, IntegerProduct, Quantized, IntegerWeights, Saturating]),
    (&["ConvInteger"], &[Quantized, Saturating, Gives(DataType::Int32)]),
    (&["QLinearConv"], &[Quantized, Saturating]),
    // Subgraphs inside a node.
    (&["If", "Loop", "Scan"], &[]),
];

/// ONNX Runtime's own operators, written by its optimizer and its quantizers.
static CONTRIB: &[Row] = &[
    (&["BiasGelu", "FastGelu", "Gelu", "QuickGelu"], &[ElementWise]),
    (&["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"], &[Normalisation, SkipNorm, Scale(2)]),
    (&["EmbedLayerNormalization"], &[Normalisation, Lookup { table: 2, rows: 0 }, TypeOf(2)]),
    (&["FusedMatMul"], &[Product, MatrixProduct]),
    (&["MoE", "QMoE"], &[Product]),
    (&["Attention", "DecoderMaskedSelfAttention", "LongformerAttention"], &[Attention, HoldsProjections]),
    (&["PackedAttention", "QOrderedAttention"], &[Attention, HoldsProjections]),
    (&["QAttention"], &[Attention, HoldsProjections, Quantized, IntegerWeights, Saturating, TypeOf(3)]),
    (&["DecoderMaskedMultiHeadAttention", "GroupQueryAttention", "MultiHeadAttention"], &[Attention]),
    (&["PackedMultiHeadAttention", "PagedAttention", "SparseAttention"], &[Attention]),
    (&["QEmbedLayerNormalization"], &[Normalisation, Quantized, IntegerWeights, Gives(DataType::Float)]),
    (&["GatherBlockQuantized"], &[Lookup { table: 0, rows: 1 }, Quantized, IntegerWeights]),
    (&["MatMulBnb4", "MatMulFpQ4", "MatMulNBits"], &[Product, PackedProduct, Quantized, IntegerWeights]),
    (&["DynamicQuantizeMatMul"], &[Product, IntegerProduct, Quantized, IntegerWeights, DynamicRange, Saturating]),
    (&["MatMulIntegerToFloat"], &[Product, IntegerProduct, Quantized, IntegerWeights, Saturating, TypeOf(2)]),
    (&["QGemm"], &[Product, Quantized, IntegerWeights, Saturating]),
    (&["DynamicQuantizeLSTM"], &[DynamicRange, Saturating]),
];

/// A domain, and the traits of an operator in it.
type InDomain = (&'static str, &'static [Trait]);

/// Rows of the table by operator name, with the domain of each.
static BY_NAME: LazyLock<HashMap<&str, Vec<InDomain>>> = LazyLock::new(|| {
    let mut by_name: HashMap<&str, Vec<InDomain>> = HashMap::new();
    for (domain, rows) in [("", ONNX), ("com.microsoft", CONTRIB)] {
        for (names, traits) in rows {
            names.iter().for_each(|name| by_name.entry(name).or_default().push((domain, traits)));
        }
    }
    by_name
});

/// The traits of an operator. One in a domain that the table does not know has the traits of its namesake in a known
/// domain.
fn traits(domain: &str, name: &str) -> &'static [Trait] {
    let Some(known) = BY_NAME.get(name) else { return told_by_name(name) };
    let exact = known.iter().find(|(own, _)| *own == domain);
    exact.or(known.last()).map_or(&[], |(_, traits)| traits)
}

/// What the name of an unknown operator implies: optimizers join the names of what they fuse.
fn told_by_name(name: &str) -> &'static [Trait] {
    match name {
        _ if (name.contains("MatMul") || name.contains("Gemm")) && name.ends_with("Normalization") => {
            &[Product, Normalisation]
        }
        _ if name.contains("MatMul") || name.contains("Gemm") => &[Product],
        _ if name.ends_with("Normalization") => &[Normalisation],
        _ if name.starts_with("Reduce") => &[Reduction],
        _ => &[],
    }
}

/// Whether the table lists an operator under exactly this domain.
pub fn is_listed(domain: &str, name: &str) -> bool {
    BY_NAME.get(name).is_some_and(|known| known.iter().any(|(own, _)| *own == domain))
}

impl Node {
    /// The traits of the node's operator.
    pub fn traits(&self) -> &'static [Trait] {
        traits(&self.domain, &self.op_type)
    }

    /// Whether the node's operator has a trait.
    pub fn has(&self, wanted: Trait) -> bool {
        self.traits().contains(&wanted)
    }

    /// Whether the node's operator has one of these traits.
    pub fn has_any(&self, wanted: &[Trait]) -> bool {
        self.traits().iter().any(|own| wanted.contains(own))
    }

    /// The table and the row numbers, if the node looks up rows of a table.
    pub fn lookup(&self) -> Option<(&str, &str)> {
        let places = self.traits().iter().find_map(|own| match own {
            Lookup { table, rows } => Some((*table, *rows)),
            _ => None,
        });
        let (table, rows) = places?;
        Some((self.inputs.get(table)?, self.inputs.get(rows)?))
    }

    /// The input that is the scale, if the node is a fused norm.
    pub fn norm_scale(&self) -> Option<&str> {
        let place = self.traits().iter().find_map(|own| if let Scale(place) = own { Some(*place) } else { None });
        self.inputs.get(place?).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_operator_is_listed_twice() {
        for (name, known) in BY_NAME.iter() {
            let domains: std::collections::HashSet<&str> = known.iter().map(|(domain, _)| *domain).collect();
            assert_eq!(domains.len(), known.len(), "{name}");
        }
    }

    #[test]
    fn domains_tell_operators_of_one_name_apart() {
        assert!(!traits("", "Attention").contains(&HoldsProjections));
        assert!(traits("com.microsoft", "Attention").contains(&HoldsProjections));
        assert_eq!(traits("com.microsoft", "DequantizeLinear"), traits("", "DequantizeLinear"));
    }

    #[test]
    fn what_the_table_does_not_know_has_the_traits_of_its_name() {
        assert_eq!(traits("com.microsoft", "FusedGemm"), [Product]);
        assert_eq!(traits("acme", "ReduceVariance"), [Reduction]);
        assert_eq!(traits("acme", "Frobnicate"), []);
    }
}
