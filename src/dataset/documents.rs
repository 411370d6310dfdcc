//! Texts for a language model: a column of a table, the paragraphs of a plain text, or instructions with their outputs.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::error::Place;
use super::example::{Example, LoadSettings};
use super::load::{format_of, quoted_fields};
use super::table::{self, Format, Wanted};
use super::{DatasetError, Template};
use crate::files::{read_file, sha256};

/// The texts of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Documents {
    /// Path of the file.
    pub path: PathBuf,
    /// SHA-256 of the file, in hex.
    pub sha256: String,
    /// The texts in the order of the file.
    pub examples: Vec<Example>,
    /// Byte range of the part of each text that is learnt; `None` where all of every text is.
    pub learnt: Option<Vec<Range<usize>>>,
    /// What a user should look at before trusting the texts.
    pub warnings: Vec<String>,
}

impl Documents {
    /// Reads a file. With a template, its rows are instructions: `text`, `pair` and `label` of the settings name the columns of
    /// the instruction, its input and the output that is learnt.
    ///
    /// # Errors
    /// Those of [`Dataset::load`](super::Dataset::load).
    pub fn load(path: &Path, settings: &LoadSettings, template: Option<&Template>) -> Result<Self, DatasetError> {
        if path.is_dir() {
            let (found, cure) = ("is a folder", "name a file in it".into());
            return Err(DatasetError::NotATable { path: path.into(), found, cure });
        }
        format_of(path, settings)?;
        Documents::from_bytes(path, &read_file(path)?, settings, template)
    }

    /// Reads a file from memory; `path` names it in messages, and its extension gives the format where the settings do not.
    ///
    /// # Errors
    /// Those of [`Documents::load`].
    pub fn from_bytes(
        path: &Path,
        bytes: &[u8],
        settings: &LoadSettings,
        template: Option<&Template>,
    ) -> Result<Self, DatasetError> {
        let format = format_of(path, settings)?;
        let content = table::unpacked(path, bytes)?;
        let (mut examples, mut learnt) = match (template, format) {
            (Some(template), _) => {
                let (examples, learnt) = instructions(path, &content, format, settings, template)?;
                (examples, Some(learnt))
            }
            (None, Format::Txt) => (paragraphs(path, &content)?, None),
            (None, _) => (texts(path, &content, format, settings)?, None),
        };
        examples.truncate(settings.row_limit());
        if let Some(learnt) = &mut learnt {
            learnt.truncate(settings.row_limit());
        }
        let mut warnings = Vec::new();
        if (format, settings.quoting, template) == (Format::Tsv, None, None) {
            let texts = examples.iter().map(|example| example.text.as_str());
            warnings.extend(quoted_fields(path, &settings.text, texts));
        }
        Ok(Documents { path: path.into(), sha256: sha256(bytes), examples, learnt, warnings })
    }
}

/// Reads the text column of a table.
fn texts(path: &Path, bytes: &[u8], format: Format, settings: &LoadSettings) -> Result<Vec<Example>, DatasetError> {
    let rows = table::read(path, bytes, format, settings.quoting, &[Wanted::text(&settings.text)])?;
    let example = |row: table::Row| {
        let text = row.values.into_iter().next().unwrap_or_default();
        not_empty(path, row.place, &settings.text, &text)?;
        Ok(Example { line: row.place.number(), text, pair: None })
    };
    rows.into_iter().map(example).collect()
}

/// Splits a plain text into documents at empty lines; other line breaks are kept.
fn paragraphs(path: &Path, bytes: &[u8]) -> Result<Vec<Example>, DatasetError> {
    let text = table::text_of(path, bytes, table::Lines::Checked)?;
    let mut examples: Vec<Example> = Vec::new();
    let mut begins = true;
    for (line, content) in table::lines(&text) {
        let content = content.trim_end();
        if content.is_empty() {
            begins = true;
            continue;
        }
        match examples.last_mut() {
            Some(last) if !begins => {
                last.text.push('\n');
                last.text.push_str(content);
            }
            _ => examples.push(Example { line, text: content.to_owned(), pair: None }),
        }
        begins = false;
    }
    if examples.is_empty() { Err(DatasetError::NoRows { path: path.into() }) } else { Ok(examples) }
}

/// Fills instructions into the template. The input may be empty, or its column missing.
fn instructions(
    path: &Path,
    bytes: &[u8],
    format: Format,
    settings: &LoadSettings,
    template: &Template,
) -> Result<(Vec<Example>, Vec<Range<usize>>), DatasetError> {
    template.check()?;
    let output = settings.label.as_deref().unwrap_or("output");
    let input = settings.pair.as_deref().unwrap_or("input");
    let wanted = [Wanted::text(&settings.text), Wanted { optional: true, ..Wanted::text(input) }, Wanted::text(output)];
    let rows = table::read(path, bytes, format, settings.quoting, &wanted)?;
    let example = |row: &table::Row| {
        let [instruction, input, answer] = [0, 1, 2].map(|at| row.values[at].as_str());
        not_empty(path, row.place, &settings.text, instruction)?;
        not_empty(path, row.place, output, answer)?;
        let (text, learnt) = template.fill(instruction, input, answer);
        Ok((Example { line: row.place.number(), text, pair: None }, learnt))
    };
    rows.iter().map(example).collect()
}

fn not_empty(path: &Path, place: Place, column: &str, text: &str) -> Result<(), DatasetError> {
    match text.trim().is_empty() {
        true => Err(DatasetError::EmptyText { path: path.into(), place, column: column.into() }),
        false => Ok(()),
    }
}
