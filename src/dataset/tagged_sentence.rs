//! A tagged sentence, the formats of files of them, and how such files are read.

use std::borrow::Cow;
use std::path::Path;
use std::str::FromStr;

use super::error::{Place, quoted};
use super::tag_scheme::TagScheme;
use super::{DatasetError, Format};

/// File format of tagged sentences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaggedFormat {
    /// One word per line with its columns, separated by tabs or other white space; an empty line after each sentence.
    Conll,
    /// One JSON object per line, with a list of words and a list of tags.
    Jsonl,
    /// Columns of lists in Apache Parquet.
    Parquet,
}

/// How to read a file of tagged sentences.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TaggedSettings {
    /// Key or column of the words; in CoNLL its number from 1. `None` uses `tokens` or `words`, and the first column.
    pub words: Option<String>,
    /// Key or column of the tags; in CoNLL its number from 1. `None` uses `tags`, `ner_tags` or `labels`, and the last
    /// column.
    pub tags: Option<String>,
    /// Whether every sentence must have tags; otherwise they are read where present.
    pub need_tags: bool,
    /// Names of the tags, in order: no other tags are then accepted.
    pub labels: Option<Vec<String>>,
    /// Whether whole numbers, from 0, are indices into these names.
    pub numbered: bool,
    /// The scheme of the tags; `None` detects it from the tags.
    pub scheme: Option<TagScheme>,
    /// Format of the file; `None` infers it from the extension.
    pub format: Option<TaggedFormat>,
    /// Number of sentences to read, from the first; `None` reads all.
    pub limit: Option<usize>,
}

/// A sentence of words, with or without tags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaggedSentence {
    /// The line of its first word in the file, from 1; in JSON lines its line, in Parquet its row.
    pub line: usize,
    /// The words; at least one, and none is empty.
    pub words: Vec<String>,
    /// The tag of every word; `None` where the file gives none.
    pub tags: Option<Vec<String>>,
}

impl TaggedFormat {
    /// The format that the extension of a file name stands for: CoNLL for `.conll`, `.conll02`, `.conll03`, `.conll2003`,
    /// `.bio`, `.iob`, `.iob2`, `.bilou`, `.iobes`, `.txt`, `.tsv` and `.tab`; `.jsonl`, `.ndjson`, `.json`; `.parquet`,
    /// `.pq`. A file compressed with gzip has a further `.gz`.
    pub fn of(path: &Path) -> Option<TaggedFormat> {
        let ending = path.extension()?.to_str()?.to_ascii_lowercase();
        match ending.as_str() {
            "gz" => TaggedFormat::of(Path::new(path.file_stem()?)),
            "conll" | "conll02" | "conll03" | "conll2003" | "bio" | "iob" | "iob2" | "bilou" | "iobes" | "txt"
            | "tsv" | "tab" => Some(TaggedFormat::Conll),
            "jsonl" | "ndjson" | "json" => Some(TaggedFormat::Jsonl),
            "parquet" | "pq" => Some(TaggedFormat::Parquet),
            _ => None,
        }
    }

    /// The counterpart of a table format: TSV and plain text are CoNLL; CSV has none.
    pub fn of_table(format: Format) -> Option<TaggedFormat> {
        match format {
            Format::Tsv | Format::Txt => Some(TaggedFormat::Conll),
            Format::Jsonl => Some(TaggedFormat::Jsonl),
            Format::Parquet => Some(TaggedFormat::Parquet),
            Format::Csv => None,
        }
    }
}

impl FromStr for TaggedFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "conll" | "tsv" | "txt" => Ok(TaggedFormat::Conll),
            "jsonl" => Ok(TaggedFormat::Jsonl),
            "parquet" => Ok(TaggedFormat::Parquet),
            other => Err(format!("unknown format {}; give conll, jsonl or parquet", quoted(other))),
        }
    }
}

impl TaggedSettings {
    /// Maximum number of sentences to read.
    pub(super) fn row_limit(&self) -> usize {
        self.limit.unwrap_or(usize::MAX).max(1)
    }
}

/// Keys or columns of words that are tried where none is named.
pub(super) const WORD_KEYS: [&str; 2] = ["tokens", "words"];

/// Keys or columns of tags that are tried where none is named.
pub(super) const TAG_KEYS: [&str; 3] = ["tags", "ner_tags", "labels"];

/// The error for an unusable file of tags.
pub(super) fn bad(
    path: &Path,
    place: Option<Place>,
    found: String,
    cure: impl Into<Cow<'static, str>>,
) -> DatasetError {
    DatasetError::Tagged { path: path.into(), place, found, cure: cure.into() }
}
