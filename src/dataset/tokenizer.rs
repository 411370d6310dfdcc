//! Converts texts to token ids, as Hugging Face's `AutoTokenizer` does with `truncation=True, max_length=…`.

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use tokenizers::{PostProcessor, PostProcessorWrapper, TruncationParams, TruncationStrategy, truncate_encodings};

use super::batch::{Padding, Positions};
use super::error::quoted;
use super::squad::Question;
use super::tokenizer_build::{Built, build};
use super::tokenizer_long::{self as long, Divisible, Stopped};
use super::tokenizer_recipe::Settings;
use super::windows::Window;
use super::{DatasetError, Encoding, Example};
use crate::progress::{Event, Observer};

/// A token id, and the bytes of the text that the token stands for; `None` for special tokens.
pub(super) type TokenInPlace = (u32, Option<(usize, usize)>);

/// Number of rows between two progress reports.
const CHUNK: usize = 2048;

/// `tokenizer.json`, with gelora's own truncation and padding: the settings in the file are cleared.
///
/// The two texts of a pair are tokenized whole, then truncated, then joined. Truncation cannot be left to the library: it
/// stops reading each text at the maximum length, and then no longer knows which text was longer.
pub struct Tokenizer {
    /// The tokenizer without truncation, padding and special tokens.
    inner: tokenizers::Tokenizer,
    /// Adds the special tokens.
    finish: Option<PostProcessorWrapper>,
    /// How to truncate; the maximum length includes special tokens.
    truncation: TruncationParams,
    path: PathBuf,
    sha256: String,
    maximum_length: usize,
    model_maximum_length: Option<usize>,
    pad_id: u32,
    positions: Positions,
    /// Whether very long texts may be divided.
    divisible: Divisible,
    /// Id of the end-of-text token.
    end_id: Option<u32>,
    /// Whether the tokenizer's type ids go to the model; otherwise all are 0.
    tells_texts_apart: bool,
    warning: Option<String>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Tokenizer").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Opens a `tokenizer.json`. Rows longer than `maximum_length` tokens, special tokens included, are truncated; of a pair
    /// the longer text first (`longest_first`).
    ///
    /// Settings that the files beside it override (`tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json`,
    /// the model type in `config.json`) are resolved as in `AutoTokenizer` of transformers 5.
    ///
    /// # Errors
    /// Unreadable or broken file; a tokenizer class that cannot be reproduced, or that does not fit the vocabulary; a
    /// maximum length that leaves no room beside the special tokens.
    pub fn open(tokenizer_json: &Path, maximum_length: usize) -> Result<Self, DatasetError> {
        let mut built = build(tokenizer_json)?;
        let bad = |reason: String| DatasetError::BadTokenizer { path: tokenizer_json.into(), reason };
        let pad_id = padding(&built);
        let end_id = end_of_text(&built);
        let finish = built.inner.get_post_processor().cloned();
        let least = finish.as_ref().map_or(0, |processor| processor.added_tokens(true)) + 2;
        if maximum_length < least {
            return Err(DatasetError::MaximumLength { found: maximum_length, least });
        }
        let truncation = TruncationParams {
            direction: built.direction,
            max_length: maximum_length,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
        };
        let inner = &mut built.inner;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| bad(error.to_string()))?;
        inner.with_post_processor(None::<PostProcessorWrapper>);
        Ok(Tokenizer {
            finish,
            truncation,
            path: tokenizer_json.into(),
            maximum_length,
            model_maximum_length: number(&built.settings, "model_max_length"),
            pad_id,
            positions: Positions::of_model(&built.model),
            divisible: Divisible::new(&built.inner),
            end_id,
            tells_texts_apart: built.gives_type_ids,
            sha256: built.sha256,
            warning: built.warning,
            inner: built.inner,
        })
    }

    /// Token ids of every example, in order; in parallel.
    ///
    /// # Errors
    /// A text that the tokenizer cannot process, or that yields no tokens; cancellation.
    pub fn encode(&self, examples: &[Example], observer: &dyn Observer) -> Result<Vec<Encoding>, DatasetError> {
        let (encodings, cut) = self.encode_counting(examples, observer)?;
        if cut > 0 {
            observer.observe(Event::Notice(&self.cut_in_words(cut, examples.len())));
        }
        Ok(encodings)
    }

    /// A message that `cut` of `rows` rows were truncated.
    pub(crate) fn cut_in_words(&self, cut: usize, rows: usize) -> String {
        format!("{cut} of {rows} rows are longer than {} tokens and were cut", self.maximum_length)
    }

    /// Token ids of every example, and the number of rows that were truncated, without a notice to the observer.
    pub(crate) fn encode_counting(
        &self,
        examples: &[Example],
        observer: &dyn Observer,
    ) -> Result<(Vec<Encoding>, usize), DatasetError> {
        observer.observe(Event::Begin {
            stage: "tokenizing",
            total: Some(examples.len() as u64),
            done: 0,
            unit: "rows",
        });
        let mut encodings = Vec::with_capacity(examples.len());
        let mut cut = 0;
        for chunk in examples.chunks(CHUNK) {
            observer.check()?;
            let part: Vec<(Encoding, bool)> =
                chunk.par_iter().map(|example| self.encode_one(example, observer)).collect::<Result<_, _>>()?;
            cut += part.iter().filter(|(_, cut)| *cut).count();
            encodings.extend(part.into_iter().map(|(encoding, _)| encoding));
            observer.observe(Event::Advance { done: encodings.len() as u64, detail: "" });
        }
        observer.observe(Event::End);
        Ok((encodings, cut))
    }

    /// Token ids of one example, and whether it was truncated.
    fn encode_one(&self, example: &Example, observer: &dyn Observer) -> Result<(Encoding, bool), DatasetError> {
        observer.check()?;
        let failed =
            |reason: String| DatasetError::Tokenization { line: example.line, path: self.path.clone(), reason };
        let made = || self.cut_and_join(&example.text, example.pair.as_deref(), observer);
        let (encoding, cut) = match std::panic::catch_unwind(AssertUnwindSafe(made)) {
            Ok(Ok(made)) => made,
            Ok(Err(Stopped::Cancelled(cancelled))) => return Err(cancelled.into()),
            Ok(Err(Stopped::Failed(reason))) => return Err(failed(reason.replace(['\n', '\r'], " "))),
            Err(_) => return Err(failed("says: its parts contradict each other".into())),
        };
        if encoding.get_ids().is_empty() {
            return Err(failed(format!("makes no token of {}", quoted(&example.text))));
        }
        let ids = encoding.get_ids().to_vec();
        let type_ids = if self.tells_texts_apart { encoding.get_type_ids().to_vec() } else { vec![0; ids.len()] };
        Ok((Encoding { ids, type_ids }, cut))
    }

    /// The library's `encode`, but with the lengths of the whole texts.
    fn cut_and_join(
        &self,
        text: &str,
        pair: Option<&str>,
        observer: &dyn Observer,
    ) -> Result<(tokenizers::Encoding, bool), Stopped> {
        let special = self.finish.as_ref().map_or(0, |processor| processor.added_tokens(pair.is_some()));
        let room = self.maximum_length - special;
        let encode = |text: &str| long::encode(&self.inner, self.divisible, text, room + 2, self.truncation.direction);
        let mut first = encode(text)?;
        let mut second = pair.map(encode).transpose()?;
        if let (Some(pair), Some(second)) = (pair, &mut second) {
            if long::is_long(text) || long::is_long(pair) {
                // Beyond what fits in a row, only which text has more tokens matters.
                let count = |text: &str| long::count(&self.inner, self.divisible, text, observer);
                let (of_first, of_second) = (count(text)?, count(pair)?);
                for (encoding, own, other) in [(&mut first, of_first, of_second), (&mut *second, of_second, of_first)] {
                    let length = own.min(room + 1 + usize::from(own > other));
                    encoding.truncate(length, 0, self.truncation.direction);
                    encoding.take_overflowing();
                }
            }
            second.set_type_ids(vec![1; second.len()]);
        }
        let truncation = TruncationParams { max_length: room, ..self.truncation.clone() };
        let cut = first.len() + second.as_ref().map_or(0, tokenizers::Encoding::len) > truncation.max_length;
        let (mut first, mut second) = truncate_encodings(first, second, &truncation)?;
        // The truncated tokens would be kept as overflowing encodings, in all combinations.
        first.take_overflowing();
        second.as_mut().map(tokenizers::Encoding::take_overflowing);
        let whole = match &self.finish {
            Some(processor) => processor.process(first, second, true)?,
            None => tokenizers::Encoding::merge(std::iter::once(first).chain(second), false),
        };
        Ok((whole, cut))
    }

    /// A whole text, special tokens included and nothing truncated: every token with the bytes of the text that it stands for
    /// (`None` for special tokens). A very long text may yield only somewhat more than `enough` tokens.
    pub(super) fn tokens_in_place(
        &self,
        example: &Example,
        enough: Option<usize>,
        observer: &dyn Observer,
    ) -> Result<Vec<TokenInPlace>, DatasetError> {
        let failed = |reason: String| DatasetError::Tokenization {
            line: example.line,
            path: self.path.clone(),
            reason: reason.replace(['\n', '\r'], " "),
        };
        observer.check()?;
        // Offsets are read before special tokens are added: some tokenizers then trim white space at the edges.
        let (text, places) = match long::encode_in_place(&self.inner, self.divisible, &example.text, enough, observer) {
            Ok(made) => made,
            Err(Stopped::Cancelled(cancelled)) => return Err(cancelled.into()),
            Err(Stopped::Failed(reason)) => return Err(failed(reason)),
        };
        let whole = match &self.finish {
            Some(processor) => processor.process(text, None, true).map_err(|error| failed(format!("says: {error}")))?,
            None => text,
        };
        let mut places = places.into_iter();
        let tokens = whole.get_ids().iter().zip(whole.get_special_tokens_mask());
        Ok(tokens.map(|(&id, &special)| (id, if special == 0 { places.next() } else { None })).collect())
    }

    /// The windows of one question; their `question` index is 0. `path` is named in errors.
    ///
    /// The library's own code truncates and joins, as it does for Hugging Face's tokenizers with `truncation="only_second"`,
    /// `return_overflowing_tokens=True` and `stride`.
    pub(super) fn windows(
        &self,
        path: &Path,
        question: &Question,
        context: &str,
        stride: usize,
    ) -> Result<Vec<(Encoding, Window)>, DatasetError> {
        let failed = |error: tokenizers::Error| DatasetError::Squad {
            path: path.into(),
            found: format!("has a question, {}, that the tokenizer cannot take ({error})", quoted(&question.id))
                .replace(['\n', '\r'], " "),
            cure: "check its text".into(),
        };
        const MOST: usize = 1 << 22;
        if context.len() > MOST {
            let found =
                format!("has a context of {} MB, at the question {}", context.len() >> 20, quoted(&question.id));
            let cure = "divide it: 4 MB are the most".into();
            return Err(DatasetError::Squad { path: path.into(), found, cure });
        }
        let first = self.inner.encode_char_offsets(question.text.as_str(), false).map_err(failed)?;
        let mut second = self.inner.encode_char_offsets(context, false).map_err(failed)?;
        second.set_type_ids(vec![1; second.len()]);
        let special = self.finish.as_ref().map_or(0, |processor| processor.added_tokens(true));
        let room = self.maximum_length.saturating_sub(special + first.len());
        if second.len() > room && room <= stride {
            return Err(DatasetError::LongQuestion {
                path: path.into(),
                id: quoted(&question.id),
                tokens: first.len(),
                room,
                stride,
            });
        }
        let truncation = TruncationParams {
            max_length: self.maximum_length - special,
            strategy: TruncationStrategy::OnlySecond,
            stride,
            ..self.truncation.clone()
        };
        let (first, second) = truncate_encodings(first, Some(second), &truncation).map_err(failed)?;
        let mut whole = match &self.finish {
            Some(processor) => processor.process(first, second, true).map_err(failed)?,
            None => join_windows(first, second),
        };
        let others = whole.take_overflowing();
        Ok(std::iter::once(whole).chain(others).map(|encoding| self.window(&encoding)).collect())
    }

    fn window(&self, encoding: &tokenizers::Encoding) -> (Encoding, Window) {
        let ids = encoding.get_ids().to_vec();
        let type_ids = if self.tells_texts_apart { encoding.get_type_ids().to_vec() } else { vec![0; ids.len()] };
        let sequences = encoding.get_sequence_ids();
        let first = sequences.iter().position(|sequence| *sequence == Some(1)).unwrap_or(ids.len());
        let context = sequences.iter().zip(encoding.get_offsets()).filter(|(sequence, _)| **sequence == Some(1));
        let offsets = context.map(|(_, &(start, end))| (start as u32, end as u32)).collect();
        (Encoding { ids, type_ids }, Window { question: 0, first, offsets })
    }

    /// The tokenizer without special tokens; the post-processor that adds them; and whether its type ids go to the model.
    pub(super) fn parts(&self) -> (&tokenizers::Tokenizer, Option<&PostProcessorWrapper>, bool) {
        (&self.inner, self.finish.as_ref(), self.tells_texts_apart)
    }

    /// Checks that the model has an embedding for every token: `vocabulary_size` is the number of embeddings.
    ///
    /// # Errors
    /// The largest token id that is out of range, with its token.
    pub fn check_vocabulary(&self, encodings: &[Encoding], vocabulary_size: usize) -> Result<(), DatasetError> {
        match encodings.iter().flat_map(|encoding| &encoding.ids).max() {
            Some(&id) if id as usize >= vocabulary_size => Err(DatasetError::Vocabulary {
                path: self.path.clone(),
                token: quoted(&self.inner.id_to_token(id).unwrap_or_default()),
                id,
                last: vocabulary_size.saturating_sub(1),
            }),
            _ => Ok(()),
        }
    }

    /// Path of the tokenizer file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A warning where the tokens may differ from those of `AutoTokenizer`.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// SHA-256 of the file, in hex; where files beside it affect the tokens, of everything that does.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Maximum length of a row in tokens, special tokens included.
    pub fn maximum_length(&self) -> usize {
        self.maximum_length
    }

    /// `model_max_length` of `tokenizer_config.json`: the length the model was made for, if given.
    pub fn model_maximum_length(&self) -> Option<usize> {
        self.model_maximum_length
    }

    /// Number of tokens, added ones included.
    pub fn vocabulary_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// How rows are padded, and how the model counts positions.
    ///
    /// The token is `pad_token`, else the padding of `tokenizer.json`, else `pad_token_id` of `config.json`, else the
    /// end-of-text token, else 0. Padding is masked, so the last two are as good as any; only models that count positions
    /// from the ids (RoBERTa) need the right one, and they name it. Its type id is 0, as in transformers 5.
    pub fn padding(&self) -> Padding {
        Padding { id: self.pad_id, type_id: 0, positions: self.positions }
    }

    /// Id of the end-of-text token: `eos_token`, else `eos_token_id` of `config.json` (the first where it lists several).
    pub fn end_id(&self) -> Option<u32> {
        self.end_id
    }
}

/// Joins a question with every window of a context, where no special tokens are added.
fn join_windows(first: tokenizers::Encoding, second: Option<tokenizers::Encoding>) -> tokenizers::Encoding {
    let Some(mut second) = second else { return first };
    let join = |mut first: tokenizers::Encoding, mut second: tokenizers::Encoding| {
        first.set_sequence_id(0);
        second.set_sequence_id(1);
        tokenizers::Encoding::merge([first, second], false)
    };
    let others = second.take_overflowing();
    let mut whole = join(first.clone(), second);
    whole.set_overflowing(others.into_iter().map(|other| join(first.clone(), other)).collect());
    whole
}

/// See [`Tokenizer::padding`].
fn padding(built: &Built) -> u32 {
    let id_of = |name: &str| built.special.get(name).and_then(|token| built.inner.token_to_id(token));
    id_of("pad_token")
        .or(built.own_padding)
        .or_else(|| number(&built.model, "pad_token_id").and_then(|id| u32::try_from(id).ok()))
        .or_else(|| id_of("eos_token"))
        .unwrap_or(0)
}

/// See [`Tokenizer::end_id`].
fn end_of_text(built: &Built) -> Option<u32> {
    let in_model = || match built.model.get("eos_token_id")? {
        serde_json::Value::Array(several) => several.first()?.as_u64(),
        one => one.as_u64(),
    };
    let named = built.special.get("eos_token").and_then(|token| built.inner.token_to_id(token));
    named.or_else(|| in_model().and_then(|id| u32::try_from(id).ok()))
}

/// A whole number of plausible size; `model_max_length` is 1e30 where it was never set.
fn number(settings: &Settings, key: &str) -> Option<usize> {
    settings.get(key)?.as_u64().filter(|&value| value < 1 << 40).and_then(|value| usize::try_from(value).ok())
}
