//! Token ids of sentences that are split into words, as transformers gives them with `is_split_into_words=True`, and which
//! tokens belong to which word. Long sentences are cut into windows between words.

use std::ops::Range;

use rayon::prelude::*;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::{PostProcessor, PostProcessorWrapper};

use super::tokenizer_build::guarded;
use super::{DatasetError, Encoding, TaggedFile, TaggedSentence, Tokenizer};
use crate::progress::{Event, Observer};

/// Number of sentences between two progress reports.
const CHUNK: usize = 2048;

/// Length limit of a word, in bytes; the library needs some hundred times that in memory.
const LONGEST_WORD: usize = 1 << 20;

/// The tokens of a word in a window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WordTokens {
    /// Index of the word in its sentence.
    pub word: usize,
    /// Indices of its tokens in the window; at least one.
    pub tokens: Range<usize>,
}

/// Some words of a sentence as a row of tokens, with special tokens around them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WordWindow {
    /// Index of the sentence.
    pub sentence: usize,
    /// The words of this window, in order; those without a token are left out.
    pub words: Vec<WordTokens>,
}

/// All sentences of a file as rows of tokens.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct WordWindows {
    /// Token ids of every window.
    pub encodings: Vec<Encoding>,
    /// Sentence and words of every window; in the order of the sentences, and along each. Every word that has tokens is in
    /// exactly one window. A sentence in which no word has tokens has no window.
    pub windows: Vec<WordWindow>,
    /// Words for which the tokenizer gives no token, such as a zero-width character: `(sentence, word)`.
    pub without_tokens: Vec<(usize, usize)>,
    /// Words with more tokens than fit in a window, of which only the first are kept: `(sentence, word)`.
    pub cut_words: Vec<(usize, usize)>,
    /// Number of sentences with more than one window.
    pub divided_sentences: usize,
    /// Whether a space was put before every word, as transformers does with `add_prefix_space=True`.
    pub spaced: bool,
}

impl WordWindow {
    /// For every word, its index in the sentence and that of its first token in the window.
    pub fn first_tokens(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.words.iter().map(|word| (word.word, word.tokens.start))
    }
}

/// Windows and problems of one sentence.
#[derive(Default)]
struct Made {
    windows: Vec<(Encoding, Vec<WordTokens>)>,
    without_tokens: Vec<usize>,
    cut_words: Vec<usize>,
}

impl WordWindows {
    /// Tokenizes all sentences, in parallel. A window has at most [`Tokenizer::maximum_length`] tokens, special tokens
    /// included.
    ///
    /// A byte-level tokenizer that adds no space before a text (GPT-2, RoBERTa, DeBERTa) adds one before every word here:
    /// without it, the words of a sentence would run together.
    ///
    /// # Errors
    /// A sentence that the tokenizer cannot process; cancellation.
    pub fn new(file: &TaggedFile, tokenizer: &Tokenizer, observer: &dyn Observer) -> Result<Self, DatasetError> {
        let total = Some(file.sentences.len() as u64);
        observer.observe(Event::Begin { stage: "tokenizing", total, done: 0, unit: "sentences" });
        let encoder = WordEncoder::new(tokenizer);
        let mut all = WordWindows { spaced: encoder.spaced, ..WordWindows::default() };
        for (number, chunk) in file.sentences.chunks(CHUNK).enumerate() {
            observer.check()?;
            let part: Vec<Made> =
                chunk.par_iter().map(|sentence| encoder.encode(sentence)).collect::<Result<_, _>>()?;
            for (place, made) in part.into_iter().enumerate() {
                all.add(number * CHUNK + place, made);
            }
            let done = (number * CHUNK + chunk.len()) as u64;
            observer.observe(Event::Advance { done, detail: "" });
        }
        observer.observe(Event::End);
        Ok(all)
    }

    fn add(&mut self, sentence: usize, made: Made) {
        self.divided_sentences += usize::from(made.windows.len() > 1);
        for (encoding, words) in made.windows {
            self.encodings.push(encoding);
            self.windows.push(WordWindow { sentence, words });
        }
        self.without_tokens.extend(made.without_tokens.into_iter().map(|word| (sentence, word)));
        self.cut_words.extend(made.cut_words.into_iter().map(|word| (sentence, word)));
    }
}

/// A tokenizer for sentences that are split into words.
struct WordEncoder<'a> {
    inner: tokenizers::Tokenizer,
    finish: Option<&'a PostProcessorWrapper>,
    tokenizer: &'a Tokenizer,
    gives_type_ids: bool,
    spaced: bool,
}

impl<'a> WordEncoder<'a> {
    fn new(tokenizer: &'a Tokenizer) -> Self {
        let (inner, finish, gives_type_ids) = tokenizer.parts();
        let mut inner = inner.clone();
        let mut spaced = false;
        // The setting with which `run_ner.py` of transformers opens the tokenizers of these models.
        if let Some(PreTokenizerWrapper::ByteLevel(bytes)) = inner.get_pre_tokenizer()
            && !bytes.add_prefix_space
        {
            let with_space = bytes.add_prefix_space(true);
            inner.with_pre_tokenizer(Some(with_space));
            spaced = true;
        }
        WordEncoder { inner, finish, tokenizer, gives_type_ids, spaced }
    }

    /// The windows of a sentence, each with as many words as fit.
    fn encode(&self, sentence: &TaggedSentence) -> Result<Made, DatasetError> {
        let failed = |reason: String| DatasetError::Tokenization {
            line: sentence.line,
            path: self.tokenizer.path().into(),
            reason: reason.replace(['\n', '\r'], " "),
        };
        if let Some(word) = sentence.words.iter().find(|word| word.len() > LONGEST_WORD) {
            return Err(failed(format!("takes words of at most 1 MB, and one here has {} MB", word.len() >> 20)));
        }
        let words: Vec<&str> = sentence.words.iter().map(String::as_str).collect();
        let number = words.len();
        let whole = guarded(|| self.inner.encode(words, false)).map_err(|error| failed(format!("says: {error}")))?;
        let mut ranges = vec![0..0; number];
        for (at, word) in whole.get_word_ids().iter().enumerate() {
            let Some(range) = word.and_then(|word| ranges.get_mut(word as usize)) else { continue };
            *range = if range.start == range.end { at..at + 1 } else { range.start..at + 1 };
        }
        let special = self.finish.map_or(0, |processor| processor.added_tokens(false));
        let room = self.tokenizer.maximum_length().saturating_sub(special).max(1);
        let mut made = Made::default();
        let mut pieces: Vec<Vec<(usize, Range<usize>)>> = Vec::new();
        let mut left = 0;
        for (word, mut range) in ranges.into_iter().enumerate() {
            if range.start == range.end {
                made.without_tokens.push(word);
                continue;
            }
            if range.len() > room {
                made.cut_words.push(word);
                range.end = range.start + room;
            }
            if range.len() > left {
                pieces.push(Vec::new());
                left = room;
            }
            left -= range.len();
            if let Some(piece) = pieces.last_mut() {
                piece.push((word, range));
            }
        }
        for piece in pieces {
            made.windows.push(self.window(&whole, &piece).map_err(|error| failed(format!("says: {error}")))?);
        }
        Ok(made)
    }

    /// Tokens of some words, with special tokens.
    fn window(
        &self,
        whole: &tokenizers::Encoding,
        words: &[(usize, Range<usize>)],
    ) -> Result<(Encoding, Vec<WordTokens>), String> {
        let piece = slice(whole, words);
        let piece = match self.finish {
            Some(processor) => guarded(|| processor.process(piece, None, true))?,
            None => piece,
        };
        let ids = piece.get_ids().to_vec();
        let type_ids = if self.gives_type_ids { piece.get_type_ids().to_vec() } else { vec![0; ids.len()] };
        let mut places: Vec<WordTokens> = Vec::with_capacity(words.len());
        for (at, word) in piece.get_word_ids().iter().enumerate() {
            let Some(word) = word.map(|word| word as usize) else { continue };
            match places.last_mut() {
                Some(last) if last.word == word => last.tokens.end = at + 1,
                _ => places.push(WordTokens { word, tokens: at..at + 1 }),
            }
        }
        Ok((Encoding { ids, type_ids }, places))
    }
}

/// The tokens of some words.
fn slice(whole: &tokenizers::Encoding, words: &[(usize, Range<usize>)]) -> tokenizers::Encoding {
    let places: Vec<usize> = words.iter().flat_map(|(_, range)| range.clone()).collect();
    fn taken<T: Clone>(places: &[usize], values: &[T]) -> Vec<T> {
        places.iter().filter_map(|&at| values.get(at).cloned()).collect()
    }
    tokenizers::Encoding::new(
        taken(&places, whole.get_ids()),
        taken(&places, whole.get_type_ids()),
        taken(&places, whole.get_tokens()),
        taken(&places, whole.get_word_ids()),
        taken(&places, whole.get_offsets()),
        taken(&places, whole.get_special_tokens_mask()),
        taken(&places, whole.get_attention_mask()),
        Vec::new(),
        Default::default(),
    )
}
