//! Lists of words and tags in the columns of a Parquet file, one row group and some rows at a time.

use std::panic::AssertUnwindSafe;
use std::path::Path;

use ::parquet::basic::Repetition;
use ::parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader};
use ::parquet::data_type::{ByteArray, DataType};
use ::parquet::errors::ParquetError;
use ::parquet::file::metadata::FileMetaData;
use ::parquet::file::reader::{FileReader, SerializedFileReader};
use ::parquet::schema::types::SchemaDescriptor;
use bytes::Bytes;
use serde_json::Value;

use super::error::Place;
use super::parquet::{Reading, memory, memory_of, reading};
use super::parquet_pages::CheckedPages;
use super::tagged_json::columns;
use super::tagged_sentence::{TaggedSentence, TaggedSettings, bad};
use super::{DatasetError, parquet_checks as checks};

/// Number of rows decoded at a time.
const CHUNK: usize = 64;

/// The list of one row; `None` where it is null.
type List = Option<Vec<String>>;

/// The lists of a column; or the first one that cannot be used: its row in the row group, and what is wrong with it.
type Lists = Result<Vec<List>, (usize, String)>;

/// Reads the sentences of a file from memory. The reader panics on some broken files that it should reject; such a panic is
/// reported as an error of the file.
pub(super) fn read(path: &Path, bytes: &[u8], settings: &TaggedSettings) -> Result<Vec<TaggedSentence>, DatasetError> {
    let bytes = Bytes::copy_from_slice(bytes);
    let decoded = std::panic::catch_unwind(AssertUnwindSafe(|| decode(path, &bytes, settings)));
    decoded.unwrap_or_else(|_| {
        let reason = "its parts contradict each other".into();
        Err(DatasetError::Parquet { path: path.into(), reason })
    })
}

fn decode(path: &Path, bytes: &Bytes, settings: &TaggedSettings) -> Result<Vec<TaggedSentence>, DatasetError> {
    let broken =
        |reason: String| DatasetError::Parquet { path: path.into(), reason: reason.replace(['\n', '\r'], " ") };
    let failed = |error: ParquetError| broken(error.to_string().trim_start_matches("Parquet error: ").to_owned());
    checks::footer(bytes).map_err(broken)?;
    let file = SerializedFileReader::new(bytes.clone()).map_err(failed)?;
    let about = file.metadata().file_metadata();
    let schema = about.schema_descr();
    let there: Vec<&str> = schema.root_schema().get_fields().iter().map(|field| field.name()).collect();
    let (words, tags) = columns(path, None, &there, settings)?;
    let mut wanted = vec![Column::find(path, schema, &words, false)?];
    if let Some(tags) = &tags {
        wanted.push(Column::find(path, schema, tags, true)?);
    }
    let names = tags.as_ref().and_then(|tags| class_names(about, tags));
    let mut left = memory(bytes.len() as u64);
    let mut sentences: Vec<TaggedSentence> = Vec::new();
    for index in 0..file.num_row_groups() {
        let most = settings.row_limit() - sentences.len();
        if most == 0 {
            break;
        }
        let group = file.get_row_group(index).map_err(failed)?;
        let expected = most.min(usize::try_from(group.metadata().num_rows()).unwrap_or(0));
        let mut lists = Vec::with_capacity(2);
        for column in &wanted {
            checks::pages(bytes, group.metadata().column(column.index).byte_range()).map_err(broken)?;
            let pages = group.get_column_page_reader(column.index).map_err(failed)?;
            let pages = CheckedPages {
                pages,
                has_nulls: column.most_definite > 0,
                values_of_lists: Some((left / memory_of("")) as u64),
            };
            let reader = get_column_reader(schema.column(column.index), Box::new(pages));
            let read = column.read(reader, expected, &mut left).map_err(failed)?;
            let read = read.map_err(|(row, found)| {
                let found = format!("`{}` {found}", column.name);
                let cure = "fill it in or remove the row";
                bad(path, Some(Place::Row(sentences.len() + row + 1)), found, cure)
            })?;
            if read.len() != expected {
                return Err(broken(format!("a column has {} lists where there are {expected} rows", read.len())));
            }
            lists.push(read.into_iter());
        }
        for _ in 0..expected {
            let mut row = lists.iter_mut().map(|list| list.next().flatten());
            let words = row.next().flatten().unwrap_or_default();
            let tags = row.next().flatten();
            sentences.push(TaggedSentence { line: sentences.len() + 1, words, tags });
        }
    }
    if let Some(names) = names {
        let numbers = sentences.iter_mut().filter_map(|sentence| sentence.tags.as_mut()).flatten();
        for tag in numbers {
            if let Some(name) = tag.parse::<usize>().ok().and_then(|number| names.get(number)) {
                tag.clone_from(name);
            }
        }
    }
    Ok(sentences)
}

/// Names that Hugging Face's `datasets` writes into the file for tags that are numbers (`ClassLabel`).
fn class_names(about: &FileMetaData, column: &str) -> Option<Vec<String>> {
    let entry = about.key_value_metadata()?.iter().find(|entry| entry.key == "huggingface")?;
    let value: Value = serde_json::from_str(entry.value.as_deref()?).ok()?;
    let feature = &value["info"]["features"][column];
    let names = [&feature["feature"]["names"], &feature[0]["names"]];
    let names = names.into_iter().find_map(Value::as_array)?;
    names.iter().map(|name| name.as_str().map(str::to_owned)).collect()
}

/// A column whose values are lists.
struct Column<'a> {
    name: &'a str,
    index: usize,
    reading: Reading,
    /// Definition levels: that of an item that is not null, and the smallest one of an item, which may be null.
    most_definite: i16,
    of_item: i16,
}

impl<'a> Column<'a> {
    fn find(path: &Path, schema: &SchemaDescriptor, name: &'a str, numbers: bool) -> Result<Self, DatasetError> {
        let refused = |found: String| DatasetError::ColumnType {
            path: path.into(),
            column: name.into(),
            found,
            cure: match numbers {
                true => "tags are a list of strings or of whole numbers".into(),
                false => "words are a list of strings".into(),
            },
        };
        let of_name = |column: &&usize| schema.column(**column).path().parts().first().is_some_and(|part| part == name);
        let all: Vec<usize> = (0..schema.num_columns()).collect();
        let found: Vec<usize> = all.iter().filter(of_name).copied().collect();
        let [index] = found[..] else { return Err(refused("holds no simple list, or appears twice".into())) };
        let column = schema.column(index);
        if column.max_rep_level() == 0 {
            return Err(refused("is no list".into()));
        }
        if column.max_rep_level() != 1 || column.path().parts().len() > 3 {
            return Err(refused("is a list of lists or structures".into()));
        }
        let fits = |reading: &Reading| match reading {
            Reading::Text => true,
            Reading::Signed | Reading::Unsigned => numbers,
            _ => false,
        };
        let Some(reading) = reading(&column).filter(fits) else {
            return Err(refused("holds lists of other values".into()));
        };
        let most_definite = column.max_def_level();
        let info = column.self_type().get_basic_info();
        let may_be_null = info.has_repetition() && info.repetition() == Repetition::OPTIONAL;
        Ok(Column { name, index, reading, most_definite, of_item: most_definite - i16::from(may_be_null) })
    }

    /// Reads at most `rows` lists of one row group; `left` is the number of bytes that may still be used.
    fn read(&self, reader: ColumnReader, rows: usize, left: &mut usize) -> Result<Lists, ParquetError> {
        let unsigned = self.reading == Reading::Unsigned;
        match reader {
            ColumnReader::ByteArrayColumnReader(reader) => self.lists(reader, rows, left, |value: &ByteArray| {
                std::str::from_utf8(value.data()).map(str::to_owned).map_err(|_| "is not UTF-8")
            }),
            ColumnReader::Int32ColumnReader(reader) => self.lists(reader, rows, left, |value: &i32| {
                Ok(if unsigned { value.cast_unsigned().to_string() } else { value.to_string() })
            }),
            ColumnReader::Int64ColumnReader(reader) => self.lists(reader, rows, left, |value: &i64| {
                Ok(if unsigned { value.cast_unsigned().to_string() } else { value.to_string() })
            }),
            _ => Err(ParquetError::General("a column of another type than its schema says".into())),
        }
    }

    fn lists<T: DataType>(
        &self,
        mut reader: ColumnReaderImpl<T>,
        rows: usize,
        left: &mut usize,
        convert: impl Fn(&T::T) -> Result<String, &'static str>,
    ) -> Result<Lists, ParquetError> {
        let mut lists: Vec<List> = Vec::new();
        let (mut values, mut definite, mut repeated) = (Vec::new(), Vec::new(), Vec::new());
        while lists.len() < rows {
            values.clear();
            definite.clear();
            repeated.clear();
            let wanted = CHUNK.min(rows - lists.len());
            let (records, ..) = reader.read_records(wanted, Some(&mut definite), Some(&mut repeated), &mut values)?;
            if records == 0 {
                break;
            }
            let mut values = values.iter();
            for (&level, &repetition) in definite.iter().zip(&repeated) {
                let mut taken = memory_of("");
                if repetition == 0 {
                    lists.push((level >= self.of_item - 1).then(Vec::new));
                }
                if level >= self.of_item {
                    let row = lists.len().saturating_sub(1);
                    let Some(value) = values.next().filter(|_| level == self.most_definite) else {
                        return Ok(Err((row, "holds an item that is null".into())));
                    };
                    match (convert(value), lists.last_mut()) {
                        (Ok(text), Some(Some(list))) => {
                            taken += text.len();
                            list.push(text);
                        }
                        (Err(found), _) => return Ok(Err((row, format!("holds an item that {found}")))),
                        _ => return Err(ParquetError::General("an item outside of any list".into())),
                    }
                }
                *left = left.checked_sub(taken).ok_or_else(|| {
                    let reason = "its columns decompress to far more than the whole file, as no sound file does";
                    ParquetError::General(reason.into())
                })?;
            }
        }
        Ok(Ok(lists))
    }
}
