//! A graph compiled for one set of outputs: steps over numbered values, separated into those that depend on the data and those
//! that depend on shapes alone.

use std::collections::{HashMap, HashSet};

use tch::{Device, Tensor};

use super::super::error::TrainError;
use super::super::operators::{Building, Kernel, Nature, build, find, full_name};
use super::graph::{Graph, error_of, on_device};
use super::linear::{Adapter, Linears};
use super::operation::Operation;
use crate::onnx::{Node, Trait};

/// The source of a step's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operand {
    /// Computed in this run; index of the slot.
    Slot(usize),
    /// Known since compilation; index of the value.
    Fixed(usize),
    /// Depends on the input shapes; index of the value on the host.
    Shape(usize),
    /// As [`Operand::Shape`], on the device.
    ShapeOnDevice(usize),
}

/// One operation.
pub(super) struct Step {
    pub kernel: Kernel,
    pub inputs: Vec<Option<Operand>>,
    /// Slots or shape values that it writes; `None` for an unused output.
    pub outputs: Vec<Option<Operand>>,
    /// Name of the node, for messages.
    pub node: String,
    pub operator: String,
}

/// A step in execution order, and the slots that are free after it.
pub(super) struct Turn {
    pub step: usize,
    pub frees: Vec<usize>,
}

/// A compiled graph.
pub(super) struct ExecutionPlan {
    pub steps: Vec<Step>,
    /// All steps, for shapes that are seen for the first time.
    pub full: Vec<Turn>,
    /// The steps that depend on the data.
    pub lean: Vec<Turn>,
    pub slots: usize,
    pub shapes: usize,
    /// Shape values that the data steps or outputs read: (index, needed on the device).
    pub kept: Vec<(usize, bool)>,
    pub fixed: Vec<Tensor>,
    /// Graph inputs, by name and slot.
    pub inputs: Vec<(String, usize)>,
    pub outputs: Vec<Operand>,
}

impl std::fmt::Debug for ExecutionPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ExecutionPlan({} steps, {} per batch)", self.full.len(), self.lean.len())
    }
}

/// What is known about a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Constant,
    Shape(usize),
    Data {
        slot: usize,
        unknown_shape: bool,
    },
    /// A tensor that is trained as a whole.
    Parameter,
}

/// The parts of a program that compilation needs.
pub(super) struct Context<'p> {
    pub device: Device,
    pub linears: &'p Linears,
    pub adapters: &'p [Adapter],
    pub whole: &'p [(String, Tensor)],
    pub inputs: &'p [String],
}

struct Compiler<'c> {
    context: &'c Context<'c>,
    graph: &'c Graph<'c>,
    classes: HashMap<String, Class>,
    fixed: Vec<Tensor>,
    fixed_places: HashMap<(String, bool), usize>,
    inputs: Vec<(String, usize)>,
    slots: usize,
    shapes: usize,
    steps: Vec<Step>,
    /// Whether each step depends on data.
    data_steps: Vec<bool>,
}

/// Compiles a rewritten graph.
pub(super) fn compile(graph: &Graph<'_>, wanted: &[&str], context: &Context<'_>) -> Result<ExecutionPlan, TrainError> {
    let mut compiler = Compiler {
        context,
        graph,
        classes: HashMap::new(),
        fixed: Vec::new(),
        fixed_places: HashMap::new(),
        inputs: Vec::new(),
        slots: 0,
        shapes: 0,
        steps: Vec::new(),
        data_steps: Vec::new(),
    };
    for operation in &graph.operations {
        compiler.operation(operation)?;
    }
    let outputs = wanted.iter().map(|name| compiler.place(name, false)).collect::<Result<Vec<_>, _>>()?;
    Ok(compiler.finish(outputs))
}

impl Compiler<'_> {
    fn operation(&mut self, operation: &Operation) -> Result<(), TrainError> {
        let (kernel, host, nature) = self.kernel(operation)?;
        let names = || operation.inputs().iter().enumerate().filter(|(_, name)| !name.is_empty());
        // A layer with an adapter varies, whatever its input.
        let mut data = self.adapter(operation).is_some();
        let mut unknown = nature == Nature::UnknownShape;
        for (position, name) in names() {
            match self.class(name)? {
                Class::Data { unknown_shape, .. } => {
                    data |= nature != Nature::Shapes || unknown_shape;
                    unknown |= unknown_shape || host.contains(&position) || nature == Nature::Body;
                }
                Class::Parameter => data |= nature != Nature::Shapes,
                Class::Constant | Class::Shape(_) => {}
            }
        }
        data |= nature == Nature::UnknownShape;
        unknown &= nature != Nature::KnownShape;
        let mut inputs = vec![None; operation.inputs().len()];
        for (position, name) in names() {
            inputs[position] = Some(self.place(name, !data || host.contains(&position))?);
        }
        let mut outputs = Vec::with_capacity(operation.outputs().len());
        for name in operation.outputs() {
            if name.is_empty() {
                outputs.push(None);
                continue;
            }
            let class = if data {
                self.slots += 1;
                Class::Data { slot: self.slots - 1, unknown_shape: unknown }
            } else {
                self.shapes += 1;
                Class::Shape(self.shapes - 1)
            };
            self.classes.insert(name.clone(), class);
            outputs.push(Some(match class {
                Class::Data { slot, .. } => Operand::Slot(slot),
                _ => Operand::Shape(self.shapes - 1),
            }));
        }
        let (node, operator) = (operation.label().to_owned(), operation.operator());
        self.steps.push(Step { kernel, inputs, outputs, node, operator });
        self.data_steps.push(data);
        Ok(())
    }

    /// The adapter of a linear layer.
    fn adapter(&self, operation: &Operation) -> Option<&Adapter> {
        match operation {
            Operation::Node(_) => None,
            Operation::Linear(linear) => self.context.adapters.iter().find(|adapter| adapter.adapts(&linear.weight)),
        }
    }

    fn kernel(&self, operation: &Operation) -> Result<(Kernel, &'static [usize], Nature), TrainError> {
        let (built, host, nature): (_, &'static [usize], _) = match operation {
            Operation::Linear(linear) => {
                let adapter = self.adapter(operation);
                (self.context.linears.build(self.graph, linear, adapter)?, &[], Nature::Values)
            }
            Operation::Node(node) => {
                let Some(operator) = find(&node.domain, &node.op_type) else { return Err(unsupported(node)) };
                let building = Building { node, opset: self.graph.opset() };
                (build(operator, &building), operator.host, operator.nature)
            }
        };
        let kernel = built.map_err(|error| error_of(&operation.operator(), operation.label(), &error))?;
        Ok((kernel, host, nature))
    }

    fn class(&mut self, name: &str) -> Result<Class, TrainError> {
        if let Some(class) = self.classes.get(name) {
            return Ok(*class);
        }
        let class = if self.context.whole.iter().any(|(whole, _)| whole == name) {
            Class::Parameter
        } else if let Some(adapter) = self.context.adapters.iter().find(|a| a.adapts(name)) {
            return Err(TrainError::Weight {
                weight: adapter.weight.clone(),
                reason: "it is also used outside of matrix products (a tied embedding?); leave it out of the plan"
                    .into(),
            });
        } else if self.graph.constant(name).is_some() {
            Class::Constant
        } else if self.context.inputs.iter().any(|input| input == name) {
            self.slots += 1;
            self.inputs.push((name.to_owned(), self.slots - 1));
            Class::Data { slot: self.slots - 1, unknown_shape: false }
        } else {
            return Err(TrainError::UnknownValue { name: name.to_owned(), known: "not what a node names".into() });
        };
        self.classes.insert(name.to_owned(), class);
        Ok(class)
    }

    fn place(&mut self, name: &str, host: bool) -> Result<Operand, TrainError> {
        Ok(match self.class(name)? {
            Class::Data { slot, .. } => Operand::Slot(slot),
            Class::Shape(index) if host => Operand::Shape(index),
            Class::Shape(index) => Operand::ShapeOnDevice(index),
            Class::Constant | Class::Parameter => {
                let key = (name.to_owned(), host || self.context.device == Device::Cpu);
                if let Some(index) = self.fixed_places.get(&key) {
                    return Ok(Operand::Fixed(*index));
                }
                let whole = self.context.whole.iter().find(|(whole, _)| whole == name).map(|(_, tensor)| tensor);
                let device = if host { Device::Cpu } else { self.context.device };
                let tensor = match (whole, self.graph.constant(name)) {
                    (Some(tensor), _) => tensor.shallow_clone(),
                    (None, Some(tensor)) => on_device(tensor, device)?,
                    (None, None) => return Err(TrainError::UnknownValue { name: name.into(), known: String::new() }),
                };
                self.fixed.push(tensor);
                self.fixed_places.insert(key, self.fixed.len() - 1);
                Operand::Fixed(self.fixed.len() - 1)
            }
        })
    }

    fn finish(self, outputs: Vec<Operand>) -> ExecutionPlan {
        let full: Vec<usize> = (0..self.steps.len()).collect();
        let lean = self.needed(&outputs);
        let mut kept: HashMap<usize, bool> = HashMap::new();
        let reads = lean.iter().flat_map(|index| self.steps[*index].inputs.iter().flatten());
        for place in reads.chain(&outputs) {
            match place {
                Operand::Shape(index) => {
                    kept.entry(*index).or_insert(false);
                }
                Operand::ShapeOnDevice(index) => {
                    kept.insert(*index, true);
                }
                _ => {}
            }
        }
        let mut kept: Vec<(usize, bool)> = kept.into_iter().collect();
        kept.sort_unstable();
        ExecutionPlan {
            full: turns(&self.steps, &full, &outputs),
            lean: turns(&self.steps, &lean, &outputs),
            steps: self.steps,
            slots: self.slots,
            shapes: self.shapes,
            kept,
            fixed: self.fixed,
            inputs: self.inputs,
            outputs,
        }
    }

    /// The data steps that the outputs need once all shape values are known.
    fn needed(&self, outputs: &[Operand]) -> Vec<usize> {
        let mut wanted: HashSet<usize> = outputs.iter().filter_map(slot).collect();
        let mut chosen = Vec::new();
        for (index, step) in self.steps.iter().enumerate().rev() {
            if self.data_steps[index] && step.outputs.iter().flatten().filter_map(slot).any(|s| wanted.contains(&s)) {
                wanted.extend(step.inputs.iter().flatten().filter_map(slot));
                chosen.push(index);
            }
        }
        chosen.reverse();
        chosen
    }
}

fn slot(place: &Operand) -> Option<usize> {
    match place {
        Operand::Slot(slot) => Some(*slot),
        _ => None,
    }
}

/// The steps in this order, each with the slots that no later step reads.
fn turns(steps: &[Step], order: &[usize], outputs: &[Operand]) -> Vec<Turn> {
    let mut later: HashSet<usize> = outputs.iter().filter_map(slot).collect();
    let mut turns: Vec<Turn> = Vec::with_capacity(order.len());
    for &index in order.iter().rev() {
        let step = &steps[index];
        let touched = step.inputs.iter().chain(&step.outputs).flatten().filter_map(slot);
        let frees = touched.filter(|s| later.insert(*s)).collect();
        turns.push(Turn { step: index, frees });
    }
    turns.reverse();
    turns
}

fn unsupported(node: &Node) -> TrainError {
    let cure = match node.domain.as_str() {
        _ if node.has(Trait::Quantized) => {
            "the export is quantized: train the floating-point export that it was made of"
        }
        "com.microsoft" => "train from the export as it was before ONNX Runtime's optimizer",
        "" => "export the model with another opset or attention implementation (`eager`), or report the operator",
        _ => "export the model without custom operators",
    };
    TrainError::UnsupportedOperator { operator: full_name(node), node: node.label().to_owned(), cure: cure.to_owned() }
}
