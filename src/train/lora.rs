//! Low-rank adapters: what is inserted beside a weight, and how its factors are initialised.

use tch::{Device, Kind, Tensor};

use super::error::TrainError;

/// An adapter for one weight: `y = x·W + (alpha / rank) · (x·Aᵀ)·Bᵀ` at every use of the weight.
#[derive(Debug)]
pub struct AdapterSpec {
    /// Name of the initializer that holds the weight.
    pub weight: String,
    /// Names of further initializers that hold the same weight: they get the same factors.
    pub copies: Vec<String>,
    /// Numerator of the scaling.
    pub alpha: f64,
    /// Dropout probability of the adapter's input while training; 0 for none.
    pub dropout: f64,
    /// Factor A, `[rank, in]`.
    pub a: Tensor,
    /// Factor B, `[out, rank]`.
    pub b: Tensor,
}

impl AdapterSpec {
    /// Rank of the factors.
    pub fn rank(&self) -> i64 {
        self.a.size().first().copied().unwrap_or(0)
    }

    /// The scaling `alpha / rank`.
    pub fn scaling(&self) -> f64 {
        self.alpha / self.rank().max(1) as f64
    }
}

/// Initialises factors as PEFT does: A uniform (Kaiming with a = √5), B zero.
#[derive(Debug)]
pub struct LoraInit {
    state: rand_chacha::ChaCha8Rng,
}

impl LoraInit {
    /// An initialiser. The same seed gives the same factors on every machine.
    pub fn new(seed: u64) -> Self {
        use rand_chacha::rand_core::SeedableRng;
        LoraInit { state: rand_chacha::ChaCha8Rng::seed_from_u64(seed) }
    }

    /// A fresh adapter. `kaiming_uniform_(a = √5)` draws from ±√(6 / ((1 + a²) · in)) = ±1/√in.
    pub fn adapter(
        &mut self,
        weight: &str,
        (in_features, out_features): (usize, usize),
        rank: usize,
        alpha: f64,
    ) -> Result<AdapterSpec, TrainError> {
        use rand::RngExt;
        let bound = 1.0 / (in_features.max(1) as f64).sqrt();
        let values: Vec<f32> = (0..rank * in_features).map(|_| self.state.random_range(-bound..bound) as f32).collect();
        let a = Tensor::f_from_slice(&values)?.f_reshape([rank as i64, in_features as i64])?;
        let b = Tensor::f_zeros([out_features as i64, rank as i64], (Kind::Float, Device::Cpu))?;
        Ok(AdapterSpec { weight: weight.to_owned(), copies: Vec::new(), alpha, dropout: 0.0, a, b })
    }
}
