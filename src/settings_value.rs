//! Checks of single values, and the error for one that makes no sense.

use serde::de::DeserializeOwned;
use serde::de::value::{Error, StrDeserializer};

/// A value that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{key}` {found}; {cure}")]
pub struct SettingError {
    /// Key in the configuration; the command-line option has the same name with dashes.
    pub key: &'static str,
    /// What was found, as the rest of a sentence.
    pub found: String,
    /// What the user should do.
    pub cure: String,
}

impl SettingError {
    /// The error for a value of this key.
    pub fn new(key: &'static str, found: String, cure: impl Into<String>) -> Self {
        Self { key, found, cure: cure.into() }
    }
}

/// Rejects a whole number that is too small.
pub(crate) fn at_least(key: &'static str, value: Option<u64>, least: u64) -> Result<(), SettingError> {
    match value {
        Some(value) if value < least => {
            Err(SettingError::new(key, format!("is {value}"), format!("give at least {least}")))
        }
        _ => Ok(()),
    }
}

/// Rejects a number that is not finite or that `fits` does not accept.
pub(crate) fn number(
    key: &'static str,
    value: f64,
    fits: impl Fn(f64) -> bool,
    cure: &str,
) -> Result<(), SettingError> {
    if value.is_finite() && fits(value) { Ok(()) } else { Err(SettingError::new(key, format!("is {value}"), cure)) }
}

/// Parses a command-line word in the same way as a configuration value.
pub(crate) fn word<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    T::deserialize(StrDeserializer::<Error>::new(text)).map_err(|error| error.to_string())
}

/// A suggestion of the nearest known word; if none is near, all of them after `otherwise`.
pub(crate) fn did_you_mean(found: &str, known: &[&str], otherwise: &str) -> String {
    let nearest = known.iter().map(|word| (distance(found, word), word)).min();
    match nearest {
        Some((distance, word)) if distance * 2 <= found.chars().count().max(2) => format!("did you mean `{word}`?"),
        _ => format!("{otherwise} {}", known.join(", ")),
    }
}

/// Edit distance in letters inserted, removed, replaced or swapped with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut table = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            table[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = table[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut best = replaced.min(table[i - 1][j] + 1).min(table[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(table[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    table[a.len()][b.len()]
}
