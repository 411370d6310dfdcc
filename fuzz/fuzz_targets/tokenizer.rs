//! Any bytes as a `tokenizer.json`, and some texts for what parses.

#![no_main]

use std::path::PathBuf;
use std::sync::OnceLock;

use gelora::dataset::{Dataset, Format, LoadSettings, Tokenizer};
use gelora::progress::Silent;
use libfuzzer_sys::fuzz_target;

static FILE: OnceLock<PathBuf> = OnceLock::new();

const TEXTS: &str = "text\tpair\nthe keys to the cabinet\tare here\nÄ ö 中文 \u{200d}\u{301}!\t1\n";

/// The tokenizers library panics on some broken files; gelora turns that into an error, so only other panics are finds.
fn ignore_panics_of_the_library() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.location().is_none_or(|place| !place.file().contains("/.cargo/registry/")) {
            usual(panic);
        }
    }));
}

fuzz_target!(init: ignore_panics_of_the_library(), |bytes: &[u8]| {
    // A tokenizer is read with the files beside it, so it needs a folder.
    let path = FILE.get_or_init(|| {
        let folder = std::env::temp_dir().join(format!("gelora-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for the tokenizer");
        folder.join("tokenizer.json")
    });
    std::fs::write(path, bytes).expect("a file in it");
    let tokenizer = match Tokenizer::open(path, 8) {
        Ok(tokenizer) => tokenizer,
        Err(error) => return assert_eq!(error.to_string().lines().count(), 1, "{error}"),
    };
    let settings =
        LoadSettings { pair: Some("pair".into()), label: None, format: Some(Format::Tsv), ..LoadSettings::default() };
    let examples = Dataset::from_bytes("texts.tsv".as_ref(), TEXTS.as_bytes(), &settings).expect("a table").examples;
    match tokenizer.encode(&examples, &Silent) {
        Ok(encodings) => assert!(encodings.iter().all(|encoding| encoding.len() <= 8)),
        Err(error) => assert_eq!(error.to_string().lines().count(), 1, "{error}"),
    }
});
