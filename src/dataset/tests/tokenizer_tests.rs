//! Texts become token ids: cutting, padding, what the files beside a tokenizer say, and tokenizers that cannot be used.

use super::*;

/// A word-level tokenizer with the special tokens of BERT, and with truncation and padding of which only the side and the
/// token matter.
const TOKENIZER: &str = r#"{
    "version": "1.0",
    "truncation": {"direction": "Left", "max_length": 3, "strategy": "OnlyFirst", "stride": 0},
    "padding": {"strategy": {"Fixed": 16}, "direction": "Left", "pad_to_multiple_of": null,
                "pad_id": 3, "pad_type_id": 1, "pad_token": "[PAD]"},
    "added_tokens": [],
    "normalizer": {"type": "Lowercase"},
    "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": {"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                   {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
        "pair": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                 {"SpecialToken": {"id": "[SEP]", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}},
                 {"SpecialToken": {"id": "[SEP]", "type_id": 1}}],
        "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [1], "tokens": ["[CLS]"]},
                           "[SEP]": {"id": "[SEP]", "ids": [2], "tokens": ["[SEP]"]}}},
    "decoder": null,
    "model": {"type": "WordLevel", "unk_token": "[UNK]",
        "vocab": {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "[PAD]": 3, "a": 4, "b": 5, "c": 6, "d": 7, "e": 8}}
}"#;

fn examples(rows: &[(&str, Option<&str>)]) -> Vec<Example> {
    let example = |(row, (text, pair)): (usize, &(&str, Option<&str>))| Example {
        line: row + 2,
        text: text.to_string(),
        pair: pair.map(String::from),
    };
    rows.iter().enumerate().map(example).collect()
}

#[test]
fn rows_are_cut_as_we_say_and_not_as_the_file_says() {
    let (_folder, path) = file("tokenizer.json", TOKENIZER);
    let tokenizer = Tokenizer::open(&path, 7).unwrap();
    let rows = examples(&[
        ("A b", None),
        ("a b c d e a b c", None),
        ("a b c d e", Some("a")),
        ("a", Some("a b c d e")),
        ("a b c d e", Some("e d c b a")),
        ("a x", Some("b")),
    ]);
    let encodings = tokenizer.encode(&rows, &Silent).unwrap();
    let ids: Vec<_> = encodings.iter().map(|encoding| encoding.ids.as_slice()).collect();
    assert_eq!(
        ids,
        [
            &[1, 4, 5, 2][..],
            &[1, 7, 8, 4, 5, 6, 2],
            &[1, 6, 7, 8, 2, 4, 2],
            &[1, 4, 2, 6, 7, 8, 2],
            &[1, 7, 8, 2, 5, 4, 2],
            &[1, 4, 0, 2, 5, 2],
        ]
    );
    assert_eq!(encodings[3].type_ids, [0, 0, 0, 1, 1, 1, 1]);
    // Both texts are longer than the maximum; the longer one keeps the odd token, whichever it is.
    let short = Tokenizer::open(&path, 6).unwrap();
    let pairs = examples(&[("a b c d e a b c", Some("e d c b a e d")), ("e d c b a e d", Some("a b c d e a b c"))]);
    let encodings = short.encode(&pairs, &Silent).unwrap();
    assert_eq!((&encodings[0].ids, &encodings[1].ids), (&vec![1, 5, 6, 2, 7, 2], &vec![1, 7, 2, 5, 6, 2]));
    assert_eq!(tokenizer.padding().id, 3, "the id of padding does come from the file");
    assert_eq!(tokenizer.padding().type_id, 0, "its type is 0 in transformers 5");
    assert_eq!(tokenizer.sha256(), crate::files::sha256(TOKENIZER.as_bytes()));
}

#[test]
fn the_configuration_beside_the_tokenizer_counts() {
    let (folder, path) = file("tokenizer.json", TOKENIZER);
    let config = r#"{"truncation_side": "left", "pad_token": {"content": "a"}, "model_max_length": 512}"#;
    std::fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
    let tokenizer = Tokenizer::open(&path, 5).unwrap();
    let encodings = tokenizer.encode(&examples(&[("a b c d e", None)]), &Silent).unwrap();
    assert_eq!(encodings[0].ids, [1, 6, 7, 8, 2]);
    assert_eq!((tokenizer.padding().id, tokenizer.model_maximum_length()), (4, Some(512)));

    let pair = examples(&[("a", Some("b"))]);
    assert_eq!(tokenizer.encode(&pair, &Silent).unwrap()[0].type_ids, [0, 0, 0, 1, 1]);
    let config = r#"{"model_input_names": ["input_ids", "attention_mask"]}"#;
    std::fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
    let tokenizer = Tokenizer::open(&path, 5).unwrap();
    assert_eq!(tokenizer.encode(&pair, &Silent).unwrap()[0].type_ids, [0; 5]);
}

/// Records the events it receives; may ask to stop.
#[derive(Default)]
struct Listener(std::sync::Mutex<Vec<String>>, CancelFlag);

impl Observer for Listener {
    fn observe(&self, event: Event<'_>) {
        self.0.lock().unwrap().push(format!("{event:?}"));
    }

    fn is_cancelled(&self) -> bool {
        self.1.is_raised()
    }
}

#[test]
fn tokenizing_tells_how_far_it_is_and_can_be_stopped() {
    let (_folder, path) = file("tokenizer.json", TOKENIZER);
    let tokenizer = Tokenizer::open(&path, 6).unwrap();
    let rows = examples(&vec![("a b c d e", None); 5000]);
    let listener = Listener::default();
    assert_eq!(tokenizer.encode(&rows, &listener).unwrap().len(), 5000);
    let heard = listener.0.lock().unwrap().join("\n");
    assert!(heard.contains("done: 2048") && heard.contains("done: 5000"), "{heard}");
    assert!(heard.contains("5000 of 5000 rows are longer than 6 tokens and were cut"), "{heard}");
    listener.1.raise();
    assert!(matches!(tokenizer.encode(&rows, &listener), Err(DatasetError::Cancelled(_))));
}

#[test]
fn what_is_wrong_with_a_tokenizer() {
    let (folder, path) = file("tokenizer.json", TOKENIZER);
    let tokenizer = Tokenizer::open(&path, 8).unwrap();
    let encodings = tokenizer.encode(&examples(&[("a e", None), ("b", None)]), &Silent).unwrap();
    assert!(tokenizer.check_vocabulary(&encodings, 9).is_ok());
    let (_other, broken) = file("tokenizer.json", "{\"version\": \"1.0\"");
    let bare = TOKENIZER.replace("WordLevel", "Unheard");
    let (_bare, unheard) = file("tokenizer.json", bare);
    // Found by fuzzing: the library panics on components that it knows by name but not by their parts.
    for decoder in
        ["{\"type\": \"WordPiece\", \"prefix\"}", "{\"type\": \"Metaspace\", \"replacement\": \"\"}", "{\"type\": 5}"]
    {
        let whole = TOKENIZER.trim_end().trim_end_matches('}').to_owned();
        let (_odd, odd) = file("tokenizer.json", format!("{whole}, \"decoder\": {decoder}}}"));
        let error = Tokenizer::open(&odd, 8).unwrap_err().to_string();
        assert!(error.contains("is not a tokenizer that can be read") && error.lines().count() == 1, "{error}");
    }
    let texts = [
        tokenizer.check_vocabulary(&encodings, 8).unwrap_err(),
        Tokenizer::open(&path, 4).unwrap_err(),
        Tokenizer::open(&PathBuf::from("nowhere/tokenizer.json"), 8).unwrap_err(),
        Tokenizer::open(&broken, 8).unwrap_err(),
        Tokenizer::open(&unheard, 8).unwrap_err(),
    ]
    .map(|error| error.to_string());
    assert!(texts.iter().all(|text| text.lines().count() == 1), "{texts:?}");
    let mut text = texts.join("\n");
    for path in [path.parent(), broken.parent(), unheard.parent()].into_iter().flatten() {
        text = text.replace(&path.display().to_string(), "FOLDER");
    }
    drop(folder);
    insta::assert_snapshot!(text);
}
