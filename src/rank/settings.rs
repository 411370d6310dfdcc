//! Settings of the rule.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{RankError, SCALING};
use crate::dimension::{MeasureSettings, Scale, TwoNn};
use crate::onnx::Role;

/// How a difference of dimensions is rounded to a whole number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rounding {
    /// Up: the rank is never below the bound.
    #[default]
    Ceil,
    /// To the nearest whole number.
    Round,
    /// Down: the rank may be below the bound.
    Floor,
}

impl Rounding {
    /// The name of the rounding: `ceil`, `round` or `floor`.
    pub fn as_str(self) -> &'static str {
        match self {
            Rounding::Ceil => "ceil",
            Rounding::Round => "round",
            Rounding::Floor => "floor",
        }
    }

    /// The rounded value.
    pub fn apply(self, value: f64) -> f64 {
        match self {
            Rounding::Ceil => value.ceil(),
            Rounding::Round => value.round(),
            Rounding::Floor => value.floor(),
        }
    }
}

impl fmt::Display for Rounding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Rounding {
    type Err = RankError;

    fn from_str(text: &str) -> Result<Self, RankError> {
        let all = [Rounding::Ceil, Rounding::Round, Rounding::Floor];
        all.into_iter().find(|rounding| rounding.as_str() == text).ok_or_else(|| RankError::Setting {
            setting: "rounding",
            found: format!("{text:?}"),
            cure: "use ceil, round or floor",
        })
    }
}

/// How dimensions become ranks: `rank = rounding(max(d_i − d_{i−1}, 0)) + offset`, kept within minimum and maximum, then
/// lowered where the budget requires it.
#[derive(Debug, Clone, PartialEq)]
pub struct RankSettings {
    /// How the difference is rounded to a whole number.
    pub rounding: Rounding,
    /// Added to every rounded difference; 1 in the paper.
    pub offset: usize,
    /// Smallest rank; 0 lets a block go without adapter (with an offset of 0).
    pub minimum: usize,
    /// Largest rank; unlimited where `None`.
    pub maximum: Option<usize>,
    /// The scale at which dimensions are read; the plateau of the layers where `None`.
    pub scale: Option<Scale>,
    /// Required probability of a rise of the dimension; below it a block gets the floor rank. No check where `None`.
    pub confidence: Option<f64>,
    /// Maximum number of parameters of all adapters together (without the head).
    pub budget: Option<u64>,
    /// `alpha / rank`, the same for all blocks.
    pub scaling: f64,
    /// Roles of the weights that get the rank.
    pub projections: Vec<Role>,
    /// Random splits of the rows into halves, from which the uncertainty of a rank is estimated; 0 for none.
    pub subsamples: usize,
    /// Seed of the splits.
    pub seed: u64,
}

impl Default for RankSettings {
    fn default() -> Self {
        Self {
            rounding: Rounding::Ceil,
            offset: 1,
            minimum: 1,
            maximum: None,
            scale: None,
            confidence: None,
            budget: None,
            scaling: 8.0,
            projections: vec![Role::Query, Role::Key, Role::Value, Role::Output],
            subsamples: 100,
            seed: 0,
        }
    }
}

impl RankSettings {
    /// The same settings, if they are valid.
    pub fn checked(&self) -> Result<&Self, RankError> {
        if self.maximum.is_some_and(|maximum| maximum < self.minimum) {
            let found = format!("{} with a minimum of {}", self.maximum.unwrap_or_default(), self.minimum);
            return Err(RankError::Setting { setting: "the maximum rank", found, cure: "give at least the minimum" });
        }
        if !SCALING.contains(&self.scaling) {
            let found = self.scaling.to_string();
            let cure = "give a number from 0.000001 to 1000000";
            return Err(RankError::Setting { setting: "the scaling alpha/rank", found, cure });
        }
        if let Some(confidence) = self.confidence {
            if !(0.5..1.0).contains(&confidence) {
                let (setting, found) = ("the confidence", confidence.to_string());
                return Err(RankError::Setting { setting, found, cure: "give a number from 0.5 to below 1" });
            }
            if self.subsamples == 0 {
                let found = format!("{confidence} without subsamples");
                let cure = "give subsamples: they tell how probable a rise is";
                return Err(RankError::Setting { setting: "the confidence", found, cure });
            }
        }
        if self.projections.is_empty() {
            let cure = "name some of query, key, value, output, feed_forward, other";
            return Err(RankError::Setting { setting: "the list of projections", found: "empty".into(), cure });
        }
        Ok(self)
    }

    /// Settings for measuring the layers.
    pub fn measuring(&self, estimator: TwoNn) -> MeasureSettings {
        MeasureSettings { estimator, scale: self.scale, subsamples: self.subsamples, seed: self.seed }
    }

    /// The settings as they appear in the plan.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "rounding": self.rounding.as_str(),
            "offset": self.offset,
            "minimum": self.minimum,
            "maximum": self.maximum,
            "scale": self.scale.map(|scale| scale.to_string()),
            "confidence": self.confidence,
            "budget": self.budget,
            "scaling": self.scaling,
            "projections": self.projections.iter().map(|role| role.as_str()).collect::<Vec<_>>(),
            "subsamples": self.subsamples,
            "seed": self.seed,
        })
    }
}
