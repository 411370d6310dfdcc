//! Tagged sentences: words with a tag each, from CoNLL files, and from lists in JSON lines or Parquet.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use super::error::{Place, quoted, quoted_list};
use super::tag_scheme::TagScheme;
use super::tagged_sentence::{TaggedFormat, TaggedSentence, TaggedSettings, bad};
use super::{DatasetError, parquet_lists, table, tagged_conll, tagged_json};
use crate::files::{read_file, sha256};
use crate::hint::Hint;

/// The sentences of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaggedFile {
    /// Path of the file.
    pub path: PathBuf,
    /// SHA-256 of the file, in hex.
    pub sha256: String,
    /// The sentences in the order of the file.
    pub sentences: Vec<TaggedSentence>,
    /// The scheme of the tags; `None` where there are no tags, or where they are numbers without names.
    pub scheme: Option<TagScheme>,
    /// What a user should look at before trusting the tags.
    pub warnings: Vec<String>,
}

impl TaggedFile {
    /// Reads a file.
    ///
    /// # Errors
    /// One line that names the file, the line, what was found and the cure: unreadable file, unknown format, invalid UTF-8,
    /// lines with different numbers of columns, different numbers of words and tags, an empty word, no tags where they are
    /// needed, a tag of another scheme or not among the names, no sentences.
    pub fn load(path: &Path, settings: &TaggedSettings) -> Result<Self, DatasetError> {
        if path.is_dir() {
            let (found, cure) = ("is a folder", "name a file in it".into());
            return Err(DatasetError::NotATable { path: path.into(), found, cure });
        }
        TaggedFile::from_bytes(path, &read_file(path)?, settings)
    }

    /// Reads a file from memory; `path` names it in messages, and its extension gives the format where the settings do not.
    ///
    /// # Errors
    /// Those of [`TaggedFile::load`].
    pub fn from_bytes(path: &Path, bytes: &[u8], settings: &TaggedSettings) -> Result<Self, DatasetError> {
        let format = settings.format.or_else(|| TaggedFormat::of(path)).ok_or_else(|| {
            let cure = "give the format: txt (CoNLL), jsonl or parquet";
            bad(path, None, "cannot tell from the file name how words and tags are written".into(), cure)
        })?;
        let content = table::unpacked(path, bytes)?;
        let mut sentences = match format {
            TaggedFormat::Conll => {
                tagged_conll::read(path, &table::text_of(path, &content, table::Lines::Checked)?, settings)?
            }
            TaggedFormat::Jsonl => {
                tagged_json::read(path, &table::text_of(path, &content, table::Lines::AsTheyAre)?, settings)?
            }
            TaggedFormat::Parquet => parquet_lists::read(path, &content, settings)?,
        };
        if sentences.is_empty() {
            return Err(bad(path, None, "holds no sentences".into(), "check that it is the right file"));
        }
        let places = Places { path, format };
        places.check(&sentences, settings.need_tags)?;
        let numbers = places.name_tags(&mut sentences, settings.labels.as_deref(), settings.numbered)?;
        let (scheme, warning) =
            if numbers { (None, Some(numbered(path))) } else { places.scheme(&sentences, settings)? };
        let sha256 = sha256(bytes);
        Ok(TaggedFile { path: path.into(), sha256, sentences, scheme, warnings: warning.into_iter().collect() })
    }

    /// Whether the sentences have tags.
    pub fn has_tags(&self) -> bool {
        self.sentences.iter().any(|sentence| sentence.tags.is_some())
    }

    /// The distinct tags, sorted by their bytes, as Hugging Face's `run_ner.py` sorts them; numbers by value.
    pub fn tag_names(&self) -> Vec<String> {
        let mut names: Vec<&String> =
            self.sentences.iter().filter_map(|sentence| sentence.tags.as_ref()).flatten().collect();
        names.sort_unstable_by_key(|name| (name.parse::<u64>().unwrap_or(u64::MAX), *name));
        names.dedup();
        names.into_iter().cloned().collect()
    }
}

fn numbered(path: &Path) -> String {
    format!(
        "{}: the tags are numbers, which do not tell entities apart; name them in their order ({})",
        path.display(),
        Hint::Labels.with("O,B-…,I-…")
    )
}

/// Positions of sentences and words in the file, for errors.
struct Places<'a> {
    path: &'a Path,
    format: TaggedFormat,
}

impl Places<'_> {
    fn of(&self, sentence: &TaggedSentence) -> Place {
        match self.format {
            TaggedFormat::Parquet => Place::Row(sentence.line),
            _ => Place::Line(sentence.line),
        }
    }

    /// The error for a word.
    fn bad_word(
        &self,
        sentence: &TaggedSentence,
        word: usize,
        found: String,
        cure: impl Into<Cow<'static, str>>,
    ) -> DatasetError {
        match self.format {
            TaggedFormat::Conll => bad(self.path, Some(Place::Line(sentence.line + word)), found, cure),
            _ => bad(self.path, Some(self.of(sentence)), format!("word {}: {found}", word + 1), cure),
        }
    }

    /// Checks that every sentence has words, none of them empty, and as many tags as words.
    fn check(&self, sentences: &[TaggedSentence], need_tags: bool) -> Result<(), DatasetError> {
        let any_tags = sentences.iter().any(|sentence| sentence.tags.is_some());
        for sentence in sentences {
            let refuse =
                |found: String, cure: &str| Err(bad(self.path, Some(self.of(sentence)), found, cure.to_owned()));
            if sentence.words.is_empty() {
                return refuse("there is no word".into(), "remove the sentence");
            }
            if let Some(word) =
                sentence.words.iter().position(|word| word.trim_matches([' ', '\t', '\n', '\r']).is_empty())
            {
                let cure = "write the word, or remove it with its tag";
                return Err(self.bad_word(sentence, word, "the word is empty".into(), cure));
            }
            match &sentence.tags {
                Some(tags) if tags.len() != sentence.words.len() => {
                    let found = format!("the number of words is {}, of tags {}", sentence.words.len(), tags.len());
                    return refuse(found, "every word needs one tag: mend the sentence");
                }
                Some(tags) => {
                    if let Some(word) = tags.iter().position(|tag| tag.trim().is_empty()) {
                        let cure = "write O where there is no entity";
                        return Err(self.bad_word(sentence, word, "the tag is empty".into(), cure));
                    }
                }
                None if any_tags => {
                    return refuse(
                        "there are no tags, which other sentences have".into(),
                        "write them, or remove the sentence",
                    );
                }
                None if need_tags => {
                    return refuse(
                        "there are no tags".into(),
                        &format!(
                            "write one for every word, and name their column where it has another name ({})",
                            Hint::Label
                        ),
                    );
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Replaces numbers by names, and checks that every tag is among the names. Returns `true` where the tags are numbers
    /// without names.
    fn name_tags(
        &self,
        sentences: &mut [TaggedSentence],
        labels: Option<&[String]>,
        numbered: bool,
    ) -> Result<bool, DatasetError> {
        let mut all_numbers = true;
        let mut any = false;
        for sentence in sentences {
            let place = self.of(sentence);
            let (conll, line) = (self.format == TaggedFormat::Conll, sentence.line);
            for (word, tag) in sentence.tags.iter_mut().flatten().enumerate() {
                any = true;
                let Some(labels) = labels else {
                    all_numbers = all_numbers && tag.bytes().all(|byte| byte.is_ascii_digit());
                    continue;
                };
                if labels.contains(tag) {
                    continue;
                }
                match tag.parse::<usize>().ok().filter(|_| numbered).and_then(|number| labels.get(number)) {
                    Some(name) => tag.clone_from(name),
                    None => {
                        return Err(DatasetError::UnknownLabel {
                            path: self.path.into(),
                            place: if conll { Place::Line(line + word) } else { place },
                            found: quoted(tag),
                            known: quoted_list(labels),
                        });
                    }
                }
            }
        }
        Ok(any && labels.is_none() && all_numbers)
    }

    /// The scheme of the tags, and a warning about it, if any.
    fn scheme(
        &self,
        sentences: &[TaggedSentence],
        settings: &TaggedSettings,
    ) -> Result<(Option<TagScheme>, Option<String>), DatasetError> {
        let tagged: Vec<&TaggedSentence> = sentences.iter().filter(|sentence| sentence.tags.is_some()).collect();
        if tagged.is_empty() {
            return Ok((None, None));
        }
        let tags: Vec<&[String]> = tagged.iter().filter_map(|sentence| sentence.tags.as_deref()).collect();
        let detected = match settings.scheme {
            Some(scheme) => scheme.check(&tags),
            None => TagScheme::detect(&tags),
        };
        let detected = detected.map_err(|unclear| {
            let cure = match settings.scheme {
                None => format!(
                    "tags are O, B-… and I-… (or L, U; E, S): mend it, or name the column of the tags ({})",
                    Hint::Label
                ),
                Some(_) => "mend it, or give another scheme".to_owned(),
            };
            self.bad_word(tagged[unclear.sentence], unclear.word, unclear.found, cure)
        })?;
        let scheme = detected.scheme;
        let warning = detected.broken.map(|(sentence, word)| {
            let cure = "check it: strict scores count no entity there";
            let found = format!("{} breaks the rules of the scheme {scheme}", quoted(&tags[sentence][word]));
            self.bad_word(tagged[sentence], word, found, cure).to_string()
        });
        Ok((Some(scheme), warning))
    }
}
