//! Tagged sentences: files in, words and tags out, and the line a user sees when something is wrong.

use std::path::Path;

use super::*;

fn read(name: &str, content: impl AsRef<[u8]>) -> TaggedFile {
    TaggedFile::from_bytes(Path::new(name), content.as_ref(), &TaggedSettings::default()).unwrap()
}

fn refused(name: &str, content: impl AsRef<[u8]>, settings: &TaggedSettings) -> String {
    let text = TaggedFile::from_bytes(Path::new(name), content.as_ref(), settings).unwrap_err().to_string();
    assert!(!text.contains('\n'), "{text}");
    text
}

/// Sentences as `line: word/tag word/tag`.
fn shown(file: &TaggedFile) -> Vec<String> {
    let sentence = |sentence: &TaggedSentence| {
        let words = sentence.words.iter().enumerate().map(|(at, word)| match &sentence.tags {
            Some(tags) => format!("{word}/{}", tags[at]),
            None => word.clone(),
        });
        format!("{}: {}", sentence.line, words.collect::<Vec<_>>().join(" "))
    };
    file.sentences.iter().map(sentence).collect()
}

fn named(words: &str, tags: &str) -> TaggedSettings {
    TaggedSettings { words: Some(words.into()), tags: Some(tags.into()), ..TaggedSettings::default() }
}

#[test]
fn conll_comes_with_tabs_spaces_and_marks() {
    let tabs = "EU\tB-ORG\nNew York\tO\n\t\n \n#\tO\n.\tO\n";
    let file = read("a.conll", tabs);
    assert_eq!(shown(&file), ["1: EU/B-ORG New York/O", "5: #/O ./O"]);
    assert_eq!((file.scheme, file.has_tags()), (Some(TagScheme::Iob2), true));
    assert_eq!(file.tag_names(), ["B-ORG", "O"]);
    assert_eq!(file.sha256, crate::files::sha256(tabs.as_bytes()));
    let spaces = "-DOCSTART- -X- -X- O\n\nEU NNP B-NP I-ORG\n. .  O O\n-DOCSTART- -X-\n\nPeter NNP B-NP I-PER\n";
    let file = read("a.txt", spaces);
    assert_eq!(shown(&file), ["3: EU/I-ORG ./O", "7: Peter/I-PER"]);
    assert_eq!(file.scheme, Some(TagScheme::Iob1));
    for ending in ["\r\n", "\r"] {
        assert_eq!(shown(&read("a.bio", tabs.replace('\n', ending))), shown(&read("a.conll", tabs)), "{ending:?}");
    }
    assert_eq!(shown(&read("a.iob", format!("\u{FEFF}{tabs}"))).len(), 2);
    let german = "# source\n1\tSchartau\tB-PER\tO\n2\tsagte\tO\tO\n";
    let columns = TaggedFile::from_bytes(Path::new("a.tsv"), german.as_bytes(), &named("2", "3")).unwrap();
    assert_eq!(shown(&columns), ["2: Schartau/B-PER sagte/O"]);
    let one = TaggedSettings { limit: Some(1), ..TaggedSettings::default() };
    assert_eq!(TaggedFile::from_bytes(Path::new("a.conll"), tabs.as_bytes(), &one).unwrap().sentences.len(), 1);
}

#[test]
fn a_comment_is_no_word_and_the_word_is_no_comment() {
    let comments = "# sent_id = 1\n# text = # is\n#\tO\n# more\tO\nis\tO\n\n# newdoc\nx\tO\n";
    assert_eq!(shown(&read("a.conll", comments)), ["3: #/O # more/O is/O", "8: x/O"]);
    // Four columns as elsewhere, but no tag.
    let spaces = "# id 7 domain=en\nEU _ _ B-ORG\n\n# _ _ O\n7 _ _ O\n";
    assert_eq!(shown(&read("a.conll", spaces)), ["2: EU/B-ORG", "4: #/O 7/O"]);
    let untagged = "# a comment\n#\nword\n# \n";
    assert_eq!(shown(&read("a.txt", untagged)), ["2: # word #"]);
    assert_eq!(shown(&read("a.txt", "# O\nx O\n")), ["1: #/O x/O"]);
}

#[test]
fn json_lines_have_lists() {
    let file = read(
        "a.jsonl",
        "{\"tokens\": [\"EU\", \".\"], \"ner_tags\": [\"B-ORG\", \"O\"], \"id\": 1}\n\n{\"tokens\": [\"x\"], \"ner_tags\": [\"O\"]}\n",
    );
    assert_eq!(shown(&file), ["1: EU/B-ORG ./O", "3: x/O"]);
    let numbers = "{\"words\": [\"EU\", \".\"], \"labels\": [11, 2]}\n";
    let file = read("a.json", numbers);
    assert_eq!((shown(&file), file.scheme), (vec!["1: EU/11 ./2".to_owned()], None));
    assert_eq!(file.tag_names(), ["2", "11"]);
    insta::assert_snapshot!(file.warnings[0], @r#"a.json: the tags are numbers, which do not tell entities apart; name them in their order (`labels = ["O", "B-…", "I-…"]`)"#);
    let labels = Some(vec!["O".into(), "B-x".into()]);
    let names = TaggedSettings { labels, numbered: true, ..TaggedSettings::default() };
    let numbers = "{\"words\": [\"EU\", \".\"], \"labels\": [1, 0]}\n";
    let file = TaggedFile::from_bytes(Path::new("a.jsonl"), numbers.as_bytes(), &names).unwrap();
    assert_eq!(shown(&file), ["1: EU/B-x ./O"]);
    // Names alone do not say what numbers stand for.
    let named_only = TaggedSettings { numbered: false, ..names };
    let error = TaggedFile::from_bytes(Path::new("a.jsonl"), numbers.as_bytes(), &named_only).unwrap_err().to_string();
    assert!(error.contains("`1`") && error.contains("`B-x`"), "{error}");
    let file = TaggedFile::from_bytes(Path::new("a.jsonl"), b"{\"w\": [\"EU\"], \"t\": [\"O\"]}", &named("w", "t"));
    assert_eq!(shown(&file.unwrap()), ["1: EU/O"]);
    assert!(!read("a.jsonl", "{\"tokens\": [\"EU\"], \"tags\": null}\n").has_tags());
}

#[test]
fn packed_files_are_unpacked() {
    use std::io::Write as _;
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    writer.write_all(b"EU\tB-ORG\n").unwrap();
    let packed = writer.finish().unwrap();
    let file = read("a.conll.gz", &packed);
    assert_eq!((shown(&file), file.sha256), (vec!["1: EU/B-ORG".to_owned()], crate::files::sha256(&packed)));
}

#[test]
fn what_is_wrong_is_named() {
    let plain = TaggedSettings::default();
    let tags = TaggedSettings { need_tags: true, ..plain.clone() };
    let bilou = TaggedSettings { scheme: Some(TagScheme::Bilou), ..plain.clone() };
    let labels = TaggedSettings { labels: Some(vec!["O".into(), "B-x".into()]), ..plain.clone() };
    let texts = [
        refused("a.conll", "EU\tB-ORG\n.\tO\tO\n", &plain),
        refused("a.conll", "EU B-ORG\nno\n", &plain),
        refused("a.conll", "EU\tB-ORG\n\n\tO\n", &plain),
        refused("a.conll", "EU\tB-ORG\n.\tPER\n", &plain),
        refused("a.conll", "EU\tB-ORG\n.\tS-PER\n.\tU-PER\n", &plain),
        refused("a.conll", "EU\tI-ORG\n.\tE-ORG\n", &plain),
        refused("a.conll", "EU\tB-ORG\n.\tS-PER\n", &bilou),
        refused("a.conll", "EU\tB-x\n.\tB-y\n", &labels),
        refused("a.conll", "EU\n.\n", &tags),
        refused("a.conll", "EU\tO\n", &named("1", "3")),
        refused("a.conll", "EU\tO\n", &named("text", "label")),
        refused("a.conll", "\n \n", &plain),
        refused("a.conll", "", &plain),
        refused("a.xyz", "EU\tO\n", &plain),
        refused("a.csv", "EU,O\n", &plain),
        refused("a.jsonl", "{\"tokens\": [\"EU\"], \"tags\": []}\n", &plain),
        refused("a.jsonl", "{\"tokens\": []}\n", &plain),
        refused("a.jsonl", "{\"tokens\": [\"a\", \"\"]}\n", &plain),
        refused("a.jsonl", "{\"tokens\": \"EU\"}\n", &plain),
        refused("a.jsonl", "{\"tokens\": [1]}\n", &plain),
        refused("a.jsonl", "{\"tokens\": [\"a\"], \"tags\": [-1]}\n", &plain),
        refused("a.jsonl", "{\"tokens\": [\"a\"], \"tags\": [5]}\n", &labels),
        refused("a.jsonl", "{\"text\": \"a\"}\n", &plain),
        refused("a.jsonl", "{\"tokens\": [\"a\"]}\n", &tags),
        refused("a.jsonl", "{\"tokens\": [\"a\"], \"tags\": [\"O\"]}\n{\"tokens\": [\"a\"]}\n", &plain),
        refused("a.jsonl", "{\"tokens\": [\"a\"]}\n{\"x\": [\"a\"]}\n", &plain),
        refused("a.jsonl", "[1]\n", &plain),
        "tsvx".parse::<TaggedFormat>().unwrap_err(),
    ];
    insta::assert_snapshot!(texts.join("\n"), @r#"
    a.conll, line 2: the number of columns is 3, in the first line 2; every word has a line of its own, with the same columns everywhere: mend the line
    a.conll, line 2: the number of columns is 1, in the first line 2; every word has a line of its own, with the same columns everywhere: mend the line
    a.conll, line 3: the word is empty; write the word, or remove it with its tag
    a.conll, line 2: `PER` marks no entity; tags are O, B-… and I-… (or L, U; E, S): mend it, or name the column of the tags (`label`)
    a.conll, line 3: the tag `U-PER` does not go with those before it; tags are O, B-… and I-… (or L, U; E, S): mend it, or name the column of the tags (`label`)
    a.conll, line 1: tags with E and without B are those of the scheme IOE; tags are O, B-… and I-… (or L, U; E, S): mend it, or name the column of the tags (`label`)
    a.conll, line 2: `S-PER` is no tag of the scheme bilou (O, B-…, I-…, L-… and U-…); mend it, or give another scheme
    a.conll, line 2: label `B-y` is not one of `O`, `B-x`; mend the row, or list all labels (`labels = ["A", "B", …]`)
    a.conll, line 1: there are no tags; write one for every word, and name their column where it has another name (`label`)
    a.conll, line 1: there is no column `3`; the first line has 2; columns are named by their numbers, from 1
    a.conll, line 1: there is no column `text`; the first line has 2; columns are named by their numbers, from 1
    a.conll: holds no sentences; check that it is the right file
    a.conll is empty; check that it is the right file
    a.xyz: cannot tell from the file name how words and tags are written; give the format: txt (CoNLL), jsonl or parquet
    a.csv: cannot tell from the file name how words and tags are written; give the format: txt (CoNLL), jsonl or parquet
    a.jsonl, line 1: the number of words is 1, of tags 0; every word needs one tag: mend the sentence
    a.jsonl, line 1: there is no word; remove the sentence
    a.jsonl, line 1: word 2: the word is empty; write the word, or remove it with its tag
    a.jsonl, line 1: `tokens` is a string instead of a list; words are a list of strings
    a.jsonl, line 1: item 1 of `tokens` is a number; words are a list of strings
    a.jsonl, line 1: item 1 of `tags` is `-1`; tags are a list of strings or of whole numbers
    a.jsonl, line 1: label `5` is not one of `O`, `B-x`; mend the row, or list all labels (`labels = ["A", "B", …]`)
    a.jsonl, line 1: no column `tokens`; the columns are `text`; name the one that holds the list of words (`text`)
    a.jsonl, line 1: no column `tags`; the columns are `tokens`; name the one that holds the list of tags (`label`)
    a.jsonl, line 2: there are no tags, which other sentences have; write them, or remove the sentence
    a.jsonl, line 2: there is no key `tokens`, which other rows have; mend the row or remove it
    a.jsonl, line 1: a JSON array instead of a JSON object; write one JSON object per line
    unknown format `tsvx`; give conll, jsonl or parquet
    "#);
    let odd = read("a.conll", "EU\tB-ORG\n\nx\tO\ny\tI-ORG\n");
    insta::assert_snapshot!(odd.warnings.join("\n"), @"a.conll, line 4: `I-ORG` breaks the rules of the scheme iob2; check it: strict scores count no entity there");
}

#[test]
fn the_published_files_are_read() {
    // Sentences and entities as the shared task counts them.
    for (file, sentences, entities) in [("train", 3394, 1975), ("dev", 1009, 836), ("test", 1287, 1079)] {
        let Some(path) = crate::testing::shared(&format!("data/WNUT17/{file}.conll")) else { return };
        let file = TaggedFile::load(&path, &TaggedSettings { need_tags: true, ..TaggedSettings::default() }).unwrap();
        assert_eq!((file.sentences.len(), file.scheme), (sentences, Some(TagScheme::Iob2)));
        assert_eq!(file.tag_names().len(), 13);
        assert_eq!(file.warnings, Vec::<String>::new());
        let tags: Vec<Vec<String>> = file.sentences.iter().map(|sentence| sentence.tags.clone().unwrap()).collect();
        let scores = metric::EntityScores::new(&tags, &tags, TagScheme::Iob2, true).unwrap();
        assert_eq!((scores.overall.support, scores.overall.f1), (entities, 1.0));
    }
}

#[test]
fn predictions_are_written_and_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = read("a.conll", "EU\tB-ORG\nNew York\tO\n\n#\tO\n");
    let predicted = vec![vec!["O".to_owned(), "B-LOC".to_owned()], vec!["O".to_owned()]];
    let (conll, lines) = (folder.path().join("a.conll"), folder.path().join("a.jsonl"));
    write_conll(&conll, &file.sentences, &predicted).unwrap();
    write_json_lines(&lines, &file.sentences, &predicted).unwrap();
    let text = |path: &Path| std::fs::read_to_string(path).unwrap();
    assert_eq!(text(&conll), "EU\tB-ORG\tO\nNew York\tO\tB-LOC\n\n#\tO\tO\n\n");
    assert_eq!(
        text(&lines),
        "{\"words\":[\"EU\",\"New York\"],\"tags\":[\"B-ORG\",\"O\"],\"predicted\":[\"O\",\"B-LOC\"]}\n\
         {\"words\":[\"#\"],\"tags\":[\"O\"],\"predicted\":[\"O\"]}\n"
    );
    let again = TaggedFile::load(&conll, &named("1", "2")).unwrap();
    assert_eq!(again.sentences, file.sentences);
    file.sentences.iter_mut().for_each(|sentence| sentence.tags = None);
    write_conll(&conll, &file.sentences, &predicted).unwrap();
    assert_eq!(text(&conll), "EU\tO\nNew York\tB-LOC\n\n#\tO\n\n");
}

#[cfg(feature = "parquet")]
mod lists {
    use std::sync::Arc;

    use ::parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
    use ::parquet::file::metadata::KeyValue;
    use ::parquet::file::properties::WriterProperties;
    use ::parquet::file::writer::SerializedFileWriter;
    use ::parquet::schema::parser::parse_message_type;

    use super::*;

    const SCHEMA: &str = "message table { optional int32 id;
        optional group tokens (LIST) { repeated group list { optional binary element (STRING); } }
        optional group ner_tags (LIST) { repeated group list { optional int64 element; } } }";

    /// A file with words `a b | c`, and tags with these definition levels.
    fn written(tags: &[i64], definite: &[i16], repeated: &[i16], names: Option<&str>) -> Vec<u8> {
        let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
        let about = names.map(|value| vec![KeyValue::new("huggingface".into(), value.to_owned())]);
        let properties = Arc::new(WriterProperties::builder().set_key_value_metadata(about).build());
        let mut writer = SerializedFileWriter::new(Vec::new(), schema, properties).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<::parquet::data_type::Int32Type>().write_batch(&[1, 2], Some(&[1, 1]), None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let words = ["a", "b", "c"].map(ByteArray::from);
        column.typed::<ByteArrayType>().write_batch(&words, Some(&[3, 3, 3]), Some(&[0, 1, 0])).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(tags, Some(definite), Some(repeated)).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.into_inner().unwrap()
    }

    const NAMES: &str =
        r#"{"info": {"features": {"ner_tags": {"feature": {"names": ["O", "B-x", "I-x"], "_type": "ClassLabel"}}}}}"#;

    #[test]
    fn lists_of_parquet_are_read() {
        let file = read("a.parquet", written(&[1, 2, 0], &[3, 3, 3], &[0, 1, 0], Some(NAMES)));
        assert_eq!(shown(&file), ["1: a/B-x b/I-x", "2: c/O"]);
        let file = read("a.parquet", written(&[1, 2, 0], &[3, 3, 3], &[0, 1, 0], None));
        assert_eq!((shown(&file), file.scheme), (vec!["1: a/1 b/2".to_owned(), "2: c/0".to_owned()], None));
        let none = read("a.parquet", written(&[], &[0, 0], &[0, 0], Some(NAMES)));
        assert_eq!(shown(&none), ["1: a b", "2: c"]);
        let limit = TaggedSettings { limit: Some(1), ..TaggedSettings::default() };
        let bytes = written(&[1, 2, 0], &[3, 3, 3], &[0, 1, 0], Some(NAMES));
        let one = TaggedFile::from_bytes(Path::new("a.parquet"), &bytes, &limit).unwrap();
        assert_eq!(shown(&one), ["1: a/B-x b/I-x"]);
    }

    #[test]
    fn wrong_lists_of_parquet_are_named() {
        let plain = TaggedSettings::default();
        let texts = [
            refused("a.parquet", written(&[1, 2], &[3, 3, 1], &[0, 1, 0], None), &plain),
            refused("a.parquet", written(&[1, 2], &[3, 3, 2], &[0, 1, 0], None), &plain),
            refused("a.parquet", written(&[1, 2], &[3, 3, 0], &[0, 1, 0], None), &plain),
            refused("a.parquet", written(&[1, 2, 7], &[3, 3, 3], &[0, 1, 0], Some(NAMES)), &plain),
            refused("a.parquet", written(&[], &[0, 0], &[0, 0], None), &named("id", "ner_tags")),
            refused("a.parquet", written(&[], &[0, 0], &[0, 0], None), &named("ner_tags", "tokens")),
            refused("a.parquet", written(&[], &[0, 0], &[0, 0], None), &named("words", "tokens")),
        ];
        insta::assert_snapshot!(texts.join("\n"), @"
        a.parquet, row 2: the number of words is 1, of tags 0; every word needs one tag: mend the sentence
        a.parquet, row 2: `ner_tags` holds an item that is null; fill it in or remove the row
        a.parquet, row 2: there are no tags, which other sentences have; write them, or remove the sentence
        a.parquet, row 2: word 1: `7` marks no entity; tags are O, B-… and I-… (or L, U; E, S): mend it, or name the column of the tags (`label`)
        a.parquet: column `id` is no list; words are a list of strings
        a.parquet: column `ner_tags` holds lists of other values; words are a list of strings
        a.parquet: no column `words`; the columns are `id`, `tokens`, `ner_tags`; name the one that holds the list of words (`text`)
        ");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Broken files are rejected or read, and nothing else happens.
        #[test]
        fn broken_files_are_errors(at in 0..4000_usize, byte in any::<u8>(), cut in 0..4000_usize) {
            let mut bytes = written(&[1, 2, 0], &[3, 3, 3], &[0, 1, 0], Some(NAMES));
            let length = bytes.len();
            bytes[at % length] = byte;
            let _ = TaggedFile::from_bytes(Path::new("a.parquet"), &bytes, &TaggedSettings::default());
            bytes.truncate(cut % length);
            let _ = TaggedFile::from_bytes(Path::new("a.parquet"), &bytes, &TaggedSettings::default());
        }
    }
}

proptest! {
    /// Arbitrary bytes give an error, or sentences whose words and tags match.
    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "([#aOBI1-]{0,3}[ \t]?[OBIx-]{0,3}\r?\n?){0,8}", json in "\\{\"tokens\": ?[\\[\\]\",a0-9 ]{0,9}\\}") {
        for (name, content) in [("a.conll", &bytes[..]), ("a.jsonl", &bytes), ("a.parquet", &bytes), ("a.conll", text.as_bytes()), ("a.jsonl", json.as_bytes())] {
            match TaggedFile::from_bytes(Path::new(name), content, &TaggedSettings::default()) {
                Ok(file) => for sentence in &file.sentences {
                    prop_assert!(!sentence.words.is_empty() && sentence.words.iter().all(|word| !word.is_empty()));
                    prop_assert!(sentence.tags.as_ref().is_none_or(|tags| tags.len() == sentence.words.len()));
                },
                Err(error) => prop_assert!(!error.to_string().contains('\n')),
            }
        }
    }
}
