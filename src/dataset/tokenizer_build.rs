//! Builds a tokenizer as `AutoTokenizer` of transformers 5 does from a folder: `tokenizer.json`, the changes made by the
//! tokenizer's class, and the overrides in `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json`.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tokenizers::{AddedToken, PostProcessorWrapper, TruncationDirection};

use super::DatasetError;
use super::error::quoted;
use super::tokenizer_class::{Choice, Class, Hints};
use super::tokenizer_recipe::{Recipe, Settings};
use crate::files::{FileError, read_file, sha256};

/// Named special tokens, in the order in which they are added.
const NAMED: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The parts of a tokenizer.
pub(super) struct Built {
    /// The tokenizer without padding and truncation; the post-processor is still in it.
    pub inner: tokenizers::Tokenizer,
    /// Side on which texts are truncated.
    pub direction: TruncationDirection,
    /// Whether `token_type_ids` go to the model; otherwise it gets zeros.
    pub gives_type_ids: bool,
    /// Contents of the named special tokens, by name.
    pub special: BTreeMap<String, String>,
    /// Id of the padding token that `tokenizer.json` itself names.
    pub own_padding: Option<u32>,
    /// `tokenizer_config.json`, with what other files add to it.
    pub settings: Settings,
    /// `config.json` of the model.
    pub model: Settings,
    /// SHA-256, in hex, of everything that affects the tokens.
    pub sha256: String,
    /// Where the tokens may differ from those of `AutoTokenizer`, in a sentence.
    pub warning: Option<String>,
}

/// Reads the files of a folder and builds the tokenizer.
pub(super) fn build(tokenizer_json: &Path) -> Result<Built, DatasetError> {
    let bytes = read_file(tokenizer_json)?;
    let bad = |reason: String| DatasetError::BadTokenizer {
        path: tokenizer_json.into(),
        reason: reason.replace(['\n', '\r'], " "),
    };
    // The library panics on some files, so invalid JSON is detected first.
    let mut file: Value = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
    let side = |name: &str| SideFile::read(tokenizer_json, name);
    let (config, model, added, map) = (
        side("tokenizer_config.json")?,
        side("config.json")?,
        side("added_tokens.json")?,
        side("special_tokens_map.json")?,
    );
    let choice = choose(&bytes, &config.settings, &model.settings);
    let (recipe, warning) = recipe(&choice, &file, &config, tokenizer_json)?;
    let overrides = Overrides::new(config.settings.clone(), &file, &map.settings, &added.settings, recipe);
    let (own_direction, own_padding) = (file["truncation"]["direction"].clone(), file["padding"]["pad_id"].as_u64());
    let padding_token = file["padding"]["pad_token"].as_str().map(str::to_owned);
    let named = overrides.named(recipe, padding_token);
    let refuse = |reason: String| DatasetError::TokenizerSetting { path: config.path.clone(), found: reason };
    let finish = file["post_processor"].clone();
    let mut inner = match recipe {
        Some(recipe) if !recipe.takes_file() => {
            let unknown = named.iter().find(|(name, _)| name == "unk_token").map_or("", |(_, token)| &token.content);
            let parts = recipe.parts(&overrides.settings, &mut file, unknown).map_err(refuse)?;
            guarded(|| tokenizers::Tokenizer::from_bytes(parts.to_string())).map_err(bad)?
        }
        _ => guarded(|| tokenizers::Tokenizer::from_bytes(&bytes)).map_err(bad)?,
    };
    if recipe == Some(Recipe::Albert) {
        let around = named.iter().filter(|(name, _)| matches!(name.as_str(), "cls_token" | "sep_token"));
        if let Some((name, token)) = around.into_iter().find(|(_, token)| inner.token_to_id(&token.content).is_none()) {
            return Err(refuse(format!("`{name}` is {}, which is not in the vocabulary", quoted(&token.content))));
        }
    }
    let tokens = overrides.to_add(&inner, &named, recipe);
    guarded(|| inner.add_tokens(tokens)).map_err(bad)?;
    if recipe == Some(Recipe::Qwen2) {
        let special = named.iter().map(|(_, token)| token).chain(&overrides.extra);
        let again: Vec<_> = special.map(|token| AddedToken::from(token.content.clone(), true)).collect();
        guarded(|| inner.add_tokens(again)).map_err(bad)?;
    }
    if let Some(recipe) = recipe {
        let id_of = |name: &str| {
            let token = named.iter().find(|(known, _)| known == name).map(|(_, token)| token.content.clone());
            let token = token.ok_or_else(|| format!("`{name}` is missing, and the tokenizer's class needs it"))?;
            let id = inner.token_to_id(&token).ok_or_else(|| format!("`{name}` is not in the vocabulary"))?;
            Ok((token, id))
        };
        let made =
            recipe.post_processor(&overrides.settings, !finish.is_null(), &id_of).map_err(refuse)?.unwrap_or(finish);
        let made =
            serde_json::from_value::<Option<PostProcessorWrapper>>(made).map_err(|error| bad(error.to_string()))?;
        inner.with_post_processor(made);
    }
    inner.set_encode_special_tokens(overrides.settings.get("split_special_tokens") == Some(&Value::Bool(true)));
    let side = overrides.settings.get("truncation_side").unwrap_or(&own_direction);
    let is_left = side.as_str().is_some_and(|side| side.eq_ignore_ascii_case("left"));
    let inputs = overrides.settings.get("model_input_names").and_then(Value::as_array);
    let gives_type_ids = match (inputs, &choice) {
        (Some(names), _) => names.iter().any(|name| name == "token_type_ids"),
        (None, Some(Choice { class: Class::Built(recipe), .. })) => recipe.gives_type_ids(),
        (None, Some(choice)) => !choice.named && warning.is_some(),
        (None, None) => true,
    };
    Ok(Built {
        inner,
        direction: if is_left { TruncationDirection::Left } else { TruncationDirection::Right },
        gives_type_ids,
        special: named.into_iter().map(|(name, token)| (name, token.content)).collect(),
        own_padding: own_padding.and_then(|id| u32::try_from(id).ok()),
        sha256: identity(&bytes, &choice, [&config, &added, &map]),
        settings: overrides.settings,
        model: model.settings,
        warning,
    })
}

/// The tokenizer class that the files of the folder select.
fn choose(tokenizer_json: &[u8], config: &Settings, model: &Settings) -> Option<Choice> {
    let text = |settings: &'_ Settings, key: &str| settings.get(key).and_then(Value::as_str).map(str::to_owned);
    let (class, model_class, kind) =
        (text(config, "tokenizer_class"), text(model, "tokenizer_class"), text(model, "model_type"));
    let byte_level = br#""ByteLevel""#;
    let hints = Hints {
        tokenizer_class: class.as_deref(),
        model_tokenizer_class: model_class.as_deref(),
        model_type: kind.as_deref(),
        is_byte_level: tokenizer_json.windows(byte_level.len()).any(|bytes| bytes == byte_level),
    };
    hints.choose()
}

/// The recipe of the class, or `None` where the file is used unchanged; with a warning, if any.
fn recipe(
    choice: &Option<Choice>,
    file: &Value,
    config: &SideFile,
    tokenizer_json: &Path,
) -> Result<(Option<Recipe>, Option<String>), DatasetError> {
    let Some(Choice { class, name, named }) = choice else { return Ok((None, None)) };
    let found = model_of(&file["model"]);
    let reason = match class {
        Class::AsFile => return Ok((None, None)),
        Class::Built(recipe) if recipe.takes_file() || recipe.model() == found => {
            match missing(*recipe, file, &config.settings).filter(|_| !named) {
                None => return Ok((Some(*recipe), None)),
                Some(token) => format!("puts {} around texts, which is not in the vocabulary", quoted(token)),
            }
        }
        Class::Built(recipe) => format!("builds its tokens from a {} vocabulary, and this is {found}", recipe.model()),
        Class::Foreign(_) => "makes tokens in a way of its own".to_owned(),
    };
    let class = name.clone();
    if *named {
        return Err(DatasetError::TokenizerClass { path: config.path.clone(), class, reason });
    }
    Ok((
        None,
        Some(format!(
            "{}: no file names the class of the tokenizer, so it is taken as it is; AutoTokenizer would take {class}, \
             which {reason}: write \"tokenizer_class\": \"PreTrainedTokenizerFast\" into tokenizer_config.json beside it",
            tokenizer_json.display()
        )),
    ))
}

/// A special token of the class that the vocabulary does not have, where the settings name no other.
fn missing(recipe: Recipe, file: &Value, settings: &Settings) -> Option<&'static str> {
    let vocabulary = &file["model"]["vocab"];
    let added = file["added_tokens"].as_array();
    let has = |token: &str| {
        vocabulary.get(token).is_some()
            || vocabulary.as_array().into_iter().flatten().any(|entry| entry[0] == token)
            || added.into_iter().flatten().any(|entry| entry["content"] == token)
    };
    let around = ["bos_token", "eos_token", "sep_token", "cls_token"];
    let usual = recipe.defaults().iter().filter(|(name, _)| around.contains(name) && !settings.contains_key(*name));
    usual.map(|(_, token)| *token).find(|token| !has(token))
}

/// The kind of a vocabulary; old files do not state it.
fn model_of(model: &Value) -> &str {
    match model["type"].as_str() {
        Some(kind) => kind,
        None if model["vocab"].is_array() => "Unigram",
        None if model.get("merges").is_some() => "BPE",
        None if model.get("max_input_chars_per_word").is_some() => "WordPiece",
        None => "WordLevel",
    }
}

/// Hash of the tokenizer: that of `tokenizer.json` alone where nothing else affects the tokens.
fn identity(bytes: &[u8], choice: &Option<Choice>, others: [&SideFile; 3]) -> String {
    let own = sha256(bytes);
    if choice.as_ref().is_none_or(|choice| choice.class == Class::AsFile)
        && others.iter().all(|file| file.settings.is_empty())
    {
        return own;
    }
    let mut all = format!("{own} {}", choice.as_ref().map_or("", |choice| &choice.name));
    for file in others {
        // The chat template does not affect tokens.
        let kept = file.settings.iter().filter(|(key, _)| *key != "chat_template");
        kept.for_each(|(key, value)| all.push_str(&format!(" {key}={value}")));
    }
    sha256(all.as_bytes())
}

/// Overrides of other files for the tokens of `tokenizer.json`.
struct Overrides {
    settings: Settings,
    /// Added tokens by id.
    added: BTreeMap<i64, AddedToken>,
    /// Special tokens without a name.
    extra: Vec<AddedToken>,
    lists_extra: bool,
}

impl Overrides {
    fn new(
        mut settings: Settings,
        file: &Value,
        map: &Settings,
        added_tokens: &Settings,
        class: Option<Recipe>,
    ) -> Self {
        if !is_true(settings.get("extra_special_tokens"))
            && let Some(old) = settings.remove("additional_special_tokens")
        {
            settings.insert("extra_special_tokens".into(), old);
        }
        let mut added = BTreeMap::new();
        if let Some(Value::Object(decoder)) = settings.get("added_tokens_decoder") {
            for (id, token) in decoder {
                if let (Ok(id), Some(token)) = (id.parse(), added_token(token)) {
                    added.insert(id, token);
                }
            }
        } else {
            merge(&mut settings, map);
            if !settings.contains_key("extra_special_tokens")
                && let Some(Value::Array(mut tokens)) = settings.remove("additional_special_tokens")
            {
                // T5 adds its own special tokens to those given this way.
                if class == Some(Recipe::T5)
                    && !tokens.iter().any(|token| content(token).is_some_and(|text| text.contains("<extra_id_")))
                {
                    tokens.extend(Recipe::T5.extra(&settings).into_iter().map(Value::from));
                }
                settings.insert("extra_special_tokens".into(), tokens.into());
            }
            let special: Vec<String> = NAMED.iter().filter_map(|name| content(settings.get(*name)?)).collect();
            let extra = settings.get("extra_special_tokens").and_then(Value::as_array);
            let extra: Vec<String> = extra.into_iter().flatten().filter_map(content).collect();
            for (content, id) in added_tokens {
                let Some(id) = id.as_i64() else { continue };
                let is_special = special.contains(content) || extra.contains(content);
                added.insert(id, AddedToken::from(content.clone(), is_special));
            }
            for token in file["added_tokens"].as_array().into_iter().flatten() {
                if let (Some(id), Some(added_token)) = (token["id"].as_i64(), added_token(token)) {
                    added.insert(id, added_token);
                }
            }
        }
        let extra = settings.get("extra_special_tokens").and_then(Value::as_array);
        let lists_extra = settings.get("extra_special_tokens").is_some_and(|extra| !extra.is_object());
        let extra = extra.into_iter().flatten().filter_map(added_token).collect();
        Overrides { settings, added, extra, lists_extra }
    }

    /// The named special tokens, in the order in which they are added. A token that is among the added ones is
    /// taken from there.
    fn named(&self, recipe: Option<Recipe>, padding: Option<String>) -> Vec<(String, AddedToken)> {
        let own = |name: &str| {
            let value = self.settings.get(name)?;
            let token = added_token(value)?;
            let known = self.added.values().find(|known| known.content == token.content);
            let written = || match recipe.filter(|_| value.is_string()) {
                Some(recipe) => recipe.special(name, &token.content),
                None => token.clone(),
            };
            Some(known.cloned().unwrap_or_else(written))
        };
        let usual = |name: &str| {
            let (_, content) = recipe?.defaults().iter().find(|(known, _)| *known == name)?;
            Some(recipe?.special(name, content))
        };
        let mut named = Vec::new();
        for name in NAMED {
            let token = match self.settings.contains_key(name) {
                true => own(name),
                false if name == "pad_token" && matches!(recipe, None | Some(Recipe::Llama)) => {
                    padding.clone().map(|content| AddedToken::from(content, true))
                }
                false => usual(name),
            };
            named.extend(token.map(|token| (name.to_owned(), token)));
        }
        let others = self.settings.iter().filter(|(key, _)| key.ends_with("_token") && !NAMED.contains(&key.as_str()));
        let others =
            others.chain(self.settings.get("extra_special_tokens").and_then(Value::as_object).into_iter().flatten());
        named.extend(others.filter_map(|(name, value)| Some((name.clone(), added_token(value)?))));
        named
    }

    /// The tokens to be added, in their order.
    fn to_add(
        &self,
        inner: &tokenizers::Tokenizer,
        named: &[(String, AddedToken)],
        recipe: Option<Recipe>,
    ) -> Vec<AddedToken> {
        let there = inner.get_added_tokens_decoder();
        let mut tokens: Vec<AddedToken> =
            self.added.values().filter(|token| !there.values().any(|known| known == *token)).cloned().collect();
        let usual: Vec<AddedToken> = match (self.lists_extra, recipe) {
            (false, Some(recipe)) => {
                recipe.extra(&self.settings).into_iter().map(|content| AddedToken::from(content, true)).collect()
            }
            _ => Vec::new(),
        };
        let special = named.iter().map(|(_, token)| token);
        for token in special.clone().chain(&self.extra).chain(&usual) {
            let is_known = there.values().chain(&tokens).any(|known| known.content == token.content);
            if !is_known {
                tokens.push(token.clone());
            }
        }
        for token in &mut tokens {
            token.special |= special.clone().any(|special| special.content == token.content);
        }
        tokens
    }
}

/// `special_tokens_map.json` counts only where `tokenizer_config.json` does not list the added tokens.
fn merge(settings: &mut Settings, map: &Settings) {
    for (key, value) in map {
        let mut value = value.clone();
        if key == "extra_special_tokens"
            && let (Some(old), Some(new)) = (settings.get(key).and_then(Value::as_array), value.as_array())
        {
            let missing = new.iter().filter(|token| !old.contains(token));
            value = old.iter().chain(missing).cloned().collect();
        } else if let Value::Object(token) = &mut value
            && token.contains_key("content")
        {
            token.insert("special".into(), true.into());
        }
        settings.insert(key.clone(), value);
    }
}

/// Whether a value is true in Python's sense.
fn is_true(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::Array(values)) => !values.is_empty(),
        Some(Value::Object(values)) => !values.is_empty(),
        _ => true,
    }
}

/// Content of a token, which is written as a string or as an object with `content`.
fn content(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}

fn added_token(value: &Value) -> Option<AddedToken> {
    let content = content(value)?;
    let flag = |key: &str| value.get(key).and_then(Value::as_bool);
    // A special token written as a string is special; one written as an object says whether it is.
    let special = if value.is_object() { flag("special").unwrap_or(false) } else { true };
    let mut token = AddedToken::from(content, special);
    token.single_word = flag("single_word").unwrap_or(false);
    token.lstrip = flag("lstrip").unwrap_or(false);
    token.rstrip = flag("rstrip").unwrap_or(false);
    token.normalized = flag("normalized").unwrap_or(!special);
    Some(token)
}

/// A JSON file beside `tokenizer.json`; empty where it does not exist.
struct SideFile {
    path: PathBuf,
    settings: Map<String, Value>,
}

impl SideFile {
    fn read(beside: &Path, name: &str) -> Result<Self, DatasetError> {
        let path = beside.with_file_name(name);
        let bad = |reason: String| DatasetError::BadTokenizer { path: path.clone(), reason };
        let settings = match read_file(&path) {
            Ok(bytes) => match serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))? {
                Value::Object(settings) => settings,
                _ => return Err(bad("it is no JSON object".into())),
            },
            Err(FileError { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Map::new(),
            Err(error) => return Err(error.into()),
        };
        Ok(SideFile { path, settings })
    }
}

/// Calls the library and turns a panic into an error: a broken file or an odd text is not a bug of this program.
pub(super) fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match std::panic::catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("its parts contradict each other".into()),
    }
}
