//! Parquet from outside: files written by the crate's own writer, read back as data sets, and the messages for wrong ones.

use std::sync::Arc;

use ::parquet::basic::{BrotliLevel, Compression, Encoding, GzipLevel, ZstdLevel};
use ::parquet::column::writer::ColumnWriter;
use ::parquet::data_type::{ByteArray, FixedLenByteArray};
use ::parquet::file::properties::{WriterProperties, WriterVersion};
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::schema::parser::parse_message_type;
use proptest::prelude::*;

use super::*;

/// The values of one column; `None` is null.
#[derive(Debug, Clone)]
enum Values {
    Text(Vec<Option<String>>),
    Bytes(Vec<Option<Vec<u8>>>),
    Truth(Vec<Option<bool>>),
    Int(Vec<Option<i32>>),
    Long(Vec<Option<i64>>),
    Float(Vec<Option<f32>>),
    Double(Vec<Option<f64>>),
    Half(Vec<Option<f32>>),
}

fn words(texts: &[&str]) -> Values {
    Values::Text(texts.iter().map(|text| Some((*text).to_owned())).collect())
}

fn longs(values: &[i64]) -> Values {
    Values::Long(values.iter().copied().map(Some).collect())
}

/// A file with these row groups under a schema such as `optional binary text (STRING); required int64 label;`.
fn written(schema: &str, groups: &[Vec<Values>], properties: WriterProperties) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(&format!("message table {{ {schema} }}")).unwrap());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties)).unwrap();
    for group in groups {
        let mut row_group = writer.next_row_group().unwrap();
        for values in group {
            let mut column = row_group.next_column().unwrap().unwrap();
            write(column.untyped(), values);
            column.close().unwrap();
        }
        row_group.close().unwrap();
    }
    writer.into_inner().unwrap()
}

/// The values that are not null, and the definition level of every value.
fn split<T: Clone, U>(values: &[Option<T>], convert: impl Fn(T) -> U) -> (Vec<U>, Vec<i16>) {
    let levels = values.iter().map(|value| i16::from(value.is_some())).collect();
    (values.iter().flatten().cloned().map(convert).collect(), levels)
}

fn write(writer: &mut ColumnWriter<'_>, values: &Values) {
    macro_rules! batch {
        ($writer:expr, $values:expr, $convert:expr) => {{
            let (values, levels) = split($values, $convert);
            // Only lists have repetition levels; every row has one element there.
            $writer.write_batch(&values, Some(&levels), Some(&vec![0; levels.len()])).unwrap()
        }};
    }
    match (writer, values) {
        (ColumnWriter::ByteArrayColumnWriter(w), Values::Text(v)) => batch!(w, v, |t| ByteArray::from(t.as_str())),
        (ColumnWriter::ByteArrayColumnWriter(w), Values::Bytes(v)) => batch!(w, v, ByteArray::from),
        (ColumnWriter::BoolColumnWriter(w), Values::Truth(v)) => batch!(w, v, |t| t),
        (ColumnWriter::Int32ColumnWriter(w), Values::Int(v)) => batch!(w, v, |t| t),
        (ColumnWriter::Int64ColumnWriter(w), Values::Long(v)) => batch!(w, v, |t| t),
        (ColumnWriter::FloatColumnWriter(w), Values::Float(v)) => batch!(w, v, |t| t),
        (ColumnWriter::DoubleColumnWriter(w), Values::Double(v)) => batch!(w, v, |t| t),
        (ColumnWriter::FixedLenByteArrayColumnWriter(w), Values::Half(v)) => {
            batch!(w, v, |t| { FixedLenByteArray::from(half::f16::from_f32(t).to_le_bytes().to_vec()) })
        }
        (_, values) => panic!("the schema has another type than {values:?}"),
    };
}

fn plainly() -> WriterProperties {
    WriterProperties::builder().build()
}

const TEXT_AND_LABEL: &str = "optional binary text (STRING); optional int64 label;";

/// Two row groups of two rows.
fn usual() -> Vec<u8> {
    let group = |texts: [&str; 2], labels: [i64; 2]| vec![words(&texts), longs(&labels)];
    written(TEXT_AND_LABEL, &[group(["one", "two"], [1, 0]), group(["three", "vier\tfünf"], [0, 1])], plainly())
}

#[test]
fn parquet_is_read_with_every_codec_page_version_and_encoding() {
    let (_folder, path) = file("a.parquet", usual());
    let expected = Dataset::load(&path, &plain()).unwrap();
    assert_eq!(texts(&expected), ["one", "two", "three", "vier\tfünf"]);
    assert_eq!(expected.examples.iter().map(|example| example.line).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(classes_of(expected.labels.as_ref().unwrap()), [1, 0, 0, 1]);
    assert_eq!(expected.sha256, crate::files::sha256(&usual()));
    let other = LoadSettings { format: Some(Format::Parquet), ..plain() };
    assert_eq!(texts(&load("a.data", usual(), &other)), texts(&expected));

    let text: Vec<String> = (0..5000).map(|row| format!("text {} ", row % 7).repeat(1 + row % 5)).collect();
    let group = |rows: std::ops::Range<usize>| {
        let labels: Vec<i64> = rows.clone().map(|row| (row % 3) as i64).collect();
        vec![words(&text[rows].iter().map(String::as_str).collect::<Vec<_>>()), longs(&labels)]
    };
    let codecs = [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(GzipLevel::default()),
        Compression::ZSTD(ZstdLevel::default()),
        Compression::LZ4,
        Compression::LZ4_RAW,
        Compression::BROTLI(BrotliLevel::default()),
    ];
    for codec in codecs {
        for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
            for dictionary in [false, true] {
                let properties = WriterProperties::builder()
                    .set_compression(codec)
                    .set_writer_version(version)
                    .set_dictionary_enabled(dictionary)
                    .set_data_page_size_limit(4096)
                    .set_write_batch_size(64)
                    .build();
                let bytes = written(TEXT_AND_LABEL, &[group(0..3000), group(3000..5000)], properties);
                let dataset = load("a.parquet", bytes, &plain());
                assert_eq!(texts(&dataset), text, "{codec:?} {version:?} {dictionary}");
                assert_eq!(classes_of(dataset.labels.as_ref().unwrap())[4], 1);
            }
        }
    }
    for (of_text, of_label) in [
        (Encoding::DELTA_LENGTH_BYTE_ARRAY, Encoding::DELTA_BINARY_PACKED),
        (Encoding::DELTA_BYTE_ARRAY, Encoding::BYTE_STREAM_SPLIT),
    ] {
        for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
            let properties = WriterProperties::builder()
                .set_writer_version(version)
                .set_dictionary_enabled(false)
                .set_column_encoding("text".into(), of_text)
                .set_column_encoding("label".into(), of_label)
                .set_data_page_size_limit(4096)
                .set_write_batch_size(64)
                .build();
            let dataset = load("a.parquet", written(TEXT_AND_LABEL, &[group(0..5000)], properties), &plain());
            assert_eq!(texts(&dataset), text, "{of_text} {version:?}");
            assert_eq!(classes_of(dataset.labels.as_ref().unwrap())[4], 1, "{of_label} {version:?}");
        }
    }
}

#[test]
fn labels_of_parquet_are_strings_numbers_or_booleans() {
    let labels = |kind: &str, values: Values, settings: &LoadSettings| -> Vec<f32> {
        let schema = format!("required binary text (STRING); optional {kind};");
        let bytes = written(&schema, &[vec![words(&["a", "b"]), values]], plainly());
        // Classes as numbers too: names are tested elsewhere.
        match load("a.parquet", bytes, settings).labels.unwrap() {
            Labels::Classes { rows, .. } => rows.into_iter().map(|class| class as f32).collect(),
            Labels::Values(values) => values,
        }
    };
    let some = |values: [f32; 2]| values.map(Some).to_vec();
    let classes = [1.0, 0.0];
    assert_eq!(labels("binary label (STRING)", words(&["yes", "no"]), &plain()), classes);
    assert_eq!(labels("binary label (ENUM)", words(&["yes", "no"]), &plain()), classes);
    assert_eq!(labels("binary label", words(&["yes", "no"]), &plain()), classes, "text without a note that it is text");
    assert_eq!(labels("boolean label", Values::Truth(vec![Some(true), Some(false)]), &plain()), classes);
    assert_eq!(labels("int32 label", Values::Int(vec![Some(1), Some(0)]), &plain()), classes);
    assert_eq!(labels("int32 label (INTEGER(8,true))", Values::Int(vec![Some(1), Some(0)]), &plain()), classes);
    assert_eq!(labels("int64 label (INTEGER(64,false))", longs(&[1, 0]), &plain()), classes);
    let numbers = LoadSettings { kind: Some(LabelKind::Values), ..plain() };
    let values = [3.25, 1.0];
    assert_eq!(labels("float label", Values::Float(some([3.25, 1.0])), &numbers), values);
    assert_eq!(labels("double label", Values::Double(vec![Some(3.25), Some(1.0)]), &plain()), values);
    let half = "fixed_len_byte_array(2) label (FLOAT16)";
    assert_eq!(labels(half, Values::Half(some([3.25, 1.0])), &plain()), values);
    let large = [4_294_967_295.0, 0.0];
    let unsigned = "int32 label (INTEGER(32,false))";
    assert_eq!(labels(unsigned, Values::Int(vec![Some(-1), Some(0)]), &numbers), large);
    let named = LoadSettings { kind: Some(LabelKind::Classes), ..plain() };
    assert_eq!(labels("float label", Values::Float(some([1.0, 0.0])), &named), classes);
}

#[test]
fn presets_pairs_and_limits_work_on_parquet() {
    let schema = "required int32 idx; optional binary sentence2 (STRING); optional group more (LIST) { repeated group list \
                  { optional int32 element; } } optional binary sentence1 (STRING); optional int64 label;";
    let group = |from: i32| {
        let number = Values::Int(vec![Some(from), Some(from + 1)]);
        let list = Values::Int(vec![None, None]);
        vec![number, words(&["B", "D"]), list, words(&["A", "C"]), longs(&[0, 1])]
    };
    let bytes = written(schema, &[group(0), group(2)], plainly());
    let rte = preset("rte").unwrap().settings();
    let dataset = load("a.parquet", &bytes, &rte);
    assert_eq!(dataset.examples.len(), 4);
    let third = Example { line: 3, text: "A".into(), pair: Some("B".into()) };
    assert_eq!((&dataset.examples[2], classes_of(dataset.labels.as_ref().unwrap())[2]), (&third, 0));
    for limit in 1..6 {
        let limited = load("a.parquet", &bytes, &LoadSettings { limit: Some(limit), ..rte.clone() });
        assert_eq!(limited.examples, dataset.examples[..limit.min(4)]);
    }
    // Rows beyond the limit are not read: a null there does no harm.
    let with_null = [vec![words(&["a", "b"]), longs(&[0, 1])], vec![Values::Text(vec![None]), longs(&[1])]];
    let bytes = written(TEXT_AND_LABEL, &with_null, plainly());
    assert_eq!(load("a.parquet", &bytes, &LoadSettings { limit: Some(2), ..plain() }).examples.len(), 2);
    assert!(error("a.parquet", &bytes, &plain()).contains("row 3"));
}

#[test]
fn what_is_wrong_with_a_parquet_file() {
    let table = |schema: &str, values: Vec<Values>| written(schema, &[values], plainly());
    let pair = LoadSettings { pair: Some("other".into()), ..plain() };
    let whole = usual();
    let null = |text: [Option<&str>; 2], label: [Option<i64>; 2]| {
        let text = Values::Text(text.map(|text| text.map(String::from)).to_vec());
        table(TEXT_AND_LABEL, vec![text, Values::Long(label.to_vec())])
    };
    let list = "optional group text (LIST) { repeated group list { optional binary element (STRING); } } optional int64 label;";
    let mut broken_page = whole.clone();
    broken_page[4..20].fill(0xFF);
    let cases = [
        error("a.parquet", "text\tlabel\na\t1\n", &plain()),
        error("a.parquet", "", &plain()),
        error("a.parquet", &whole[..whole.len() / 2], &plain()),
        error("a.parquet", &whole[..whole.len() - 1], &plain()),
        error("a.parquet", broken_page, &plain()),
        error("a.tsv", &whole, &plain()),
        error("a.parquet", &whole, &pair),
        error("a.parquet", written(TEXT_AND_LABEL, &[], plainly()), &plain()),
        error("a.parquet", null([Some("a"), None], [Some(1), Some(0)]), &plain()),
        error("a.parquet", null([Some("a"), Some("b")], [None, Some(0)]), &plain()),
        error("a.parquet", null([Some("a"), Some(" ")], [Some(1), Some(0)]), &plain()),
        error("a.parquet", null([Some("a"), Some("b")], [Some(1), Some(2)]), &plain()),
        error("a.parquet", null([Some("a"), Some("b")], [Some(0), Some(7)]), &preset_on_text()),
        error(
            "a.parquet",
            table("required int64 text; required int64 label;", vec![longs(&[1]), longs(&[1])]),
            &plain(),
        ),
        error(
            "a.parquet",
            table(
                "required binary text (STRING); required int64 label (TIMESTAMP(MILLIS,true));",
                vec![words(&["a"]), longs(&[1])],
            ),
            &plain(),
        ),
        error("a.parquet", table(list, vec![Values::Text(vec![None]), longs(&[1])]), &plain()),
        error(
            "a.parquet",
            table(
                "required binary text; required int64 label;",
                vec![Values::Bytes(vec![Some(vec![0xFF])]), longs(&[1])],
            ),
            &plain(),
        ),
        error(
            "a.parquet",
            table(
                "required binary text (STRING); required double label;",
                vec![words(&["a"]), Values::Double(vec![Some(f64::NAN)])],
            ),
            &LoadSettings { kind: Some(LabelKind::Values), ..plain() },
        ),
    ];
    insta::assert_snapshot!(cases.join("\n"));
}

fn preset_on_text() -> LoadSettings {
    LoadSettings { text: "text".into(), ..preset("cola").unwrap().settings() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// However its bytes are corrupted, a file is read or rejected in one line.
    #[test]
    fn a_damaged_parquet_file_is_read_or_refused_in_one_line(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        end in any::<prop::sample::Index>(),
        cut in prop::bool::weighted(0.2),
    ) {
        let mut bytes = usual();
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        if cut {
            bytes.truncate(end.index(bytes.len()));
        }
        if let Err(error) = Dataset::from_bytes(std::path::Path::new("a.parquet"), &bytes, &plain()) {
            prop_assert_eq!(error.to_string().lines().count(), 1);
        }
    }
}

/// A data set of pairs and classes as a file of several row groups.
pub(super) fn pairs_as_parquet(dataset: &Dataset, names: &[&str]) -> Vec<u8> {
    let schema =
        "optional binary label (STRING); optional binary sentence1 (STRING); optional binary sentence2 (STRING);";
    let classes = classes_of(dataset.labels.as_ref().unwrap());
    let group = |(examples, classes): (&[Example], &[usize])| {
        let labels: Vec<&str> = classes.iter().map(|&class| names[class]).collect();
        let first: Vec<&str> = examples.iter().map(|example| example.text.as_str()).collect();
        let second: Vec<&str> = examples.iter().filter_map(|example| example.pair.as_deref()).collect();
        vec![words(&labels), words(&first), words(&second)]
    };
    let groups: Vec<_> = dataset.examples.chunks(500).zip_eq(classes.chunks(500)).map(group).collect();
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    written(schema, &groups, properties)
}

/// A text that is stored once and occurs in very many rows.
#[test]
fn a_small_file_that_unfolds_to_everything_is_refused() {
    let long = "x".repeat(60_000);
    let texts: Vec<Option<String>> = vec![Some(long); 4000];
    let properties = WriterProperties::builder()
        .set_write_batch_size(100)
        .set_statistics_enabled(::parquet::file::properties::EnabledStatistics::None);
    let bytes = written(TEXT_AND_LABEL, &[vec![Values::Text(texts), longs(&[1; 4000])]], properties.build());
    assert!(bytes.len() < 300_000, "{} bytes", bytes.len());
    let refused = error("a.parquet", bytes, &plain());
    assert!(refused.contains("a column decompresses to far more than the whole file"), "{refused}");

    // Rows that take no bytes: a short text that is stored once.
    let texts: Vec<Option<String>> = vec![Some("x".into()); 2_000_000];
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
    let bytes = written(TEXT_AND_LABEL, &[vec![Values::Text(texts), longs(&[1; 2_000_000])]], properties);
    assert!(bytes.len() < 20_000, "{} bytes", bytes.len());
    let refused = error("a.parquet", bytes, &plain());
    assert!(refused.contains("a column decompresses to far more than the whole file"), "{refused}");
}
