//! Files of sentences with predicted tags: CoNLL and JSON lines.

use std::io::Write as _;
use std::path::Path;

use serde::Serialize;

use super::TaggedSentence;
use crate::files::{FileError, write_atomically};

/// A line of the JSON form.
#[derive(Serialize)]
struct Line<'a> {
    words: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<&'a [String]>,
    predicted: &'a [String],
}

/// Writes CoNLL: one line per word, `word TAB predicted tag`, with the true tag between them where it is known, and an empty
/// line after every sentence. A tab or line end inside a word becomes a space.
///
/// `predicted` has one list per sentence, `[sentences][words]`; missing tags count as `O`.
///
/// # Errors
/// If the file cannot be written.
pub fn write_conll(path: &Path, sentences: &[TaggedSentence], predicted: &[Vec<String>]) -> Result<(), FileError> {
    let mut text = String::new();
    for (number, sentence) in sentences.iter().enumerate() {
        for (at, word) in sentence.words.iter().enumerate() {
            let truth = sentence.tags.as_ref().map(|tags| tags.get(at).map_or("O", String::as_str));
            let found = predicted.get(number).and_then(|tags| tags.get(at)).map_or("O", String::as_str);
            for (place, field) in [Some(word.as_str()), truth, Some(found)].into_iter().flatten().enumerate() {
                if place > 0 {
                    text.push('\t');
                }
                text.extend(field.chars().map(|c| if matches!(c, '\t' | '\n' | '\r' | '\0') { ' ' } else { c }));
            }
            text.push('\n');
        }
        text.push('\n');
    }
    write_atomically(path, |file| file.write_all(text.as_bytes()))
}

/// Writes JSON lines: `{"words": […], "tags": […], "predicted": […]}` for every sentence, without `tags` where they are not known.
///
/// # Errors
/// If the file cannot be written.
pub fn write_json_lines(path: &Path, sentences: &[TaggedSentence], predicted: &[Vec<String>]) -> Result<(), FileError> {
    write_atomically(path, |file| {
        for (number, sentence) in sentences.iter().enumerate() {
            let predicted = predicted.get(number).map_or(&[][..], Vec::as_slice);
            let line = Line { words: &sentence.words, tags: sentence.tags.as_deref(), predicted };
            serde_json::to_writer(&mut *file, &line)?;
            file.write_all(b"\n")?;
        }
        Ok(())
    })
}
