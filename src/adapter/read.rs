//! Reads adapter folders: ours and PEFT's own.

use std::collections::BTreeMap;
use std::path::Path;

use ndarray::{Array2, ArrayD};
use regex::Regex;
use serde_json::Value;

use super::{Adapter, AdapterError, CONFIG_FILE, LoraFactors, PREFIX, SavedTensor, TENSOR_FILE};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::files::read_file;

/// Reads a LoRA adapter folder.
///
/// # Errors
/// When a file is missing or broken, or the adapter is of a kind that gelora cannot merge (not LoRA, DoRA, trained biases,
/// adapted embeddings).
pub fn read(dir: &Path) -> Result<Adapter, AdapterError> {
    for missing in [CONFIG_FILE, TENSOR_FILE] {
        if !dir.join(missing).is_file() {
            return Err(AdapterError::Missing { folder: dir.into(), missing });
        }
    }
    let config = Config::read(&dir.join(CONFIG_FILE))?;
    let path = dir.join(TENSOR_FILE);
    let malformed = |reason: String| AdapterError::Malformed { path: path.clone(), reason };
    let tensors = Checkpoint::open_file(&path)?;
    let mut pairs: BTreeMap<String, [Option<Array2<f32>>; 2]> = BTreeMap::new();
    let mut saved = Vec::new();
    for tensor in tensors.tensors() {
        let Some(name) = tensor.name.strip_prefix(PREFIX) else {
            return Err(malformed(format!("tensor `{}` is not named as PEFT does", tensor.name)));
        };
        let values = ArrayD::from_shape_vec(tensor.shape.clone(), tensors.to_f32(&tensor.name)?)
            .map_err(|error| malformed(error.to_string()))?;
        let factor = [".lora_A.weight", ".lora_B.weight"]
            .into_iter()
            .enumerate()
            .find_map(|(place, suffix)| Some((place, name.strip_suffix(suffix)?)));
        if let Some((place, module)) = factor {
            let matrix = values.into_dimensionality().map_err(|_| malformed(format!("`{name}` is no matrix")))?;
            pairs.entry(module.to_owned()).or_default()[place] = Some(matrix);
        } else if name.contains("lora_") {
            return Err(malformed(format!("it holds `{name}`, which gelora cannot merge; merge it with PEFT")));
        } else {
            saved.push(SavedTensor { name: name.to_owned(), values });
        }
    }
    let mut factors = Vec::with_capacity(pairs.len());
    for (module, pair) in pairs {
        let [Some(a), Some(b)] = pair else {
            return Err(malformed(format!("module `{module}` has only one of its two factors; copy the file again")));
        };
        if a.nrows() != b.ncols() || a.nrows() == 0 {
            return Err(malformed(format!("the factors of `{module}` do not fit each other; copy the file again")));
        }
        let alpha = config.alpha(&module, a.nrows());
        factors.push(LoraFactors { module, alpha, a, b });
    }
    Ok(Adapter { factors, saved })
}

/// What of the configuration decides the scaling.
struct Config {
    alpha: f64,
    patterns: Vec<(Regex, f64)>,
    rank_stabilised: bool,
}

impl Config {
    fn read(path: &Path) -> Result<Self, AdapterError> {
        let malformed = |reason: String| AdapterError::Malformed { path: path.into(), reason };
        let bytes = read_file(path)?;
        let value: Value = serde_json::from_slice(&bytes)
            .map_err(|error| CheckpointError::Malformed { path: path.into(), reason: error.to_string() })?;
        let flag = |name: &str| value.get(name).and_then(Value::as_bool).unwrap_or(false);
        let kind = value.get("peft_type").and_then(Value::as_str).unwrap_or("nothing");
        if kind != "LORA" {
            return Err(malformed(format!("it describes {kind}, not LORA; train a LoRA adapter")));
        }
        if flag("use_dora")
            || flag("lora_bias")
            || value.get("bias").and_then(Value::as_str).unwrap_or("none") != "none"
        {
            return Err(malformed("it uses DoRA or trained biases; merge it with PEFT".into()));
        }
        let Some(alpha) = value.get("lora_alpha").and_then(Value::as_f64) else {
            return Err(malformed("it has no `lora_alpha`; copy the folder again".into()));
        };
        let mut patterns = Vec::new();
        for (key, alpha) in value.get("alpha_pattern").and_then(Value::as_object).into_iter().flatten() {
            let pattern = Regex::new(&format!(r"^(?:.*\.)?(?:{key})$"));
            match (pattern, alpha.as_f64()) {
                (Ok(pattern), Some(alpha)) => patterns.push((pattern, alpha)),
                _ => return Err(malformed(format!("`alpha_pattern` has an entry `{key}` that cannot be read"))),
            }
        }
        Ok(Config { alpha, patterns, rank_stabilised: flag("use_rslora") })
    }

    /// Alpha such that `alpha / rank` is the scaling PEFT uses.
    fn alpha(&self, module: &str, rank: usize) -> f64 {
        let alpha = self.patterns.iter().find(|(pattern, _)| pattern.is_match(module)).map_or(self.alpha, |p| p.1);
        if self.rank_stabilised { alpha * (rank as f64).sqrt() } else { alpha }
    }
}
