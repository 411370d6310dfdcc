//! Very long texts: only as much of a text is tokenized as fits in a row; where all of it counts, it is tokenized in pieces.
//! A text is only divided at a space between words, and only for tokenizers that split there themselves, so the tokens stay
//! the same.

use rayon::prelude::*;
use serde_json::Value;
use tokenizers::{AddedToken, Encoding, TruncationDirection};

use crate::progress::{Cancelled, Observer};

/// Texts shorter than this, in bytes, are tokenized whole.
const LONG: usize = 1 << 16;

/// Largest indivisible text, in bytes; the library needs some hundred times that in memory.
const MOST: usize = 1 << 21;

/// Why a text was not tokenized.
pub(super) enum Stopped {
    /// The user asked to stop.
    Cancelled(Cancelled),
    /// Message of the tokenizer, or that the text is too long.
    Failed(String),
}

impl From<Cancelled> for Stopped {
    fn from(cancelled: Cancelled) -> Self {
        Stopped::Cancelled(cancelled)
    }
}

impl From<tokenizers::Error> for Stopped {
    fn from(error: tokenizers::Error) -> Self {
        Stopped::Failed(format!("says: {error}"))
    }
}

/// Whether a tokenizer gives the same tokens for a text and for its parts when the text is divided before a space between
/// two words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Divisible(bool);

impl Divisible {
    /// Determined from the parts of this tokenizer.
    pub(super) fn new(inner: &tokenizers::Tokenizer) -> Self {
        let json = |part: serde_json::Result<Value>| part.unwrap_or_default();
        let splits = inner.get_pre_tokenizer().is_some_and(|part| splits(&json(serde_json::to_value(part))));
        let plain = inner.get_normalizer().is_none_or(|part| is_local(&json(serde_json::to_value(part))));
        // A token that includes the white space after it, or contains some, could span the point of division.
        let reaches = |token: &AddedToken| {
            let last = token.content.chars().next_back();
            token.content.contains(char::is_whitespace) || token.rstrip && last.is_some_and(char::is_alphanumeric)
        };
        let apart = !inner.get_added_tokens_decoder().values().any(reaches);
        Divisible(splits && plain && apart)
    }
}

/// Whether a pre-tokenizer always splits before a space between two letters or digits.
fn splits(part: &Value) -> bool {
    match part["type"].as_str() {
        Some("Sequence") => part["pretokenizers"].as_array().is_some_and(|parts| parts.iter().any(splits)),
        Some("BertPreTokenizer" | "Whitespace" | "WhitespaceSplit") => true,
        Some("ByteLevel") => part["use_regex"] != false,
        Some("Metaspace") => part["split"] != false,
        // The patterns of GPT-2 and its successors.
        Some("Split") => part["pattern"]["Regex"].as_str().is_some_and(|words| words.contains(r"\s+(?!\S)")),
        _ => false,
    }
}

/// Whether a normalizer depends only on characters and their neighbours, and never on the beginning of a text.
fn is_local(part: &Value) -> bool {
    match part["type"].as_str() {
        Some("Sequence") => part["normalizers"].as_array().is_some_and(|parts| parts.iter().all(is_local)),
        Some("Strip") => part["strip_left"] == false,
        Some("Prepend") | None => false,
        _ => true,
    }
}

/// The last offset at or before `at` at which a text may be divided: before a space between two words.
fn last_place(text: &str, at: usize) -> Option<usize> {
    let mut at = text.floor_char_boundary(at);
    loop {
        let space = text.get(..at)?.rfind(' ')?;
        let before = text[..space].chars().next_back().is_some_and(char::is_alphanumeric);
        let after = text[space + 1..].chars().next().is_some_and(char::is_alphanumeric);
        if before && after {
            return Some(space);
        }
        at = space;
    }
}

/// The first offset at or after `at` at which a text may be divided.
fn next_place(text: &str, at: usize) -> Option<usize> {
    let mut at = text.floor_char_boundary(at);
    loop {
        let space = at + text.get(at..)?.find(' ')?;
        let before = text[..space].chars().next_back().is_some_and(char::is_alphanumeric);
        let after = text[space + 1..].chars().next().is_some_and(char::is_alphanumeric);
        if before && after {
            return Some(space);
        }
        at = space + 1;
    }
}

fn too_long(text: &str, why: &str) -> Stopped {
    Stopped::Failed(format!(
        "takes at most {} MB of a text {why}, and this one has {} MB",
        MOST >> 20,
        text.len().div_ceil(1 << 20)
    ))
}

const UNDIVIDED: &str = "that it cannot divide at spaces";

/// Tokens of a text without special tokens: all, or at least `enough` of them from the side that is kept.
pub(super) fn encode(
    inner: &tokenizers::Tokenizer,
    divisible: Divisible,
    text: &str,
    enough: usize,
    direction: TruncationDirection,
) -> Result<Encoding, Stopped> {
    let mut bytes = LONG.max(enough.saturating_mul(8));
    while text.len() > bytes && divisible.0 {
        let part = match direction {
            TruncationDirection::Right => last_place(text, bytes).map(|at| &text[..at]),
            TruncationDirection::Left => next_place(text, text.len() - bytes).map(|at| &text[at..]),
        };
        if let Some(part) = part {
            let encoding = inner.encode_fast(part, false)?;
            // The first word of a part may be tokenized differently where text preceded it.
            if encoding.len() > enough + part.split(' ').nth(1).map_or(enough, |word| word.len() + 8) {
                return Ok(encoding);
            }
        }
        bytes *= 4;
    }
    if text.len() > MOST {
        return Err(too_long(text, UNDIVIDED));
    }
    Ok(inner.encode_fast(text, false)?)
}

/// The pieces of a text, each with its byte offset: one piece where the text is short or cannot be divided.
fn pieces(divisible: Divisible, text: &str) -> Result<Vec<(usize, &str)>, Stopped> {
    let mut pieces = Vec::new();
    let mut start = 0;
    while divisible.0 && text.len() - start > LONG {
        let Some(end) = next_place(text, start + LONG) else { break };
        pieces.push((start, &text[start..end]));
        start = end;
    }
    pieces.push((start, &text[start..]));
    match pieces.iter().find(|(_, piece)| piece.len() > MOST) {
        Some((_, piece)) => Err(too_long(piece, UNDIVIDED)),
        None => Ok(pieces),
    }
}

/// Number of tokens of a text, without special tokens.
pub(super) fn count(
    inner: &tokenizers::Tokenizer,
    divisible: Divisible,
    text: &str,
    observer: &dyn Observer,
) -> Result<usize, Stopped> {
    let length = |(_, piece): &(usize, &str)| -> Result<usize, Stopped> {
        observer.check()?;
        Ok(inner.encode_fast(*piece, false)?.len())
    };
    let lengths = pieces(divisible, text)?.par_iter().map(length).collect::<Result<Vec<_>, _>>()?;
    Ok(lengths.into_iter().sum())
}

/// Whether a text is so long that its tokens are better counted than kept.
pub(super) fn is_long(text: &str) -> bool {
    text.len() > LONG
}

/// Tokens of a text without special tokens, and the bytes that each stands for: all, or more than `enough`.
pub(super) fn encode_in_place(
    inner: &tokenizers::Tokenizer,
    divisible: Divisible,
    text: &str,
    enough: Option<usize>,
    observer: &dyn Observer,
) -> Result<(Encoding, Vec<(usize, usize)>), Stopped> {
    let mut whole = Vec::new();
    let mut places = Vec::new();
    for (start, piece) in pieces(divisible, text)? {
        observer.check()?;
        let encoding = inner.encode(piece, false)?;
        places.extend(encoding.get_offsets().iter().map(|(from, to)| (start + from, start + to)));
        whole.push(encoding);
        if enough.is_some_and(|enough| places.len() > enough) {
            break;
        }
    }
    let whole = if whole.len() == 1 { whole.remove(0) } else { Encoding::merge(whole, false) };
    Ok((whole, places))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_divided_between_words_alone() {
        let text = "ein Wort, zwei  Wörter";
        assert_eq!(last_place(text, 100), Some(3), "neither behind a comma nor at two spaces");
        assert_eq!(last_place(text, 3), None);
        assert_eq!(next_place(text, 0), Some(3));
        assert_eq!(next_place("é è", 1), Some(2));
        assert_eq!(next_place(text, 4), None);
    }
}
