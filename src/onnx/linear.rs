//! The linear layers of a graph: `MatMul` and `Gemm` nodes with a constant weight.

use std::collections::HashMap;

use super::{DataType, Node, Role, Tensor, Topology, Trait};

/// Layout of the stored weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WeightLayout {
    /// `[in, out]`: `y = x · W`.
    InOut,
    /// `[out, in]`: `y = x · Wᵀ` (a `Gemm` with `transB`, or a `Transpose` between weight and product).
    OutIn,
}

/// A matrix product with a constant weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinearLayer {
    /// Index of the node in `graph.nodes`.
    pub node: usize,
    /// Name of the node, or its first output where it has none.
    pub node_name: String,
    /// Name of the initializer that holds the weight.
    pub weight: String,
    /// Index of the weight in `graph.initializers`.
    pub weight_index: usize,
    /// How the weight is stored.
    pub layout: WeightLayout,
    /// Name of the input value.
    pub input: String,
    /// The product: for a `MatMul` before any separate bias `Add`, for a `Gemm` with its bias.
    pub output: String,
    /// Name of the initializer that holds the bias, wherever it is added.
    pub bias: Option<String>,
    /// Input width.
    pub in_features: usize,
    /// Output width.
    pub out_features: usize,
    /// Module path taken from the name of the weight, the metadata of the node or its path, e.g.
    /// `model.bert.encoder.layer.0.attention.self.query`. The checkpoint may omit the first part.
    pub module: Option<String>,
    /// Role of the layer in its block.
    pub role: Role,
    /// Whether the weight is stored as integers: the layer can be planned for, but not trained.
    pub quantized: bool,
    /// Other nodes that use the same weight, as indices into `graph.nodes`. A change of the weight changes them too.
    pub shared_with: Vec<usize>,
}

impl LinearLayer {
    /// Shape of the weight as stored.
    pub fn weight_shape(&self) -> [usize; 2] {
        match self.layout {
            WeightLayout::InOut => [self.in_features, self.out_features],
            WeightLayout::OutIn => [self.out_features, self.in_features],
        }
    }
}

/// An initializer seen through `Identity`, `Cast` and `Transpose` nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Source {
    /// Index in `graph.initializers`.
    pub initializer: usize,
    /// Whether an odd number of 2-D transpositions lies between.
    pub transposed: bool,
}

/// Finds the linear layers of a graph.
pub(crate) struct LinearFinder<'g> {
    pub topology: &'g Topology<'g>,
}

impl<'g> LinearFinder<'g> {
    pub fn new(topology: &'g Topology<'g>) -> Self {
        LinearFinder { topology }
    }

    fn all_users(&self) -> HashMap<usize, Vec<usize>> {
        let mut users: HashMap<usize, Vec<usize>> = HashMap::new();
        for (index, node) in self.topology.graph.nodes.iter().enumerate() {
            if is_copy(node) {
                continue;
            }
            for input in super::node_inputs(node) {
                if let Some(source) = self.source(input) {
                    let users = users.entry(source.initializer).or_default();
                    if users.last() != Some(&index) {
                        users.push(index);
                    }
                }
            }
        }
        users
    }

    /// The initializer behind a value, if nothing but copies lie between.
    pub fn source(&self, value: &str) -> Option<Source> {
        let mut value = value;
        let mut transposed = false;
        // The bound only guards against a cyclic graph.
        for _ in 0..16 {
            if let Some(initializer) = self.topology.initializer_index(value) {
                return Some(Source { initializer, transposed });
            }
            let node = self.topology.producer_node(value)?;
            if !is_copy(node) {
                return None;
            }
            transposed ^= node.is("Transpose");
            value = node.inputs.first()?;
        }
        None
    }

    /// The constant behind a weight, and whether it holds integers that encode floats.
    fn weight(&self, value: &str) -> Option<(Source, bool)> {
        if let Some(source) = self.source(value) {
            let tensor = &self.topology.graph.initializers[source.initializer];
            return Some((source, matches!(tensor.data_type, DataType::Int8 | DataType::Uint8)));
        }
        let node = self.topology.producer_node(value).filter(|node| node.op_type == "DequantizeLinear")?;
        Some((self.source(node.inputs.first()?)?, true))
    }

    /// Whether a value is a constant of at least two dimensions larger than one, floating-point or quantized.
    pub fn is_matrix(&self, value: &str) -> bool {
        self.weight(value).is_some_and(|(source, _)| {
            let tensor = &self.topology.graph.initializers[source.initializer];
            let number = tensor.data_type.is_float() || matches!(tensor.data_type, DataType::Int8 | DataType::Uint8);
            number && tensor.dims.iter().filter(|size| **size > 1).count() >= 2
        })
    }

    /// The value itself, or its floating-point source if it was quantized for an integer product.
    fn before_quantization<'v>(&self, value: &'v str) -> &'v str
    where
        'g: 'v,
    {
        let node = self.topology.producer_node(value).filter(|node| node.op_type == "DynamicQuantizeLinear");
        node.and_then(|node| node.inputs.first()).map_or(value, String::as_str)
    }

    /// Nodes that use an initializer, directly or through copies.
    pub fn users(&self, initializer: usize) -> &[usize] {
        let users = self.topology.index().users.get_or_init(|| self.all_users());
        users.get(&initializer).map_or(&[], Vec::as_slice)
    }

    /// The linear layer at this node; its role is left at `Other`.
    pub fn linear(&self, index: usize) -> Option<LinearLayer> {
        let graph = self.topology.graph;
        let node = graph.nodes.get(index)?;
        let (input, weight) = (node.inputs.first()?, node.inputs.get(weight_place(node))?);
        if let Some(features) = packed_features(node) {
            return self.packed(index, features);
        }
        let transposed_by_node = match node.op_type.as_str() {
            "MatMul" if node.domain.is_empty() => false,
            // A factor other than one would also scale the adapter: not a plain linear layer.
            "Gemm" if node.domain.is_empty() && node.float("alpha", 1.0) == 1.0 && node.int("transA", 0) == 0 => {
                node.int("transB", 0) != 0
            }
            _ if node.has(Trait::IntegerProduct) => false,
            _ => return None,
        };
        let (source, quantized) = self.weight(weight)?;
        let tensor = &graph.initializers[source.initializer];
        let fits = if quantized { node.has(Trait::IntegerProduct) || !is_float(tensor) } else { is_float(tensor) };
        if tensor.dims.len() != 2 || !fits || self.source(input).is_some() {
            return None;
        }
        let out_in = transposed_by_node ^ source.transposed;
        let (layout, [in_features, out_features]) = match out_in {
            true => (WeightLayout::OutIn, [tensor.dims[1], tensor.dims[0]]),
            false => (WeightLayout::InOut, [tensor.dims[0], tensor.dims[1]]),
        };
        let output = node.outputs.first()?.clone();
        let bias = self.bias(node, &output, out_features);
        let users = self.users(source.initializer).iter().copied();
        let shared_with: Vec<usize> = users.filter(|user| *user != index).collect();
        // A weight shared by several modules carries the name of one of them: the node's own path is then more reliable.
        let named_by_node = if shared_with.is_empty() { None } else { module_of(node, "") };
        Some(LinearLayer {
            node: index,
            node_name: node.label().to_owned(),
            weight: tensor.name.clone(),
            weight_index: source.initializer,
            layout,
            input: self.before_quantization(input).to_owned(),
            output,
            bias: bias.map(|bias| graph.initializers[bias].name.clone()),
            in_features,
            out_features,
            module: named_by_node.or_else(|| module_of(node, &tensor.name)),
            role: Role::Other,
            quantized,
            shared_with,
        })
    }

    /// A product with a weight packed into fewer than 8 bits: its input and output widths are attributes of the node.
    fn packed(&self, index: usize, [in_features, out_features]: [usize; 2]) -> Option<LinearLayer> {
        let node = self.topology.graph.nodes.get(index)?;
        let (input, output) = (node.inputs.first()?, node.outputs.first()?);
        let source = self.source(node.inputs.get(weight_place(node))?)?;
        let weight = &self.topology.graph.initializers[source.initializer].name;
        let bias = self.bias(node, output, out_features);
        let shared_with = self.users(source.initializer).iter().copied().filter(|user| *user != index).collect();
        Some(LinearLayer {
            node: index,
            node_name: node.label().to_owned(),
            weight: weight.clone(),
            weight_index: source.initializer,
            layout: WeightLayout::OutIn,
            input: input.clone(),
            output: output.clone(),
            bias: bias.map(|bias| self.topology.graph.initializers[bias].name.clone()),
            in_features,
            out_features,
            module: module_of(node, packed_name(weight)),
            role: Role::Other,
            quantized: true,
            shared_with,
        })
    }

    /// The bias: third input of a `Gemm`, or a constant vector that the only user of the product adds.
    fn bias(&self, node: &Node, output: &str, width: usize) -> Option<usize> {
        let vector = |value: &str| {
            let source = self.source(value)?;
            (self.topology.graph.initializers[source.initializer].dims == [width]).then_some(source.initializer)
        };
        if node.is("Gemm") {
            return vector(node.inputs.get(2)?);
        }
        let &[user] = self.topology.consumers(output) else { return None };
        let user = &self.topology.graph.nodes[user];
        if !user.is("Add") {
            return None;
        }
        user.inputs.iter().filter(|input| *input != output).find_map(|input| vector(input))
    }
}

/// Input and output width of a product with a packed weight of 4 bits or similar (`MatMulNBits`, `MatMulBnb4`).
fn packed_features(node: &Node) -> Option<[usize; 2]> {
    if !node.has(Trait::PackedProduct) {
        return None;
    }
    let size = |name| usize::try_from(node.int(name, 0)).ok().filter(|size| *size > 0);
    Some([size("K")?, size("N")?])
}

/// The name of a weight before it was packed: `….weight_Q4`, `….MatMul.weight_quant`.
fn packed_name(weight: &str) -> &str {
    let cut = weight.rfind(".weight_").or_else(|| weight.rfind(".qweight")).map(|at| at + ".weight".len());
    match cut {
        Some(end) if weight.is_char_boundary(end) && weight[..end].ends_with(".weight") => &weight[..end],
        _ => weight,
    }
}

/// Index of the input of a product that is its weight.
fn weight_place(node: &Node) -> usize {
    if node.op_type == "QLinearMatMul" { 3 } else { 1 }
}

fn is_float(tensor: &Tensor) -> bool {
    tensor.data_type.is_float()
}

/// Whether the node only passes a constant on.
fn is_copy(node: &Node) -> bool {
    // Without a permutation, or with [1, 0], a `Transpose` transposes a matrix.
    node.has(Trait::Copies) || node.is("Transpose") && node.ints("perm").is_none_or(|perm| perm == [1, 0])
}

/// The module path of a node: from the name of its weight, else from the exporter's metadata of the node, else from its
/// path.
pub(crate) fn module_of(node: &Node, weight: &str) -> Option<String> {
    stem(weight).or_else(|| module_by_scopes(node)).or_else(|| module_by_path(&node.name))
}

/// The module of a tensor by its own name: `model.head.norm.bias` belongs to `model.head.norm`.
pub(crate) fn stem(tensor: &str) -> Option<String> {
    let (module, leaf) = tensor.rsplit_once('.')?;
    // Some exporters name the operation too: `layers.0.attn.qkv_proj.MatMul.weight`.
    let module = module.strip_suffix(".MatMul").unwrap_or(module);
    (matches!(leaf, "weight" | "bias" | "kernel" | "gamma" | "beta") && !tensor.contains("::"))
        .then(|| module.to_owned())
}

/// The newer exporter writes `pkg.torch.onnx.name_scopes` = `['', 'model', 'model.bert', …, 'linear_1']`: the last
/// entry is the operation, the one before it the innermost module.
fn module_by_scopes(node: &Node) -> Option<String> {
    let (_, scopes) = node.metadata.iter().find(|(key, _)| key == "pkg.torch.onnx.name_scopes")?;
    let list = scopes.trim().strip_prefix('[')?.strip_suffix(']')?;
    let parts: Vec<&str> = list.split(',').map(|part| part.trim().trim_matches(['\'', '"'])).collect();
    let module = parts.len().checked_sub(2).map(|index| parts[index])?;
    (!module.is_empty()).then(|| module.to_owned())
}

/// The classic exporter names nodes by their path: `/model/bert/encoder/layer.0/attention/self/query/MatMul`. A module that
/// is called twice gets a counter (`query_1`) the second time; only the checkpoint can resolve that.
fn module_by_path(name: &str) -> Option<String> {
    let path = name.strip_prefix('/')?;
    let (module, _operation) = path.rsplit_once('/')?;
    Some(module.trim_end_matches("/Tensordot").replace('/', "."))
}
