//! Tables in their various formats: tab- or comma-separated, quoted or not, JSON lines, and Parquet. Only the wanted columns
//! are kept.

use std::borrow::Cow;
use std::io::Read as _;
use std::path::Path;
use std::str::FromStr;

pub(super) use super::wanted::Wanted;

use super::cures::{
    LABEL_LIST, header_cure, listed_labels, listed_text, missing_cure, parquet_cure, plain_text_cure, ragged_cure,
};
use super::error::{Place, quoted, quoted_list};
use super::{DatasetError, parquet};
use crate::files::without_mark;

/// Format of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Fields separated by tabs; by default `"` is an ordinary character.
    Tsv,
    /// Fields separated by commas; by default `"` quotes.
    Csv,
    /// One JSON object per line.
    Jsonl,
    /// Columns of Apache Parquet.
    Parquet,
    /// Text without columns: documents separated by empty lines. Only a language model can learn it.
    Txt,
}

impl Format {
    /// The format that the extension of a file name stands for: `.tsv`, `.tab`, `.csv`, `.jsonl`, `.ndjson`, `.json`,
    /// `.parquet`, `.pq`, `.txt`.
    ///
    /// A file compressed with gzip (`.gz`) has the format of the rest of its name.
    pub fn of(path: &Path) -> Option<Format> {
        let ending = path.extension()?.to_str()?.to_ascii_lowercase();
        match ending.as_str() {
            "gz" => Format::of(Path::new(path.file_stem()?)),
            "tsv" | "tab" => Some(Format::Tsv),
            "csv" => Some(Format::Csv),
            "jsonl" | "ndjson" | "json" => Some(Format::Jsonl),
            "parquet" | "pq" => Some(Format::Parquet),
            "txt" => Some(Format::Txt),
            _ => None,
        }
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "tsv" => Ok(Format::Tsv),
            "csv" => Ok(Format::Csv),
            "jsonl" => Ok(Format::Jsonl),
            "parquet" => Ok(Format::Parquet),
            "txt" => Ok(Format::Txt),
            other => Err(format!("unknown format {}; give tsv, csv, jsonl, parquet or txt", quoted(other))),
        }
    }
}

/// One row: the wanted columns in the order in which they were requested.
#[derive(Debug, PartialEq)]
pub(super) struct Row {
    /// Where the row begins in the file.
    pub place: Place,
    /// One value per wanted column.
    pub values: Vec<String>,
}

/// Reads the wanted columns of a table. `quoting` says whether `"` quotes fields; `None` means the default of the format.
pub(super) fn read(
    path: &Path,
    bytes: &[u8],
    format: Format,
    quoting: Option<bool>,
    wanted: &[Wanted<'_>],
) -> Result<Vec<Row>, DatasetError> {
    let text = || text_of(path, bytes, Lines::Checked);
    let rows = match (format, quoting) {
        (Format::Parquet, _) => parquet::read_bytes(path, bytes, wanted)?,
        (Format::Txt, _) => {
            let cure = plain_text_cure();
            return Err(DatasetError::NotATable { path: path.into(), found: "is plain text, without columns", cure });
        }
        (Format::Jsonl, _) => json_lines(path, &text_of(path, bytes, Lines::AsTheyAre)?, wanted)?,
        (Format::Tsv, None | Some(false)) => plain(path, &text()?, '\t', wanted)?,
        (Format::Csv, Some(false)) => plain(path, &text()?, ',', wanted)?,
        (Format::Tsv, Some(true)) => with_quotes(path, &text_of(path, bytes, Lines::AsTheyAre)?, b'\t', wanted)?,
        (Format::Csv, None | Some(true)) => with_quotes(path, &text_of(path, bytes, Lines::AsTheyAre)?, b',', wanted)?,
    };
    if rows.is_empty() {
        return Err(DatasetError::NoRows { path: path.into() });
    }
    Ok(rows)
}

/// Where carriage returns may occur in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lines {
    /// Only at the end of a line, alone or before a line feed.
    Checked,
    /// Inside values too.
    AsTheyAre,
}

/// Decodes bytes as UTF-8, without a byte order mark, and with `\n` where lines end in `\r` alone, as on old Macs; files of
/// an entirely different kind are reported as what they are.
pub(super) fn text_of<'a>(path: &Path, bytes: &'a [u8], lines: Lines) -> Result<Cow<'a, str>, DatasetError> {
    if let Some((found, cure)) = other_kind(bytes) {
        return Err(DatasetError::NotATable { path: path.into(), found, cure });
    }
    let bytes = without_mark(bytes);
    let line_of = |at: usize| 1 + bytes[..at].iter().filter(|&&byte| byte == b'\n').count();
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let good = &bytes[..error.valid_up_to()];
        let line_start = good.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        DatasetError::NotUtf8 { path: path.into(), line: line_of(good.len()), byte: 1 + good.len() - line_start }
    })?;
    let odd = |at: usize, found, cure| DatasetError::OddCharacter { path: path.into(), line: line_of(at), found, cure };
    if let Some(at) = bytes.iter().position(|&byte| byte == 0) {
        let cure = "a file of text has none: save it as UTF-8 text, or remove the byte";
        return Err(odd(at, "a NUL byte", cure));
    }
    if !bytes.contains(&b'\r') {
        return Ok(text.into());
    }
    if !bytes.contains(&b'\n') {
        return Ok(text.replace('\r', "\n").into());
    }
    let alone = bytes.windows(2).position(|pair| pair[0] == b'\r' && pair[1] != b'\n' && pair[1] != b'\r');
    match alone.filter(|_| lines == Lines::Checked) {
        Some(at) => {
            let cure = "elsewhere lines end in a line feed: remove it, or end all lines in the same way";
            Err(odd(at, "a carriage return inside the line", cure))
        }
        None => Ok(text.into()),
    }
}

/// What a file that is not text is, and what to do about it.
pub(super) fn other_kind(bytes: &[u8]) -> Option<(&'static str, Cow<'static, str>)> {
    const TEXT: &str = "save the table as text in UTF-8";
    let (kind, cure) = match bytes {
        [] => ("is empty", "check that it is the right file"),
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => ("is UTF-16", "save it as UTF-8"),
        [0x1F, 0x8B, ..] => ("is compressed with gzip", "give its name the ending .gz behind that of the table"),
        [0x28, 0xB5, 0x2F, 0xFD, ..] => ("is compressed with zstd", "unpack it with unzstd, or take gzip"),
        [0xFD, b'7', b'z', b'X', b'Z', ..] => ("is compressed with xz", "unpack it with unxz, or take gzip"),
        [b'B', b'Z', b'h', b'1'..=b'9', b'1', b'A', b'Y', ..] => {
            ("is compressed with bzip2", "unpack it with bunzip2, or take gzip")
        }
        [b'P', b'K', 3, 4, ..] => ("is a zip archive or a spreadsheet", "save it as CSV in UTF-8"),
        [0xD0, 0xCF, 0x11, 0xE0, ..] => ("is a spreadsheet of an old format", "save it as CSV in UTF-8"),
        [0x93, b'N', b'U', b'M', b'P', b'Y', ..] => ("is an array of numpy", TEXT),
        [b'A', b'R', b'R', b'O', b'W', b'1', ..] | [b'F', b'E', b'A', b'1', ..] => {
            ("is an Arrow file", "write it as Parquet")
        }
        [b'%', b'P', b'D', b'F', ..] => ("is a PDF", TEXT),
        [b'P', b'A', b'R', b'1', ..] => return Some(("is a Parquet file", parquet_cure())),
        _ if bytes.starts_with(b"version https://git-lfs") => {
            ("is a pointer of Git LFS, not the file itself", "fetch it: git lfs pull")
        }
        _ => return None,
    };
    Some((kind, cure.into()))
}

/// The bytes of a file, decompressed if they are gzip.
///
/// # Errors
/// Broken data; data that decompress beyond any plausible table, which would take all memory.
pub(super) fn unpacked<'a>(path: &Path, bytes: &'a [u8]) -> Result<Cow<'a, [u8]>, DatasetError> {
    const ANY: usize = 64 << 20;
    const UNFOLDED: usize = 256;
    if !bytes.starts_with(&[0x1F, 0x8B]) {
        return Ok(bytes.into());
    }
    let most = bytes.len().saturating_mul(UNFOLDED).saturating_add(ANY);
    let mut content = Vec::new();
    let refuse = |found: String, cure| DatasetError::Packed { path: path.into(), found, cure };
    flate2::read::MultiGzDecoder::new(bytes)
        .take(most as u64 + 1)
        .read_to_end(&mut content)
        .map_err(|error| refuse(format!("cannot be unpacked ({error})"), "check that it is whole"))?;
    if content.len() > most {
        let found = format!("decompresses to more than {} MB, as no table does", most >> 20);
        return Err(refuse(found, "unpack it with gunzip, and look at what it is"));
    }
    Ok(content.into())
}

/// Lines without their ends (`\n` or `\r\n`), and their numbers; empty lines at the end of the file are left out.
pub(super) fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let text = text.trim_end_matches(['\r', '\n']);
    text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)).enumerate().map(|(i, line)| (i + 1, line))
}

/// Positions of the wanted columns in the header; `usize::MAX` for an optional column that is missing.
fn positions(path: &Path, header: &[&str], wanted: &[Wanted<'_>]) -> Result<Vec<usize>, DatasetError> {
    for column in wanted {
        if header.iter().filter(|name| **name == column.name).count() > 1 {
            return Err(DatasetError::RepeatedColumn { path: path.into(), column: quoted(column.name) });
        }
    }
    let position = |column: &Wanted<'_>| {
        let found = header.iter().position(|name| *name == column.name);
        found.or_else(|| column.optional.then_some(usize::MAX)).ok_or_else(|| DatasetError::MissingColumn {
            path: path.into(),
            line: Some(1),
            column: column.name.into(),
            there: quoted_list(header),
            cure: header_cure(header, column, wanted),
        })
    };
    wanted.iter().map(position).collect()
}

/// Reads separated fields in which no character quotes.
fn plain(path: &Path, text: &str, separator: char, wanted: &[Wanted<'_>]) -> Result<Vec<Row>, DatasetError> {
    let mut lines = lines(text);
    let header: Vec<&str> = lines.next().map(|(_, line)| line.split(separator).collect()).unwrap_or_default();
    let positions = positions(path, &header, wanted)?;
    let mut rows = Vec::new();
    let mut fields = Vec::with_capacity(header.len());
    for (line, content) in lines {
        fields.clear();
        fields.extend(content.split(separator));
        if fields.len() != header.len() {
            return Err(ragged(path, line, header.len(), content, fields.len(), false));
        }
        rows.push(Row {
            place: Place::Line(line),
            values: positions.iter().map(|&at| fields.get(at).copied().unwrap_or_default().to_owned()).collect(),
        });
    }
    Ok(rows)
}

/// Reads separated fields, some of them quoted; a quoted field may contain line ends.
fn with_quotes(path: &Path, text: &str, separator: u8, wanted: &[Wanted<'_>]) -> Result<Vec<Row>, DatasetError> {
    check_quotes(path, text, separator)?;
    let mut reader =
        csv::ReaderBuilder::new().delimiter(separator).flexible(true).has_headers(false).from_reader(text.as_bytes());
    let mut record = csv::StringRecord::new();
    let mut header: Option<(usize, Vec<usize>)> = None;
    let mut rows = Vec::new();
    // The input is in memory and valid UTF-8: the reader has no errors left to report.
    while reader.read_record(&mut record).unwrap_or(false) {
        let start = record.position().map_or(0, |at| at.byte() as usize);
        let line = record.position().map_or(0, |at| at.line() as usize) + leading_line_ends(&text[start..]);
        let raw = &text[start..reader.position().byte() as usize];
        let Some((width, positions)) = &header else {
            let names: Vec<&str> = record.iter().collect();
            header = Some((names.len(), positions(path, &names, wanted)?));
            continue;
        };
        if record.len() != *width {
            return Err(ragged(path, line, *width, raw, record.len(), true));
        }
        let value = |&at: &usize| record.get(at).unwrap_or_default().to_owned();
        rows.push(Row { place: Place::Line(line), values: positions.iter().map(value).collect() });
    }
    Ok(rows)
}

/// Checks that every quoted field ends at its closing quote. The csv reader would append what follows to the field, and a
/// quote that was never meant to open a field would swallow rows up to the next one.
fn check_quotes(path: &Path, text: &str, separator: u8) -> Result<(), DatasetError> {
    let bytes = text.as_bytes();
    let (mut at, mut line, mut starts) = (0, 1, true);
    while let Some(&byte) = bytes.get(at) {
        if !(starts && byte == b'"') {
            starts = byte == separator || byte == b'\n' || byte == b'\r';
            line += usize::from(byte == b'\n');
            at += 1;
            continue;
        }
        let opened = line;
        at += 1;
        loop {
            match (bytes.get(at), bytes.get(at + 1)) {
                (None, _) => return Err(DatasetError::OpenQuote { path: path.into(), line: opened }),
                (Some(b'"'), Some(b'"')) => at += 1,
                (Some(b'"'), _) => break,
                (Some(&byte), _) => line += usize::from(byte == b'\n'),
            }
            at += 1;
        }
        at += 1;
        starts = false;
        if bytes.get(at).is_some_and(|&next| next != separator && next != b'\n' && next != b'\r') {
            return Err(DatasetError::TextAfterQuote { path: path.into(), line, opened });
        }
    }
    Ok(())
}

/// Counts leading line ends: the csv reader skips empty lines, but counts them towards the next record.
fn leading_line_ends(text: &str) -> usize {
    text.bytes().take_while(|byte| matches!(byte, b'\r' | b'\n')).filter(|&byte| byte == b'\n').count()
}

fn ragged(path: &Path, line: usize, expected: usize, raw: &str, found: usize, quoting: bool) -> DatasetError {
    DatasetError::RaggedRow {
        path: path.into(),
        line,
        expected,
        found: if raw.trim().is_empty() { 0 } else { found },
        cure: ragged_cure(raw, quoting),
    }
}

/// Reads one JSON object per line; empty lines are skipped.
fn json_lines(path: &Path, text: &str, wanted: &[Wanted<'_>]) -> Result<Vec<Row>, DatasetError> {
    let mut rows = Vec::new();
    for (line, content) in lines(text).filter(|(_, content)| !content.trim().is_empty()) {
        let object = json_object(content).map_err(|(found, cure)| DatasetError::Json {
            path: path.into(),
            line,
            found,
            cure: cure.into(),
        })?;
        let value = |column| match json_value(path, line, &object, column)? {
            Some(value) => Ok(value),
            // All earlier rows have the column.
            None if !rows.is_empty() || is_key(text, line, column) => Err(lacking_key(path, line, &object, column)),
            None => Err(DatasetError::MissingColumn {
                path: path.into(),
                line: Some(line),
                column: column.name.into(),
                there: quoted_list(&object.keys().collect::<Vec<_>>()),
                cure: missing_cure(column, wanted, "name one of them, or mend the row").into(),
            }),
        };
        let values = wanted.iter().map(value).collect::<Result<_, DatasetError>>()?;
        rows.push(Row { place: Place::Line(line), values });
    }
    Ok(rows)
}

pub(super) type JsonObject = serde_json::Map<String, serde_json::Value>;

/// The JSON object of a line; otherwise what is wrong, and what to do.
pub(super) fn json_object(line: &str) -> Result<JsonObject, (String, &'static str)> {
    const CURE: &str = "write one JSON object per line";
    match serde_json::from_str::<serde_json::Value>(line) {
        Ok(serde_json::Value::Object(object)) => Ok(object),
        Ok(other) => Err((format!("{} instead of a JSON object", kind(&other)), CURE)),
        Err(_) if line.trim_start().starts_with('[') => Err(("a JSON array over several lines".into(), CURE)),
        Err(error) if error.is_eof() && matches!(line.trim(), "{") => {
            Err(("a JSON object over several lines".into(), CURE))
        }
        Err(error) => {
            let text = error.to_string();
            let reason = text.split(" at line ").next().unwrap_or(&text);
            Err((format!("not JSON at column {}: {reason}", error.column()), CURE))
        }
    }
}

/// Whether a later row has the column: then the name is right, and the row of this line lacks it.
fn is_key(text: &str, line: usize, column: &Wanted<'_>) -> bool {
    // If none of this many rows has the column, the name is wrong.
    const LOOKED_AT: usize = 1000;
    let behind = lines(text).skip_while(|(other, _)| *other <= line).take(LOOKED_AT);
    behind.filter_map(|(_, content)| json_object(content).ok()).any(|object| object.contains_key(column.name))
}

fn lacking_key(path: &Path, line: usize, object: &JsonObject, column: &Wanted<'_>) -> DatasetError {
    let there = quoted_list(&object.keys().collect::<Vec<_>>());
    DatasetError::Json {
        path: path.into(),
        line,
        found: format!("this row has no key `{}`, which other rows have; its keys are {there}", column.name),
        cure: "complete the row or remove it".into(),
    }
}

/// The value of a column; `None` where a required one is missing.
fn json_value(
    path: &Path,
    line: usize,
    object: &JsonObject,
    column: &Wanted<'_>,
) -> Result<Option<String>, DatasetError> {
    use serde_json::Value;
    match object.get(column.name) {
        None => Ok(column.optional.then(String::new)),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Null) if !column.list => Ok(Some(String::new())),
        Some(Value::Array(items)) if column.list => match items.iter().find(|item| !is_scalar(item)) {
            None => Ok(Some(Value::Array(items.clone()).to_string())),
            Some(item) => Err(DatasetError::Json {
                path: path.into(),
                line,
                found: format!("a list in `{}` has {}", column.name, kind(item)),
                cure: "write strings or numbers in it".into(),
            }),
        },
        Some(value @ (Value::Number(_) | Value::Bool(_))) if column.scalar => Ok(Some(value.to_string())),
        Some(other) => Err(DatasetError::Json {
            path: path.into(),
            line,
            found: format!("`{}` is {}", column.name, kind(other)),
            cure: match (column.scalar, other) {
                _ if column.list => LABEL_LIST.into(),
                (true, Value::Array(_)) => listed_labels(),
                (false, Value::Array(_)) => listed_text(),
                (true, _) => "a label is a string or a number".into(),
                (false, _) => "a text is a string".into(),
            },
        }),
    }
}

fn is_scalar(value: &serde_json::Value) -> bool {
    value.is_string() || value.is_number() || value.is_boolean()
}

/// The kind of a JSON value, for an error message.
pub(super) fn kind(value: &serde_json::Value) -> &'static str {
    use serde_json::Value;
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a JSON array",
        Value::Object(_) => "a JSON object",
    }
}
