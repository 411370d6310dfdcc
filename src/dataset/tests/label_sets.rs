//! Several labels per row: lists in JSON and in text fields.

use super::*;

fn sets(name: &str, content: &str, settings: &LoadSettings) -> Result<LabelSets, DatasetError> {
    let (_folder, path) = file(name, content);
    LabelSets::load(&path, settings, "labels").map(|(_, sets)| sets)
}

#[test]
fn labels_that_nobody_named_are_what_the_rows_have() {
    let names = |content: &str| sets("a.jsonl", content, &plain()).unwrap().names;
    let rows = "{\"text\": \"x\", \"labels\": [\"b\", \"a, c\"]}\n{\"text\": \"y\", \"labels\": []}\n";
    assert_eq!(names(rows), ["a, c", "b"]);
    assert_eq!(names("{\"text\": \"x\", \"labels\": [3.0]}\n{\"text\": \"y\", \"labels\": 1}\n"), ["0", "1", "2", "3"]);
    assert_eq!(names("{\"text\": \"x\", \"labels\": \"a, b\"}\n"), ["a", "b"]);
    let said = |content: &str| sets("a.tsv", content, &plain()).unwrap_err().to_string();
    let texts = ["x\t", "x\ta,1", "x\t4000000000", "x\t,", "x\t[a]"].map(|row| said(&format!("text\tlabels\n{row}\n")));
    let texts = texts.map(|text| text[text.find("a.tsv").unwrap()..].to_owned());
    insta::assert_snapshot!(texts.join("\n"), @r#"
    a.tsv: no row has a label in column `labels`; check the column, or list all labels (`labels = ["A", "B", …]`)
    a.tsv: some labels are numbers, and others, such as `a`, are not; mend the rows, or list all labels (`labels = ["A", "B", …]`)
    a.tsv: a label has the number 4000000000; mend the row, or list all labels (`labels = ["A", "B", …]`)
    a.tsv, line 2: column `labels` has an empty label in `,`; name a label between all commas, or write nothing at all where a text has none
    a.tsv, line 2: column `labels` has `[a]`, which is no JSON list; write the labels between commas (a,b), or as a JSON list (["a", "b"])
    "#);
}
