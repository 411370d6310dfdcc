//! `class_weights`: the weight of every class, or every label, in the loss.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The weights of the classes, or of the labels, in the loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum ClassWeights {
    /// The rarer a class, the larger its weight.
    Balanced,
    /// One weight per class or label, in the order of the logits.
    Given(Vec<f64>),
}

/// Class weights as written in a configuration.
#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Word(String),
    Numbers(Vec<f64>),
}

const WRONG: &str = "give balanced, or a number above 0 for every class";

impl TryFrom<Written> for ClassWeights {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Word(word) if word == "balanced" => Ok(ClassWeights::Balanced),
            Written::Numbers(weights)
                if !weights.is_empty() && weights.iter().all(|weight| weight.is_finite() && *weight > 0.0) =>
            {
                Ok(ClassWeights::Given(weights))
            }
            Written::Word(_) | Written::Numbers(_) => Err(WRONG.into()),
        }
    }
}

impl From<ClassWeights> for Written {
    fn from(weights: ClassWeights) -> Self {
        match weights {
            ClassWeights::Balanced => Written::Word("balanced".into()),
            ClassWeights::Given(weights) => Written::Numbers(weights),
        }
    }
}

impl FromStr for ClassWeights {
    type Err = String;

    /// Parses `balanced`, or numbers separated by commas.
    fn from_str(text: &str) -> Result<Self, String> {
        let numbers: Result<Vec<f64>, _> = text.split(',').map(|number| number.trim().parse()).collect();
        numbers.map_or_else(|_| Written::Word(text.into()), Written::Numbers).try_into()
    }
}

impl fmt::Display for ClassWeights {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClassWeights::Balanced => formatter.write_str("balanced"),
            ClassWeights::Given(weights) => {
                formatter.write_str(&weights.iter().map(f64::to_string).collect::<Vec<_>>().join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_read_as_they_are_written() {
        for (text, weights) in [("balanced", ClassWeights::Balanced), ("1,2.5", ClassWeights::Given(vec![1.0, 2.5]))] {
            assert_eq!(text.parse(), Ok(weights.clone()));
            let json = serde_json::to_string(&weights).unwrap();
            assert_eq!(serde_json::from_str::<ClassWeights>(&json).unwrap(), weights);
        }
        for wrong in ["", "equal", "1,-1", "1,0", "1,nan", "inf", "1,,2"] {
            assert_eq!(wrong.parse::<ClassWeights>(), Err(WRONG.into()), "{wrong}");
        }
    }
}
