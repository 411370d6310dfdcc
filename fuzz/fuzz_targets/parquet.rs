//! Any bytes as a Parquet file.

#![no_main]

use std::path::Path;

use gelora::dataset::{Dataset, Format, LoadSettings};
use libfuzzer_sys::fuzz_target;

/// The Parquet crate, and what it uses, panics on some broken files; gelora turns that into an error, so only other panics are finds.
fn ignore_panics_of_the_crate() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.location().is_none_or(|place| !place.file().contains("/.cargo/registry/")) {
            usual(panic);
        }
    }));
}

fuzz_target!(init: ignore_panics_of_the_crate(), |bytes: &[u8]| {
    let settings = LoadSettings { format: Some(Format::Parquet), ..LoadSettings::default() };
    let pair = LoadSettings { pair: Some("pair".into()), label: None, ..settings.clone() };
    for settings in [settings, pair] {
        if let Err(error) = Dataset::from_bytes(Path::new("fuzz.parquet"), bytes, &settings) {
            assert_eq!(error.to_string().lines().count(), 1, "{error}");
        }
    }
});
