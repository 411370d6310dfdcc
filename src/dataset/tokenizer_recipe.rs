//! How the classes of transformers 5 build their tokenizers from a vocabulary, as components in the form of `tokenizer.json`.

use serde_json::{Map, Value, json};
use tokenizers::AddedToken;

/// Contents of `tokenizer_config.json` and of the files that it includes.
pub(super) type Settings = Map<String, Value>;

type Parts<T> = Result<T, String>;

/// A class that rebuilds its tokenizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "named after the classes")]
pub(super) enum Recipe {
    Bert,
    DistilBert,
    ConvBert,
    MpNet,
    Funnel,
    Roberta,
    Gpt2,
    CodeGen,
    GptNeoX,
    Deberta,
    Qwen2,
    Qwen35,
    Llama,
    Gemma,
    XlmRoberta,
    Albert,
    FNet,
    DebertaV2,
    T5,
    XlNet,
    Camembert,
    BigBird,
    RemBert,
    Barthez,
}

/// Default special tokens, by their names in `tokenizer_config.json`.
type Defaults = &'static [(&'static str, &'static str)];

const BERT: Defaults = &[
    ("unk_token", "[UNK]"),
    ("sep_token", "[SEP]"),
    ("pad_token", "[PAD]"),
    ("cls_token", "[CLS]"),
    ("mask_token", "[MASK]"),
];
const FUNNEL: Defaults = &[
    ("bos_token", "<s>"),
    ("eos_token", "</s>"),
    ("unk_token", "<unk>"),
    ("sep_token", "<sep>"),
    ("pad_token", "<pad>"),
    ("cls_token", "<cls>"),
    ("mask_token", "<mask>"),
];
const ROBERTA: Defaults = &[
    ("bos_token", "<s>"),
    ("eos_token", "</s>"),
    ("unk_token", "<unk>"),
    ("sep_token", "</s>"),
    ("pad_token", "<pad>"),
    ("cls_token", "<s>"),
    ("mask_token", "<mask>"),
];
const MPNET: Defaults = &[
    ("bos_token", "<s>"),
    ("eos_token", "</s>"),
    ("unk_token", "[UNK]"),
    ("sep_token", "</s>"),
    ("pad_token", "<pad>"),
    ("cls_token", "<s>"),
    ("mask_token", "<mask>"),
];
const DEBERTA: Defaults = &[
    ("bos_token", "[CLS]"),
    ("eos_token", "[SEP]"),
    ("unk_token", "[UNK]"),
    ("sep_token", "[SEP]"),
    ("pad_token", "[PAD]"),
    ("cls_token", "[CLS]"),
    ("mask_token", "[MASK]"),
];
const ALBERT: Defaults = &[
    ("bos_token", "[CLS]"),
    ("eos_token", "[SEP]"),
    ("unk_token", "<unk>"),
    ("sep_token", "[SEP]"),
    ("pad_token", "<pad>"),
    ("cls_token", "[CLS]"),
    ("mask_token", "[MASK]"),
];
const XLNET: Defaults = &[
    ("bos_token", "<s>"),
    ("eos_token", "</s>"),
    ("unk_token", "<unk>"),
    ("sep_token", "<sep>"),
    ("pad_token", "<pad>"),
    ("cls_token", "<cls>"),
    ("mask_token", "<mask>"),
];
const BIG_BIRD: Defaults = &[
    ("bos_token", "<s>"),
    ("eos_token", "</s>"),
    ("unk_token", "<unk>"),
    ("sep_token", "[SEP]"),
    ("pad_token", "<pad>"),
    ("cls_token", "[CLS]"),
    ("mask_token", "[MASK]"),
];
const END_OF_TEXT: Defaults =
    &[("bos_token", "<|endoftext|>"), ("eos_token", "<|endoftext|>"), ("unk_token", "<|endoftext|>")];
const GPT_NEOX: Defaults = &[
    ("bos_token", "<|endoftext|>"),
    ("eos_token", "<|endoftext|>"),
    ("unk_token", "<|endoftext|>"),
    ("pad_token", "<|padding|>"),
];
const QWEN: Defaults =
    &[("eos_token", "<|endoftext|>"), ("unk_token", "<|endoftext|>"), ("pad_token", "<|endoftext|>")];
const LLAMA: Defaults = &[("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>")];
const GEMMA: Defaults = &[
    ("bos_token", "<bos>"),
    ("eos_token", "<eos>"),
    ("unk_token", "<unk>"),
    ("pad_token", "<pad>"),
    ("mask_token", "<mask>"),
];
const T5_TOKENS: Defaults = &[("eos_token", "</s>"), ("unk_token", "<unk>"), ("pad_token", "<pad>")];

const QWEN2_WORDS: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35_WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

impl Recipe {
    /// The kind of vocabulary that the class needs, as in `model.type`.
    pub(super) fn model(self) -> &'static str {
        use Recipe::*;
        match self {
            Bert | DistilBert | ConvBert | MpNet | Funnel => "WordPiece",
            Roberta | Gpt2 | CodeGen | GptNeoX | Deberta | Qwen2 | Qwen35 | Llama | Gemma => "BPE",
            XlmRoberta | Albert | FNet | DebertaV2 | T5 | XlNet | Camembert | BigBird | RemBert | Barthez => "Unigram",
        }
    }

    /// Whether the class gives `token_type_ids`, unless `model_input_names` says otherwise.
    pub(super) fn gives_type_ids(self) -> bool {
        matches!(self, Recipe::Bert | Recipe::ConvBert | Recipe::FNet | Recipe::Deberta | Recipe::DebertaV2)
    }

    /// The default special tokens of the class.
    pub(super) fn defaults(self) -> Defaults {
        use Recipe::*;
        match self {
            Bert | DistilBert | ConvBert => BERT,
            MpNet => MPNET,
            Funnel => FUNNEL,
            Roberta | XlmRoberta | Camembert | Barthez => ROBERTA,
            Gpt2 | CodeGen => END_OF_TEXT,
            GptNeoX => GPT_NEOX,
            Deberta | DebertaV2 => DEBERTA,
            Qwen2 | Qwen35 => QWEN,
            Llama => LLAMA,
            Gemma => GEMMA,
            Albert | FNet | RemBert => ALBERT,
            T5 => T5_TOKENS,
            XlNet => XLNET,
            BigBird => BIG_BIRD,
        }
    }

    /// Whether the class uses the file unchanged, and only adds its special tokens.
    pub(super) fn takes_file(self) -> bool {
        matches!(self, Recipe::ConvBert | Recipe::FNet)
    }

    /// A special token given only as a string: whether it absorbs white space, and whether it is matched after the text
    /// is normalized.
    pub(super) fn special(self, name: &str, content: &str) -> AddedToken {
        use Recipe::*;
        let is_mask = name == "mask_token";
        let mut token = AddedToken::from(content, true);
        token.lstrip = is_mask && matches!(self, MpNet | XlNet | Camembert | BigBird | Barthez);
        token.normalized = matches!(self, MpNet | BigBird) || is_mask && matches!(self, XlNet | Barthez);
        token
    }

    /// Unnamed special tokens, where `tokenizer_config.json` lists none.
    pub(super) fn extra(self, settings: &Settings) -> Vec<String> {
        match self {
            Recipe::T5 => {
                let count = settings.get("extra_ids").and_then(Value::as_u64).unwrap_or(100).min(1 << 16);
                (0..count).map(|number| format!("<extra_id_{number}>")).collect()
            }
            Recipe::XlNet => vec!["<eop>".into(), "<eod>".into()],
            Recipe::Camembert => vec!["<s>NOTUSED".into(), "</s>NOTUSED".into(), "<unk>NOTUSED".into()],
            _ => Vec::new(),
        }
    }

    /// Keeps vocabulary and merges of a `tokenizer.json`, and builds the rest. `unknown` is the unknown token.
    pub(super) fn parts(self, settings: &Settings, file: &mut Value, unknown: &str) -> Parts<Value> {
        let charsmap = charsmap(&file["normalizer"]);
        let mut model = file["model"].take();
        let vocabulary = model["vocab"].take();
        let merges = model["merges"].take();
        let merges = if merges.is_null() { json!([]) } else { merges };
        let unigram = |unknown_id: usize| json!({"type": "Unigram", "unk_id": unknown_id, "byte_fallback": false});
        let (mut model, normalizer, pre_tokenizer) = match self {
            Recipe::Bert | Recipe::DistilBert | Recipe::ConvBert | Recipe::MpNet | Recipe::Funnel => {
                let clean = self != Recipe::Funnel || flag(settings, "clean_text", true)?;
                let model = json!({"type": "WordPiece", "unk_token": unknown, "continuing_subword_prefix": "##",
                    "max_input_chars_per_word": 100});
                (model, bert_normalizer(settings, clean)?, json!({"type": "BertPreTokenizer"}))
            }
            Recipe::Roberta | Recipe::Gpt2 | Recipe::CodeGen | Recipe::Deberta => {
                (bpe(None, false, false), Value::Null, byte_level(flag(settings, "add_prefix_space", false)?, true))
            }
            Recipe::GptNeoX => {
                let pre_tokenizer = byte_level(flag(settings, "add_prefix_space", false)?, true);
                (bpe(None, false, false), json!({"type": "NFC"}), pre_tokenizer)
            }
            Recipe::Qwen2 | Recipe::Qwen35 => {
                let words = if self == Recipe::Qwen2 { QWEN2_WORDS } else { QWEN35_WORDS };
                let split =
                    json!({"type": "Split", "pattern": {"Regex": words}, "behavior": "Isolated", "invert": false});
                let bytes = byte_level(optional_flag(settings, "add_prefix_space")?.unwrap_or(false), false);
                (bpe(None, false, false), json!({"type": "NFC"}), sequence("pretokenizers", [split, bytes]))
            }
            Recipe::Llama => {
                let prefix = optional_flag(settings, "add_prefix_space")?.unwrap_or(true);
                let legacy = truth(settings, "legacy", false)?;
                let scheme = ["never", if legacy { "always" } else { "first" }][usize::from(prefix)];
                (bpe(None, true, true), Value::Null, metaspace(scheme, false))
            }
            Recipe::Gemma => {
                let normalizer = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
                let split = json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious",
                    "invert": false});
                (bpe(Some(unknown), true, true), normalizer, split)
            }
            Recipe::XlmRoberta | Recipe::T5 | Recipe::Camembert => {
                let prefix = self == Recipe::T5 || truth(settings, "add_prefix_space", true)?;
                let unknown_id = match self {
                    Recipe::XlmRoberta => 3,
                    Recipe::T5 => 2,
                    _ => index_of(&vocabulary, unknown).unwrap_or(0),
                };
                (unigram(unknown_id), charsmap.unwrap_or_default(), words(scheme(prefix)))
            }
            Recipe::Albert | Recipe::FNet | Recipe::XlNet => {
                let is_xlnet = self == Recipe::XlNet;
                let mut steps = vec![replace("``", "\""), replace("''", "\"")];
                if is_xlnet || !truth(settings, "keep_accents", false)? {
                    steps.extend([json!({"type": "NFKD"}), json!({"type": "StripAccents"})]);
                }
                if truth(settings, "do_lower_case", !is_xlnet)? {
                    steps.push(json!({"type": "Lowercase"}));
                }
                steps.extend(charsmap);
                let prefix = is_xlnet || truth(settings, "add_prefix_space", true)?;
                let unknown_id = if is_xlnet { number(settings, "unk_id", 0)? } else { 1 };
                (unigram(unknown_id), sequence("normalizers", steps), words(scheme(prefix)))
            }
            Recipe::RemBert => {
                let mut steps = vec![
                    replace("``", "\""),
                    replace("''", "\""),
                    json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}),
                ];
                if !truth(settings, "keep_accents", true)? {
                    steps.extend([json!({"type": "NFKD"}), json!({"type": "StripAccents"})]);
                }
                if truth(settings, "do_lower_case", false)? {
                    steps.push(json!({"type": "Lowercase"}));
                }
                steps.extend(charsmap);
                let prefix = truth(settings, "add_prefix_space", true)?;
                (unigram(2), sequence("normalizers", steps), metaspace(scheme(prefix), true))
            }
            Recipe::DebertaV2 | Recipe::Barthez => {
                let mut steps = Vec::new();
                let is_deberta = self == Recipe::DebertaV2;
                if is_deberta && truth(settings, "do_lower_case", false)? {
                    steps.push(json!({"type": "Lowercase"}));
                }
                steps.extend([
                    json!({"type": "Replace", "pattern": {"Regex": r"\s{2,}|[\n\r\t]"}, "content": " "}),
                    json!({"type": "NFC"}),
                    json!({"type": "Strip", "strip_left": false, "strip_right": true}),
                ]);
                let prefix = truth(settings, "add_prefix_space", true)?;
                let scheme = match (prefix, is_deberta) {
                    (true, _) => "always",
                    (false, true) => "first",
                    (false, false) => "never",
                };
                let mut splits = Vec::new();
                if is_deberta && truth(settings, "split_by_punct", false)? {
                    splits.push(json!({"type": "Punctuation", "behavior": "Isolated"}));
                }
                splits.push(metaspace(scheme, true));
                let unknown_id = match is_deberta {
                    true => certain(&vocabulary, unknown).map_or_else(|| number(settings, "unk_id", 1), Ok)?,
                    false => 3,
                };
                (unigram(unknown_id), sequence("normalizers", steps), sequence("pretokenizers", splits))
            }
            Recipe::BigBird => {
                let steps = [
                    json!({"type": "Strip", "strip_left": false, "strip_right": false}),
                    json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}),
                ];
                let prefix = truth(settings, "add_prefix_space", true)?;
                let unknown_id = certain(&vocabulary, unknown).unwrap_or(100);
                (unigram(unknown_id), sequence("normalizers", steps), metaspace(scheme(prefix), true))
            }
        };
        if self.model() == "BPE" {
            model["merges"] = merges;
        }
        model["vocab"] = vocabulary;
        Ok(json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": null, "model": model}))
    }

    /// The post-processor, which adds special tokens around texts, from their names and ids; `None` keeps that of
    /// `tokenizer.json`, if it has one.
    pub(super) fn post_processor(
        self,
        settings: &Settings,
        file_has_one: bool,
        token: &dyn Fn(&str) -> Parts<(String, u32)>,
    ) -> Parts<Option<Value>> {
        use TemplatePiece::{First, Second, Special};
        let roberta = |trim: bool, prefix: bool| -> Parts<Option<Value>> {
            let (sep, cls) = (token("sep_token")?, token("cls_token")?);
            Ok(Some(json!({"type": "RobertaProcessing", "sep": [sep.0, sep.1], "cls": [cls.0, cls.1],
                "trim_offsets": trim, "add_prefix_space": prefix})))
        };
        let template = |single: &[TemplatePiece], pair: &[TemplatePiece]| template(single, pair, token).map(Some);
        let (cls, sep) = (|kind| Special("cls_token", kind), |kind| Special("sep_token", kind));
        let (bos, eos) = (Special("bos_token", 0), Special("eos_token", 0));
        match self {
            Recipe::Albert if !file_has_one => {
                template(&[cls(0), First, sep(0)], &[cls(0), First, sep(0), Second(1), sep(1)])
            }
            Recipe::RemBert if !file_has_one => Ok(None),
            Recipe::Bert
            | Recipe::DistilBert
            | Recipe::ConvBert
            | Recipe::DebertaV2
            | Recipe::BigBird
            | Recipe::RemBert => template(&[cls(0), First, sep(0)], &[cls(0), First, sep(0), Second(1), sep(1)]),
            Recipe::Funnel => template(&[cls(2), First, sep(0)], &[cls(2), First, sep(0), Second(1), sep(1)]),
            Recipe::Deberta => template(&[cls(0), First, sep(0)], &[cls(0), First, sep(0), sep(0), Second(0), sep(0)]),
            Recipe::XlNet => template(&[First, sep(0), cls(2)], &[First, sep(0), Second(1), sep(1), cls(2)]),
            Recipe::XlmRoberta | Recipe::Camembert => {
                template(&[bos, First, eos], &[bos, First, eos, eos, Second(0), eos])
            }
            Recipe::T5 => template(&[First, eos], &[First, eos, Second(0), eos]),
            Recipe::MpNet => roberta(true, false),
            Recipe::Roberta => {
                roberta(truth(settings, "trim_offsets", true)?, flag(settings, "add_prefix_space", false)?)
            }
            Recipe::GptNeoX => template(&[First], &[First, Second(1)]),
            Recipe::Gpt2 | Recipe::CodeGen | Recipe::Qwen2 | Recipe::Qwen35 | Recipe::Llama | Recipe::Gemma => Ok(None),
            Recipe::Albert | Recipe::FNet | Recipe::Barthez => Ok(None),
        }
    }
}

/// A piece of a template, with its type id.
#[derive(Clone, Copy)]
enum TemplatePiece {
    First,
    Second(u32),
    Special(&'static str, u32),
}

fn template(
    single: &[TemplatePiece],
    pair: &[TemplatePiece],
    token: &dyn Fn(&str) -> Parts<(String, u32)>,
) -> Parts<Value> {
    let mut specials = Map::new();
    let mut pieces = |places: &[TemplatePiece]| -> Parts<Vec<Value>> {
        let piece = |place: &TemplatePiece| match *place {
            TemplatePiece::First => Ok(json!({"Sequence": {"id": "A", "type_id": 0}})),
            TemplatePiece::Second(kind) => Ok(json!({"Sequence": {"id": "B", "type_id": kind}})),
            TemplatePiece::Special(name, kind) => {
                let (content, id) = token(name)?;
                let special = json!({"id": content, "ids": [id], "tokens": [content]});
                specials.insert(content.clone(), special);
                Ok(json!({"SpecialToken": {"id": content, "type_id": kind}}))
            }
        };
        places.iter().map(piece).collect()
    };
    let (single, pair) = (pieces(single)?, pieces(pair)?);
    Ok(json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": specials}))
}

fn bert_normalizer(settings: &Settings, clean_text: bool) -> Parts<Value> {
    let strip_accents = optional_flag(settings, "strip_accents")?;
    Ok(json!({"type": "BertNormalizer", "clean_text": clean_text,
        "handle_chinese_chars": flag(settings, "tokenize_chinese_chars", true)?,
        "strip_accents": strip_accents, "lowercase": flag(settings, "do_lower_case", true)?}))
}

fn bpe(unknown: Option<&str>, fuse_unknown: bool, byte_fallback: bool) -> Value {
    json!({"type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": fuse_unknown, "byte_fallback": byte_fallback, "ignore_merges": false})
}

fn byte_level(prefix: bool, split_words: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": split_words})
}

fn metaspace(scheme: &str, split: bool) -> Value {
    json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split})
}

/// Splits at white space, and marks the beginnings of words.
fn words(scheme: &str) -> Value {
    sequence("pretokenizers", [json!({"type": "WhitespaceSplit"}), metaspace(scheme, true)])
}

fn scheme(prefix: bool) -> &'static str {
    if prefix { "always" } else { "never" }
}

fn sequence(of: &str, steps: impl IntoIterator<Item = Value>) -> Value {
    let mut sequence = json!({"type": "Sequence"});
    sequence[of] = steps.into_iter().collect();
    sequence
}

fn replace(found: &str, with: &str) -> Value {
    json!({"type": "Replace", "pattern": {"String": found}, "content": with})
}

/// The character map that came with a SentencePiece model: the first one, as a normalizer.
fn charsmap(normalizer: &Value) -> Option<Value> {
    let is_map = |step: &&Value| step["type"] == "Precompiled" && step.get("precompiled_charsmap").is_some();
    match normalizer["type"].as_str() {
        Some("Sequence") => normalizer["normalizers"].as_array()?.iter().find(is_map).cloned(),
        _ => Some(normalizer).filter(is_map).cloned(),
    }
}

/// Index of a piece in the vocabulary of a Unigram model.
fn index_of(vocabulary: &Value, piece: &str) -> Option<usize> {
    vocabulary.as_array()?.iter().position(|entry| entry[0] == piece)
}

/// Index of a piece whose log probability is 0.
fn certain(vocabulary: &Value, piece: &str) -> Option<usize> {
    vocabulary.as_array()?.iter().position(|entry| entry[0] == piece && entry[1].as_f64() == Some(0.0))
}

/// A boolean setting.
fn flag(settings: &Settings, key: &str, usual: bool) -> Parts<bool> {
    match settings.get(key) {
        None => Ok(usual),
        Some(Value::Bool(value)) => Ok(*value),
        Some(other) => Err(format!("`{key}` is {other} instead of true or false")),
    }
}

/// A boolean setting that Python's `if` evaluates: null is false.
fn truth(settings: &Settings, key: &str, usual: bool) -> Parts<bool> {
    match settings.get(key) {
        Some(Value::Null) => Ok(false),
        _ => flag(settings, key, usual),
    }
}

/// A boolean setting for which null means that it is not set.
fn optional_flag(settings: &Settings, key: &str) -> Parts<Option<bool>> {
    match settings.get(key) {
        None | Some(Value::Null) => Ok(None),
        _ => flag(settings, key, false).map(Some),
    }
}

fn number(settings: &Settings, key: &str, usual: usize) -> Parts<usize> {
    match settings.get(key) {
        None => Ok(usual),
        Some(value) => value
            .as_u64()
            .and_then(|value| usize::try_from(value).ok())
            .ok_or_else(|| format!("`{key}` is {value} instead of a number from 0")),
    }
}
