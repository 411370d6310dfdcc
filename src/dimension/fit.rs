//! The three TwoNN fits to the ratios `μ = r₂/r₁`, each with an analytic interval.
//!
//! The intervals treat the ratios as independent. They are not quite independent (points share neighbours), so the intervals
//! are a little narrow; [`crate::rank`] estimates the spread by subsampling instead.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use statrs::distribution::{ChiSquared, ContinuousCDF};

use super::DimensionError;

/// How the dimension is fitted to the ratios.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Method {
    /// Straight line through the origin (Facco et al. 2017, Methods): `x_i = ln μ_(i)`, `y_i = −ln(1 − i/N)` for
    /// `i = 1 … ⌊N(1−discard)⌋`, `d = Σxy / Σx²`. The largest ratios are left out but `N` counts all of them.
    Linear {
        /// Share of the largest ratios to leave out; 0.1 in the paper.
        discard: f64,
    },
    /// `(N−1) / Σ ln μ`, unbiased.
    MaximumLikelihood,
    /// `(k−1) / (Σ_{i≤k} ln μ_(i) + (N−k) ln μ_(k))` with `k = ⌊N(1−discard)⌋`: the largest ratios are only known to be
    /// larger than the k-th.
    CensoredMaximumLikelihood {
        /// Share of the largest ratios to censor.
        discard: f64,
    },
}

impl Default for Method {
    fn default() -> Self {
        Method::Linear { discard: 0.1 }
    }
}

/// The kinds of [`Method`], without their share to discard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum MethodKind {
    /// Linear fit.
    #[default]
    #[serde(rename = "linear")]
    Linear,
    /// Maximum likelihood.
    #[serde(rename = "mle")]
    MaximumLikelihood,
    /// Maximum likelihood with the largest ratios censored.
    #[serde(rename = "censored-mle")]
    CensoredMaximumLikelihood,
}

impl fmt::Display for MethodKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Linear => "linear",
            Self::MaximumLikelihood => "mle",
            Self::CensoredMaximumLikelihood => "censored-mle",
        })
    }
}

/// A fitted dimension and its uncertainty.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fit {
    /// The estimate; infinite if every ratio is 1.
    pub dimension: f64,
    /// Asymptotic standard error for independent ratios.
    pub standard_error: f64,
    /// 95 % interval for independent ratios.
    pub interval: (f64, f64),
}

/// 97.5 % quantile of the normal distribution.
pub const NORMAL_QUANTILE: f64 = 1.959_963_984_540_054;

impl Method {
    /// Fits the dimension to at least 2 ratios `r₂/r₁ ≥ 1` in any order; they are sorted in place.
    pub fn fit(self, ratios: &mut [f64]) -> Result<Fit, DimensionError> {
        let dimension = self.dimension(ratios)?;
        let points = ratios.len();
        Ok(match self {
            Method::Linear { discard } => linear_interval(dimension, points, kept(points, discard)?),
            Method::MaximumLikelihood => gamma_interval(dimension, points),
            Method::CensoredMaximumLikelihood { discard } => gamma_interval(dimension, kept(points, discard)?),
        })
    }

    /// The dimension alone.
    pub fn dimension(self, ratios: &mut [f64]) -> Result<f64, DimensionError> {
        let points = ratios.len();
        Ok(match self {
            Method::Linear { discard } => linear(ratios, kept(points, discard)?),
            Method::MaximumLikelihood => (points as f64 - 1.0) / ratios.iter().map(|ratio| ratio.ln()).sum::<f64>(),
            Method::CensoredMaximumLikelihood { discard } => censored(ratios, kept(points, discard)?),
        })
    }

    /// The share of ratios left out; `None` if the method uses them all.
    pub fn discard(self) -> Option<f64> {
        match self {
            Method::Linear { discard } | Method::CensoredMaximumLikelihood { discard } => Some(discard),
            Method::MaximumLikelihood => None,
        }
    }
}

/// Number of smallest ratios used: at least 2, and all but one where nothing is discarded (the last one has `y = ∞`).
fn kept(points: usize, discard: f64) -> Result<usize, DimensionError> {
    if !(0.0..1.0).contains(&discard) {
        return Err(DimensionError::Discard { found: discard });
    }
    Ok(((points as f64 * (1.0 - discard)) as usize).min(points - 1).max(2))
}

/// Sorts the `kept` smallest ratios to the front.
fn smallest(ratios: &mut [f64], kept: usize) -> &[f64] {
    if kept < ratios.len() {
        ratios.select_nth_unstable_by(kept - 1, f64::total_cmp);
    }
    let front = &mut ratios[..kept];
    front.sort_unstable_by(f64::total_cmp);
    front
}

fn linear(ratios: &mut [f64], kept: usize) -> f64 {
    let points = ratios.len() as f64;
    let (mut products, mut squares) = (0.0, 0.0);
    for (i, ratio) in smallest(ratios, kept).iter().enumerate() {
        let x = ratio.ln();
        products += x * expected(i + 1, points);
        squares += x * x;
    }
    products / squares
}

/// `−ln(1 − i/N)`: the `y` of the i-th smallest ratio.
fn expected(i: usize, points: f64) -> f64 {
    -(-(i as f64) / points).ln_1p()
}

fn censored(ratios: &mut [f64], kept: usize) -> f64 {
    let points = ratios.len();
    let front = smallest(ratios, kept);
    let sum: f64 = front.iter().map(|ratio| ratio.ln()).sum();
    (kept as f64 - 1.0) / (sum + (points - kept) as f64 * front[kept - 1].ln())
}

/// `2 d T ~ χ²` with `2 · events` degrees of freedom, where `T = (events − 1)/d̂` is the total of the (censored)
/// exponential variables: exact for independent ratios.
fn gamma_interval(dimension: f64, events: usize) -> Fit {
    let total = (events as f64 - 1.0) / dimension;
    let quantile = |p: f64| ChiSquared::new(2.0 * events as f64).map_or(f64::NAN, |law| law.inverse_cdf(p));
    Fit {
        dimension,
        standard_error: dimension / (events as f64).sqrt(),
        interval: (quantile(0.025) / (2.0 * total), quantile(0.975) / (2.0 * total)),
    }
}

/// First-order error of the straight line. With `e_i` the deviation of the i-th smallest of `N` unit exponentials from
/// `y_i`, `d̂/d ≈ 1 − Σ y_i e_i / Σ y_i²`; the spacings of exponentials are independent with variance `1/(N−l+1)²`
/// (Rényi), so the relative variance is `Σ_l (Σ_{i≥l} y_i)² / (N−l+1)² / (Σ y_i²)²`. It is the relative error of `1/d̂`,
/// which is why the interval reaches farther up than down.
fn linear_interval(dimension: f64, points: usize, kept: usize) -> Fit {
    let (mut tail, mut squares, mut variance) = (0.0, 0.0, 0.0);
    for i in (1..=kept).rev() {
        let y = expected(i, points as f64);
        tail += y;
        squares += y * y;
        variance += (tail / (points - i + 1) as f64).powi(2);
    }
    let relative = variance.sqrt() / squares;
    let reach = (NORMAL_QUANTILE * relative).min(0.99);
    Fit {
        dimension,
        standard_error: dimension * relative,
        interval: (dimension / (1.0 + reach), dimension / (1.0 - reach)),
    }
}

impl Method {
    /// The name of the method: `linear`, `mle` or `censored-mle`.
    pub fn as_str(self) -> &'static str {
        match self {
            Method::Linear { .. } => "linear",
            Method::MaximumLikelihood => "mle",
            Method::CensoredMaximumLikelihood { .. } => "censored-mle",
        }
    }

    /// The method with that name and share to discard.
    pub fn named(name: &str, discard: f64) -> Result<Self, DimensionError> {
        match name {
            "linear" => Ok(Method::Linear { discard }),
            "mle" => Ok(Method::MaximumLikelihood),
            "censored-mle" => Ok(Method::CensoredMaximumLikelihood { discard }),
            _ => Err(DimensionError::UnknownMethod { found: name.to_owned() }),
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Method {
    type Err = DimensionError;

    fn from_str(name: &str) -> Result<Self, DimensionError> {
        Method::named(name, 0.1)
    }
}
