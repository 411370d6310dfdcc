//! Lists of words and tags in JSON lines.

use std::path::Path;

use serde_json::{Map, Value};

use super::error::{Place, quoted, quoted_list};
use super::tagged_sentence::{TAG_KEYS, TaggedSentence, TaggedSettings, WORD_KEYS, bad};
use super::{DatasetError, table};
use crate::hint::Hint;

/// Reads the sentences of a text.
pub(super) fn read(path: &Path, text: &str, settings: &TaggedSettings) -> Result<Vec<TaggedSentence>, DatasetError> {
    let mut sentences = Vec::new();
    let mut keys: Option<(String, Option<String>)> = None;
    let rows = table::lines(text).filter(|(_, content)| !content.trim().is_empty());
    for (line, content) in rows.take(settings.row_limit()) {
        let refuse = |found: String, cure| bad(path, Some(Place::Line(line)), found, cure);
        let object = table::json_object(content).map_err(|(found, cure)| refuse(found, cure))?;
        let (words, tags) = match &keys {
            Some(keys) => keys,
            None => {
                let keys_of = object.keys().map(String::as_str).collect::<Vec<_>>();
                let found = columns(path, Some(line), &keys_of, settings)?;
                keys.insert(found)
            }
        };
        let missing =
            || refuse(format!("there is no key `{words}`, which other rows have"), "mend the row or remove it");
        let words = list(&object, words, false).map_err(|found| refuse(found, "words are a list of strings"))?;
        let tags = match tags {
            None => None,
            Some(tags) => list(&object, tags, true)
                .map_err(|found| refuse(found, "tags are a list of strings or of whole numbers"))?,
        };
        sentences.push(TaggedSentence { line, words: words.ok_or_else(missing)?, tags });
    }
    Ok(sentences)
}

/// The keys of words and tags, from those of the first row.
pub(super) fn columns(
    path: &Path,
    line: Option<usize>,
    there: &[&str],
    settings: &TaggedSettings,
) -> Result<(String, Option<String>), DatasetError> {
    let missing = |column: &str, cure: String| DatasetError::MissingColumn {
        path: path.into(),
        line,
        column: column.into(),
        there: quoted_list(there),
        cure: cure.into(),
    };
    let find = |named: &Option<String>, usual: &[&str]| match named {
        Some(name) => there.contains(&name.as_str()).then(|| name.clone()),
        None => usual.iter().find(|key| there.contains(key)).map(|key| (*key).to_owned()),
    };
    let name = |named: &Option<String>, usual: &str| named.clone().unwrap_or_else(|| usual.to_owned());
    let words = find(&settings.words, &WORD_KEYS).ok_or_else(|| {
        let cure = format!("name the one that holds the list of words ({})", Hint::Text);
        missing(&name(&settings.words, WORD_KEYS[0]), cure)
    })?;
    let tags = find(&settings.tags, &TAG_KEYS);
    if tags.is_none() && (settings.need_tags || settings.tags.is_some()) {
        let cure = format!("name the one that holds the list of tags ({})", Hint::Label);
        return Err(missing(&name(&settings.tags, TAG_KEYS[0]), cure));
    }
    Ok((words, tags))
}

/// The list of strings (with `numbers`, whole numbers too) under a key; `None` where the key is missing or null.
fn list(object: &Map<String, Value>, key: &str, numbers: bool) -> Result<Option<Vec<String>>, String> {
    let items = match object.get(key) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(items)) => items,
        Some(other) => return Err(format!("`{key}` is {} instead of a list", table::kind(other))),
    };
    let text = |(at, item): (usize, &Value)| match item {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) if numbers && number.is_u64() => Ok(number.to_string()),
        Value::Number(number) if numbers => {
            Err(format!("item {} of `{key}` is {}", at + 1, quoted(&number.to_string())))
        }
        other => Err(format!("item {} of `{key}` is {}", at + 1, table::kind(other))),
    };
    items.iter().enumerate().map(text).collect::<Result<_, _>>().map(Some)
}
