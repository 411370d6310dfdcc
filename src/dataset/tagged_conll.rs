//! CoNLL files: one word per line with its columns, and an empty line after every sentence.

use std::path::Path;

use super::error::{Place, quoted};
use super::tag_scheme::is_tag;
use super::tagged_sentence::{TaggedSentence, TaggedSettings, bad};
use super::{DatasetError, table};

/// Marks the beginning of a document.
const DOCUMENT: &str = "-DOCSTART-";

/// The columns of a file, from 0.
struct Columns {
    /// Number of columns.
    count: usize,
    word: usize,
    tag: Option<usize>,
    /// Whether the first tag is a number.
    numbers: bool,
}

/// Reads the sentences of a text. Missing words are checked for elsewhere.
pub(super) fn read(path: &Path, text: &str, settings: &TaggedSettings) -> Result<Vec<TaggedSentence>, DatasetError> {
    let Some(columns) = Columns::of(path, text, settings)? else { return Ok(Vec::new()) };
    let mut sentences: Vec<TaggedSentence> = Vec::new();
    let mut inside = false;
    for (line, content) in table::lines(text) {
        let fields = if is_blank(content) { Vec::new() } else { fields(content) };
        if fields.first().is_none_or(|first| *first == DOCUMENT) {
            inside = false;
            continue;
        }
        if !inside && columns.is_comment(content, &fields) {
            continue;
        }
        if !inside && sentences.len() == settings.row_limit() {
            break;
        }
        if fields.len() != columns.count {
            let found = format!("the number of columns is {}, in the first line {}", fields.len(), columns.count);
            let cure = "every word has a line of its own, with the same columns everywhere: mend the line";
            return Err(bad(path, Some(Place::Line(line)), found, cure));
        }
        if !inside {
            let tags = columns.tag.map(|_| Vec::new());
            sentences.push(TaggedSentence { line, words: Vec::new(), tags });
            inside = true;
        }
        if let Some(sentence) = sentences.last_mut() {
            sentence.words.push(fields[columns.word].to_owned());
            if let (Some(tags), Some(at)) = (&mut sentence.tags, columns.tag) {
                tags.push(fields[at].to_owned());
            }
        }
    }
    Ok(sentences)
}

fn is_blank(line: &str) -> bool {
    line.chars().all(char::is_whitespace)
}

/// The columns of a line. Where there is a tab, only tabs separate them: words may then contain spaces.
fn fields(line: &str) -> Vec<&str> {
    if line.contains('\t') {
        line.split('\t').map(|field| field.trim_matches(' ')).collect()
    } else {
        // A non-breaking space is part of a word.
        line.split([' ', '\u{B}', '\u{C}']).filter(|field| !field.is_empty()).collect()
    }
}

impl Columns {
    /// Finds the columns from the first line with a word; `None` where there is none.
    fn of(path: &Path, text: &str, settings: &TaggedSettings) -> Result<Option<Self>, DatasetError> {
        let words = || {
            table::lines(text)
                .filter(|(_, line)| !is_blank(line) && fields(line).first().is_some_and(|first| *first != DOCUMENT))
        };
        let first = words().find(|(_, line)| !line.starts_with("# ")).or_else(|| words().next());
        let Some((line, content)) = first else { return Ok(None) };
        let fields = fields(content);
        let count = fields.len();
        let number = |name: &Option<String>, usual: usize| match name {
            None => Ok(usual),
            Some(name) => {
                let at = name.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
                at.filter(|at| *at < count).ok_or_else(|| {
                    let found = format!("there is no column {}; the first line has {count}", quoted(name));
                    bad(path, Some(Place::Line(line)), found, "columns are named by their numbers, from 1")
                })
            }
        };
        let word = number(&settings.words, 0)?;
        let tag = match (&settings.tags, count) {
            (None, 1) => None,
            _ => Some(number(&settings.tags, count - 1)?),
        };
        let numbers = tag.is_some_and(|tag| is_number(fields[tag]));
        Ok(Some(Columns { count, word, tag, numbers }))
    }

    /// Whether a line before the first word of a sentence is a comment, as in CoNLL-U: it begins with `# ` and cannot be the
    /// word `#`, because it has a different number of columns from other lines, or no tag.
    fn is_comment(&self, line: &str, fields: &[&str]) -> bool {
        let has_tag = |at: usize| is_tag(fields[at]) || self.numbers && is_number(fields[at]);
        line.starts_with("# ") && (fields.len() != self.count || self.tag.is_some_and(|at| !has_tag(at)))
    }
}

fn is_number(field: &str) -> bool {
    !field.is_empty() && field.bytes().all(|byte| byte.is_ascii_digit())
}
