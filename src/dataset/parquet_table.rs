//! Columns of a Parquet file as rows of a table. Only the wanted columns are decoded, one row group and one page at a time.

use std::panic::AssertUnwindSafe;
use std::path::Path;

use ::parquet::basic::{ConvertedType, LogicalType, Repetition, Type as Physical};
use ::parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader};
use ::parquet::data_type::{ByteArray, DataType, FixedLenByteArray};
use ::parquet::errors::ParquetError;
use ::parquet::file::reader::{ChunkReader, FileReader, SerializedFileReader};
use ::parquet::schema::types::{ColumnDescriptor, SchemaDescriptor, Type};
use bytes::Bytes;

use super::cures::{LABEL_LIST, listed_labels, listed_text, missing_cure};
use super::error::{Place, quoted, quoted_list};
use super::parquet_pages::CheckedPages;
use super::table::{Row, Wanted};
use super::{DatasetError, parquet_checks as checks};
use crate::files::{FileError, open_file};

/// Number of values decoded at a time.
const CHUNK: usize = 1024;

/// Reads at most `limit` rows of a file.
pub(super) fn read_file(path: &Path, wanted: &[Wanted<'_>], limit: usize) -> Result<Vec<Row>, DatasetError> {
    let file = open_file(path)?;
    let again = || file.try_clone().map_err(FileError::new("read", path));
    read(path, [again()?, again()?], wanted, limit)
}

/// Reads a file from memory.
pub(super) fn read_bytes(path: &Path, bytes: &[u8], wanted: &[Wanted<'_>]) -> Result<Vec<Row>, DatasetError> {
    let bytes = Bytes::copy_from_slice(bytes);
    read(path, [bytes.clone(), bytes], wanted, usize::MAX)
}

/// The reader panics on some broken files that it should reject; such a panic is reported as an error of the file.
fn read<R: ChunkReader + 'static>(
    path: &Path,
    source: [R; 2],
    wanted: &[Wanted<'_>],
    limit: usize,
) -> Result<Vec<Row>, DatasetError> {
    let decoded = std::panic::catch_unwind(AssertUnwindSafe(|| decode(path, source, wanted, limit)));
    decoded.unwrap_or_else(|_| {
        let reason = "its parts contradict each other".into();
        Err(DatasetError::Parquet { path: path.into(), reason })
    })
}

fn decode<R: ChunkReader + 'static>(
    path: &Path,
    source: [R; 2],
    wanted: &[Wanted<'_>],
    limit: usize,
) -> Result<Vec<Row>, DatasetError> {
    let broken =
        |reason: String| DatasetError::Parquet { path: path.into(), reason: reason.replace(['\n', '\r'], " ") };
    let failed = |error: ParquetError| broken(error.to_string().trim_start_matches("Parquet error: ").to_owned());
    // One source for the reader, which keeps it, and one for the checks.
    let [source, seen] = source;
    checks::footer(&seen).map_err(broken)?;
    let file = SerializedFileReader::new(source).map_err(failed)?;
    let schema = file.metadata().file_metadata().schema_descr_ptr();
    let columns =
        wanted.iter().map(|column| Column::find(path, &schema, column, wanted)).collect::<Result<Vec<_>, _>>()?;
    let mut rows: Vec<Row> = Vec::new();
    let whole = memory(seen.len());
    let mut left = whole;
    for index in 0..file.num_row_groups() {
        let most = limit - rows.len();
        if most == 0 {
            break;
        }
        let group = file.get_row_group(index).map_err(failed)?;
        let mut values = Vec::with_capacity(columns.len());
        for column in &columns {
            checks::pages(&seen, group.metadata().column(column.index).byte_range()).map_err(broken)?;
            let pages = group.get_column_page_reader(column.index).map_err(failed)?;
            let pages = CheckedPages {
                pages,
                has_nulls: column.levels.most > 0,
                values_of_lists: column.levels.of_item.map(|_| (left / memory_of("")) as u64),
            };
            let reader = get_column_reader(schema.column(column.index), Box::new(pages));
            let read = column.read(reader, most, left).map_err(failed)?;
            let read = read.map_err(|(at, found)| DatasetError::ColumnValue {
                path: path.into(),
                row: rows.len() + at + 1,
                column: column.name.into(),
                found,
            })?;
            let taken: usize = read.iter().map(|text| memory_of(text)).sum();
            left = left.checked_sub(taken).ok_or_else(|| {
                broken(format!("its columns decompress to more than {} MB, as no sound file does", whole >> 20))
            })?;
            values.push(read);
        }
        let expected = most.min(usize::try_from(group.metadata().num_rows()).unwrap_or(0));
        if let Some(odd) = values.iter().position(|column: &Vec<String>| column.len() != expected) {
            let (name, found) = (quoted(columns[odd].name), values[odd].len());
            return Err(broken(format!("column {name} has {found} values where there are {expected} rows")));
        }
        let mut values: Vec<_> = values.into_iter().map(Vec::into_iter).collect();
        rows.extend((rows.len()..rows.len() + expected).map(|row| Row {
            place: Place::Row(row + 1),
            values: values.iter_mut().filter_map(Iterator::next).collect(),
        }));
    }
    Ok(rows)
}

/// Limit on the memory, in bytes, for the values of a file of `file` bytes. A text stored once may be the value of every
/// row, and a row may take no bytes at all: a file of a few hundred bytes could otherwise use up all memory.
pub(super) fn memory(file: u64) -> usize {
    const ANY: u64 = 16 << 20;
    const UNFOLDED: u64 = 256;
    usize::try_from(file.saturating_mul(UNFOLDED).saturating_add(ANY)).unwrap_or(usize::MAX)
}

/// Memory that a value takes, in bytes, with its slot in a row.
pub(super) fn memory_of(text: &str) -> usize {
    const PLACE: usize = 64;
    text.len() + PLACE
}

/// Limits of reading: it ends after `rows`, and fails beyond `memory` bytes.
#[derive(Clone, Copy)]
struct Most {
    rows: usize,
    memory: usize,
}

/// A value that cannot be used: its row in the row group, and what is wrong with it.
type Unusable = (usize, &'static str);

/// How the stored values become the text of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    Text,
    Truth,
    Signed,
    Unsigned,
    Real,
    Half,
}

/// A wanted column.
struct Column<'a> {
    name: &'a str,
    index: usize,
    reading: Reading,
    levels: Levels,
}

/// Meaning of the definition levels of a column.
#[derive(Debug, Clone, Copy)]
struct Levels {
    /// Level of a value that is not null; 0 where no value can be null.
    most: i16,
    /// Level of a list item, which may itself be null; the level below is an empty list. `None` for a column without lists.
    of_item: Option<i16>,
}

impl<'a> Column<'a> {
    fn find(
        path: &Path,
        schema: &SchemaDescriptor,
        wanted: &Wanted<'a>,
        all: &[Wanted<'_>],
    ) -> Result<Self, DatasetError> {
        let name = wanted.name;
        let refused = |found: String| DatasetError::ColumnType {
            path: path.into(),
            column: name.into(),
            cure: match (wanted.scalar, found.contains("list")) {
                _ if wanted.list => LABEL_LIST.into(),
                (true, true) => listed_labels(),
                (false, true) => listed_text(),
                (true, false) => "a label is a string, a number or a boolean".into(),
                (false, false) => "a text is a string".into(),
            },
            found,
        };
        let fields: Vec<&str> = schema.root_schema().get_fields().iter().map(|field| field.name()).collect();
        match fields.iter().filter(|field| **field == name).count() {
            0 => {
                return Err(DatasetError::MissingColumn {
                    path: path.into(),
                    line: None,
                    column: name.into(),
                    there: quoted_list(&fields),
                    cure: missing_cure(wanted, all, "name one of them").into(),
                });
            }
            1 => {}
            _ => return Err(refused("appears twice".into())),
        }
        let nested = || refused("is nested (a list, a map or a structure)".into());
        let mut within = schema
            .columns()
            .iter()
            .enumerate()
            .filter(|(_, column)| column.path().parts().first().is_some_and(|part| part == name));
        let (Some((index, column)), None) = (within.next(), within.next()) else { return Err(nested()) };
        let repeated = column.max_rep_level() != 0;
        let field = schema.root_schema().get_fields().iter().find(|field| field.name() == name);
        let of_item = field.filter(|_| repeated && wanted.list).and_then(|field| level_of_item(field));
        if of_item.is_none() && column.path().parts().len() > 1 {
            return Err(nested());
        }
        if of_item.is_none() && repeated {
            return Err(refused("is a list".into()));
        }
        let reading = reading(column).filter(|reading| wanted.scalar || *reading == Reading::Text);
        let Some(reading) = reading else { return Err(refused(format!("is {}", kind(column)))) };
        Ok(Column { name, index, reading, levels: Levels { most: column.max_def_level(), of_item } })
    }

    /// Reads at most `rows` values of one row group, and fails beyond `memory` bytes.
    fn read(
        &self,
        reader: ColumnReader,
        rows: usize,
        memory: usize,
    ) -> Result<Result<Vec<String>, Unusable>, ParquetError> {
        let levels = self.levels;
        let most = Most { rows, memory };
        match reader {
            ColumnReader::BoolColumnReader(reader) => texts(reader, levels, most, |v: &bool| Ok(v.to_string())),
            ColumnReader::Int32ColumnReader(reader) if self.reading == Reading::Unsigned => {
                texts(reader, levels, most, |v: &i32| Ok(v.cast_unsigned().to_string()))
            }
            ColumnReader::Int64ColumnReader(reader) if self.reading == Reading::Unsigned => {
                texts(reader, levels, most, |v: &i64| Ok(v.cast_unsigned().to_string()))
            }
            ColumnReader::Int32ColumnReader(reader) => texts(reader, levels, most, |v: &i32| Ok(v.to_string())),
            ColumnReader::Int64ColumnReader(reader) => texts(reader, levels, most, |v: &i64| Ok(v.to_string())),
            // `{:?}` writes 1.0 with its decimal point, by which labels distinguish classes from values.
            ColumnReader::FloatColumnReader(reader) => texts(reader, levels, most, |v: &f32| Ok(format!("{v:?}"))),
            ColumnReader::DoubleColumnReader(reader) => texts(reader, levels, most, |v: &f64| Ok(format!("{v:?}"))),
            ColumnReader::ByteArrayColumnReader(reader) => texts(reader, levels, most, text),
            ColumnReader::FixedLenByteArrayColumnReader(reader) => texts(reader, levels, most, half_float),
            ColumnReader::Int96ColumnReader(_) => Err(ParquetError::General("a 96-bit integer".into())),
        }
    }
}

fn text(value: &ByteArray) -> Result<String, &'static str> {
    match std::str::from_utf8(value.data()) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err("is not UTF-8"),
    }
}

fn half_float(value: &FixedLenByteArray) -> Result<String, &'static str> {
    match *value.data() {
        [low, high] => Ok(format!("{:?}", half::f16::from_le_bytes([low, high]).to_f32())),
        _ => Err("is no float16"),
    }
}

/// The definition level at which a list of scalars has an item; `None` for any other column.
fn level_of_item(field: &Type) -> Option<i16> {
    // `labels`, `labels.list.element`, or the names that older writers use.
    const DEEPEST: usize = 3;
    let (mut node, mut level, mut repeated) = (field, 0, None);
    for _ in 0..DEEPEST {
        match node.get_basic_info().repetition() {
            Repetition::REPEATED if repeated.is_some() => return None,
            Repetition::REPEATED => repeated = Some(level + 1),
            _ => {}
        }
        level += i16::from(node.get_basic_info().repetition() != Repetition::REQUIRED);
        if node.is_primitive() {
            return repeated;
        }
        let [only] = node.get_fields() else { return None };
        node = only;
    }
    None
}

/// The values of a column, decoded in chunks; those of a list as a JSON list of strings.
fn texts<T: DataType>(
    mut reader: ColumnReaderImpl<T>,
    of: Levels,
    most: Most,
    convert: impl Fn(&T::T) -> Result<String, &'static str>,
) -> Result<Result<Vec<String>, Unusable>, ParquetError> {
    let general = |text: &str| ParquetError::General(text.into());
    let mut result = Vec::new();
    let (mut values, mut levels, mut repeats) = (Vec::new(), Vec::new(), Vec::new());
    let mut memory = 0;
    while result.len() < most.rows {
        values.clear();
        levels.clear();
        repeats.clear();
        let wanted = CHUNK.min(most.rows - result.len());
        let (records, ..) =
            reader.read_records(wanted, Some(&mut levels), of.of_item.map(|_| &mut repeats), &mut values)?;
        let start = result.len();
        if of.of_item.is_none()
            && let Some(at) = levels.iter().position(|level| *level < of.most)
        {
            return Ok(Err((start + at, "is null")));
        }
        if records == 0 {
            break;
        }
        let mut converted = Vec::with_capacity(values.len());
        for value in &values {
            match convert(value) {
                Ok(text) => {
                    memory += memory_of(&text);
                    converted.push(text);
                }
                Err(found) if of.of_item.is_none() => return Ok(Err((start + converted.len(), found))),
                Err(found) => return Err(general(&format!("an item of a list {found}"))),
            }
            if memory > most.memory {
                return Err(general("a column decompresses to far more than the whole file, as no sound file does"));
            }
        }
        match of.of_item {
            None => result.extend(converted),
            Some(item) => {
                let levels = levels.iter().copied().zip(repeats.iter().copied());
                match lists(levels, converted, of.most, item) {
                    Ok(lists) => result.extend(lists),
                    Err((at, found)) => return Ok(Err((start + at, found))),
                }
            }
        }
        if result.len() - start != records {
            return Err(general(&format!("{} values for {records} rows", result.len() - start)));
        }
    }
    Ok(Ok(result))
}

/// The lists of some rows, each as JSON, from the definition and repetition levels of their items.
fn lists(
    levels: impl Iterator<Item = (i16, i16)>,
    items: Vec<String>,
    most: i16,
    of_item: i16,
) -> Result<Vec<String>, Unusable> {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut items = items.into_iter();
    for (level, repeat) in levels {
        if repeat == 0 {
            rows.push(Vec::new());
        }
        let at = rows.len().saturating_sub(1);
        if level < of_item - 1 {
            return Err((at, "is null"));
        }
        if (of_item..most).contains(&level) {
            return Err((at, "has a null in its list"));
        }
        if let Some(row) = rows.last_mut().filter(|_| level == most) {
            row.extend(items.next());
        }
    }
    Ok(rows.into_iter().map(|row| serde_json::Value::from(row).to_string()).collect())
}

/// How to read a column; `None` where its values are neither text nor labels (times, decimals, other binary data).
pub(super) fn reading(column: &ColumnDescriptor) -> Option<Reading> {
    let logical = column.logical_type_ref();
    let converted = column.converted_type();
    let is_plain = logical.is_none() && converted == ConvertedType::NONE;
    let is_text = matches!(logical, Some(LogicalType::String | LogicalType::Enum | LogicalType::Json))
        || matches!(converted, ConvertedType::UTF8 | ConvertedType::ENUM | ConvertedType::JSON);
    let unsigned = match (logical, converted) {
        (Some(LogicalType::Integer(kind)), _) => Some(!kind.is_signed),
        (_, ConvertedType::UINT_8 | ConvertedType::UINT_16 | ConvertedType::UINT_32 | ConvertedType::UINT_64) => {
            Some(true)
        }
        (_, ConvertedType::INT_8 | ConvertedType::INT_16 | ConvertedType::INT_32 | ConvertedType::INT_64) => {
            Some(false)
        }
        _ => is_plain.then_some(false),
    };
    match column.physical_type() {
        // Some writers do not mark binary data as text; bytes that are not UTF-8 are then an error of their row.
        Physical::BYTE_ARRAY => (is_text || is_plain).then_some(Reading::Text),
        Physical::BOOLEAN => Some(Reading::Truth),
        Physical::INT32 | Physical::INT64 => {
            unsigned.map(|unsigned| if unsigned { Reading::Unsigned } else { Reading::Signed })
        }
        Physical::FLOAT | Physical::DOUBLE => Some(Reading::Real),
        Physical::FIXED_LEN_BYTE_ARRAY => matches!(logical, Some(LogicalType::Float16)).then_some(Reading::Half),
        Physical::INT96 => None,
    }
}

/// What a column holds, for an error message.
fn kind(column: &ColumnDescriptor) -> String {
    match reading(column) {
        Some(Reading::Truth) => "a column of booleans".into(),
        Some(Reading::Signed | Reading::Unsigned | Reading::Real | Reading::Half) => "a column of numbers".into(),
        _ => match column.logical_type_ref() {
            // Name of the type, without its parameters.
            Some(logical) => {
                format!("of the type {}", format!("{logical:?}").split(['(', ' ']).next().unwrap_or_default())
            }
            None => format!("of the type {:?}", column.physical_type()),
        },
    }
}
