//! A head for an export without one: a linear layer over a vector of the last hidden state.

use rand::rand_core::{Rng, SeedableRng};
use tch::{Device, Kind, Tensor};

use super::error::TrainError;
use crate::onnx::HeadPooling;

/// Standard deviation of a fresh weight: `initializer_range` of BERT and its relatives.
const INITIAL_DEVIATION: f64 = 0.02;
/// Keeps the head's random numbers separate from those of the adapters and of the order of rows.
const STREAM: u64 = u64::MAX;

/// Name of the new head's weight in the checkpoint, `[outputs, hidden]`.
pub const HEAD_WEIGHT: &str = "classifier.weight";
/// Name of the new head's bias in the checkpoint, `[outputs]`.
pub const HEAD_BIAS: &str = "classifier.bias";

/// Pooling, or every token by itself, and a linear layer: `logits = pool(hidden) · Wᵀ + b`.
#[derive(Debug)]
pub struct NewHead {
    pooling: HeadPooling,
    weight: Tensor,
    bias: Tensor,
}

impl NewHead {
    /// A new head: weights normal with standard deviation 0.02, biases zero. The same seed gives the same head on every machine.
    pub fn new(
        pooling: HeadPooling,
        hidden: usize,
        outputs: usize,
        seed: u64,
        device: Device,
    ) -> Result<Self, TrainError> {
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(STREAM);
        let values: Vec<f32> =
            (0..hidden * outputs).map(|_| (INITIAL_DEVIATION * normal(&mut random)) as f32).collect();
        let weight = Tensor::f_from_slice(&values)?.f_reshape([outputs as i64, hidden as i64])?.f_to_device(device)?;
        let bias = Tensor::f_zeros([outputs as i64], (Kind::Float, device))?;
        Ok(NewHead { pooling, weight: weight.f_set_requires_grad(true)?, bias: bias.f_set_requires_grad(true)? })
    }

    /// The same head with leaves of its own, which share the values.
    pub fn twin(&self) -> Result<Self, TrainError> {
        let leaf = |tensor: &Tensor| tensor.f_detach()?.f_set_requires_grad(true);
        Ok(NewHead { pooling: self.pooling, weight: leaf(&self.weight)?, bias: leaf(&self.bias)? })
    }

    /// Names and leaf tensors of the parameters.
    pub fn trainables(&self) -> Vec<(String, Tensor)> {
        vec![(HEAD_WEIGHT.into(), self.weight.shallow_clone()), (HEAD_BIAS.into(), self.bias.shallow_clone())]
    }

    /// Logits `[rows, outputs]`, or per token `[rows, length, outputs]`, from the last hidden state `[rows, length, hidden]` and
    /// the attention mask `[rows, length]`. Computed in float32, like the head that is appended to an export.
    pub fn logits(&self, hidden: &Tensor, mask: &Tensor) -> Result<Tensor, TrainError> {
        let hidden = hidden.f_to_kind(Kind::Float)?;
        let pooled = match self.pooling {
            HeadPooling::Tokens => hidden,
            HeadPooling::First => hidden.f_select(1, 0)?,
            HeadPooling::Mean => {
                let weights = mask.f_to_kind(hidden.f_kind()?)?;
                let weights = weights.f_div(&weights.f_sum_dim_intlist([1i64].as_slice(), true, None)?)?;
                weights.f_unsqueeze(1)?.f_matmul(&hidden)?.f_squeeze_dim(1)?
            }
            HeadPooling::Last => {
                let (rows, _, width) = hidden.size3()?;
                let last = mask.f_sum_dim_intlist([1i64].as_slice(), true, Kind::Int64)?.f_sub_scalar(1)?;
                hidden.f_gather(1, &last.f_unsqueeze(2)?.f_expand([rows, 1, width], false)?, false)?.f_squeeze_dim(1)?
            }
        };
        Ok(pooled.f_linear(&self.weight, Some(&self.bias))?)
    }
}

/// A standard normal number (Box and Muller 1958). Written out so that a seed gives the same numbers with every version of a
/// library.
fn normal(random: &mut rand_chacha::ChaCha8Rng) -> f64 {
    let mut uniform = || ((random.next_u64() >> 11) as f64 + 1.0) / (1u64 << 53) as f64;
    let radius = (-2.0 * uniform().ln()).sqrt();
    radius * (std::f64::consts::TAU * uniform()).cos()
}
