//! Texts that a language model learns: a column of a table, the paragraphs of a plain text, or instructions with the output
//! they ask for.

use std::path::Path;

use super::error::Place;
use super::example::{Example, LoadSettings};
use super::labels::Label;
use super::table::{self, Format, Wanted};
use super::{DatasetError, Template};

/// Reads the texts of a file. A text of which only a part is learnt has [`Label::Learnt`].
pub(super) fn read(
    path: &Path,
    bytes: &[u8],
    format: Format,
    settings: &LoadSettings,
) -> Result<Vec<Example>, DatasetError> {
    let mut examples = match (&settings.template, format) {
        (Some(template), _) => instructions(path, bytes, format, settings, template)?,
        (None, Format::Txt) => paragraphs(path, bytes)?,
        (None, _) => texts(path, bytes, format, settings)?,
    };
    examples.truncate(settings.row_limit());
    Ok(examples)
}

/// The text column of a table.
fn texts(path: &Path, bytes: &[u8], format: Format, settings: &LoadSettings) -> Result<Vec<Example>, DatasetError> {
    let rows = table::read(path, bytes, format, settings.quoting, &[Wanted::text(&settings.text)])?;
    let example = |row: table::Row| {
        let text = row.values.into_iter().next().unwrap_or_default();
        not_empty(path, row.place, &settings.text, &text)?;
        Ok(Example { line: row.place.number(), text, pair: None, label: None })
    };
    rows.into_iter().map(example).collect()
}

/// Documents of a plain text, separated by empty lines. The lines of one stay lines.
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
            _ => examples.push(Example { line, text: content.to_owned(), pair: None, label: None }),
        }
        begins = false;
    }
    if examples.is_empty() { Err(DatasetError::NoRows { path: path.into() }) } else { Ok(examples) }
}

/// Instructions, filled into the template. The input may be empty, or its column missing.
fn instructions(
    path: &Path,
    bytes: &[u8],
    format: Format,
    settings: &LoadSettings,
    template: &Template,
) -> Result<Vec<Example>, DatasetError> {
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
        let label = Some(Label::Learnt { start: learnt.start, end: learnt.end });
        Ok(Example { line: row.place.number(), text, pair: None, label })
    };
    rows.iter().map(example).collect()
}

fn not_empty(path: &Path, place: Place, column: &str, text: &str) -> Result<(), DatasetError> {
    match text.trim().is_empty() {
        true => Err(DatasetError::EmptyText { path: path.into(), place, column: column.into() }),
        false => Ok(()),
    }
}
