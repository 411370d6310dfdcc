//! AdamW over one flat vector, with a state that can be saved and restored to the bit.

use tch::Tensor;

use super::error::TrainError;
use super::parameters;
use crate::settings::TrainSettings;

/// AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101, algorithm 2) as `torch.optim.AdamW` computes it: decoupled weight
/// decay, moments corrected for their bias, ε added to the corrected root.
#[derive(Debug)]
pub struct AdamW {
    betas: (f64, f64),
    epsilon: f64,
    weight_decay: f64,
    steps: u64,
    first: Tensor,
    second: Tensor,
}

/// The state of an [`AdamW`], as numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct AdamWState {
    /// Number of steps taken.
    pub steps: u64,
    /// Running mean of the gradient.
    pub first: Vec<f32>,
    /// Running mean of the squared gradient.
    pub second: Vec<f32>,
}

impl AdamW {
    /// The state before the first step, for a flat vector like `values`.
    pub fn new(settings: &TrainSettings, values: &Tensor) -> Result<Self, TrainError> {
        Ok(AdamW {
            betas: settings.betas,
            epsilon: settings.epsilon,
            weight_decay: settings.weight_decay,
            steps: 0,
            first: values.f_zeros_like()?,
            second: values.f_zeros_like()?,
        })
    }

    /// One step on `values` (updated in place). All operations are elementwise: the result does not depend on how they
    /// are distributed over threads.
    pub fn step(&mut self, values: &Tensor, gradient: &Tensor, learning_rate: f64) -> Result<(), TrainError> {
        self.steps += 1;
        let (beta1, beta2) = self.betas;
        let steps = self.steps as f64;
        let step_size = learning_rate / (1.0 - beta1.powf(steps));
        let root_correction = (1.0 - beta2.powf(steps)).sqrt();
        tch::no_grad(|| -> Result<(), TrainError> {
            let mut values = values.shallow_clone();
            if self.weight_decay != 0.0 {
                let _ = values.f_mul_scalar_(1.0 - learning_rate * self.weight_decay)?;
            }
            let _ = self.first.f_lerp_(gradient, 1.0 - beta1)?;
            let squared = gradient.f_mul(gradient)?.f_mul_scalar_(1.0 - beta2)?;
            let _ = self.second.f_mul_scalar_(beta2)?.f_add_(&squared)?;
            let root = self.second.f_sqrt()?.f_div_scalar_(root_correction)?.f_add_scalar_(self.epsilon)?;
            let _ = values.f_sub_(&self.first.f_div(&root)?.f_mul_scalar_(step_size)?)?;
            Ok(())
        })
    }

    /// The state, copied to the CPU.
    pub fn state(&self) -> Result<AdamWState, TrainError> {
        Ok(AdamWState {
            steps: self.steps,
            first: parameters::read(&self.first)?,
            second: parameters::read(&self.second)?,
        })
    }

    /// Restores a saved state.
    pub fn restore(&mut self, state: &AdamWState) -> Result<(), TrainError> {
        self.steps = state.steps;
        parameters::write(&mut self.first, &state.first)?;
        parameters::write(&mut self.second, &state.second)
    }
}

/// Scales a flat gradient so that its Euclidean norm is at most `largest`, as `torch.nn.utils.clip_grad_norm_` does
/// (factor `largest / (norm + 1e-6)`, at most 1). Returns the norm before, as a scalar tensor.
pub fn clip_norm(gradient: &mut Tensor, largest: Option<f64>) -> Result<Tensor, TrainError> {
    tch::no_grad(|| {
        let norm = gradient.f_norm()?;
        if let Some(largest) = largest {
            let factor = norm.f_add_scalar(1e-6)?.f_reciprocal()?.f_mul_scalar(largest)?.f_clamp_max(1.0)?;
            let _ = gradient.f_mul_(&factor)?;
        }
        Ok(norm)
    })
}
