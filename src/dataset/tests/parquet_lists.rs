//! Lists of labels in Parquet, written here by the crate's own writer.

use std::sync::Arc;

use ::parquet::column::writer::ColumnWriter;
use ::parquet::data_type::ByteArray;
use ::parquet::file::properties::{WriterProperties, WriterVersion};
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::schema::parser::parse_message_type;

use super::*;

const NESTED: &str = "optional group labels (LIST) { repeated group list { optional binary element (STRING); } }";

/// A file with a column of texts and a column of lists: items with their (definition, repetition) levels.
fn written(labels: &str, items: &[&str], levels: &[(i16, i16)], properties: WriterProperties) -> Vec<u8> {
    let schema =
        Arc::new(parse_message_type(&format!("message t {{ required binary text (STRING); {labels} }}")).unwrap());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties)).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let rows = levels.iter().filter(|(_, repeat)| *repeat == 0).count();
    let texts: Vec<ByteArray> = (0..rows).map(|row| ByteArray::from(format!("t{row}").as_str())).collect();
    let items: Vec<ByteArray> = items.iter().map(|item| ByteArray::from(*item)).collect();
    let (definitions, repeats): (Vec<i16>, Vec<i16>) = levels.iter().copied().unzip();
    for (values, levels) in [(&texts, None), (&items, Some((&definitions, &repeats)))] {
        let mut column = group.next_column().unwrap().unwrap();
        let ColumnWriter::ByteArrayColumnWriter(writer) = column.untyped() else { panic!("binary") };
        let (definitions, repeats) = levels.map(|(d, r)| (d.as_slice(), r.as_slice())).unzip();
        writer.write_batch(values, definitions, repeats).unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.into_inner().unwrap()
}

fn load(bytes: &[u8]) -> Result<LabelSets, DatasetError> {
    let (_folder, path) = file("a.parquet", bytes);
    LabelSets::load(&path, &plain(), "labels").map(|(_, sets)| sets)
}

fn properties(version: WriterVersion, dictionary: bool) -> WriterProperties {
    let builder = WriterProperties::builder().set_writer_version(version).set_dictionary_enabled(dictionary);
    builder.set_data_page_row_count_limit(2).set_write_batch_size(2).build()
}

#[test]
fn lists_of_parquet_are_read_however_they_are_nested() {
    let ways = [
        (NESTED, 3, 1),
        ("required group labels (LIST) { repeated group list { required binary element (STRING); } }", 1, 0),
        ("optional group labels (LIST) { repeated binary array (STRING); }", 2, 1),
        ("repeated binary labels (STRING);", 1, 0),
    ];
    for (schema, item, empty) in ways {
        // a b, nothing, c, a b a
        let levels = [(item, 0), (item, 1), (empty, 0), (item, 0), (item, 0), (item, 1), (item, 1)];
        for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
            for dictionary in [true, false] {
                let items = ["a", "b", "c", "a", "b", "a"];
                let sets = load(&written(schema, &items, &levels, properties(version, dictionary))).unwrap();
                assert_eq!(sets.names, ["a", "b", "c"]);
                let rows: Vec<Vec<u8>> =
                    sets.rows.iter().map(|row| row.iter().map(|&has| u8::from(has)).collect()).collect();
                assert_eq!(rows, [[1, 1, 0], [0, 0, 0], [0, 0, 1], [1, 1, 0]], "{schema} {version:?} {dictionary}");
            }
        }
    }
    // More rows than are decoded at a time.
    let levels: Vec<(i16, i16)> = (0..5000).flat_map(|row| [(3, 0), (3, 1)].into_iter().take(1 + row % 2)).collect();
    let items: Vec<&str> = levels.iter().map(|(_, repeat)| if *repeat == 0 { "a" } else { "b" }).collect();
    let sets = load(&written(NESTED, &items, &levels, WriterProperties::builder().build())).unwrap();
    assert_eq!(sets.rows.len(), 5000);
    assert!(sets.rows.iter().enumerate().all(|(at, row)| row == &[true, at % 2 == 1]));
}

#[test]
fn what_is_wrong_with_a_list_of_parquet() {
    let said = |schema: &str, items: &[&str], levels: &[(i16, i16)]| {
        let text = load(&written(schema, items, levels, WriterProperties::builder().build())).unwrap_err().to_string();
        text[text.find("a.parquet").unwrap()..].to_owned()
    };
    let deep = "optional group labels (LIST) { repeated group list { optional group element (LIST) { repeated group list \
                { optional binary element (STRING); } } } }";
    let map = "optional group labels { required binary key (STRING); }";
    let texts = [
        said(NESTED, &["a"], &[(3, 0), (0, 0)]),
        said(NESTED, &["a"], &[(3, 0), (2, 1)]),
        said(deep, &["a"], &[(5, 0)]),
        said(map, &["a"], &[(1, 0)]),
    ];
    insta::assert_snapshot!(texts.join("\n"));
    // A list is not a single label.
    let (_folder, path) = file("a.parquet", written(NESTED, &["a"], &[(3, 0)], WriterProperties::builder().build()));
    let settings = LoadSettings { label: Some("labels".into()), ..plain() };
    assert!(Dataset::load(&path, &settings).unwrap_err().to_string().contains("`task = \"multi-label\"`"));
}
