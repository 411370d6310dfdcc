//! Files as editors, spreadsheets and other programs leave them: read, or rejected for what they are.

use std::io::Write as _;
use std::path::Path;

use super::*;

fn packed(content: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    writer.write_all(content).unwrap();
    writer.finish().unwrap()
}

const TABLE: &str = "text\tlabel\none\t1\ntwo\t0\n";

#[test]
fn lines_end_in_any_of_the_three_ways() {
    for ending in ["\n", "\r\n", "\r"] {
        let table = TABLE.replace('\n', ending);
        assert_eq!(texts(&load("a.tsv", &table, &plain())), ["one", "two"], "{ending:?}");
        assert_eq!(texts(&load("a.csv", table.replace('\t', ","), &plain())), ["one", "two"], "{ending:?}");
        let lines = "{\"text\": \"one\", \"label\": 1}\n{\"text\": \"two\", \"label\": 0}\n".replace('\n', ending);
        assert_eq!(texts(&load("a.jsonl", lines, &plain())), ["one", "two"], "{ending:?}");
        let documents = "one\nmore\n\ntwo\n".replace('\n', ending);
        let documents = Documents::from_bytes(Path::new("a.txt"), documents.as_bytes(), &plain(), None).unwrap();
        let learnt: Vec<&str> = documents.examples.iter().map(|example| example.text.as_str()).collect();
        assert_eq!(learnt, ["one\nmore", "two"], "{ending:?}");
    }
    // In a file whose lines end otherwise, a lone carriage return is neither a line end nor part of a text.
    let refused = "a.tsv, line 3: a carriage return inside the line; elsewhere lines end in a line feed: remove it, or end all lines in the same way";
    assert_eq!(error("a.tsv", "text\tlabel\none\t1\nt\rwo\t0\n", &plain()), refused);
    assert_eq!(texts(&load("a.csv", "text,label\r\n\"o\rne\",1\r\ntwo,0\r\n", &plain())), ["o\rne", "two"]);
}

#[test]
fn a_byte_order_mark_and_gzip_are_passed_over() {
    let marked = format!("\u{FEFF}{TABLE}");
    assert_eq!(texts(&load("a.tsv", &marked, &plain())), ["one", "two"]);
    assert_eq!(texts(&load("a.tsv.gz", packed(TABLE.as_bytes()), &plain())), ["one", "two"]);
    // Concatenated gzip members are one file.
    let (head, tail) = TABLE.split_at(14);
    let both = [packed(head.as_bytes()), packed(tail.as_bytes())].concat();
    assert_eq!(texts(&load("a.tsv.gz", both, &plain())), ["one", "two"]);
    let lines = "{\"text\": \"one\", \"label\": 1}\n{\"text\": \"two\", \"label\": 0}\n";
    let dataset = load("a.jsonl.gz", packed(lines.as_bytes()), &plain());
    assert_eq!(texts(&dataset), ["one", "two"]);
    assert_eq!(dataset.sha256, crate::files::sha256(&packed(lines.as_bytes())), "of the file as it lies there");
}

#[test]
fn what_is_no_table_is_named() {
    let bomb = packed(&vec![b'a'; 140 << 20]);
    let conll = error("a.conll", "EU B-ORG\n", &plain());
    let cases = [
        conll,
        error("a.tsv", &packed(b"text")[..9], &plain()),
        error("a.tsv.gz", bomb, &plain()),
        error("a.tsv", b"\x28\xB5\x2F\xFD....", &plain()),
        error("a.tsv", b"\xFD7zXZ\x00", &plain()),
        error("a.tsv", b"BZh91AY&SY", &plain()),
        error("a.csv", b"\xD0\xCF\x11\xE0\xA1\xB1", &plain()),
        error("a.csv", b"\x93NUMPY\x01\x00", &plain()),
        error("a.tsv", b"ARROW1\x00\x00", &plain()),
        error("a.tsv", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", &plain()),
        error("a.tsv", "text\tlabel\none\t1\nt\0wo\t0\n", &plain()),
        error("a.tsv", "t\0e\0x\0t\0", &plain()),
        error("a.csv", "text;label\none;1\n", &plain()),
        error("a.csv", "text\tlabel\none\t1\n", &plain()),
        error("a.tsv", "text,label\none,1\n", &plain()),
        error("a.tsv", "\"text\"\t\"label\"\n\"one\"\t1\n", &plain()),
        error("a.tsv", "text\tother\na\tb\n", &LoadSettings { pair: Some("other".into()), ..plain() }),
        error("a.jsonl", "{\"text\": [\"EU\", \"rejects\"], \"label\": 1}\n", &plain()),
        error("a.jsonl", "{\"text\": \"EU rejects\", \"label\": [\"B-ORG\", \"O\"]}\n", &plain()),
    ];
    insta::assert_snapshot!(cases.join("\n"));
}

#[test]
fn a_table_whose_values_all_look_quoted_is_warned_of() {
    let warned = |content: &str| load("a.tsv", content, &plain()).warnings;
    assert_eq!(warned("text\tlabel\n\"one\"\t1\n\"two\"\t0\n").len(), 1);
    assert_eq!(warned("text\tlabel\n\"one\"\t\"1\"\n\"two\"\t\"x\"\n").len(), 2, "labels too");
    assert_eq!(warned("text\tlabel\n\"one\"\t1\ntwo\t0\n"), Vec::<String>::new(), "one of them is a quotation");
    assert!(
        warned("text\tlabel\n\"one\"\t1\n\"two\"\t0\n")[0].ends_with("if it does quote, say so (`quoting = true`)")
    );
    let learnt = b"text\n\"one\"\n\"two\"\n";
    let documents = Documents::from_bytes(Path::new("a.tsv"), learnt, &plain(), None).unwrap();
    assert_eq!(documents.warnings.len(), 1);
}

/// Id, context and answers.
type Asked = (String, String, Vec<(String, usize)>);

/// The questions of a file in any form.
fn questions(content: &[u8]) -> Result<Vec<Asked>, String> {
    let (folder, path) = file("a.json", content);
    let settings = SquadSettings { null_answers: true, limit: None };
    let file = SquadFile::load(&path, settings)
        .map_err(|error| error.to_string().replace(&format!("{}/", folder.path().display()), ""))?;
    let answers =
        |question: &Question| question.answers.iter().map(|answer| (answer.text.clone(), answer.start)).collect();
    Ok(file
        .questions
        .iter()
        .map(|question| (question.id.clone(), file.context(question).into(), answers(question)))
        .collect())
}

#[test]
fn squad_is_read_in_its_forms() {
    let answer = r#"[{"text": "b", "answer_start": 2}]"#;
    let nested = |id: &str| {
        format!(
            r#"{{"data": [{{"paragraphs": [{{"context": "a b", "qas": [{{"id": {id}, "question": "?", "answers": {answer}}}]}}]}}]}}"#
        )
    };
    let row = |id: &str| {
        format!(
            r#"{{"id": {id}, "title": "t", "context": "a b", "question": "?", "answers": {{"text": ["b"], "answer_start": [2]}}}}"#
        )
    };
    let expected = |ids: &[&str]| {
        let one = |id: &&str| ((*id).to_owned(), "a b".to_owned(), vec![("b".to_owned(), 2)]);
        Ok(ids.iter().map(one).collect::<Vec<_>>())
    };
    assert_eq!(questions(nested("\"x\"").as_bytes()), expected(&["x"]));
    assert_eq!(questions(nested("7").as_bytes()), expected(&["7"]), "a number counts as its text");
    assert_eq!(questions(format!("\u{FEFF}{}", nested("7")).as_bytes()), expected(&["7"]), "a byte order mark");
    assert_eq!(questions(&packed(nested("7").as_bytes())), expected(&["7"]), "gzip");
    let rows = [row("\"x\""), row("8")];
    assert_eq!(questions(rows.join("\n").as_bytes()), expected(&["x", "8"]), "JSON lines");
    assert_eq!(questions(format!("[{}]", rows.join(",")).as_bytes()), expected(&["x", "8"]), "a list");
    assert_eq!(questions(format!(r#"{{"data": [{}]}}"#, rows.join(",")).as_bytes()), expected(&["x", "8"]), "in data");
    let none = row("1").replace("[\"b\"]", "[]").replace("[2]", "[]");
    assert_eq!(questions(none.as_bytes()).unwrap()[0].2, [], "no answer");
    let cases = [b"\xFF\xFE{\0".to_vec(), b"PAR1....".to_vec(), rows[0].replace("\"?\"", "5").into_bytes()];
    insta::assert_snapshot!(cases.map(|content| questions(&content).unwrap_err()).join("\n"));
}
