//! Linear layers: products with a constant weight, their backends, and the adapters beside them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Instant;

use tch::{Device, Kind, Tensor};

use super::super::error::TrainError;
use super::super::operators::{Built, Call, OpError, because, kernel};
use super::graph::{Graph, is_float, on_device};
use super::operation::{LinearStep, Operation};
use super::{LinearBackend, LinearChoice, Precision};
use crate::onnx::Node;

/// The library that computes the products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Backend {
    Torch,
    OneDnn,
}

impl Backend {
    fn name(self) -> &'static str {
        match self {
            Backend::Torch => "torch",
            Backend::OneDnn => "onednn",
        }
    }
}

/// The factors of an adapter, on the device, as leaves that require gradients.
#[derive(Debug)]
pub(super) struct Adapter {
    pub weight: String,
    /// Names of further initializers that hold the same weight.
    pub copies: Vec<String>,
    pub a: Tensor,
    pub b: Tensor,
    pub scaling: f64,
    pub dropout: f64,
}

impl Adapter {
    /// Whether the adapter belongs to this initializer.
    pub fn adapts(&self, initializer: &str) -> bool {
        self.weight == initializer || self.copies.iter().any(|copy| copy == initializer)
    }
}

/// Replaces products with a constant matrix, bias included, by linear layers where `wanted` is true for the weight.
pub(super) fn fuse_linear(graph: &mut Graph<'_>, wanted: &dyn Fn(&str) -> bool) {
    for index in 0..graph.operations.len() {
        let Some(mut found) = graph.node(index).and_then(|node| recognise(graph, node)) else { continue };
        if !wanted(&found.weight) {
            continue;
        }
        let mut place = index;
        if found.bias.is_none()
            && let Some((add, bias)) = separate_bias(graph, &found)
        {
            (place, found.bias) = (add, Some(bias));
            if let Some(output) = graph.operations[add].outputs().first() {
                found.output = output.clone();
            }
        }
        graph.operations[place] = Operation::Linear(found);
    }
    graph.remove_unused();
}

fn recognise(graph: &Graph<'_>, node: &Node) -> Option<LinearStep> {
    let [input, weight, ..] = node.inputs.as_slice() else { return None };
    let mut found = LinearStep {
        label: node.label().to_owned(),
        input: input.clone(),
        output: node.outputs.first()?.clone(),
        weight: weight.clone(),
        out_in: false,
        bias: None,
    };
    match (node.domain.as_str(), node.op_type.as_str()) {
        ("", "MatMul") => {}
        ("", "Gemm") => {
            let plain = node.float("alpha", 1.0) == 1.0 && node.float("beta", 1.0) == 1.0 && node.int("transA", 0) == 0;
            if !plain {
                return None;
            }
            found.bias = node.inputs.get(2).filter(|bias| !bias.is_empty()).cloned();
            found.out_in = node.int("transB", 0) != 0;
        }
        _ => return None,
    }
    // Newer exporters keep the transposition of the weight in the graph.
    while let Some(index) = graph.maker(&found.weight) {
        let maker = graph.node(index)?;
        let turned = maker.is("Transpose") && maker.ints("perm").is_none_or(|perm| perm == [1, 0]);
        if !turned && !maker.is("Identity") {
            return None;
        }
        found.out_in ^= turned;
        found.weight = maker.inputs.first()?.clone();
    }
    let tensor = graph.constant(&found.weight).or_else(|| graph.initializer(&found.weight))?;
    let width = *tensor.size().get(usize::from(!found.out_in))?;
    let bias_fits = match &found.bias {
        Some(bias) => graph.constant(bias).is_some_and(|b| b.size() == [width]),
        None => true,
    };
    // A table of relative positions is a constant that an adapted weight may multiply: then only the weight varies.
    let varies = graph.constant(input).is_none() || graph.constant(&found.weight).is_none();
    (tensor.dim() == 2 && is_float(tensor) && varies && bias_fits).then_some(found)
}

/// The `Add` of a constant vector that is the only user of the product.
fn separate_bias(graph: &Graph<'_>, found: &LinearStep) -> Option<(usize, String)> {
    let product = &found.output;
    let width = *graph
        .constant(&found.weight)
        .or_else(|| graph.initializer(&found.weight))?
        .size()
        .get(usize::from(!found.out_in))?;
    if !graph.is_private(product) {
        return None;
    }
    let add = *graph.users(product).first()?;
    let node = graph.node(add)?;
    let bias = node.inputs.iter().find(|name| *name != product)?;
    let fits = graph.constant(bias).is_some_and(|b| b.size() == [width]);
    (node.is("Add") && fits).then(|| (add, bias.clone()))
}

/// Weights in the layout of the backends, and the backend of each shape. Shared by all schedules of a program.
#[derive(Debug)]
pub(super) struct Linears {
    device: Device,
    setting: LinearBackend,
    precision: Precision,
    /// Weights `[out, in]`, contiguous, on the device.
    weights: RefCell<HashMap<String, Tensor>>,
    chosen: RefCell<HashMap<(i64, i64), Backend>>,
}

impl Linears {
    pub fn new(device: Device, setting: LinearBackend, precision: Precision) -> Self {
        Linears { device, setting, precision, weights: RefCell::default(), chosen: RefCell::default() }
    }

    /// The same weights and backends, for another thread.
    pub fn twin(&self) -> Self {
        let weights = self.weights.borrow();
        let weights = weights.iter().map(|(name, weight)| (name.clone(), weight.shallow_clone())).collect();
        Linears {
            device: self.device,
            setting: self.setting.clone(),
            precision: self.precision,
            weights: RefCell::new(weights),
            chosen: self.chosen.clone(),
        }
    }

    /// The backends in use, in a fixed order.
    pub fn choices(&self) -> Vec<LinearChoice> {
        let mut choices: Vec<LinearChoice> = self
            .chosen
            .borrow()
            .iter()
            .map(|((inner, outer), backend)| LinearChoice {
                in_features: *inner as usize,
                out_features: *outer as usize,
                backend: backend.name().to_owned(),
            })
            .collect();
        choices.sort_by_key(|choice| (choice.in_features, choice.out_features));
        choices
    }

    fn weight(&self, name: &str, value: &Tensor, out_in: bool) -> Result<Tensor, TrainError> {
        let key = format!("{name}\u{0}{out_in}");
        if let Some(weight) = self.weights.borrow().get(&key) {
            return Ok(weight.shallow_clone());
        }
        let turned = if out_in { value.shallow_clone() } else { value.f_transpose(0, 1)? };
        let weight = self.rounded(on_device(&turned.f_contiguous()?, self.device)?)?;
        self.weights.borrow_mut().insert(key, weight.shallow_clone());
        Ok(weight)
    }

    fn rounded(&self, tensor: Tensor) -> Result<Tensor, TrainError> {
        match self.precision {
            Precision::Bfloat16 if tensor.f_kind()? == Kind::Float => Ok(tensor.f_to_kind(Kind::BFloat16)?),
            _ => Ok(tensor),
        }
    }

    fn backend(&self, weight: &Tensor) -> Result<Backend, TrainError> {
        let (outer, inner) = weight.size2()?;
        if self.device != Device::Cpu || weight.kind() != Kind::Float {
            return Ok(Backend::Torch);
        }
        if let Some(backend) = self.chosen.borrow().get(&(inner, outer)) {
            return Ok(*backend);
        }
        let backend = match &self.setting {
            LinearBackend::Torch => Backend::Torch,
            LinearBackend::OneDnn => Backend::OneDnn,
            LinearBackend::Auto => trial(weight)?,
            LinearBackend::Chosen(list) => {
                let listed = list.iter().find(|c| (c.in_features as i64, c.out_features as i64) == (inner, outer));
                match listed {
                    Some(choice) if choice.backend == Backend::OneDnn.name() => Backend::OneDnn,
                    _ => Backend::Torch,
                }
            }
        };
        self.chosen.borrow_mut().insert((inner, outer), backend);
        Ok(backend)
    }

    /// The kernel of a linear layer.
    pub fn build(&self, graph: &Graph<'_>, step: &LinearStep, adapter: Option<&Adapter>) -> Result<Built, TrainError> {
        let name = &step.weight;
        let Some(value) = graph.constant(name).or_else(|| graph.initializer(name)) else {
            return Ok(because(format!("the weight `{name}` is not in the file")));
        };
        let weight = self.weight(name, value, step.out_in)?;
        let bias = match step.bias.as_deref().and_then(|bias| graph.constant(bias)) {
            Some(bias) => Some(self.rounded(on_device(bias, self.device)?)?),
            None => None,
        };
        let backend = self.backend(&weight)?;
        let adapter = adapter.map(Branch::new);
        Ok(kernel(move |call| linear(call, &weight, bias.as_ref(), backend, adapter.as_ref())))
    }
}

/// The part of an adapter that the kernel needs.
struct Branch {
    a: Tensor,
    b: Tensor,
    scaling: f64,
    dropout: f64,
}

impl Branch {
    fn new(adapter: &Adapter) -> Self {
        Branch {
            a: adapter.a.shallow_clone(),
            b: adapter.b.shallow_clone(),
            scaling: adapter.scaling,
            dropout: adapter.dropout,
        }
    }
}

/// `x·Wᵀ + bias + scaling · (x·Aᵀ)·Bᵀ`; `x` is `[…, in]`.
fn linear(
    call: &Call<'_>,
    weight: &Tensor,
    bias: Option<&Tensor>,
    backend: Backend,
    adapter: Option<&Branch>,
) -> Result<Tensor, OpError> {
    let x = call.tensor(0)?;
    let (outer, inner) = weight.size2()?;
    let mut shape = x.size();
    if shape.last() != Some(&inner) {
        return because(format!("an input of shape {shape:?} for a weight that takes {inner}"));
    }
    let rows = x.f_reshape([-1, inner])?;
    let mut y = product(&rows, weight, bias, backend)?;
    if let Some(branch) = adapter {
        let source = match call.dropout {
            Some(dropout) if branch.dropout > 0.0 => dropout.apply(&rows, branch.dropout)?,
            _ => rows,
        };
        let (kind, own) = (y.f_kind()?, branch.a.f_kind()?);
        let wide = if kind == own { source } else { source.f_to_kind(own)? };
        let inside = wide.f_matmul(&branch.a.f_transpose(0, 1)?)?.f_mul_scalar(branch.scaling)?;
        let outer = branch.b.f_transpose(0, 1)?;
        y = match kind == own {
            // In place: no gradient needs the product.
            true => y.f_addmm_(&inside, &outer)?,
            // Beside half precision the factors stay in float32, as in PEFT.
            false => y.f_add(&inside.f_matmul(&outer)?.f_to_kind(kind)?)?,
        };
    }
    if let Some(last) = shape.last_mut() {
        *last = outer;
    }
    Ok(y.f_reshape(&shape)?)
}

fn product(rows: &Tensor, weight: &Tensor, bias: Option<&Tensor>, backend: Backend) -> Result<Tensor, OpError> {
    match backend {
        Backend::OneDnn if rows.numel() > 0 => {
            Ok(rows.f_to_mkldnn(None)?.f_mkldnn_linear(weight, bias)?.f_to_dense(None, false)?)
        }
        _ if weight.kind() != rows.kind() => {
            let rounded = rows.f_to_kind(weight.f_kind()?)?;
            Ok(rounded.f_linear(weight, bias)?.f_to_kind(rows.f_kind()?)?)
        }
        _ => Ok(rows.f_linear(weight, bias)?),
    }
}

/// Number of rows in the trial: the tokens of 32 short texts.
const TRIAL_ROWS: i64 = 384;

/// How often each backend is timed. The shortest time counts: other work on the machine can only add to it.
const TRIALS: usize = 12;

/// Largest share of libtorch's time at which oneDNN is chosen. Where it pays, it needs half; where both are about equal,
/// the choice, and with it the last bits of every result, must not depend on noise.
pub(in crate::train) const CLEARLY_FASTER: f64 = 0.75;

/// Times forward and backward of both backends in turn and chooses the faster one.
fn trial(weight: &Tensor) -> Result<Backend, TrainError> {
    let (_, inner) = weight.size2()?;
    let x = Tensor::f_ones([TRIAL_ROWS, inner], (Kind::Float, Device::Cpu))?.f_set_requires_grad(true)?;
    let time = |backend: Backend| -> Result<f64, OpError> {
        let start = Instant::now();
        let y = product(&x, weight, None, backend)?;
        let total = y.f_sum(Kind::Float)?;
        Tensor::f_run_backward(&[&total], &[&x], false, false)?;
        Ok(start.elapsed().as_secs_f64())
    };
    let failed =
        |error: OpError| TrainError::Weight { weight: "(trial of linear layers)".into(), reason: error.to_string() };
    let timed = || -> Result<Backend, OpError> {
        let (mut torch, mut onednn) = (f64::INFINITY, f64::INFINITY);
        for _ in 0..TRIALS {
            torch = torch.min(time(Backend::Torch)?);
            onednn = onednn.min(time(Backend::OneDnn)?);
        }
        Ok(if onednn < CLEARLY_FASTER * torch { Backend::OneDnn } else { Backend::Torch })
    };
    tch::with_grad(timed).map_err(failed)
}

/// Time of a product in bfloat16 relative to that in float32, with a weight of this shape, forward and backward.
pub(in crate::train) fn compare_precisions(device: Device, (outer, inner): (i64, i64)) -> Result<f64, TrainError> {
    let x = Tensor::f_ones([TRIAL_ROWS, inner], (Kind::Float, device))?.f_set_requires_grad(true)?;
    let weight = Tensor::f_ones([outer, inner], (Kind::Float, device))?;
    let rounded = weight.f_to_kind(Kind::BFloat16)?;
    let time = |weight: &Tensor| -> Result<f64, OpError> {
        let start = Instant::now();
        let total = product(&x, weight, None, Backend::Torch)?.f_sum(Kind::Float)?;
        let gradient = Tensor::f_run_backward(&[&total], &[&x], false, false)?;
        // A device that works by itself is waited for.
        gradient.iter().try_for_each(|gradient| gradient.f_max()?.f_double_value(&[]).map(drop))?;
        Ok(start.elapsed().as_secs_f64())
    };
    let timed = || -> Result<f64, OpError> {
        let (mut narrow, mut wide) = (f64::INFINITY, f64::INFINITY);
        for _ in 0..TRIALS {
            narrow = narrow.min(time(&rounded)?);
            wide = wide.min(time(&weight)?);
        }
        Ok(narrow / wide)
    };
    tch::with_grad(timed)
        .map_err(|error| TrainError::Weight { weight: "(trial of bfloat16)".into(), reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::tests::gradients::check;
    use crate::train::tests::support::{reseed, uniform};

    #[test]
    fn gradients_of_an_adapted_layer_equal_differences_of_its_values() {
        reseed(4);
        let random = |shape: &[i64]| uniform(-2.0, 2.0, shape);
        let (weight, bias) = (random(&[3, 4]), random(&[3]));
        let leaves = [random(&[2, 2, 4]), random(&[2, 4]), random(&[3, 2])];
        check("an adapted layer", &leaves, &|leaves| {
            let [x, a, b] = leaves else { panic!("three leaves") };
            let branch = Branch { a: a.shallow_clone(), b: b.shallow_clone(), scaling: 1.7, dropout: 0.0 };
            let call = Call { inputs: &[Some(x)], dropout: None };
            vec![linear(&call, &weight, Some(&bias), Backend::Torch, Some(&branch)).unwrap()]
        });
    }
}
