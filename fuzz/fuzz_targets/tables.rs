//! Any bytes as a text table. The first two bytes choose how it is read: format, quotes, columns, and what labels are.

#![no_main]

use std::path::Path;

use gelora::dataset::{Dataset, Format, LabelKind, LoadSettings};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let [how, labels, bytes @ ..] = input else { return };
    let settings = LoadSettings {
        format: Some([Format::Tsv, Format::Csv, Format::Jsonl][usize::from(how % 3)]),
        quoting: [None, Some(false), Some(true)][usize::from(how / 3 % 3)],
        pair: (how / 9 % 2 == 1).then(|| "pair".into()),
        label: (labels % 2 == 0).then(|| "label".into()),
        kind: [None, Some(LabelKind::Classes), Some(LabelKind::Values)]
            [usize::from(labels / 2 % 3)],
        labels: (labels / 6 % 2 == 1).then(|| vec!["0".into(), "yes".into(), "no".into()]),
        accept_class_numbers: labels / 12 % 2 == 1,
        limit: (labels / 24 % 2 == 1).then_some(2),
        ..LoadSettings::default()
    };
    match Dataset::from_bytes(Path::new("fuzz.table"), bytes, &settings) {
        Ok(dataset) => assert!(!dataset.examples.is_empty()),
        Err(error) => assert_eq!(error.to_string().lines().count(), 1, "{error}"),
    }
});
