//! The graph during compilation: nodes that can be rewritten, and the values that are already known.

use std::collections::{HashMap, HashSet};

use tch::{Device, Kind, Tensor};

use super::super::error::{TrainError, out_of_memory};
use super::super::operators::{
    Building, Call, OpError, build, find, full_name, kind_of, lift, load, load_attribute, scalar,
};
use super::inline::{branch, without_functions};
use super::operation::Operation;
use crate::onnx::{Attribute, Model, Node, TensorData, ValueInfo, node_inputs};

/// The part of a model that a program keeps: nodes with their tensor attributes, and the initializers as tensors.
#[derive(Debug)]
pub(super) struct Source {
    pub nodes: Vec<Node>,
    pub opset: i64,
    /// Names of the inputs that are not initializers.
    pub inputs: Vec<String>,
    /// Types and shapes of these inputs.
    pub input_types: Vec<ValueInfo>,
    pub outputs: Vec<String>,
    /// Initializers on the CPU, without gradients.
    pub constants: HashMap<String, Tensor>,
}

impl Source {
    /// Reads what nodes use. Initializers of types that libtorch lacks are left out: only using one is an error.
    pub fn read(model: &Model) -> Result<Self, TrainError> {
        let graph = &model.graph;
        let mut nodes = without_functions(model)?;
        let listed: HashSet<&str> = graph.initializers.iter().map(|tensor| tensor.name.as_str()).collect();
        // A `Constant` that is an output of the model is kept, and computed like any other node.
        let given = |output: &String| graph.outputs.iter().any(|info| info.name == *output);
        let is_listed = |output: &String| listed.contains(output.as_str()) && !given(output);
        nodes.retain(|node| !node.is("Constant") || !node.outputs.iter().all(is_listed));
        nodes.iter_mut().for_each(lift);
        let used: HashSet<&str> =
            nodes.iter().flat_map(node_inputs).chain(graph.outputs.iter().map(|o| o.name.as_str())).collect();
        let mut constants = HashMap::new();
        let multiplied: HashSet<&str> =
            nodes.iter().filter(|n| n.is("MatMul")).filter_map(|n| Some(n.inputs.get(1)?.as_str())).collect();
        for tensor in graph.initializers.iter().filter(|t| used.contains(t.name.as_str())) {
            if kind_of(tensor.data_type).is_ok() && !matches!(tensor.data, TensorData::Strings(_)) {
                let mut loaded =
                    load(tensor, model.bytes(tensor)?).map_err(|error| weight_error(&tensor.name, &error))?;
                if tensor.dims.len() == 2 && multiplied.contains(tensor.name.as_str()) {
                    // Linear layers want `[out, in]` in memory: stored so from the start, there is a single copy of a weight.
                    loaded = loaded.f_transpose(0, 1)?.f_contiguous()?.f_transpose(0, 1)?;
                }
                constants.insert(tensor.name.clone(), loaded);
            }
        }
        let inputs = graph.inputs.iter().filter(|i| !listed.contains(i.name.as_str()));
        let input_types: Vec<ValueInfo> = inputs.cloned().collect();
        Ok(Source {
            nodes: nodes.iter().map(|node| with_own_bytes(node, model)).collect::<Result<_, _>>()?,
            opset: model.opset(),
            inputs: input_types.iter().map(|input| input.name.clone()).collect(),
            input_types,
            outputs: graph.outputs.iter().map(|o| o.name.clone()).collect(),
            constants,
        })
    }
}

impl Source {
    /// The same with the same tensors, for another thread.
    pub fn twin(&self) -> Self {
        let constants = self.constants.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect();
        Source {
            nodes: self.nodes.clone(),
            opset: self.opset,
            inputs: self.inputs.clone(),
            input_types: self.input_types.clone(),
            outputs: self.outputs.clone(),
            constants,
        }
    }

    /// Largest difference between two ways to compute an output whose largest value is `largest`: what rounding in the
    /// coarsest type of the weights explains.
    pub fn rounding(&self, largest: f64) -> f64 {
        let has = |kind: Kind| self.constants.values().any(|tensor| tensor.kind() == kind);
        let half = |epsilon: f32| 16.0 * f64::from(epsilon) * largest.max(0.1);
        match () {
            () if has(Kind::BFloat16) => half(half::bf16::EPSILON.to_f32()),
            () if has(Kind::Half) => half(half::f16::EPSILON.to_f32()),
            () => 1e-3 * largest.max(1.0),
        }
    }
}

fn weight_error(name: &str, error: &OpError) -> TrainError {
    TrainError::Weight { weight: name.to_owned(), reason: format!("{error}; export the model again") }
}

/// The node with a copy of its tensor attributes' bytes, so that it outlives the model.
fn with_own_bytes(node: &Node, model: &Model) -> Result<Node, TrainError> {
    let own = |tensor: &mut crate::onnx::Tensor| -> Result<(), TrainError> {
        if !matches!(tensor.data, TensorData::Strings(_)) {
            tensor.data = TensorData::Decoded(model.bytes(tensor)?.to_vec());
        }
        Ok(())
    };
    let mut node = node.clone();
    for (_, attribute) in &mut node.attributes {
        match attribute {
            Attribute::Tensor(tensor) => own(tensor)?,
            Attribute::Graph(graph) => {
                graph.initializers.iter_mut().try_for_each(own)?;
                for inner in &mut graph.nodes {
                    *inner = with_own_bytes(inner, model)?;
                }
            }
            _ => {}
        }
    }
    Ok(node)
}

/// The graph of one set of outputs while it is being rewritten.
pub(super) struct Graph<'s> {
    source: &'s Source,
    /// Operations in topological order.
    pub operations: Vec<Operation>,
    /// Names of values that must exist.
    pub wanted: HashSet<String>,
    /// Names of initializers that must not be folded: adapted ones, or ones trained as a whole.
    pub pinned: &'s HashSet<String>,
    folded: HashMap<String, Tensor>,
    users: HashMap<String, Vec<usize>>,
    makers: HashMap<String, usize>,
}

impl<'s> Graph<'s> {
    /// The nodes that `wanted` needs, with all constant subexpressions computed.
    pub fn new(source: &'s Source, wanted: &[&str], pinned: &'s HashSet<String>) -> Result<Self, TrainError> {
        let mut graph = Graph {
            source,
            operations: source.nodes.iter().cloned().map(Operation::Node).collect(),
            wanted: wanted.iter().map(|name| (*name).to_owned()).collect(),
            pinned,
            folded: HashMap::new(),
            users: HashMap::new(),
            makers: HashMap::new(),
        };
        graph.remove_unused();
        graph.fold()?;
        while graph.take_known_branches()? {
            graph.fold()?;
        }
        graph.remove_unused();
        Ok(graph)
    }

    pub fn opset(&self) -> i64 {
        self.source.opset
    }

    /// A value known at compile time, on the CPU. Pinned initializers are not known.
    pub fn constant(&self, name: &str) -> Option<&Tensor> {
        if self.pinned.contains(name) {
            return None;
        }
        self.folded.get(name).or_else(|| self.source.constants.get(name))
    }

    /// An initializer by its name in the file, pinned or not.
    pub fn initializer(&self, name: &str) -> Option<&Tensor> {
        self.source.constants.get(name)
    }

    /// The value of a constant of one element.
    pub fn number(&self, name: &str) -> Option<f64> {
        self.constant(name).and_then(|tensor| scalar(tensor).ok())
    }

    /// The operation at this index, if it is a node.
    pub fn node(&self, index: usize) -> Option<&Node> {
        self.operations[index].node()
    }

    /// Index of the operation that computes a value.
    pub fn maker(&self, name: &str) -> Option<usize> {
        self.makers.get(name).copied()
    }

    /// The node that computes a value, if it is this operator of the default domain.
    pub fn made_by(&self, name: &str, op_type: &str) -> Option<&Node> {
        self.maker(name).and_then(|index| self.node(index)).filter(|node| node.is(op_type))
    }

    /// Indices of the operations that use a value.
    pub fn users(&self, name: &str) -> &[usize] {
        self.users.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether a value is used once and not wanted as an output, so that it may disappear in a fusion.
    pub fn is_private(&self, name: &str) -> bool {
        self.users(name).len() == 1 && !self.wanted.contains(name)
    }

    /// Removes the operations that nothing needs and indexes the rest.
    pub fn remove_unused(&mut self) {
        let mut needed: HashSet<&str> = self.wanted.iter().map(String::as_str).collect();
        let mut keep = vec![false; self.operations.len()];
        for (index, operation) in self.operations.iter().enumerate().rev() {
            if operation.outputs().iter().any(|o| needed.contains(o.as_str())) {
                keep[index] = true;
                needed.extend(operation.needs());
            }
        }
        let mut keep = keep.into_iter();
        self.operations.retain(|_| keep.next().unwrap_or(false));
        self.index();
    }

    fn index(&mut self) {
        self.users.clear();
        self.makers.clear();
        for (index, operation) in self.operations.iter().enumerate() {
            for input in operation.needs() {
                self.users.entry(input.to_owned()).or_default().push(index);
            }
            for output in operation.outputs().iter().filter(|o| !o.is_empty()) {
                self.makers.insert(output.clone(), index);
            }
        }
    }

    /// Replaces every `If` with a constant condition by the branch it takes. Returns whether there was one.
    fn take_known_branches(&mut self) -> Result<bool, TrainError> {
        let mut operations = Vec::with_capacity(self.operations.len());
        let mut any = false;
        for operation in std::mem::take(&mut self.operations) {
            match self.taken_branch(&operation)? {
                Some(taken) => {
                    any = true;
                    operations.extend(taken.into_iter().map(Operation::Node));
                }
                None => operations.push(operation),
            }
        }
        self.operations = operations;
        self.index();
        Ok(any)
    }

    /// The nodes of the branch that an `If` with a constant condition takes; the branch's constants are known from here on.
    fn taken_branch(&mut self, operation: &Operation) -> Result<Option<Vec<Node>>, TrainError> {
        let Some(node) = operation.node().filter(|node| node.is("If")) else { return Ok(None) };
        let condition = node.inputs.first().and_then(|name| self.number(name));
        let Some((taken, initializers)) = condition.and_then(|condition| branch(node, condition != 0.0)) else {
            return Ok(None);
        };
        for tensor in initializers {
            let loaded = load_attribute(&tensor).map_err(|error| node_error(node, &error))?;
            self.folded.insert(tensor.name, loaded);
        }
        Ok(Some(taken))
    }

    /// Computes, on the CPU, every node whose inputs are all constant.
    fn fold(&mut self) -> Result<(), TrainError> {
        for index in 0..self.operations.len() {
            let Some(node) = self.node(index) else { continue };
            let inputs: Option<Vec<Option<&Tensor>>> = node
                .inputs
                .iter()
                .map(|name| if name.is_empty() { Some(None) } else { self.constant(name).map(Some) })
                .collect();
            let (Some(inputs), Some(operator)) = (inputs, find(&node.domain, &node.op_type)) else { continue };
            let building = Building { node, opset: self.opset() };
            let outputs = build(operator, &building)
                .and_then(|kernel| tch::no_grad(|| kernel(&Call { inputs: &inputs, dropout: None })))
                .map_err(|error| node_error(node, &error))?;
            let names: Vec<String> = node.outputs.clone();
            self.folded.extend(names.into_iter().zip(outputs).filter(|(name, _)| !name.is_empty()));
        }
        let folded = &self.folded;
        self.operations.retain(|made| !made.outputs().iter().all(|o| o.is_empty() || folded.contains_key(o)));
        self.index();
        Ok(())
    }
}

/// The error of a node that could not be built or executed.
pub(super) fn node_error(node: &Node, error: &OpError) -> TrainError {
    error_of(&full_name(node), node.label(), error)
}

/// The error of a compiled step.
pub(super) fn error_of(operator: &str, node: &str, error: &OpError) -> TrainError {
    if let Some(reason) = out_of_memory(&error.to_string()) {
        return TrainError::OutOfMemory { reason };
    }
    TrainError::Operator { operator: operator.into(), node: node.into(), reason: error.to_string(), cure: CURE }
}

const CURE: &str = "check that the batch fits the export (token ids below its vocabulary, lengths within its maximum), \
                    else export the model again in evaluation mode";

/// A copy of the value on another device, with its type unchanged.
pub(super) fn on_device(tensor: &Tensor, device: Device) -> Result<Tensor, TrainError> {
    Ok(if tensor.device() == device { tensor.shallow_clone() } else { tensor.f_to_device(device)? })
}

/// Whether the tensor holds floats.
pub(super) fn is_float(tensor: &Tensor) -> bool {
    matches!(tensor.kind(), Kind::Float | Kind::Double | Kind::Half | Kind::BFloat16)
}
