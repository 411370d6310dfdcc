//! The module from outside: files in; examples, token ids and batches out; and the line a user sees when something is wrong.

use std::path::PathBuf;

use itertools::Itertools;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::progress::{CancelFlag, Event, Observer, Silent};
use crate::task::preset;

mod label_sets;
mod odd_files;
#[cfg(feature = "parquet")]
mod parquet_lists;
#[cfg(feature = "parquet")]
mod parquet_tests;
mod public_data;
mod tagged_tests;
mod tokenizer_tests;
mod word_tests;

/// Writes a file into a new folder.
fn file(name: &str, content: impl AsRef<[u8]>) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    (folder, path)
}

fn load(name: &str, content: impl AsRef<[u8]>, settings: &LoadSettings) -> Dataset {
    let (_folder, path) = file(name, content);
    Dataset::load(&path, settings).unwrap()
}

/// The error as the user reads it, without the folder.
fn error(name: &str, content: impl AsRef<[u8]>, settings: &LoadSettings) -> String {
    let (folder, path) = file(name, content);
    let text = Dataset::load(&path, settings).unwrap_err().to_string();
    assert!(!text.contains('\n'), "{text}");
    text.replace(&format!("{}/", folder.path().display()), "")
}

fn texts(dataset: &Dataset) -> Vec<&str> {
    dataset.examples.iter().map(|example| example.text.as_str()).collect()
}

fn classes_of(labels: &Labels) -> Vec<usize> {
    match labels {
        Labels::Classes { rows, .. } => rows.clone(),
        Labels::Values(_) => Vec::new(),
    }
}

fn plain() -> LoadSettings {
    LoadSettings::default()
}

#[test]
fn a_tsv_file_does_not_quote_unless_told() {
    let content = "label\ttext\n1\t\"Yes\" , he said .\n0\t\"a \"\"b\"\" c\"\n";
    let unquoted = load("a.tsv", content, &plain());
    assert_eq!(unquoted.warnings, Vec::<String>::new(), "the first text shows that quotes are ordinary here");
    assert_eq!(texts(&unquoted), ["\"Yes\" , he said .", "\"a \"\"b\"\" c\""]);
    assert_eq!(unquoted.labels.as_ref().map(classes_of).unwrap(), [1, 0]);

    let content = "label\ttext\n1\t\"Yes, he said\"\n0\t\"a \"\"b\"\" c\"\n";
    assert_eq!(load("a.tsv", content, &plain()).warnings.len(), 1, "here they quote");

    let content = "label\ttext\n1\tplain\n0\t\"a \"\"b\"\"\tc\nd\"\n";
    let quoted = load("a.tsv", content, &LoadSettings { quoting: Some(true), ..plain() });
    assert_eq!(texts(&quoted), ["plain", "a \"b\"\tc\nd"]);
    assert_eq!(quoted.examples[1].line, 3);
}

#[test]
fn csv_jsonl_line_ends_and_byte_order_marks() {
    let csv = load("a.csv", "\u{feff}text,label\r\n\"one, two\",1\r\n\r\nthree,0\r\n", &plain());
    assert_eq!(texts(&csv), ["one, two", "three"]);
    assert_eq!(csv.examples.iter().map(|example| example.line).collect::<Vec<_>>(), [2, 4]);

    let tsv = load("a.tsv", "\u{feff}text\tlabel\r\none\t1\r\ntwo\t0\r\n\r\n", &plain());
    assert_eq!(texts(&tsv), ["one", "two"]);

    let content = "{\"text\": \"a\\tb\", \"label\": 1, \"more\": [1]}\r\n\n{\"text\": \"c\", \"label\": \"0\"}";
    let jsonl = load("a.jsonl", content, &plain());
    assert_eq!(texts(&jsonl), ["a\tb", "c"]);
    assert_eq!(jsonl.examples[1].line, 3);
    assert_eq!(jsonl.labels.as_ref().map(classes_of).unwrap(), [1, 0]);

    let unquoted = load("a.csv", "text,label\nsay \"a,0\n\"b,1", &LoadSettings { quoting: Some(false), ..plain() });
    assert_eq!(texts(&unquoted), ["say \"a", "\"b"]);
    // A quote inside an unquoted field opens nothing, not even on the last line.
    assert_eq!(texts(&load("a.csv", "text,label\nfive,0\n5\" disk,1", &plain())), ["five", "5\" disk"]);
    let other = LoadSettings { format: Some(Format::Tsv), ..plain() };
    assert_eq!(texts(&load("a.data", "text\tlabel\nx\t0\ny\t1\n", &other)), ["x", "y"]);
}

#[test]
fn quotes_that_do_not_enclose_a_field_are_errors() {
    insta::assert_snapshot!(
        error("a.csv", "text,label\n\"one,0\ntwo,1\n\"fine\" said,0\n", &plain()),
        @"a.csv, line 4: text follows the quote that closes a field (it begins in line 2); write \"\" for a quote inside a quoted field, or say that `\"` is an ordinary character (`quoting = false`)"
    );
    insta::assert_snapshot!(
        error("a.csv", "text,label\n\"a \"b\" c\",0\n", &plain()),
        @"a.csv, line 2: text follows the quote that closes a field (it begins in the same line); write \"\" for a quote inside a quoted field, or say that `\"` is an ordinary character (`quoting = false`)"
    );
    assert_eq!(texts(&load("a.csv", "text,label\n\"a \"\"b\"\"\",0\n\"\nc\",1\r\n", &plain())), ["a \"b\"", "\nc"]);
}

#[test]
fn pairs_limits_and_files_without_labels() {
    let content = "sentence1\tsentence2\nA\tB\nC\tD\nE\tF\n";
    let settings = LoadSettings { limit: Some(2), ..preset("RTE").unwrap().settings().without_labels() };
    let dataset = load("a.tsv", content, &settings);
    assert_eq!(dataset.examples.len(), 2);
    assert_eq!(dataset.examples[1], Example { line: 3, text: "C".into(), pair: Some("D".into()) });
    assert_eq!(dataset.labels, None);
    assert_eq!(dataset.sha256, crate::files::sha256(content.as_bytes()));
}

#[test]
fn labels_are_words_integers_or_floats() {
    let classes = |dataset: &Dataset| dataset.labels.as_ref().unwrap().names().unwrap_or_default().to_vec();
    let words = load("a.tsv", "text\tlabel\na\tno\nb\tyes\nc\tmaybe\n", &plain());
    assert_eq!(classes(&words), ["maybe", "no", "yes"]);
    assert_eq!(words.labels.as_ref().map(classes_of).unwrap(), [1, 2, 0]);

    let ordered = LoadSettings { labels: Some(vec!["yes".into(), "no".into(), "maybe".into()]), ..plain() };
    assert_eq!(load("a.tsv", "text\tlabel\na\tno\n", &ordered).labels.as_ref().map(classes_of).unwrap(), [1]);

    // Ten classes sort as numbers, not as words.
    let rows: String = (0..12).map(|i| format!("t\t{i}\n")).collect();
    let integers = load("a.tsv", format!("text\tlabel\n{rows}"), &plain());
    assert_eq!(classes(&integers)[9..], ["9", "10", "11"]);
    assert_eq!(classes_of(integers.labels.as_ref().unwrap())[10], 10);

    let floats = load("a.tsv", "text\tlabel\na\t3.5\nb\t2\n", &plain());
    assert_eq!(floats.labels, Some(Labels::Values(vec![3.5, 2.0])));

    let floats = LoadSettings { kind: Some(LabelKind::Classes), ..plain() };
    assert_eq!(
        classes_of(
            &load("a.jsonl", "{\"text\":\"a\",\"label\":1.0}\n{\"text\":\"b\",\"label\":0.0}", &floats).labels.unwrap()
        ),
        [1, 0]
    );
}

#[test]
fn a_development_set_takes_the_classes_of_the_training_set() {
    let train = load("a.tsv", "text\tlabel\na\tx\nb\ty\nc\tz\n", &plain());
    let settings = plain().with_labels_of(train.labels.as_ref().unwrap());
    let dev = load("b.tsv", "text\tlabel\na\tz\n", &settings);
    let names = ["x", "y", "z"].map(String::from).to_vec();
    assert_eq!(dev.labels, Some(Labels::Classes { names, rows: vec![2] }));
    insta::assert_snapshot!(
        error("dev.tsv", "text\tlabel\na\tz\nb\tw\n", &settings),
        @r#"dev.tsv, line 3: label `w` is not one of `x`, `y`, `z`; mend the row, or list all labels (`labels = ["A", "B", …]`)"#
    );
}

#[test]
fn what_is_wrong_with_a_table() {
    let pair = LoadSettings { pair: Some("other".into()), ..plain() };
    let quoting = LoadSettings { quoting: Some(true), ..plain() };
    let missing = Dataset::load(&PathBuf::from("nowhere/train.tsv"), &plain()).unwrap_err().to_string();
    let folder = Dataset::load(&PathBuf::from("src"), &plain()).unwrap_err().to_string();
    let cases = [
        missing,
        folder,
        error("a.txt", "text\tlabel\n", &plain()),
        error("a.tsv", "", &plain()),
        error("a.tsv", "text\tlabel\n\n", &plain()),
        error("a.jsonl", "\n \n", &plain()),
        error("a.tsv", [0xFF, 0xFE, b't', 0], &plain()),
        error("a.csv", [0x1F, 0x8B, 8, 0], &plain()),
        error("a.csv", b"PK\x03\x04....", &plain()),
        error("a.tsv", b"text\tlabel\nok\t1\nbad \xE9\t0\n", &plain()),
        error("a.tsv", "text\tlabel\ttext\n1\t2\t3\n", &plain()),
        error("a.tsv", "text\tlabel\tsentence2\n1\t2\t3\n", &pair),
        error("a.tsv", "text\tlabel\na\t1\nb\t1\tc\n", &plain()),
        error("a.tsv", "text\tlabel\na\t1\n\"b\tc\"\t1\n", &plain()),
        error("a.tsv", "text\tlabel\na\t1\n\nb\t0\n", &plain()),
        error("a.csv", "text,label\na,1\nb\n", &plain()),
        error("a.csv", "text,label\na,1\n\"b,0\nc,1\n", &plain()),
        error("a.tsv", "text\tlabel\n\"a\t1\nb\t0\n", &quoting),
        error("a.tsv", "text\tlabel\na\t1\n \t0\n", &plain()),
        error("a.jsonl", "{\"text\": \"a\", \"label\": 1}\n{\"text\": null, \"label\": 1}\n", &plain()),
        error("a.jsonl", "{\"text\": \"a\", \"label\": 1}\n{\"text\": 5, \"label\": 1}\n", &plain()),
        error("a.jsonl", "{\"text\": \"a\", \"label\": [1]}\n", &plain()),
        error("a.jsonl", "{\"text\": \"a\", \"klass\": 1}\n", &plain()),
        error("a.jsonl", "{\"text\": \"a\", \"label\": 1}\n{\"text\": \"b\"\n", &plain()),
        error("a.json", "[\n{\"text\": \"a\"}\n]", &plain()),
        error("a.json", "[{\"text\": \"a\"}]", &plain()),
        error("a.json", "{\n\"text\": \"a\"\n}", &plain()),
    ];
    insta::assert_snapshot!(cases.join("\n"));
}

/// If other rows have the key, its name is right and the row needs mending.
#[test]
fn a_row_of_json_that_lacks_a_key_is_named() {
    let whole = "{\"text\":\"a\",\"label\":\"x\"}\n";
    let lacks = |key: &str, row: &str, line: usize| {
        let content = if line == 1 { format!("{row}{whole}") } else { format!("{whole}\n{row}{whole}") };
        let said = error("a.jsonl", content, &plain());
        let expected =
            format!("a.jsonl, line {line}: this row has no key `{key}`, which other rows have; its keys are ");
        assert!(said.starts_with(&expected) && said.ends_with("; complete the row or remove it"), "{said}");
    };
    for line in [1, 3] {
        lacks("label", "{\"text\":\"b\"}\n", line);
        lacks("text", "{\"label\":\"x\"}\n", line);
    }
    let said = error("a.jsonl", "{\"txt\":\"a\"}\n{\"txt\":\"b\"}\n", &plain());
    insta::assert_snapshot!(said, @"a.jsonl, line 1: no column `text`; the columns are `txt`; name one of them, or mend the row");
}

/// With a search per row or per column this would take minutes.
#[test]
fn large_tables_take_time_in_proportion() {
    const MANY: usize = 50_000;
    let rows: String = (0..MANY).map(|row| format!("t\tlabel {row}\n")).collect();
    let dataset = load("a.tsv", format!("text\tlabel\n{rows}"), &plain());
    assert_eq!(dataset.labels.unwrap().names().unwrap().len(), MANY);
    let names: String = (0..MANY).map(|column| format!("\tcolumn {column}")).collect();
    let fields = "\t.".repeat(MANY);
    assert_eq!(
        texts(&load("a.tsv", format!("text\tlabel{names}\na\tx{fields}\nb\ty{fields}\n"), &plain())),
        ["a", "b"]
    );
    let quotes = "\"\"".repeat(MANY);
    assert_eq!(load("a.csv", format!("text,label\n\"{quotes}\",1\nb,0\n"), &plain()).examples[0].text.len(), MANY);
}

#[test]
fn what_is_wrong_with_labels() {
    let classes = LoadSettings { kind: Some(LabelKind::Classes), ..plain() };
    let numbers = LoadSettings { kind: Some(LabelKind::Values), ..plain() };
    let cola = LoadSettings { text: "text".into(), ..preset("cola").unwrap().settings() };
    let cases = [
        error("a.tsv", "text\tlabel\na\t1\nb\t\n", &plain()),
        error("a.tsv", "text\tlabel\na\t1\nb\tO\n", &plain()),
        error("a.tsv", "text\tlabel\na\t1.0\nb\t0.0\n", &plain()),
        error("a.tsv", "text\tlabel\na\t1\nb\t1\n", &plain()),
        error("a.tsv", "text\tlabel\na\tx\nb\tx\n", &plain()),
        error("a.tsv", "text\tlabel\na\t1\nb\t2\n", &plain()),
        error("a.tsv", "text\tlabel\na\t-1\nb\t1\n", &plain()),
        error("a.tsv", "text\tlabel\na\t0\nb\t2\n", &classes),
        error("a.tsv", "text\tlabel\na\t0.5\nb\thigh\n", &numbers),
        error("a.tsv", "text\tlabel\na\t0.5\nb\tNaN\n", &numbers),
        error("a.tsv", "text\tlabel\na\t0.5\nb\t1e99\n", &numbers),
        error("a.tsv", "text\tlabel\na\t0\nb\t2\n", &cola),
        error("a.tsv", format!("text\tlabel\na\t{}\nb\t2\n", "long ".repeat(50)), &cola),
    ];
    insta::assert_snapshot!(cases.join("\n"));
}

#[cfg(not(feature = "parquet"))]
#[test]
fn without_the_feature_a_parquet_file_is_refused_with_the_cure() {
    insta::assert_snapshot!(
        error("a.parquet", b"PAR1....", &plain()),
        @"a.parquet is a Parquet file; use a gelora that was built with the feature `parquet`, or write the table as JSON lines (pandas: to_json(name, orient=\"records\", lines=True))"
    );
}

proptest! {
    /// Whatever the texts are, all three ways to write a table give them back.
    #[test]
    fn tables_give_back_what_was_written(
        rows in prop::collection::vec(("[^\\x00\r\n\t]*[a-z\"][^\\x00\r\n\t]*", 0..3_usize), 1..20),
    ) {
        let settings = LoadSettings { labels: Some(["0", "1", "2"].map(String::from).to_vec()), ..plain() };
        let mut csv = csv::Writer::from_writer(Vec::new());
        csv.write_record(["label", "text"]).unwrap();
        let (mut tsv, mut jsonl) = (String::from("label\ttext\n"), String::new());
        for (text, label) in &rows {
            csv.write_record([&label.to_string(), text]).unwrap();
            tsv.push_str(&format!("{label}\t{text}\n"));
            jsonl.push_str(&format!("{}\n", serde_json::json!({"text": text, "label": label})));
        }
        let written: Vec<_> = rows.iter().map(|(text, label)| (text.as_str(), *label)).collect();
        let files = [("a.csv", csv.into_inner().unwrap()), ("a.tsv", tsv.into_bytes()), ("a.jsonl", jsonl.into_bytes())];
        for (name, content) in files {
            let dataset = load(name, content, &settings);
            let labels = classes_of(dataset.labels.as_ref().unwrap());
            let texts = dataset.examples.iter().map(|example| example.text.as_str());
            let read: Vec<_> = texts.zip_eq(labels).collect();
            prop_assert_eq!(&read, &written, "{}", name);
        }
    }

    /// No bytes make the reader panic, and every error is one line.
    #[test]
    fn any_bytes_are_read_or_refused_in_one_line(bytes in prop::collection::vec(any::<u8>(), 0..200), format in 0..3_usize) {
        let mut content = [&b"text\tlabel\n"[..], b"text,label\n", b"{\"text\": \"a\", \"label\": 1}\n"][format].to_vec();
        content.extend(bytes);
        let (_folder, path) = file(["a.tsv", "a.csv", "a.jsonl"][format], content);
        if let Err(error) = Dataset::load(&path, &plain()) {
            prop_assert_eq!(error.to_string().lines().count(), 1);
        }
    }

    /// Every row once, no batch over the budget unless it is a single row, lengths sorted, and equal where required.
    #[test]
    fn batches_hold_every_row_once_within_the_budget(
        lengths in prop::collection::vec(1..200_usize, 1..150),
        budget in 1..1000_usize,
        equal_lengths: bool,
        every in 1..4_usize,
    ) {
        let rows: Vec<usize> = (0..lengths.len()).step_by(every).collect();
        let batches = token_budget_batches(&lengths, &rows, budget, equal_lengths);
        let mut seen: Vec<usize> = batches.concat();
        prop_assert!(seen.windows(2).all(|pair| lengths[pair[0]] >= lengths[pair[1]]));
        seen.sort_unstable();
        prop_assert_eq!(&seen, &rows);
        for batch in &batches {
            let longest = batch.iter().map(|&row| lengths[row]).max().unwrap();
            prop_assert!(batch.len() == 1 || batch.len() * longest <= budget);
            prop_assert!(!equal_lengths || batch.iter().all(|&row| lengths[row] == longest));
        }
        // No two adjacent batches could have been one.
        for pair in batches.windows(2) {
            let next = lengths[pair[1][0]];
            let longest = lengths[pair[0][0]];
            prop_assert!((pair[0].len() + 1) * longest > budget || (equal_lengths && next != longest));
        }
    }

    /// Padding loses nothing: the mask recovers every row.
    #[test]
    fn padding_keeps_every_row(rows in prop::collection::vec(prop::collection::vec((0..1000_u32, 0..2_u32), 1..30), 1..10)) {
        let encodings: Vec<Encoding> = rows
            .iter()
            .map(|row| Encoding { ids: row.iter().map(|t| t.0).collect(), type_ids: row.iter().map(|t| t.1).collect() })
            .collect();
        let order: Vec<usize> = (0..rows.len()).rev().collect();
        let batch = pad(&encodings, &order, Padding { id: 7, type_id: 1, positions: Positions::FromZero });
        prop_assert_eq!(batch.ids.len(), batch.rows.len() * batch.length);
        for (place, &row) in batch.rows.iter().enumerate() {
            let (from, to) = (place * batch.length, (place + 1) * batch.length);
            let kept = batch.mask[from..to].iter().sum::<i64>() as usize;
            prop_assert_eq!(kept, encodings[row].len());
            prop_assert!(batch.mask[from..from + kept].iter().all(|&mask| mask == 1));
            let whole = |values: &[i64], tokens: &[u32]| values.iter().map(|&v| v as u32).eq(tokens.iter().copied());
            prop_assert!(whole(&batch.ids[from..from + kept], &encodings[row].ids));
            prop_assert!(whole(&batch.type_ids[from..from + kept], &encodings[row].type_ids));
            prop_assert!(batch.ids[from + kept..to].iter().all(|&id| id == 7));
            prop_assert!(batch.type_ids[from + kept..to].iter().all(|&id| id == 1));
        }
    }

    /// The kept rows are distinct, each the first of its kind, and none is missing.
    #[test]
    fn distinct_keeps_the_first_of_each_kind(rows in prop::collection::vec((0..3_u32, 0..3_u32), 0..40)) {
        let encodings: Vec<Encoding> =
            rows.iter().map(|&(id, type_id)| Encoding { ids: vec![id], type_ids: vec![type_id] }).collect();
        let Distinct { kept, duplicates } = distinct(&encodings);
        let first: Vec<usize> = (0..rows.len()).filter(|&row| !rows[..row].contains(&rows[row])).collect();
        prop_assert_eq!(duplicates, rows.len() - first.len());
        prop_assert_eq!(kept, first);
    }

    /// A sample is a subset of the rows in their order, the same for the same seed.
    #[test]
    fn samples_are_ordered_parts(count in 0..200_usize, limit in 0..250_usize, seed: u64) {
        let rows: Vec<usize> = (0..count).map(|row| row * 3).collect();
        let sample = sample_rows(&rows, limit, seed);
        prop_assert_eq!(sample.len(), count.min(limit));
        prop_assert!(sample.windows(2).all(|pair| pair[0] < pair[1]));
        prop_assert!(sample.iter().all(|row| rows.contains(row)));
        prop_assert_eq!(&sample, &sample_rows(&rows, limit, seed));
    }
}

fn squad(content: &str, null_answers: bool) -> Result<SquadFile, String> {
    let (folder, path) = file("a.json", content);
    let settings = SquadSettings { null_answers, limit: Some(2) };
    SquadFile::load(&path, settings)
        .map_err(|error| error.to_string().replace(&format!("{}/", folder.path().display()), ""))
}

fn paragraph(context: &str, questions: &str) -> String {
    format!(r#"{{"data": [{{"paragraphs": [{{"context": "{context}", "qas": [{questions}]}}]}}]}}"#)
}

#[test]
fn questions_are_read_and_bad_files_are_one_line() {
    let asked = |id: &str, answers: &str| format!(r#"{{"id": "{id}", "question": " Who?", "answers": {answers}}}"#);
    let right = asked("1", r#"[{"text": "Zoë", "answer_start": 4}, {"text": "no", "answer_start": 900}]"#);
    let read =
        squad(&paragraph("Été Zoë", &[right.clone(), asked("2", "[]"), asked("2", "[]")].join(",")), true).unwrap();
    assert_eq!(read.questions.len(), 2, "no more than the limit");
    let [first, second] = read.questions.as_slice() else { unreachable!() };
    assert_eq!((first.text.as_str(), first.impossible, second.impossible), ("Who?", false, true));
    assert_eq!(first.answers[0].place(read.context(first)), Some((4, 7)));
    assert_eq!(first.answers[1].place(read.context(first)), None);
    assert_eq!(characters("Été Zoë", 4, 99), "Zoë");

    let refused = |content: &str| squad(content, false).unwrap_err();
    for (content, text) in [
        ("[]".to_owned(), "a.json is not the JSON of SQuAD (invalid length 0"),
        (r#"{"data": []}"#.to_owned(), "a.json holds no questions; name a file that does"),
        (
            paragraph("x", &asked("q", "[]")),
            "a.json has a question without an answer, `q`; take it as SQuAD v2.0 (task squad2)",
        ),
        (paragraph(" ", &right), "a.json has an empty context at id `1`; write it, or leave it out"),
        (
            paragraph("x", &format!("{right},{right}")),
            "a.json has two questions with the id `1`; give every question its own",
        ),
    ] {
        let error = refused(&content);
        assert!(error.starts_with(text) && !error.contains('\n'), "{error}");
    }
}

#[test]
fn a_window_knows_which_tokens_hold_an_answer() {
    let window = Window { question: 0, first: 3, offsets: vec![(2, 4), (4, 6), (7, 9), (10, 12)] };
    assert_eq!(window.tokens_of(4, 9), (4, 5));
    assert_eq!(window.tokens_of(5, 6), (4, 4), "within a token");
    assert_eq!(window.tokens_of(10, 12), (6, 6), "the last token");
    assert_eq!(window.tokens_of(0, 4), (0, 0), "begins before");
    assert_eq!(window.tokens_of(10, 13), (0, 0), "ends after");
}
