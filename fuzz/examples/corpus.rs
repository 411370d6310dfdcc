//! Fills `fuzz/corpus` from the fixtures of the repository: `cargo run --example corpus` in `fuzz/`.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::{Compression, Encoding, GzipLevel, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::{WriterProperties, WriterVersion};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

type Done = Result<(), Box<dyn Error>>;

/// Rows taken from a table.
const ROWS: usize = 12;

fn main() -> Done {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut models = vec![repository.join("onnx/product.onnx")];
    for folder in fs::read_dir(repository.join("onnx"))? {
        let folder = folder?.path();
        models.push(folder.join("model.onnx"));
        copy(&folder.join("model.safetensors"), "safetensors")?;
        copy(&folder.join("tokenizer.json"), "tokenizer")?;
    }
    for model in models {
        copy(&model, "onnx")?;
    }
    for table in fs::read_dir(repository.join("examples/data"))? {
        let table = table?.path();
        if table.extension().is_some_and(|ending| ending == "tsv") {
            tables(&fs::read_to_string(table)?)?;
        }
    }
    Ok(())
}

fn corpus(target: &str) -> Result<PathBuf, Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn copy(file: &Path, target: &str) -> Done {
    if file.is_file() {
        let folder = file.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
        fs::copy(file, corpus(target)?.join(format!("{folder}_{}", file.file_name().unwrap_or_default().display())))?;
    }
    Ok(())
}

/// The first rows of a table in every format, with the columns that the targets look for.
fn tables(tsv: &str) -> Done {
    let mut lines = tsv.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().split('\t').collect();
    let place = |name: &str| header.iter().position(|column| *column == name).ok_or("a column is missing");
    let (text, label) = (place("sentence")?, place("label")?);
    let rows: Vec<(String, String)> = lines
        .take(ROWS)
        .map(|line| line.split('\t').map(String::from).collect::<Vec<_>>())
        .map(|fields| (fields[text].clone(), fields[label].clone()))
        .collect();
    let folder = corpus("tables")?;
    let mut forms = [String::from("text\tpair\tlabel\n"), String::from("text,pair,label\r\n"), String::new()];
    for (text, label) in &rows {
        forms[0].push_str(&format!("{text}\tsaid \"{label}\"\t{label}\n"));
        forms[1].push_str(&format!("\"{text}\",\"said \"\"{label}\"\"\",{label}\r\n"));
        forms[2].push_str(&format!("{{\"text\": {text:?}, \"pair\": \"\\u00e4\", \"label\": {label}}}\n"));
    }
    for (format, content) in forms.iter().enumerate() {
        for (variant, labels) in [0u8, 1, 2, 4, 6, 12].into_iter().enumerate() {
            for how in [format, format + 9, format + 6] {
                let bytes = [&[how as u8, labels], content.as_bytes()].concat();
                fs::write(folder.join(format!("{format}_{how}_{variant}")), bytes)?;
            }
        }
    }
    parquet(&rows)
}

fn parquet(rows: &[(String, String)]) -> Done {
    let folder = corpus("parquet")?;
    let codecs = [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(GzipLevel::default()),
        Compression::ZSTD(ZstdLevel::default()),
    ];
    for (number, codec) in codecs.into_iter().enumerate() {
        for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
            for dictionary in [false, true] {
                let properties = WriterProperties::builder()
                    .set_compression(codec)
                    .set_writer_version(version)
                    .set_dictionary_enabled(dictionary)
                    .build();
                let name = format!("{number}_{}_{dictionary}", version.as_num());
                fs::write(folder.join(name), one_file(rows, properties)?)?;
            }
        }
    }
    for encoding in [Encoding::DELTA_LENGTH_BYTE_ARRAY, Encoding::DELTA_BYTE_ARRAY] {
        let properties = WriterProperties::builder()
            .set_dictionary_enabled(false)
            .set_column_encoding("text".into(), encoding)
            .build();
        fs::write(folder.join(encoding.to_string()), one_file(rows, properties)?)?;
    }
    Ok(())
}

fn one_file(rows: &[(String, String)], properties: WriterProperties) -> Result<Vec<u8>, Box<dyn Error>> {
    let schema =
        "message table { optional binary text (STRING); optional binary pair (STRING); required int64 label; }";
    let schema = Arc::new(parse_message_type(schema)?);
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties))?;
    for group in rows.chunks(ROWS / 2) {
        let mut columns = writer.next_row_group()?;
        let text: Vec<ByteArray> = group.iter().map(|(text, _)| ByteArray::from(text.as_str())).collect();
        for _ in 0..2 {
            let mut column = columns.next_column()?.ok_or("a column is missing")?;
            column.typed::<ByteArrayType>().write_batch(&text, Some(&vec![1; text.len()]), None)?;
            column.close()?;
        }
        let labels: Vec<i64> = group.iter().map(|(_, label)| label.parse()).collect::<Result<_, _>>()?;
        let mut column = columns.next_column()?.ok_or("a column is missing")?;
        column.typed::<Int64Type>().write_batch(&labels, None, None)?;
        column.close()?;
        columns.close()?;
    }
    Ok(writer.into_inner()?)
}
