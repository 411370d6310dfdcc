//! An ONNX graph executed with libtorch, node by node, under autograd.

mod execute;
mod execution_plan;
mod fusion;
mod graph;
mod inline;
mod linear;
mod operation;
mod options;
mod shape_inference;
mod slice_pushdown;
#[cfg(test)]
mod tests;
mod unpadding;

use std::cell::{Cell, RefCell};
use std::collections::HashSet;

use tch::{Device, Kind, Tensor};

use self::execute::{Run, ShapeCache};
use self::execution_plan::{Context, ExecutionPlan, compile};
use self::fusion::fuse;
use self::graph::{Graph, Source, is_float, on_device};
use self::linear::{Adapter, Linears, fuse_linear};
pub(super) use self::linear::{CLEARLY_FASTER, compare_precisions};
pub use self::options::{LinearBackend, LinearChoice, Precision, ProgramOptions};
use self::shape_inference::infer_shapes;
use self::slice_pushdown::narrow;
use super::dropout::Dropout;
use super::error::TrainError;
use super::lora::AdapterSpec;
use crate::onnx::{DataType, Model, mask_input};

/// The kind of a trainable tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrainableKind {
    /// Factor A of an adapter, `[rank, in]`; the name is that of the weight.
    LoraA,
    /// Factor B of an adapter, `[out, rank]`; the name is that of the weight.
    LoraB,
    /// An initializer that is trained as a whole, in the graph's orientation; the name is that of the initializer.
    Whole,
}

/// A leaf tensor that requires gradients. The tensor shares storage (and gradient) with the one the program uses.
#[derive(Debug)]
pub struct Trainable {
    /// Name of the initializer.
    pub name: String,
    /// Its kind.
    pub kind: TrainableKind,
    /// The values; updating them in place under `no_grad` changes the program.
    pub tensor: Tensor,
}

/// The graph as a program. Not bound to an input shape; used for one batch after another.
#[derive(Debug)]
pub struct Program {
    source: Source,
    device: Device,
    options: ProgramOptions,
    linears: Linears,
    adapters: Vec<Adapter>,
    whole: Vec<(String, Tensor)>,
    /// Names in `whole` whose tensor is that of another name.
    copies: HashSet<String>,
    /// Seed of dropout; none while evaluating.
    dropout: Option<i64>,
    /// Set when padding was found to influence the outputs of the export.
    padding_matters: Cell<bool>,
    /// Whether padding is known to be left out rightly.
    verified: bool,
    /// One entry per set of requested outputs.
    compiled: RefCell<Vec<Compiled>>,
}

#[derive(Debug)]
struct Compiled {
    outputs: Vec<String>,
    plan: ExecutionPlan,
    cache: ShapeCache,
    /// The same outputs without unpadding, until a padded batch has shown that both agree.
    plain: Option<Box<Compiled>>,
}

impl Program {
    /// Reads the graph and its weights. Nodes are resolved when outputs are first requested.
    pub fn new(model: &Model, device: Device, options: ProgramOptions) -> Result<Self, TrainError> {
        Ok(Program {
            source: Source::read(model)?,
            device,
            linears: Linears::new(device, options.linear.clone(), options.precision),
            options,
            adapters: Vec::new(),
            whole: Vec::new(),
            copies: HashSet::new(),
            dropout: None,
            padding_matters: Cell::new(false),
            verified: false,
            compiled: RefCell::default(),
        })
    }

    /// Inserts adapters. The factors are copied to the device and become leaf tensors. A new adapter for an adapted weight
    /// replaces the old one.
    pub fn attach(&mut self, adapters: Vec<AdapterSpec>) -> Result<(), TrainError> {
        self.compiled.get_mut().clear();
        for spec in adapters {
            self.check_adapter(&spec)?;
            let scaling = spec.scaling();
            let adapter = Adapter {
                a: self.leaf(&spec.a)?,
                b: self.leaf(&spec.b)?,
                weight: spec.weight,
                copies: spec.copies,
                scaling,
                dropout: spec.dropout,
            };
            match self.adapters.iter_mut().find(|present| present.weight == adapter.weight) {
                Some(present) => *present = adapter,
                None => self.adapters.push(adapter),
            }
        }
        Ok(())
    }

    fn check_adapter(&self, spec: &AdapterSpec) -> Result<(), TrainError> {
        std::iter::once(&spec.weight).chain(&spec.copies).try_for_each(|weight| self.check_factors(spec, weight))
    }

    fn check_factors(&self, spec: &AdapterSpec, name: &str) -> Result<(), TrainError> {
        let problem = |reason: String| Err(TrainError::Weight { weight: name.to_owned(), reason });
        let Some(weight) = self.source.constants.get(name) else {
            return problem("the graph has no such weight; make the plan for this export".into());
        };
        if !is_float(weight) {
            let reason = "it is quantized to integers; train the floating-point export that it was made of";
            return problem(reason.into());
        }
        let (Ok((rank, inner)), Ok((outer, columns)), Ok((first, second))) =
            (spec.a.size2(), spec.b.size2(), weight.size2())
        else {
            return problem(format!("only matrices can be adapted, its shape is {:?}", weight.size()));
        };
        let fits = (first, second) == (inner, outer) || (first, second) == (outer, inner);
        if !fits || rank != columns || rank == 0 {
            return problem(format!(
                "factors A {:?} and B {:?} do not fit its shape {:?}; make the plan for this export",
                spec.a.size(),
                spec.b.size(),
                weight.size()
            ));
        }
        Ok(())
    }

    /// A copy on the device that requires gradients.
    fn leaf(&self, tensor: &Tensor) -> Result<Tensor, TrainError> {
        let copy = tensor.f_detach_copy()?.f_to_device(self.device)?.f_to_kind(Kind::Float)?.f_contiguous()?;
        Ok(copy.f_set_requires_grad(true)?)
    }

    /// Makes initializers trainable as a whole: those of a head, or those that the method trains.
    pub fn train_whole(&mut self, initializers: &[&str]) -> Result<(), TrainError> {
        self.compiled.get_mut().clear();
        for name in initializers {
            let Some(value) = self.source.constants.get(*name) else {
                let reason = "the graph has no such weight; take its name from `gelora inspect`".into();
                return Err(TrainError::Weight { weight: (*name).to_owned(), reason });
            };
            if !is_float(value) {
                let reason = "only floating-point weights can be trained".into();
                return Err(TrainError::Weight { weight: (*name).to_owned(), reason });
            }
            let leaf = self.leaf(value)?;
            if self.whole.iter().all(|(present, _)| present != name) {
                self.whole.push(((*name).to_owned(), leaf));
            }
        }
        Ok(())
    }

    /// Makes further initializers the same tensor as one that is trained as a whole.
    pub fn train_copies(&mut self, initializer: &str, copies: &[String]) -> Result<(), TrainError> {
        self.compiled.get_mut().clear();
        let Some((_, leaf)) = self.whole.iter().find(|(name, _)| name == initializer) else {
            let reason = "it is not trained as a whole".into();
            return Err(TrainError::Weight { weight: initializer.to_owned(), reason });
        };
        let leaf = leaf.shallow_clone();
        for copy in copies {
            self.copies.insert(copy.clone());
            self.whole.push((copy.clone(), leaf.shallow_clone()));
        }
        Ok(())
    }

    /// All trainable tensors: adapters in the order they were attached (A, then B), then whole tensors.
    pub fn trainables(&self) -> Vec<Trainable> {
        let adapters = self.adapters.iter().flat_map(|adapter| {
            [(TrainableKind::LoraA, &adapter.a), (TrainableKind::LoraB, &adapter.b)]
                .map(|(kind, tensor)| (adapter.weight.clone(), kind, tensor.shallow_clone()))
        });
        let whole = self.whole.iter().filter(|(name, _)| !self.copies.contains(name));
        let whole = whole.map(|(name, t)| (name.clone(), TrainableKind::Whole, t.shallow_clone()));
        adapters.chain(whole).map(|(name, kind, tensor)| Trainable { name, kind, tensor }).collect()
    }

    /// Training mode (adapter dropout active, with the masks of this seed in every run) or evaluation mode, the initial one.
    /// Gradients are recorded in both modes; use `tch::no_grad` around [`Program::run`] where they are not wanted.
    pub fn set_dropout(&mut self, seed: Option<i64>) {
        self.dropout = seed;
    }

    /// The same program for another thread: weights and values of the trainable tensors are shared, the leaves are others.
    /// What was decided by a trial is kept.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn twin(&self) -> Result<Self, TrainError> {
        let leaf = |tensor: &Tensor| tensor.f_detach()?.f_set_requires_grad(true);
        let adapters = self.adapters.iter().map(|adapter| {
            let (a, b) = (leaf(&adapter.a)?, leaf(&adapter.b)?);
            let Adapter { weight, copies, scaling, dropout, .. } = adapter;
            Ok(Adapter { weight: weight.clone(), copies: copies.clone(), a, b, scaling: *scaling, dropout: *dropout })
        });
        let mut whole: Vec<(String, Tensor)> = Vec::with_capacity(self.whole.len());
        for (name, tensor) in &self.whole {
            let same = |(_, other): &&(String, Tensor)| other.data_ptr() == tensor.data_ptr();
            // A copy is the leaf of another name.
            let twin = match whole.iter().find(same) {
                Some((_, other)) if self.copies.contains(name) => other.shallow_clone(),
                _ => leaf(tensor)?,
            };
            whole.push((name.clone(), twin));
        }
        let verified = self.compiled.borrow().iter().any(|compiled| compiled.plain.is_none());
        Ok(Program {
            source: self.source.twin(),
            device: self.device,
            options: self.options.clone(),
            linears: self.linears.twin(),
            adapters: adapters.collect::<Result<_, TrainError>>()?,
            whole,
            copies: self.copies.clone(),
            dropout: self.dropout,
            padding_matters: self.padding_matters.clone(),
            verified: self.verified || verified,
            compiled: RefCell::default(),
        })
    }

    /// Names of the graph's inputs that must be given (all but initializers).
    pub fn inputs(&self) -> &[String] {
        &self.source.inputs
    }

    /// Names of the graph's outputs.
    pub fn outputs(&self) -> &[String] {
        &self.source.outputs
    }

    /// The device that the program runs on.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Runs the graph. `outputs` may name any value of the graph (hidden states, `logits`, inner values); only what they
    /// need is computed. Inputs that they do not need may be left out; inputs on another device are copied.
    pub fn run(&self, inputs: &[(&str, Tensor)], outputs: &[&str]) -> Result<Vec<Tensor>, TrainError> {
        let mut compiled = self.compiled.borrow_mut();
        let index = match compiled.iter().position(|c| c.outputs == outputs) {
            Some(index) => index,
            None => {
                compiled.push(self.compile(outputs)?);
                compiled.len() - 1
            }
        };
        let compiled = &mut compiled[index];
        self.verify_packing(compiled, inputs)?;
        self.execute(compiled, inputs, self.dropout)
    }

    /// The given inputs in the order of the plan.
    fn given(&self, plan: &ExecutionPlan, inputs: &[(&str, Tensor)]) -> Result<Vec<Tensor>, TrainError> {
        let find = |name: &String| match inputs.iter().find(|(given, _)| given == name) {
            Some((_, tensor)) => Ok(self.as_declared(name, on_device(tensor, self.device)?)?),
            None => {
                let names: Vec<&str> = inputs.iter().map(|(name, _)| *name).collect();
                Err(TrainError::MissingInput { name: name.clone(), given: names.join(", ") })
            }
        };
        plan.inputs.iter().map(|(name, _)| find(name)).collect()
    }

    /// Converts integers to the width that the graph declares: exports use int64 or int32.
    fn as_declared(&self, name: &str, tensor: Tensor) -> Result<Tensor, TrainError> {
        let declared = self.source.input_types.iter().find(|input| input.name == name).and_then(|i| i.data_type);
        let kind = match declared {
            Some(DataType::Int64) => Kind::Int64,
            Some(DataType::Int32) => Kind::Int,
            _ => return Ok(tensor),
        };
        Ok(if tensor.f_kind()? == kind { tensor } else { tensor.f_to_kind(kind)? })
    }

    fn execute(
        &self,
        compiled: &mut Compiled,
        inputs: &[(&str, Tensor)],
        dropout: Option<i64>,
    ) -> Result<Vec<Tensor>, TrainError> {
        let given = self.given(&compiled.plan, inputs)?;
        let Compiled { plan, cache, .. } = compiled;
        let dropout = dropout.map(|seed| Dropout::new(seed, self.device));
        Run { plan, device: self.device, dropout }.execute(given, cache)
    }

    /// On the first batch with padding: the outputs with and without unpadding must agree, else unpadding is switched off.
    fn verify_packing(&self, compiled: &mut Compiled, inputs: &[(&str, Tensor)]) -> Result<(), TrainError> {
        let Some(mut plain) = compiled.plain.take() else { return Ok(()) };
        let mask = mask_input(&self.source.input_types);
        let mask = mask.and_then(|mask| inputs.iter().find(|(name, _)| *name == mask)).map(|(_, mask)| mask);
        let is_padded = match mask {
            Some(mask) => !mask.f_to_kind(Kind::Bool)?.f_all()?.f_to_device(Device::Cpu)?.f_is_nonzero()?,
            None => false,
        };
        if !is_padded {
            compiled.plain = Some(plain);
            return Ok(());
        }
        let _guard = tch::no_grad_guard();
        let expected = self.execute(&mut plain, inputs, None)?;
        let found = self.execute(compiled, inputs, None)?;
        let mut same = true;
        let mask = mask.filter(|_| self.options.padding_unused);
        for (found, expected) in found.iter().zip(&expected) {
            same &= match mask {
                Some(mask) if expected.size().starts_with(&mask.size()) => {
                    let real = |t: &Tensor| t.f_index(&[Some(mask.f_to_device(self.device)?.f_to_kind(Kind::Bool)?)]);
                    agree(&real(found)?, &real(expected)?, &self.source)?
                }
                _ => agree(found, expected, &self.source)?,
            };
        }
        if !same {
            self.padding_matters.set(true);
            *compiled = *plain;
        }
        Ok(())
    }

    /// The operations that run for every batch to compute these outputs, in order; `gelora.` precedes those that the program
    /// created itself. What depends on input shapes alone is not included.
    pub fn operations(&self, outputs: &[&str]) -> Result<Vec<String>, TrainError> {
        let plan = self.compile(outputs)?.plan;
        Ok(plan.lean.iter().map(|turn| plan.steps[turn.step].operator.clone()).collect())
    }

    /// Whether padding was found to influence the outputs, so that it is processed like text. Known after the first padded
    /// batch.
    pub fn padding_matters(&self) -> bool {
        self.padding_matters.get()
    }

    fn compile(&self, outputs: &[&str]) -> Result<Compiled, TrainError> {
        let pack = self.options.pack && !self.padding_matters.get();
        let (packed, is_packed) = self.compile_with(outputs, pack)?;
        let plain =
            if is_packed && !self.verified { Some(Box::new(self.compile_with(outputs, false)?.0)) } else { None };
        Ok(Compiled { plain, ..packed })
    }

    /// The compiled outputs, and whether they are computed for real tokens only.
    fn compile_with(&self, outputs: &[&str], pack: bool) -> Result<(Compiled, bool), TrainError> {
        self.check_outputs(outputs)?;
        let adapted = self.adapters.iter().flat_map(|adapter| std::iter::once(&adapter.weight).chain(&adapter.copies));
        let adapted = adapted.cloned();
        let pinned: HashSet<String> = adapted.chain(self.whole.iter().map(|(name, _)| name.clone())).collect();
        let mut graph = Graph::new(&self.source, outputs, &pinned)?;
        let is_packed = self.rewrite(&mut graph, pack);
        let context = Context {
            device: self.device,
            linears: &self.linears,
            adapters: &self.adapters,
            whole: &self.whole,
            inputs: &self.source.inputs,
        };
        let compiled = Compiled {
            outputs: outputs.iter().map(|name| (*name).to_owned()).collect(),
            plan: compile(&graph, outputs, &context)?,
            cache: ShapeCache::new(self.options.shapes_kept),
            plain: None,
        };
        Ok((compiled, is_packed))
    }

    /// Runs all passes that the settings allow. Returns whether the last one, unpadding, changed anything.
    fn rewrite(&self, graph: &mut Graph<'_>, pack: bool) -> bool {
        let is_adapted = |weight: &str| self.adapters.iter().any(|adapter| adapter.adapts(weight));
        let is_whole = |weight: &str| self.whole.iter().any(|(name, _)| name == weight);
        if self.options.fuse {
            fuse(graph);
            fuse_linear(graph, &|weight| !is_whole(weight));
        } else {
            fuse_linear(graph, &is_adapted);
        }
        let inputs = &self.source.input_types;
        if self.options.narrow
            && let Some(shapes) = infer_shapes(graph, inputs)
        {
            narrow(graph, &shapes);
        }
        match pack.then(|| infer_shapes(graph, inputs)).flatten() {
            Some(shapes) => unpadding::unpad(graph, inputs, &shapes, self.options.padding_unused),
            None => false,
        }
    }

    fn check_outputs(&self, outputs: &[&str]) -> Result<(), TrainError> {
        let made: HashSet<&str> =
            self.source.nodes.iter().flat_map(|node| node.outputs.iter().map(String::as_str)).collect();
        match outputs.iter().find(|name| name.is_empty() || !made.contains(**name)) {
            None => Ok(()),
            Some(name) => {
                Err(TrainError::UnknownValue { name: (*name).to_owned(), known: self.source.outputs.join(", ") })
            }
        }
    }

    /// The backends in use, to be recorded and given to a resumed run.
    pub fn linear_choices(&self) -> Vec<LinearChoice> {
        self.linears.choices()
    }
}

/// Whether two outputs are equal up to rounding.
fn agree(found: &Tensor, expected: &Tensor, source: &Source) -> Result<bool, TrainError> {
    if found.size() != expected.size() {
        return Ok(false);
    }
    if found.numel() == 0 {
        return Ok(true);
    }
    let difference = found.f_sub(expected)?.f_abs()?.f_max()?.f_double_value(&[])?;
    let largest = expected.f_abs()?.f_max()?.f_double_value(&[])?;
    Ok(difference <= source.rounding(largest))
}
