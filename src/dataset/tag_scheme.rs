//! Schemes of tags that mark entities in a sequence of words, and the entities that a sequence of tags stands for: those of
//! the Python package seqeval 1.2.2.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use super::error::quoted;

/// How tags mark where an entity begins and ends. `O` is a word outside any entity; other tags are a letter, `-` and the
/// kind of the entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TagScheme {
    /// `I` for every word of an entity, but `B` for the first one where an entity of the same kind ends just before.
    Iob1,
    /// `B` for the first word, `I` for the others (BIO).
    Iob2,
    /// `B` first, `I` inside, `L` last, `U` for a single word.
    Bilou,
    /// `B` first, `I` inside, `E` last, `S` for a single word (BIOES).
    Iobes,
}

/// An entity: the words `start..end` of a sentence.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct Entity {
    /// Kind of the entity, e.g. `PER`; `_` where tags are single letters.
    pub kind: String,
    /// Index of the first word, from 0.
    pub start: usize,
    /// Index after the last word.
    pub end: usize,
}

/// A tag that the scheme does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is no tag of the scheme {scheme}, whose tags are {}; mend the tag, or give another scheme", quoted(tag), scheme.tags())]
pub struct TagError {
    /// The tag that the scheme does not have.
    pub tag: String,
    /// The scheme that was expected.
    pub scheme: TagScheme,
}

/// Tags that belong to no known scheme. Sentence and word count from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unclear {
    /// Index of the sentence.
    pub sentence: usize,
    /// Index of the word in the sentence.
    pub word: usize,
    /// What was found there.
    pub found: String,
}

/// A scheme detected from the tags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detected {
    /// The detected scheme.
    pub scheme: TagScheme,
    /// The first position at which a tag breaks the rules of the scheme, as `(sentence, word)` from 0; `None` if all follow
    /// them.
    pub broken: Option<(usize, usize)>,
}

impl TagScheme {
    /// All schemes.
    pub const ALL: [TagScheme; 4] = [TagScheme::Iob1, TagScheme::Iob2, TagScheme::Bilou, TagScheme::Iobes];

    /// Name of the scheme in configurations and results.
    pub fn name(self) -> &'static str {
        match self {
            TagScheme::Iob1 => "iob1",
            TagScheme::Iob2 => "iob2",
            TagScheme::Bilou => "bilou",
            TagScheme::Iobes => "iobes",
        }
    }

    /// The letters that tags begin with, `O` left out.
    pub fn letters(self) -> &'static [char] {
        match self {
            TagScheme::Iob1 | TagScheme::Iob2 => &['B', 'I'],
            TagScheme::Bilou => &['B', 'I', 'L', 'U'],
            TagScheme::Iobes => &['B', 'I', 'E', 'S'],
        }
    }

    /// Description of the scheme's tags, for messages.
    pub fn tags(self) -> &'static str {
        match self {
            TagScheme::Iob1 | TagScheme::Iob2 => "O, B-… and I-…",
            TagScheme::Bilou => "O, B-…, I-…, L-… and U-…",
            TagScheme::Iobes => "O, B-…, I-…, E-… and S-…",
        }
    }

    /// Whether a tag belongs to this scheme: `O`, or one of its letters, alone or before `-` and a kind.
    pub fn has(self, tag: &str) -> bool {
        tag == "O" || letter_of(tag).is_some_and(|letter| self.letters().contains(&letter))
    }

    /// Detects the scheme that the tags of these sentences follow.
    ///
    /// `L` or `U` means BILOU, `E` or `S` means IOBES. Of the other two it is IOB1 where some entity begins with `I` and no
    /// `B` is at a position where IOB1 has none; else IOB2, with the first entity that begins with `I`, if there is one, as
    /// broken.
    ///
    /// # Errors
    /// The first tag that no scheme has, or that contradicts those before it.
    pub fn detect<S: AsRef<str>>(sentences: &[&[S]]) -> Result<Detected, Unclear> {
        let unclear = |sentence, word, found| Err(Unclear { sentence, word, found });
        let mut letters = BTreeSet::new();
        for (sentence, tags) in sentences.iter().enumerate() {
            for (word, tag) in tags.iter().enumerate() {
                let tag = tag.as_ref();
                match letter_of(tag) {
                    _ if tag == "O" => {}
                    Some(letter) => {
                        letters.insert(letter);
                        let of_bilou = letters.contains(&'L') || letters.contains(&'U');
                        let of_iobes = letters.contains(&'E') || letters.contains(&'S');
                        if of_bilou && of_iobes {
                            let found = format!("the tag {} does not go with those before it", quoted(tag));
                            return unclear(sentence, word, found);
                        }
                    }
                    None => return unclear(sentence, word, format!("{} marks no entity", quoted(tag))),
                }
            }
        }
        let has = |letter| letters.contains(&letter);
        if has('L') || has('U') {
            return Ok(Detected { scheme: TagScheme::Bilou, broken: broken(sentences, TagScheme::Bilou) });
        }
        if has('E') && !has('B') && !has('S') {
            return unclear(0, 0, "tags with E and without B are those of the scheme IOE".into());
        }
        if has('E') || has('S') {
            return Ok(Detected { scheme: TagScheme::Iobes, broken: broken(sentences, TagScheme::Iobes) });
        }
        let of_iob2 = broken(sentences, TagScheme::Iob2);
        match (of_iob2, broken(sentences, TagScheme::Iob1)) {
            (Some(_), None) => Ok(Detected { scheme: TagScheme::Iob1, broken: None }),
            _ => Ok(Detected { scheme: TagScheme::Iob2, broken: of_iob2 }),
        }
    }

    /// Checks that all tags of these sentences belong to this scheme, and finds where its rules are first broken.
    ///
    /// # Errors
    /// The first tag that the scheme does not have.
    pub fn check<S: AsRef<str>>(self, sentences: &[&[S]]) -> Result<Detected, Unclear> {
        for (sentence, tags) in sentences.iter().enumerate() {
            if let Some(word) = tags.iter().position(|tag| !self.has(tag.as_ref())) {
                let found = format!("{} is no tag of the scheme {self} ({})", quoted(tags[word].as_ref()), self.tags());
                return Err(Unclear { sentence, word, found });
            }
        }
        Ok(Detected { scheme: self, broken: broken(sentences, self) })
    }

    /// Whether a tag may follow another; both ends of a sentence count as `O`.
    fn allows(self, before: (char, &str), (letter, kind): (char, &str)) -> bool {
        let same = before.1 == kind;
        match self {
            TagScheme::Iob1 => letter != 'B' || matches!(before.0, 'B' | 'I') && same,
            TagScheme::Iob2 => letter != 'I' || matches!(before.0, 'B' | 'I') && same,
            TagScheme::Bilou | TagScheme::Iobes => {
                let open = matches!(before.0, 'B' | 'I');
                if matches!(letter, 'I' | 'L' | 'E') { open && same } else { !open }
            }
        }
    }
}

/// The first position at which the scheme does not allow the tag.
fn broken<S: AsRef<str>>(sentences: &[&[S]], scheme: TagScheme) -> Option<(usize, usize)> {
    sentences.iter().enumerate().find_map(|(sentence, tags)| {
        let mut before = ('O', "_");
        for (word, tag) in tags.iter().map(AsRef::as_ref).chain(["O"]).enumerate() {
            let now = parts(tag);
            if !scheme.allows(before, now) {
                return Some((sentence, word.min(tags.len().saturating_sub(1))));
            }
            before = now;
        }
        None
    })
}

/// The letter of a well-formed tag that marks an entity.
fn letter_of(tag: &str) -> Option<char> {
    let letter = tag.chars().next().filter(|letter| "BILUES".contains(*letter))?;
    let rest = &tag[letter.len_utf8()..];
    (rest.is_empty() || rest.strip_prefix('-').is_some_and(|kind| !kind.is_empty())).then_some(letter)
}

/// Whether a text looks like a tag of one of the schemes.
pub(super) fn is_tag(text: &str) -> bool {
    text == "O" || letter_of(text).is_some()
}

/// Letter and kind in seqeval's strict mode; `O` and `_` for an empty tag.
fn parts(tag: &str) -> (char, &str) {
    let letter = tag.chars().next().unwrap_or('O');
    let kind = tag.get(letter.len_utf8()..).unwrap_or_default().trim_matches('-');
    (letter, if kind.is_empty() { "_" } else { kind })
}

/// Letter and kind in seqeval's default mode.
fn lenient_parts(tag: &str) -> (char, &str) {
    let letter = tag.chars().next().unwrap_or('O');
    let rest = tag.get(letter.len_utf8()..).unwrap_or_default();
    let kind = rest.split_once('-').map_or(rest, |(_, kind)| kind);
    (letter, if kind.is_empty() { "_" } else { kind })
}

/// The entities of a sentence, as seqeval finds them.
///
/// Strict (`mode="strict", scheme=…`): only words that follow the rules of the scheme are an entity. Otherwise (the default
/// of seqeval, and of `conlleval`): an entity also begins where the kind changes, and the scheme is ignored; the letters `L`
/// and `U` mean nothing there, so that adjacent `U-x U-x` are one entity: use strict mode for BILOU.
///
/// # Errors
/// In strict mode, a tag that does not begin with one of the scheme's letters.
pub fn spans<S: AsRef<str>>(tags: &[S], scheme: TagScheme, strict: bool) -> Result<Vec<Entity>, TagError> {
    if strict { strict_spans(tags, scheme) } else { Ok(lenient_spans(tags.iter().map(AsRef::as_ref))) }
}

/// `get_entities` of `seqeval/metrics/sequence_labeling.py`. Several sentences are joined with an `O` after each.
pub(super) fn lenient_spans<'a>(tags: impl Iterator<Item = &'a str>) -> Vec<Entity> {
    let mut entities = Vec::new();
    let mut begin = 0;
    let (mut before, mut kind_before) = ('O', "");
    for (at, tag) in tags.chain(["O"]).enumerate() {
        let (letter, kind) = lenient_parts(tag);
        let changed = kind_before != kind;
        let ends = matches!((before, letter), ('E' | 'S', _) | ('B' | 'I', 'B' | 'S' | 'O'))
            || changed && !matches!(before, 'O' | '.');
        let begins = matches!((before, letter), (_, 'B' | 'S') | ('E' | 'S' | 'O', 'E' | 'I'))
            || changed && !matches!(letter, 'O' | '.');
        if ends {
            entities.push(Entity { kind: kind_before.to_owned(), start: begin, end: at });
        }
        if begins {
            begin = at;
        }
        (before, kind_before) = (letter, kind);
    }
    entities
}

/// `Tokens.entities` of `seqeval/scheme.py`.
fn strict_spans<S: AsRef<str>>(tags: &[S], scheme: TagScheme) -> Result<Vec<Entity>, TagError> {
    let mut tokens = Vec::with_capacity(tags.len() + 1);
    for tag in tags.iter().map(AsRef::as_ref) {
        let token = parts(tag);
        if token.0 != 'O' && !scheme.letters().contains(&token.0) {
            return Err(TagError { tag: tag.to_owned(), scheme });
        }
        tokens.push(token);
    }
    tokens.push(('O', "_"));
    let mut entities = Vec::new();
    let mut before = ('O', "_");
    let mut at = 0;
    while at < tokens.len() {
        if starts(scheme, before, tokens[at]) {
            let inside = tokens[at..].windows(2).take_while(|pair| continues(scheme, pair[0], pair[1])).count();
            let end = (at + inside + 1).min(tags.len());
            if stops(scheme, tokens[end - 1], tokens[end]) {
                entities.push(Entity { kind: tokens[at].1.to_owned(), start: at, end });
            }
            at = end;
        } else {
            at += 1;
        }
        before = tokens[at - 1];
    }
    Ok(entities)
}

/// `start_patterns` of the scheme.
fn starts(scheme: TagScheme, before: (char, &str), now: (char, &str)) -> bool {
    let same = before.1 == now.1;
    match (scheme, before.0, now.0) {
        (TagScheme::Iob1, 'O' | 'B', 'I') => true,
        (TagScheme::Iob1, 'I', 'I') => !same,
        (TagScheme::Iob1, 'I' | 'B', 'B') => same,
        (TagScheme::Iob1, ..) => false,
        (TagScheme::Iob2, _, letter) => letter == 'B',
        (TagScheme::Bilou, _, letter) => matches!(letter, 'B' | 'U'),
        (TagScheme::Iobes, _, letter) => matches!(letter, 'B' | 'S'),
    }
}

/// `inside_patterns` of the scheme.
fn continues(scheme: TagScheme, before: (char, &str), now: (char, &str)) -> bool {
    let last = match scheme {
        TagScheme::Iob1 | TagScheme::Iob2 => 'I',
        TagScheme::Bilou => 'L',
        TagScheme::Iobes => 'E',
    };
    before.1 == now.1 && matches!(before.0, 'B' | 'I') && (now.0 == 'I' || now.0 == last)
}

/// `end_patterns` of the scheme, for the last word of an entity and the tag after it.
fn stops(scheme: TagScheme, last: (char, &str), next: (char, &str)) -> bool {
    let same = last.1 == next.1;
    match (scheme, last.0, next.0) {
        (TagScheme::Iob1 | TagScheme::Iob2, 'I' | 'B', 'O') => true,
        (TagScheme::Iob1 | TagScheme::Iob2, 'I' | 'B', 'I') => !same,
        (TagScheme::Iob1 | TagScheme::Iob2, 'I', 'B') => true,
        (TagScheme::Iob1, 'B', 'B') => same,
        (TagScheme::Iob2, 'B', 'B') => true,
        (TagScheme::Iob1 | TagScheme::Iob2, ..) => false,
        (TagScheme::Bilou, letter, _) => matches!(letter, 'U' | 'L'),
        (TagScheme::Iobes, letter, _) => matches!(letter, 'S' | 'E'),
    }
}

impl fmt::Display for TagScheme {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for TagScheme {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "iob1" => Ok(TagScheme::Iob1),
            "iob2" | "bio" => Ok(TagScheme::Iob2),
            "bilou" => Ok(TagScheme::Bilou),
            "iobes" | "bioes" => Ok(TagScheme::Iobes),
            other => Err(format!("unknown tag scheme {}; give iob1, iob2, bilou or iobes", quoted(other))),
        }
    }
}
