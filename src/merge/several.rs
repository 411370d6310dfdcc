//! Several adapters of one base as one: their changes, each multiplied by its weight, are added.
//!
//! `Σ wᵢ · sᵢ · Bᵢ · Aᵢ` is one product: that of the `wᵢ sᵢ Bᵢ` side by side and the `Aᵢ` on top of each other, as in PEFT's
//! `add_weighted_adapter(combination_type="cat")`.

use std::borrow::Cow;
use std::path::Path;

use ndarray::{Axis, concatenate};

use super::MergeError;
use crate::adapter::{Adapter, AdapterFolder, Initialization, LoraFactors};

/// An adapter that is merged.
#[derive(Debug)]
pub(super) struct Named<'a> {
    pub path: &'a Path,
    pub folder: &'a AdapterFolder,
    /// Its tensors, under the names of the base.
    pub adapter: Adapter,
}

/// The adapter that says what the merged model is for: the one that brings a head or other whole tensors, else the first.
pub(super) fn leading<'n, 'a>(adapters: &'n [Named<'a>]) -> Option<&'n Named<'a>> {
    adapters.iter().find(|named| !named.adapter.saved.is_empty()).or_else(|| adapters.first())
}

/// The sum of all adapters, each multiplied by its weight; a single one of weight 1 stays as it is.
pub(super) fn sum<'n>(adapters: &'n [Named<'_>], weights: &[f64]) -> Result<Cow<'n, Adapter>, MergeError> {
    if let ([only], [1.0]) = (adapters, weights) {
        return Ok(Cow::Borrowed(&only.adapter));
    }
    let mut all = Adapter::default();
    for (Named { path, folder, adapter }, &weight) in adapters.iter().zip(weights) {
        let refused = |reason: String| MergeError::Incomplete { adapter: path.to_path_buf(), reason };
        if folder.config.initialization != Initialization::Plain {
            return Err(refused(
                "its `init_lora_weights` takes a part out of the base weights, which has no weight; merge it alone, or save it with \
                 `path_initial_model_for_weight_conversion`"
                    .into(),
            ));
        }
        if let Some(factors) = adapter.factors.iter().find(|factors| factors.magnitude.is_some()) {
            return Err(refused(format!(
                "it is DoRA, whose change of `{}` depends on the weight that it is merged into, and is no sum; merge it alone, with the \
                 weight 1",
                factors.module
            )));
        }
        for factors in &adapter.factors {
            match all.factors.iter_mut().find(|known| known.module == factors.module) {
                Some(known) if (known.a.ncols(), known.b.nrows()) != (factors.a.ncols(), factors.b.nrows()) => {
                    return Err(refused(format!(
                        "its factors of `{}` are [{}, {}] wide, those of another adapter [{}, {}]: they are not of one base",
                        factors.module,
                        factors.a.ncols(),
                        factors.b.nrows(),
                        known.a.ncols(),
                        known.b.nrows()
                    )));
                }
                Some(known) => *known = both(known, &scaled(factors, weight)),
                None => all.factors.push(scaled(factors, weight)),
            }
        }
        for saved in &adapter.saved {
            if weight != 1.0 {
                return Err(refused(format!(
                    "it trained `{}` as a whole (modules_to_save), which takes the place of the base's and has no weight; give this \
                     adapter the weight 1",
                    saved.name
                )));
            }
            if all.saved.iter().any(|known| known.name == saved.name) {
                return Err(refused(format!(
                    "it trained `{}` as a whole, and so did another of the adapters: only one of them can be in the model; merge \
                     adapters of which one at most has a head",
                    saved.name
                )));
            }
            all.saved.push(saved.clone());
        }
    }
    Ok(Cow::Owned(all))
}

/// The factors with scaling and weight multiplied into B.
fn scaled(factors: &LoraFactors, weight: f64) -> LoraFactors {
    let scale = (factors.scaling() * weight) as f32;
    LoraFactors { alpha: factors.rank() as f64, b: factors.b.mapv(|value| value * scale), ..factors.clone() }
}

/// Two products of scaling 1 as one.
fn both(one: &LoraFactors, other: &LoraFactors) -> LoraFactors {
    let join = |axis: usize, one: &ndarray::Array2<f32>, other: &ndarray::Array2<f32>| {
        // The shapes were compared: only the length of the joined axis differs.
        concatenate(Axis(axis), &[one.view(), other.view()]).unwrap_or_else(|_| one.clone())
    };
    let (a, b) = (join(0, &one.a, &other.a), join(1, &one.b, &other.b));
    LoraFactors { module: one.module.clone(), alpha: a.nrows() as f64, a, b, magnitude: None }
}
