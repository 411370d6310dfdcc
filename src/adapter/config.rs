//! `adapter_config.json`: the ranks of a plan in PEFT's format.
//!
//! PEFT matches the keys of `rank_pattern` and `alpha_pattern` as `(.*\.)?(KEY)$` against module paths, takes the first
//! that fits and ignores keys that fit nothing. So every key is a full path, and each is checked to match exactly one module.

use std::collections::BTreeSet;

use regex::Regex;
use serde_json::{Map, Value, json};

use super::{AdapterError, Naming};
use crate::hint::Hint;
use crate::rank::{Plan, PlannedModule};

/// How ranks are written to the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flavour {
    /// Every module at its own rank, by `rank_pattern`.
    #[default]
    Native,
    /// Every module padded with zeros to the largest rank, for servers that know one rank per adapter.
    Uniform,
}

impl std::str::FromStr for Flavour {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "native" => Ok(Self::Native),
            "uniform" => Ok(Self::Uniform),
            _ => Err(format!("`{text}` is no flavour; take native or uniform")),
        }
    }
}

/// Settings of a configuration beside the plan.
#[derive(Debug, Clone, Default)]
pub struct ConfigSettings {
    /// How ranks are written.
    pub flavour: Flavour,
    /// Modules that are trained whole, by path: `classifier`, `pooler.dense` (see [`head_modules`]), as PEFT calls them.
    pub head: Vec<String>,
    /// Where PEFT finds the base model.
    pub base_model: Option<String>,
    /// Whether the adapter is trained: PEFT then freezes it. Must be false for an adapter that is to be trained.
    pub trained: bool,
    /// The names that PEFT uses for the modules.
    pub naming: Naming,
    /// Names of all modules of the base model in its checkpoint, to check patterns against; empty where unknown.
    pub modules: Vec<String>,
}

/// The modules of saved tensors: `classifier.weight` and `classifier.bias` belong to `classifier`.
pub fn head_modules<'a>(tensors: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let modules = tensors.into_iter().filter_map(|name| Some(name.rsplit_once('.')?.0.to_owned()));
    modules.collect::<BTreeSet<_>>().into_iter().collect()
}

/// The content of `adapter_config.json` for a plan, keys sorted.
///
/// # Errors
/// If the plan adapts nothing, a pattern would match another module too, or a uniform adapter is requested and the plan's
/// alphas are not proportional to its ranks.
pub fn adapter_config(plan: &Plan, settings: &ConfigSettings) -> Result<Value, AdapterError> {
    let modules: Vec<&PlannedModule> = planned(plan).collect();
    let fail = |reason: &str| Err(AdapterError::Config { reason: reason.into() });
    let Some(rank) = modules.iter().map(|module| module.rank).max() else {
        let cure = Hint::MinimumRank.with(1);
        return fail(&format!("every rank is 0, so there is nothing to adapt; plan with {cure}"));
    };
    let scaling = scaling(&modules)?;
    let alpha = scaling.map_or_else(|| modules.iter().map(|m| m.alpha).fold(0.0, f64::max), |c| c * rank as f64);
    if settings.flavour == Flavour::Uniform && scaling.is_none() {
        return fail("alpha / rank differs between modules, which one alpha cannot express; write the native flavour");
    }
    let (mut ranks, mut alphas) = (Map::new(), Map::new());
    if settings.flavour == Flavour::Native {
        for module in &modules {
            if module.rank != rank {
                ranks.insert(settings.naming.module(&module.module), json!(module.rank));
            }
            if module.alpha != alpha {
                alphas.insert(settings.naming.module(&module.module), number(module.alpha));
            }
        }
    }
    let targets: BTreeSet<String> = modules.iter().map(|module| settings.naming.module(&module.module)).collect();
    let known: Vec<String> = match settings.modules.is_empty() {
        true => Vec::new(),
        false => settings.modules.iter().chain(renamed(plan)).map(|module| settings.naming.module(module)).collect(),
    };
    check_patterns(targets.iter().map(String::as_str), &known)?;
    ranks.sort_keys();
    alphas.sort_keys();
    let saved = if settings.naming.head_apart { None } else { modules_to_save(&settings.head) };
    let mut config = json!({
        "alpha_pattern": alphas,
        "auto_mapping": null,
        "base_model_name_or_path": settings.base_model,
        "bias": "none",
        "exclude_modules": null,
        "fan_in_fan_out": false,
        "inference_mode": settings.trained,
        "init_lora_weights": true,
        "layer_replication": null,
        "layers_pattern": null,
        "layers_to_transform": null,
        "lora_alpha": number(alpha),
        "lora_bias": false,
        "lora_dropout": 0.0,
        "modules_to_save": saved,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": ranks,
        "revision": null,
        "target_modules": targets,
        "task_type": settings.naming.task_type,
        "use_dora": false,
        "use_rslora": false,
    });
    config.sort_all_objects();
    Ok(config)
}

/// The modules of a plan that get an adapter, each exactly once.
pub(super) fn planned(plan: &Plan) -> impl Iterator<Item = &PlannedModule> {
    let mut seen = BTreeSet::new();
    let modules = plan.blocks.iter().flat_map(|block| &block.modules);
    modules.filter(move |module| module.rank > 0 && seen.insert(module.module.as_str()))
}

/// Planned modules that the checkpoint stores under another name, or as a part of a larger tensor.
pub(super) fn renamed(plan: &Plan) -> impl Iterator<Item = &String> {
    let other = |module: &&PlannedModule| {
        let stored = module.checkpoint_tensor.as_ref().and_then(|tensor| tensor.strip_suffix(".weight"));
        module.checkpoint_tensor.is_some() && stored != Some(module.module.as_str())
    };
    planned(plan).filter(other).map(|module| &module.module)
}

/// The ratio `alpha / rank`, if it is the same for all modules.
fn scaling(modules: &[&PlannedModule]) -> Result<Option<f64>, AdapterError> {
    let mut all = modules.iter().map(|module| module.alpha / module.rank as f64);
    let Some(first) = all.next() else { return Ok(None) };
    if !first.is_finite() {
        return Err(AdapterError::Config { reason: "an alpha is not a number; plan again".into() });
    }
    Ok(all.all(|other| (other - first).abs() <= 1e-9 * first.abs()).then_some(first))
}

/// A JSON number; PEFT writes whole numbers without a decimal point.
fn number(value: f64) -> Value {
    let rounded = value.round();
    if (value - rounded).abs() < 1e-9 && rounded.abs() < 1e15 { json!(rounded as i64) } else { json!(value) }
}

/// For classifiers PEFT adds `classifier` and `score` by itself and matches them by the end of a path; modules that these do not
/// match are listed by their full path.
fn modules_to_save(head: &[String]) -> Option<Vec<String>> {
    if head.is_empty() {
        return None;
    }
    let part = |module: &str, names: &[&str]| module.split('.').any(|part| names.iter().any(|n| part.ends_with(n)));
    let usual: &[&str] = match head.iter().any(|module| part(module, &["qa_outputs"])) {
        true => &["qa_outputs"],
        false => &["classifier", "score"],
    };
    let others = head.iter().filter(|module| !part(module, usual)).cloned();
    Some(usual.iter().map(|name| (*name).to_owned()).chain(others).collect())
}

/// Every key must match exactly one of the known modules: its own.
fn check_patterns<'a>(keys: impl Iterator<Item = &'a str>, modules: &[String]) -> Result<(), AdapterError> {
    for key in keys {
        let pattern = Regex::new(&format!(r"^(?:.*\.)?(?:{key})$"))
            .map_err(|_| AdapterError::Config { reason: format!("`{key}` is no module path PEFT could match") })?;
        let hits: Vec<&String> = modules.iter().filter(|module| pattern.is_match(module)).collect();
        if !modules.is_empty() && (hits.len() != 1 || hits[0] != key) {
            let reason = match hits.as_slice() {
                [] => format!("the base model has no module `{key}`; is it the checkpoint of the planned model?"),
                hits => format!("`{key}` would also hit {hits:?}; leave this module out with {}", Hint::Projections),
            };
            return Err(AdapterError::Config { reason });
        }
    }
    Ok(())
}
