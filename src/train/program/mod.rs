//! An ONNX graph executed with libtorch, node by node, under autograd.

use tch::{Device, Tensor};

use super::error::TrainError;
use super::lora::AdapterSpec;
use crate::onnx::Model;

/// How linear layers are computed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum LinearBackend {
    /// A short trial per layer shape at the start; on another device than the CPU always libtorch's own.
    #[default]
    Auto,
    /// libtorch's default matrix product.
    Torch,
    /// oneDNN (CPU only).
    OneDnn,
    /// As an earlier run chose (see [`Program::linear_choices`]): a resumed run must compute with the same kernels to
    /// give the same bits. Shapes that are not listed use [`LinearBackend::Torch`].
    Chosen(Vec<LinearChoice>),
}

/// Which backend computes the linear layers of one shape.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LinearChoice {
    /// Input width.
    pub in_features: usize,
    /// Output width.
    pub out_features: usize,
    /// `torch` or `onednn`.
    pub backend: String,
}

/// Settings of a program.
#[derive(Debug, Clone)]
pub struct ProgramOptions {
    /// How linear layers are computed.
    pub linear: LinearBackend,
    /// Whether patterns of nodes are replaced by one operation (GELU, layer norm, linear layers, attention).
    pub fuse: bool,
    /// How many input shapes the values that depend on shapes alone are kept for.
    pub shapes_kept: usize,
}

impl Default for ProgramOptions {
    fn default() -> Self {
        ProgramOptions { linear: LinearBackend::Auto, fuse: true, shapes_kept: 256 }
    }
}

/// What a trainable tensor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrainableKind {
    /// A of an adapter, `[rank, in]`; the name is that of the weight.
    LoraA,
    /// B of an adapter, `[out, rank]`; the name is that of the weight.
    LoraB,
    /// An initializer that is trained as a whole, in the graph's orientation; the name is that of the initializer.
    Whole,
}

/// A leaf tensor that requires gradients. The tensor shares storage (and gradient) with the one the program uses.
#[derive(Debug)]
pub struct Trainable {
    /// Name of the initializer.
    pub name: String,
    /// What it is.
    pub kind: TrainableKind,
    /// The values; updating them in place under `no_grad` changes the program.
    pub tensor: Tensor,
}

/// The graph as a program. Not tied to an input shape; used for one batch after another.
#[derive(Debug)]
pub struct Program {}

impl Program {
    /// Reads the graph and its weights. Nodes are resolved when outputs are first asked for.
    pub fn new(model: &Model, device: Device, options: ProgramOptions) -> Result<Self, TrainError> {
        let _ = (model, device, options);
        Ok(Program {})
    }

    /// Inserts adapters. The factors are copied to the device and become leaf tensors. An adapter for a weight that has
    /// one replaces it.
    pub fn attach(&mut self, adapters: Vec<AdapterSpec>) -> Result<(), TrainError> {
        let _ = adapters;
        Ok(())
    }

    /// Makes initializers (a head) trainable as a whole.
    pub fn train_whole(&mut self, initializers: &[&str]) -> Result<(), TrainError> {
        let _ = initializers;
        Ok(())
    }

    /// All trainable tensors: adapters in the order they were attached (A, then B), then whole tensors.
    pub fn trainables(&self) -> Vec<Trainable> {
        Vec::new()
    }

    /// Training mode (adapter dropout active) or evaluation mode, the state of a new program. Gradients are recorded in
    /// both modes; use `tch::no_grad` around [`Program::run`] where they are not wanted.
    pub fn set_training(&mut self, training: bool) {
        let _ = training;
    }

    /// Names of the graph's inputs that must be given (initializers left out).
    pub fn inputs(&self) -> Vec<String> {
        Vec::new()
    }

    /// Names of the graph's outputs.
    pub fn outputs(&self) -> Vec<String> {
        Vec::new()
    }

    /// Runs the graph. `outputs` may name any value of the graph (hidden states, `logits`, inner values); only what they
    /// need is computed. Inputs that they do not need may be left out; inputs on another device are copied.
    pub fn run(&self, inputs: &[(&str, Tensor)], outputs: &[&str]) -> Result<Vec<Tensor>, TrainError> {
        let _ = (inputs, outputs);
        Ok(Vec::new())
    }

    /// The backends that are in use, for the record and for a run that resumes.
    pub fn linear_choices(&self) -> Vec<LinearChoice> {
        Vec::new()
    }
}
