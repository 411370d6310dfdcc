//! The content of an `adapter_config.json`, interpreted as by PEFT 0.21: ranks, scalings, and which modules are adapted or saved.

use std::path::Path;

use fancy_regex::Regex;
use serde_json::{Map, Value};

use super::{AdapterError, fields};
use crate::files::read_file;

/// How the factors were initialised. Some methods take a part out of the base weight, and PEFT repeats that on loading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Initialization {
    /// The base weight is unchanged.
    #[default]
    Plain,
    /// PiSSA: the base weight without its `rank` largest singular values.
    Pissa,
    /// OLoRA: the base weight without the part that its first `rank` columns span.
    Olora,
    /// LoRA-GA: training started from a modified base, and PEFT loads the adapter over the unmodified one.
    LoraGa,
}

impl Initialization {
    /// Whether loading the adapter takes a part out of the base weights.
    pub fn changes_the_base(self) -> bool {
        matches!(self, Initialization::Pissa | Initialization::Olora)
    }
}

/// Which modules a list or a pattern names.
#[derive(Debug, Clone)]
enum Names {
    /// Full paths, or ends of paths that begin after a dot.
    List(Vec<String>),
    /// A pattern that matches whole paths.
    Pattern(Box<Regex>),
    /// `all-linear`: PEFT writes out the names when it saves, so this was written by hand.
    AllLinear,
}

/// `adapter_config.json` of a LoRA adapter.
#[derive(Debug, Clone)]
pub struct LoraConfig {
    rank: Option<usize>,
    alpha: f64,
    ranks: Vec<(Regex, usize)>,
    alphas: Vec<(Regex, f64)>,
    rank_stabilised: bool,
    targets: Option<Names>,
    excluded: Option<Names>,
    layers: Vec<u64>,
    layer_patterns: Vec<Regex>,
    saved: Vec<String>,
    saved_patterns: Vec<Regex>,
    /// Whether biases of the base were trained too (`bias`).
    pub trains_biases: bool,
    /// Whether it is DoRA: every adapted module has magnitudes beside its factors.
    pub dora: bool,
    /// Whether the last adapted module that PEFT made stores its weight as `[in, out]` (`Conv1D`).
    pub fan_in_fan_out: bool,
    /// PEFT's task type, which decides the class that opens the base: `SEQ_CLS`.
    pub task_type: Option<String>,
    /// How the factors were initialised.
    pub initialization: Initialization,
}

impl LoraConfig {
    /// The configuration of a folder without factors: it adapts and saves no module.
    pub(super) fn of_nothing() -> Self {
        LoraConfig {
            rank: None,
            alpha: 1.0,
            ranks: Vec::new(),
            alphas: Vec::new(),
            rank_stabilised: false,
            targets: None,
            excluded: None,
            layers: Vec::new(),
            layer_patterns: Vec::new(),
            saved: Vec::new(),
            saved_patterns: Vec::new(),
            trains_biases: false,
            dora: false,
            fan_in_fan_out: false,
            task_type: None,
            initialization: Initialization::Plain,
        }
    }

    /// Reads `adapter_config.json`.
    ///
    /// # Errors
    /// If it cannot be read, is not a LoRA configuration, or sets a field that changes what the adapter computes in a way
    /// that gelora cannot merge.
    pub fn read(path: &Path) -> Result<Self, AdapterError> {
        let bytes = read_file(path)?;
        let value = serde_json::from_slice(&bytes).map_err(|error| error.to_string());
        let config = value.and_then(|value| Self::new(&value));
        config.map_err(|reason| AdapterError::Malformed { path: path.into(), reason })
    }

    /// Parses the content of the file.
    ///
    /// # Errors
    /// As for [`LoraConfig::read`], as a sentence.
    pub(super) fn new(value: &Value) -> Result<Self, String> {
        let Some(config) = value.as_object() else { return Err("it is no JSON object; copy the folder again".into()) };
        let kind = config.get("peft_type").and_then(Value::as_str).unwrap_or("nothing");
        if kind != "LORA" {
            return Err(format!("it describes {}, not LORA; train a LoRA adapter", kind.escape_debug()));
        }
        fields::check(config)?;
        // Trained biases of the base are tensors of the file like others that were trained whole.
        if let Some(bias) = config.get("bias").and_then(Value::as_str)
            && !["none", "all", "lora_only"].contains(&bias)
        {
            return Err(format!("`bias` is {}, which PEFT does not know; copy the folder again", bias.escape_debug()));
        }
        let alpha = number(config, "lora_alpha", "a number", Value::as_f64)?;
        let alpha = alpha.ok_or("it has no `lora_alpha`; copy the folder again")?;
        let rank = number(config, "r", "a whole number", |rank| rank.as_u64().and_then(|rank| rank.try_into().ok()))?;
        let saved = strings(config, "modules_to_save")?;
        let saved_patterns = saved.iter().map(|name| pattern(&format!(r"\A(?:|.*\.)(?:{name})(?:\z|\..*)"), name));
        let layers = match config.get("layers_to_transform") {
            Some(Value::Array(layers)) => layers.iter().filter_map(Value::as_u64).collect(),
            Some(Value::Number(layer)) => layer.as_u64().into_iter().collect(),
            _ => Vec::new(),
        };
        let layer_patterns = strings(config, "layers_pattern")?;
        let layer_patterns =
            layer_patterns.iter().map(|name| pattern(&format!(r"\A(?:|.*?\.)(?:{name})\.(\d+)\."), name));
        Ok(LoraConfig {
            rank,
            alpha,
            ranks: by_pattern(config, "rank_pattern", |value| value.as_u64().and_then(|rank| rank.try_into().ok()))?,
            alphas: by_pattern(config, "alpha_pattern", Value::as_f64)?,
            rank_stabilised: config.get("use_rslora").and_then(Value::as_bool).unwrap_or(false),
            targets: names(config, "target_modules")?,
            excluded: names(config, "exclude_modules")?,
            layers,
            layer_patterns: layer_patterns.collect::<Result<_, _>>()?,
            saved_patterns: saved_patterns.collect::<Result<_, _>>()?,
            saved,
            trains_biases: config.get("bias").and_then(Value::as_str).is_some_and(|bias| bias != "none"),
            dora: config.get("use_dora").and_then(Value::as_bool).unwrap_or(false),
            fan_in_fan_out: config.get("fan_in_fan_out").and_then(Value::as_bool).unwrap_or(false),
            task_type: config.get("task_type").and_then(Value::as_str).map(str::to_owned),
            initialization: initialization(config)?,
        })
    }

    /// The rank of a module (as in PEFT, by the first matching key of `rank_pattern`); `None` where the file does not give it.
    ///
    /// # Errors
    /// If a pattern takes too long to match, as a sentence.
    pub fn rank(&self, module: &str) -> Result<Option<usize>, String> {
        Ok(first(&self.ranks, module)?.or(self.rank))
    }

    /// Alpha such that `alpha / rank` is the scaling PEFT uses.
    ///
    /// # Errors
    /// As for [`LoraConfig::rank`].
    pub fn alpha(&self, module: &str, rank: usize) -> Result<f64, String> {
        let alpha = first(&self.alphas, module)?.unwrap_or(self.alpha);
        Ok(if self.rank_stabilised { alpha * (rank as f64).sqrt() } else { alpha })
    }

    /// Whether PEFT puts an adapter on this module, given that it is a linear layer of the model. `None` where the file does
    /// not name its modules (`all-linear`).
    ///
    /// # Errors
    /// As for [`LoraConfig::rank`].
    pub fn adapts(&self, module: &str) -> Result<Option<bool>, String> {
        let Some(targets) = self.targets.as_ref().filter(|targets| !matches!(targets, Names::AllLinear)) else {
            return Ok(None);
        };
        if let Some(excluded) = &self.excluded
            && excluded.name(module)?
        {
            return Ok(Some(false));
        }
        // PEFT never adapts a module that is saved whole.
        for pattern in &self.saved_patterns {
            if is_match(pattern, module)? {
                return Ok(Some(false));
            }
        }
        let listed = matches!(targets, Names::List(list) if list.iter().any(|name| name == module));
        Ok(Some(listed || targets.name(module)? && self.in_layers(module)))
    }

    /// Whether PEFT keeps a trained copy of this module.
    pub fn saves(&self, module: &str) -> bool {
        self.saved.iter().any(|name| module.ends_with(name.as_str()))
    }

    /// `modules_to_save`: PEFT keeps a trained copy of every module whose path ends with one of these.
    pub fn saved(&self) -> &[String] {
        &self.saved
    }

    /// `layers_to_transform`: the first number in the path, after `layers_pattern` if there is one.
    fn in_layers(&self, module: &str) -> bool {
        if self.layers.is_empty() || !matches!(self.targets, Some(Names::List(_))) {
            return true;
        }
        let number = |pattern: &Regex| {
            let captures = pattern.captures(module).ok()??;
            captures.get(1)?.as_str().parse::<u64>().ok()
        };
        let found = match self.layer_patterns.as_slice() {
            [] => pattern(r"\A.*?\.[^.]*\.(\d+)\.", "").ok().and_then(|pattern| number(&pattern)),
            patterns => patterns.iter().find_map(number),
        };
        found.is_some_and(|layer| self.layers.contains(&layer))
    }
}

impl Names {
    fn name(&self, module: &str) -> Result<bool, String> {
        Ok(match self {
            Names::List(list) => list.iter().any(|name| {
                module.strip_suffix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }),
            Names::Pattern(pattern) => is_match(pattern, module)?,
            Names::AllLinear => false,
        })
    }
}

/// An error is a pattern that backtracks more than a million times.
fn is_match(pattern: &Regex, module: &str) -> Result<bool, String> {
    let refused = |error| format!("the pattern `{}` cannot be tried on a module's name: {error}", pattern.as_str());
    pattern.is_match(module).map_err(refused)
}

fn first<T: Copy>(patterns: &[(Regex, T)], module: &str) -> Result<Option<T>, String> {
    for (pattern, value) in patterns {
        if is_match(pattern, module)? {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

fn pattern(text: &str, shown: &str) -> Result<Regex, String> {
    Regex::new(text).map_err(|error| format!("gelora cannot read its pattern `{}`: {error}", shown.escape_debug()))
}

/// The value of the first key that matches, as in PEFT: `re.match(rf"(.*\.)?({key})$", module)`.
fn by_pattern<T>(
    config: &Map<String, Value>,
    field: &str,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Vec<(Regex, T)>, String> {
    let entries = config.get(field).and_then(Value::as_object).into_iter().flatten();
    let read = |(key, value): (&String, &Value)| {
        let value =
            read(value).ok_or_else(|| format!("`{field}` has an entry `{}` without a number", key.escape_debug()))?;
        Ok((pattern(&format!(r"\A(?:.*\.)?(?:{key})\z"), key)?, value))
    };
    entries.map(read).collect()
}

/// A field that holds a number or is absent.
fn number<T>(
    config: &Map<String, Value>,
    field: &str,
    wanted: &str,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Option<T>, String> {
    let Some(value) = config.get(field).filter(|value| !value.is_null()) else { return Ok(None) };
    let refuse = || {
        let shown: String = value.to_string().chars().take(40).collect();
        let shown = shown.escape_debug().to_string().replace("\\\"", "\"");
        format!("`{field}` is {shown}, and {wanted} is needed; mend it, or copy the folder again")
    };
    read(value).map(Some).ok_or_else(refuse)
}

/// A field that holds a list of strings or one string, or is absent.
fn strings(config: &Map<String, Value>, field: &str) -> Result<Vec<String>, String> {
    let wrong = || format!("`{field}` is no list of names; copy the folder again");
    match config.get(field) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty()).into_iter().collect()),
        Some(Value::Array(list)) => {
            list.iter().map(|name| name.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
        }
        Some(_) => Err(wrong()),
    }
}

/// A field that holds a list of names, or a pattern for whole paths.
fn names(config: &Map<String, Value>, field: &str) -> Result<Option<Names>, String> {
    Ok(match config.get(field) {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) if text.is_empty() => None,
        Some(Value::String(text)) if text.eq_ignore_ascii_case("all-linear") => Some(Names::AllLinear),
        Some(Value::String(text)) => Some(Names::Pattern(Box::new(pattern(&format!(r"\A(?:{text})\z"), text)?))),
        Some(_) => Some(Names::List(strings(config, field)?)),
    })
}

/// The effect of `init_lora_weights` on the base weight when PEFT loads the adapter.
fn initialization(config: &Map<String, Value>) -> Result<Initialization, String> {
    const CURE: &str = "save it once more in PEFT with `save_pretrained(…, path_initial_model_for_weight_conversion=…)`, \
                        which makes a plain LoRA adapter of it";
    let Some(Value::String(name)) = config.get("init_lora_weights") else { return Ok(Initialization::Plain) };
    match name.to_lowercase().as_str() {
        "gaussian" | "eva" | "orthogonal" | "mica" | "true" | "false" => Ok(Initialization::Plain),
        "pissa" => Ok(Initialization::Pissa),
        "olora" => Ok(Initialization::Olora),
        "lora_ga" => Ok(Initialization::LoraGa),
        other if other.starts_with("pissa_niter_") => Err(format!(
            "`init_lora_weights` is {other}: training took a part out of the base weights that was estimated with random \
             numbers, and PEFT itself takes another one when it loads the adapter; {CURE}"
        )),
        other if other.starts_with("corda") => Err(format!(
            "`init_lora_weights` is {other}: training took a part out of the base weights that depends on its data, and PEFT \
             cannot load the adapter without them; {CURE}"
        )),
        "loftq" => {
            Err("`init_lora_weights` is loftq: it was trained over base weights that LoftQ quantised, which are not \
                        those of this base; merge it with PEFT over that model, and export the result"
                .into())
        }
        other => Err(format!(
            "gelora does not know `init_lora_weights` = {}, which may change the base weights; update gelora, or merge it with PEFT",
            other.escape_debug()
        )),
    }
}
