//! The gradients of every operator against central differences in float64, as `torch.autograd.gradcheck` compares them.

use std::collections::BTreeSet;

use itertools::Itertools;
use tch::{Device, Kind, Tensor};

use super::support::{reseed, uniform};
use crate::onnx::{Attribute, DataType, Graph, Node, ValueInfo};
use crate::train::operators::{Building, Call, FUSED, Kernel, build, find, lift};
use crate::train::supported_operators;

const STEP: f64 = 1e-6;

/// Allowed differences, absolute and relative to the numeric gradient.
const TOLERANCE: (f64, f64) = (1e-7, 1e-5);

/// Compares the gradients of `compute` at the leaves with differences of its values. Its outputs are weighted at random, so
/// that no symmetry hides an error.
pub fn check(name: &str, leaves: &[Tensor], compute: &dyn Fn(&[Tensor]) -> Vec<Tensor>) {
    let is_double = |t: &&Tensor| t.kind() == Kind::Double;
    let weights: Vec<Tensor> =
        tch::no_grad(|| compute(leaves)).iter().filter(is_double).map(|y| y.rand_like() + 0.5).collect();
    assert!(!weights.is_empty(), "{name}: nothing to derive");
    let total = |leaves: &[Tensor]| {
        let made = compute(leaves);
        let terms = made.iter().filter(is_double).zip_eq(&weights).map(|(y, weight)| (y * weight).sum(Kind::Double));
        terms.reduce(|sum, term| sum + term).expect("an output")
    };
    let own: Vec<Tensor> = leaves.iter().map(|leaf| leaf.copy().set_requires_grad(true)).collect();
    let sum = total(&own);
    assert!(sum.requires_grad(), "{name}: the gradient does not pass");
    sum.backward();
    for (index, leaf) in own.iter().enumerate() {
        let gradient = leaf.grad();
        let gradient = if gradient.defined() { gradient } else { leaf.zeros_like().detach() };
        for element in 0..leaf.numel() as i64 {
            let at = |difference: f64| {
                let moved: Vec<Tensor> = leaves.iter().map(Tensor::copy).collect();
                let _ = moved[index].view([-1]).get(element).g_add_scalar_(difference);
                tch::no_grad(|| total(&moved)).double_value(&[])
            };
            let numeric = (at(STEP) - at(-STEP)) / (2.0 * STEP);
            let found = gradient.reshape([-1]).double_value(&[element]);
            let allowed = TOLERANCE.0 + TOLERANCE.1 * numeric.abs();
            // The resolution of a difference of two sums of this size.
            let noise = 1e-9 * sum.double_value(&[]).abs().max(1.0);
            assert!(
                (found - numeric).abs() <= allowed.max(noise),
                "{name}, leaf {index}, element {element}: {found} by autograd, {numeric} by differences"
            );
        }
    }
}

/// An input of an operator.
enum Input {
    /// Compared with differences.
    Leaf(Tensor),
    /// Without a gradient: a shape, indices, a condition.
    Fixed(Tensor),
    Absent,
}

use Input::{Absent, Fixed, Leaf};

fn between(low: f64, high: f64, shape: &[i64]) -> Input {
    Leaf(uniform(low, high, shape))
}

fn any(shape: &[i64]) -> Input {
    between(-2.0, 2.0, shape)
}

fn positive(shape: &[i64]) -> Input {
    between(0.5, 2.0, shape)
}

fn ints(values: &[i64]) -> Input {
    Fixed(Tensor::from_slice(values))
}

fn shaped(values: &[i64], shape: &[i64]) -> Input {
    Fixed(Tensor::from_slice(values).reshape(shape))
}

fn int(value: i64) -> Input {
    Fixed(Tensor::from(value))
}

fn number(value: f64) -> Input {
    Fixed(Tensor::from(value))
}

fn truths(values: &[bool]) -> Input {
    Fixed(Tensor::from_slice(values))
}

type Attributes = Vec<(&'static str, Attribute)>;

fn i(name: &'static str, value: i64) -> (&'static str, Attribute) {
    (name, Attribute::Int(value))
}

fn f(name: &'static str, value: f32) -> (&'static str, Attribute) {
    (name, Attribute::Float(value))
}

fn s(name: &'static str, value: &str) -> (&'static str, Attribute) {
    (name, Attribute::String(value.as_bytes().to_vec()))
}

fn list(name: &'static str, values: &[i64]) -> (&'static str, Attribute) {
    (name, Attribute::Ints(values.to_vec()))
}

/// Names of the operators whose gradients were compared.
#[derive(Default)]
struct Checked(BTreeSet<String>);

impl Checked {
    fn op(&mut self, op_type: &str, attributes: Attributes, inputs: Vec<Input>) {
        self.node("", op_type, attributes, inputs, 1);
    }

    fn node(&mut self, domain: &str, op_type: &str, attributes: Attributes, inputs: Vec<Input>, outputs: usize) {
        let mut node = Node { op_type: op_type.into(), domain: domain.into(), ..Node::default() };
        node.attributes = attributes.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let is_there = |(index, input): (usize, &Input)| {
            if matches!(input, Absent) { String::new() } else { format!("x{index}") }
        };
        node.inputs = inputs.iter().enumerate().map(is_there).collect();
        node.outputs = (0..outputs).map(|index| format!("y{index}")).collect();
        lift(&mut node);
        let name = format!("{op_type} {:?}", node.attributes);
        let operator = find(domain, op_type).unwrap_or_else(|| panic!("{op_type} is unknown"));
        let kernel: Kernel =
            build(operator, &Building { node: &node, opset: 23 }).unwrap_or_else(|e| panic!("{name}: {e}"));
        let leaves: Vec<Tensor> = inputs
            .iter()
            .filter_map(|input| if let Leaf(tensor) = input { Some(tensor.shallow_clone()) } else { None })
            .collect();
        check(&name, &leaves, &|leaves| {
            let mut leaves = leaves.iter();
            let given: Vec<Option<&Tensor>> = inputs
                .iter()
                .map(|input| match input {
                    Leaf(_) => leaves.next(),
                    Fixed(tensor) => Some(tensor),
                    Absent => None,
                })
                .collect();
            kernel(&Call { inputs: &given, dropout: None }).unwrap_or_else(|e| panic!("{name}: {e}"))
        });
        self.0.insert(if domain == "com.microsoft" { format!("{domain}.{op_type}") } else { op_type.to_owned() });
    }
}

fn functions_of_one_value(checked: &mut Checked) {
    let smooth = "Abs Ceil Cos Cosh Asinh Atan Celu Elu Erf Exp Floor Gelu HardSigmoid HardSwish Identity LeakyRelu Mish Neg \
                  Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Swish Tanh ThresholdedRelu Dropout";
    for operator in smooth.split_whitespace() {
        checked.op(operator, vec![], vec![any(&[3, 4])]);
    }
    for operator in ["Log", "Sqrt", "Reciprocal"] {
        checked.op(operator, vec![], vec![positive(&[3, 4])]);
    }
    for operator in ["Acos", "Asin", "Atanh", "Tan"] {
        checked.op(operator, vec![], vec![between(-0.9, 0.9, &[5])]);
    }
    checked.op("Acosh", vec![], vec![between(1.2, 3.0, &[5])]);
    checked.op("Gelu", vec![s("approximate", "tanh")], vec![any(&[5])]);
    checked.op("Elu", vec![f("alpha", 0.7)], vec![any(&[5])]);
    checked.op("Celu", vec![f("alpha", 0.7)], vec![any(&[5])]);
    checked.op("Swish", vec![f("alpha", 0.7)], vec![any(&[5])]);
    checked.op("Shrink", vec![f("bias", 0.3), f("lambd", 0.4)], vec![any(&[9])]);
    checked.op("Cast", vec![i("to", i64::from(DataType::Double.code()))], vec![any(&[5])]);
    checked.op("CastLike", vec![], vec![any(&[5]), number(0.0)]);
    checked.op("Clip", vec![], vec![any(&[9]), number(-0.8), number(0.9)]);
}

fn functions_of_several_values(checked: &mut Checked) {
    for operator in ["Add", "Sub", "Mul", "Sum", "Mean", "Max", "Min"] {
        checked.op(operator, vec![], vec![any(&[2, 3]), any(&[3])]);
    }
    for operator in ["Sum", "Mean", "Max", "Min"] {
        checked.op(operator, vec![], vec![any(&[2, 3]), any(&[3]), any(&[2, 1])]);
    }
    checked.op("Div", vec![], vec![any(&[2, 3]), positive(&[3])]);
    checked.op("Mod", vec![i("fmod", 1)], vec![positive(&[2, 3]), number(0.37)]);
    checked.op("Pow", vec![], vec![positive(&[2, 3]), any(&[3])]);
    checked.op("Pow", vec![], vec![any(&[2, 3]), number(3.0)]);
    checked.op("PRelu", vec![], vec![any(&[2, 3]), any(&[3])]);
    checked.op("SwiGLU", vec![f("alpha", 0.7)], vec![any(&[2, 3]), any(&[2, 3])]);
    checked.op("Where", vec![], vec![truths(&[true, false, true]), any(&[2, 3]), any(&[1])]);
}

fn layouts(checked: &mut Checked) {
    checked.op("Reshape", vec![], vec![any(&[2, 6]), ints(&[3, -1])]);
    checked.op("Flatten", vec![i("axis", 2)], vec![any(&[2, 3, 2])]);
    checked.op("Transpose", vec![list("perm", &[2, 0, 1])], vec![any(&[2, 3, 2])]);
    checked.op("Squeeze", vec![], vec![any(&[2, 1, 3]), ints(&[1])]);
    checked.op("Unsqueeze", vec![], vec![any(&[2, 3]), ints(&[0, -1])]);
    checked.op("Expand", vec![], vec![any(&[2, 1]), ints(&[2, 2, 3])]);
    checked.op("Tile", vec![], vec![any(&[2, 3]), ints(&[2, 3])]);
    checked.op("Concat", vec![i("axis", 1)], vec![any(&[2, 3]), any(&[2, 1])]);
    checked.node("", "Split", vec![i("axis", 1)], vec![any(&[2, 5]), ints(&[2, 3])], 2);
    for mode in ["constant", "reflect", "edge", "wrap"] {
        checked.op("Pad", vec![s("mode", mode)], vec![any(&[1, 2, 4]), ints(&[0, 0, 2, 0, 0, 1])]);
    }
    checked.op("Slice", vec![], vec![any(&[4, 5]), ints(&[3, 1]), ints(&[0, 5]), ints(&[0, 1]), ints(&[-2, 2])]);
    checked.op("Trilu", vec![i("upper", 0)], vec![any(&[4, 4]), int(-1)]);
}

fn choices(checked: &mut Checked) {
    checked.op("Gather", vec![i("axis", 1)], vec![any(&[2, 4]), shaped(&[0, -1, 3, 3], &[2, 2])]);
    checked.op("Gather", vec![], vec![any(&[3, 2]), int(-2)]);
    checked.op("GatherElements", vec![i("axis", 1)], vec![any(&[2, 3]), shaped(&[0, 0, -1, 1], &[2, 2])]);
    checked.op("GatherND", vec![], vec![any(&[2, 3, 2]), shaped(&[0, 1, 1, -1, 0, 1], &[3, 2])]);
    checked.op("GatherND", vec![i("batch_dims", 1)], vec![any(&[2, 3, 2]), shaped(&[1, 0], &[2, 1])]);
    for reduction in ["none", "add", "max", "min", "mul"] {
        let indices = |distinct: bool| if distinct { [2, 0] } else { [1, 1] };
        let places = indices(reduction == "none" || reduction == "mul");
        let inputs =
            vec![positive(&[3, 2]), shaped(&[places[0], places[1], places[1], places[0]], &[2, 2]), positive(&[2, 2])];
        checked.op("ScatterElements", vec![s("reduction", reduction)], inputs);
        let inputs = vec![positive(&[3, 2]), shaped(&places, &[2, 1]), positive(&[2, 2])];
        checked.op("ScatterND", vec![s("reduction", reduction)], inputs);
    }
    checked.op("OneHot", vec![], vec![ints(&[1, 0, 5]), int(3), any(&[2])]);
    checked.op("Compress", vec![i("axis", 1)], vec![any(&[2, 3]), truths(&[true, false, true])]);
    let update = || vec![any(&[2, 4, 2]), any(&[2, 2, 2]), ints(&[1, 2])];
    checked.op("TensorScatter", vec![], update());
    checked.op("TensorScatter", vec![s("mode", "circular")], vec![any(&[2, 4, 2]), any(&[2, 2, 2]), ints(&[3, 2])]);
    checked.node("", "TopK", vec![i("axis", 1)], vec![any(&[2, 5]), ints(&[3])], 2);
    checked.op("CumSum", vec![i("reverse", 1), i("exclusive", 1)], vec![any(&[2, 4]), int(1)]);
}

fn reductions_and_norms(checked: &mut Checked) {
    for operator in [
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "ReduceSum",
        "ReduceSumSquare",
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSumExp",
    ] {
        checked.op(operator, vec![], vec![any(&[2, 3, 2]), ints(&[0, -1])]);
        checked.op(operator, vec![i("keepdims", 0)], vec![any(&[2, 3])]);
    }
    for operator in ["ReduceProd", "ReduceLogSum"] {
        checked.op(operator, vec![], vec![positive(&[2, 3, 2]), ints(&[0, 2])]);
    }
    for operator in ["Softmax", "LogSoftmax"] {
        checked.op(operator, vec![], vec![any(&[2, 4])]);
        checked.op(operator, vec![i("axis", 0)], vec![any(&[3, 2])]);
    }
    checked.op("LayerNormalization", vec![], vec![any(&[2, 5]), any(&[5]), any(&[5])]);
    checked.node("", "LayerNormalization", vec![i("axis", 1)], vec![any(&[2, 3, 2]), any(&[3, 2]), any(&[3, 2])], 3);
    checked.op("LayerNormalization", vec![i("axis", 1)], vec![any(&[2, 3, 2]), any(&[2]), Absent]);
    for operator in ["RMSNormalization", "SimplifiedLayerNormalization"] {
        checked.op(operator, vec![], vec![any(&[2, 5]), any(&[5])]);
    }
    let contrib = "com.microsoft";
    for (operator, inputs) in [
        ("SkipLayerNormalization", vec![any(&[2, 5]), any(&[2, 5]), any(&[5]), any(&[5]), any(&[5])]),
        ("SkipLayerNormalization", vec![any(&[2, 5]), any(&[2, 5]), any(&[5])]),
        ("SkipSimplifiedLayerNormalization", vec![any(&[2, 5]), any(&[2, 5]), any(&[5]), any(&[5])]),
    ] {
        checked.node(contrib, operator, vec![f("epsilon", 1e-3)], inputs, 1);
    }
    for operator in ["Gelu", "FastGelu", "QuickGelu"] {
        checked.node(contrib, operator, vec![], vec![any(&[2, 3])], 1);
    }
    checked.node(contrib, "BiasGelu", vec![], vec![any(&[2, 3]), any(&[3])], 1);
    checked.op("GroupNormalization", vec![i("num_groups", 2)], vec![any(&[2, 4, 3]), any(&[4]), any(&[4])]);
    checked.op("InstanceNormalization", vec![], vec![any(&[2, 3, 4]), any(&[3]), any(&[3])]);
    let moments = || vec![any(&[2, 3, 2]), any(&[3]), any(&[3]), any(&[3]), positive(&[3])];
    checked.op(
        "BatchNormalization",
        vec![],
        moments().into_iter().take(3).chain(moments().into_iter().skip(3).map(fixed)).collect(),
    );
    checked.op("LpNormalization", vec![], vec![any(&[2, 4])]);
    checked.op("LpNormalization", vec![i("p", 1), i("axis", 0)], vec![any(&[3, 2])]);
    checked.op("MeanVarianceNormalization", vec![list("axes", &[0, 2])], vec![any(&[2, 3, 4])]);
}

fn fixed(input: Input) -> Input {
    match input {
        Leaf(tensor) => Fixed(tensor),
        other => other,
    }
}

fn products(checked: &mut Checked) {
    checked.op("MatMul", vec![], vec![any(&[2, 3, 4]), any(&[4, 2])]);
    checked.op("MatMul", vec![], vec![any(&[4]), any(&[2, 4, 3])]);
    let gemm = vec![i("transA", 1), i("transB", 1), f("alpha", 0.7), f("beta", 1.3)];
    checked.op("Gemm", gemm, vec![any(&[3, 2]), any(&[4, 3]), any(&[4])]);
    let fused = vec![i("transA", 1), i("transB", 1), f("alpha", 0.7)];
    checked.node("com.microsoft", "FusedMatMul", fused, vec![any(&[2, 3, 2]), any(&[2, 4, 3])], 1);
    checked.op("Einsum", vec![s("equation", "bhid,bhjd->bhij")], vec![any(&[1, 2, 3, 2]), any(&[1, 2, 2, 2])]);
    checked.op("Conv", vec![list("pads", &[2, 1]), i("group", 2)], vec![any(&[1, 4, 5]), any(&[2, 2, 3]), any(&[2])]);
    let pads = vec![s("auto_pad", "SAME_LOWER"), list("strides", &[2, 2])];
    checked.op("Conv", pads, vec![any(&[1, 1, 4, 3]), any(&[2, 1, 2, 2]), Absent]);
}

fn attentions(checked: &mut Checked) {
    let fused = |batch: i64, length: i64, mask: Input| {
        vec![any(&[batch, 1, length, 2]), any(&[batch, 1, 2, length]), any(&[batch, 1, length, 2]), mask]
    };
    let mask = |length: i64| {
        Fixed(
            Tensor::zeros([length, length], (Kind::Double, Device::Cpu))
                .fill(-1e9)
                .triu(1)
                .reshape([1, 1, length, length]),
        )
    };
    for length in [5, 26] {
        checked.node(FUSED, "Attention", vec![f("scale", 0.6)], fused(1, length, mask(length)), 1);
    }
    // Long enough to be computed in groups of rows of similar length.
    let lengths = Tensor::from_slice(&[6i64, 8, 7, 9, 40, 39, 40, 38]).unsqueeze(1);
    let tokens = lengths.gt_tensor(&Tensor::arange(40, (Kind::Int64, Device::Cpu))).to_kind(Kind::Int64);
    let hidden = (tokens.to_kind(Kind::Double) - 1.0).reshape([8, 1, 1, 40]) * 1e9;
    let mut grouped = fused(8, 40, Fixed(hidden));
    grouped.push(Fixed(tokens));
    checked.node(FUSED, "Attention", vec![], grouped, 1);

    let grouped_heads = vec![i("q_num_heads", 4), i("kv_num_heads", 2), i("is_causal", 1)];
    checked.op("Attention", grouped_heads, vec![any(&[2, 3, 8]), any(&[2, 3, 4]), any(&[2, 3, 4])]);
    // The second query sees nothing: its output and gradients are zero, not undefined.
    let visible = shaped(&[1, 1, 0, 0, 0, 0], &[2, 3]);
    let visible = if let Fixed(tensor) = visible { Fixed(tensor.to_kind(Kind::Bool)) } else { visible };
    checked.op("Attention", vec![], vec![any(&[1, 2, 2, 4]), any(&[1, 2, 3, 4]), any(&[1, 2, 3, 4]), visible]);
    // Long enough for libtorch's fused form; one query sees nothing there either.
    let hidden = Tensor::zeros([2, 26], (Kind::Double, Device::Cpu));
    let _ = hidden.get(1).fill_(f64::NEG_INFINITY);
    let _ = hidden.narrow(1, 0, 5).fill_(f64::NEG_INFINITY);
    checked.op("Attention", vec![], vec![any(&[1, 1, 2, 2]), any(&[1, 1, 26, 2]), any(&[1, 1, 26, 2]), Fixed(hidden)]);
    let cached = vec![f("softcap", 1.5), f("scale", 0.4), i("qk_matmul_output_mode", 3)];
    let inputs = vec![
        any(&[1, 1, 2, 4]),
        any(&[1, 1, 2, 4]),
        any(&[1, 1, 2, 3]),
        any(&[2, 3]),
        any(&[1, 1, 1, 4]),
        any(&[1, 1, 1, 3]),
    ];
    checked.node("", "Attention", cached, inputs, 4);

    let tables = || [any(&[6, 2]), any(&[6, 2])];
    let [cosine, sine] = tables();
    checked.op("RotaryEmbedding", vec![], vec![any(&[1, 2, 3, 4]), cosine, sine, shaped(&[5, 0, 2], &[1, 3])]);
    let [cosine, sine] = tables();
    let partly = vec![i("interleaved", 1), i("rotary_embedding_dim", 4), i("num_heads", 2)];
    checked.op("RotaryEmbedding", partly, vec![any(&[1, 3, 12]), cosine, sine, shaped(&[1, 1, 4], &[1, 3])]);
}

fn what_the_program_makes(checked: &mut Checked) {
    checked.node(FUSED, "Pack", vec![], vec![any(&[2, 3, 2]), ints(&[0, 1, 3])], 1);
    let mask = shaped(&[1, 1, 0, 1, 0, 0], &[2, 3]);
    checked.node(FUSED, "Unpack", vec![], vec![any(&[3, 2]), ints(&[0, 1, 3]), mask], 1);
    checked.node(FUSED, "Row", vec![i("axis", 1), i("index", -1)], vec![any(&[2, 3, 2])], 1);
}

fn value(name: &str) -> ValueInfo {
    ValueInfo { name: name.into(), ..ValueInfo::default() }
}

fn body(inputs: &[&str], nodes: &[(&str, &[&str], &str)], outputs: &[&str]) -> Attribute {
    let node = |(op_type, inputs, output): &(&str, &[&str], &str)| Node {
        op_type: (*op_type).into(),
        inputs: inputs.iter().map(|name| (*name).to_owned()).collect(),
        outputs: vec![(*output).to_owned()],
        ..Node::default()
    };
    Attribute::Graph(Box::new(Graph {
        nodes: nodes.iter().map(node).collect(),
        inputs: inputs.iter().map(|name| value(name)).collect(),
        outputs: outputs.iter().map(|name| value(name)).collect(),
        ..Graph::default()
    }))
}

/// What a branch or a body captures from outside follows the node's own inputs; here it has the same name inside.
fn graphs_inside(checked: &mut Checked) {
    for condition in [true, false] {
        let then = body(&[], &[("Tanh", &["x1"], "t"), ("Mul", &["t", "x2"], "a")], &["a"]);
        let other = body(&[], &[("Exp", &["x2"], "b")], &["b"]);
        let branches = vec![("then_branch", then), ("else_branch", other)];
        // After the condition: x1 and x2, in the order in which the branches name them.
        checked.op("If", branches, vec![truths(&[condition]), any(&[3]), any(&[3])]);
    }
    let turn = body(
        &["number", "condition", "carried"],
        &[("Identity", &["condition"], "on"), ("Mul", &["carried", "x3"], "scaled"), ("Sin", &["scaled"], "next")],
        &["on", "next", "scaled"],
    );
    checked.node("", "Loop", vec![("body", turn)], vec![int(3), Absent, any(&[2]), any(&[2])], 2);
}

#[test]
fn gradients_equal_differences_of_values() {
    reseed(3);
    let mut checked = Checked::default();
    functions_of_one_value(&mut checked);
    functions_of_several_values(&mut checked);
    layouts(&mut checked);
    choices(&mut checked);
    reductions_and_norms(&mut checked);
    products(&mut checked);
    attentions(&mut checked);
    what_the_program_makes(&mut checked);
    graphs_inside(&mut checked);
    // Truth values, integers, shapes and constants have no gradient.
    let without = "And Or Xor Not Equal Less LessOrEqual Greater GreaterOrEqual IsNaN IsInf BitwiseAnd BitwiseOr BitwiseXor \
                   BitwiseNot Constant ConstantOfShape Range EyeLike Shape Size NonZero ArgMax ArgMin Hardmax";
    let known: BTreeSet<&str> = checked.0.iter().map(String::as_str).chain(without.split_whitespace()).collect();
    let missing: Vec<String> =
        supported_operators().into_iter().filter(|name| !known.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "no gradient was compared for {missing:?}");
}
