//! The presets on the published files: the right columns, and the published number of rows per class.

use super::*;
use crate::testing;

fn shared(file: &str) -> Option<PathBuf> {
    testing::shared(&format!("data/{file}"))
}

/// Rows per class, in the order of the preset.
fn counts(dataset: &Dataset) -> Vec<usize> {
    let Some(Labels::Classes { names, rows }) = &dataset.labels else { panic!("classes") };
    let mut counts = vec![0; names.len()];
    rows.iter().for_each(|&class| counts[class] += 1);
    counts
}

#[test]
fn inference_tasks_have_their_published_classes() {
    // entailment, neutral, contradiction; entailment, not_entailment.
    let files: [(&str, &str, &[usize]); 12] = [
        ("anli", "ANLI/r1_dev.tsv", &[334, 333, 333]),
        ("anli", "ANLI/r1_test.tsv", &[334, 333, 333]),
        ("anli", "ANLI/r2_dev.tsv", &[334, 333, 333]),
        ("anli", "ANLI/r2_test.tsv", &[334, 333, 333]),
        ("anli", "ANLI/r3_dev.tsv", &[402, 402, 396]),
        ("anli", "ANLI/r3_test.tsv", &[402, 402, 396]),
        // A sample in which a class never occurs still has three classes.
        ("anli", "ANLI/train_sample_514.tsv", &[334, 0, 180]),
        ("mnli", "MNLI/train_10k.tsv", &[3408, 3313, 3278]),
        ("mnli", "MNLI/dev_matched.tsv", &[3479, 3123, 3213]),
        ("qnli", "QNLI/train_10k.tsv", &[5027, 4972]),
        ("qnli", "QNLI/dev.tsv", &[2702, 2761]),
        ("rte", "RTE/dev.tsv", &[146, 131]),
    ];
    for (task, file, expected) in files {
        let Some(path) = shared(file) else { return };
        let dataset = Dataset::load(&path, &preset(task).unwrap().settings()).unwrap();
        assert_eq!(counts(&dataset), expected, "{file}");
        assert!(dataset.warnings.is_empty(), "{file}: {:?}", dataset.warnings);
        assert!(dataset.examples.iter().all(|example| example.pair.is_some()), "{file}");
        let metrics = preset(task).unwrap().metrics;
        let truth = classes_of(dataset.labels.as_ref().unwrap());
        for metric in metrics {
            assert_eq!(metric.of_classes(&truth, &truth).unwrap().value, Some(1.0), "{file}: {metric}");
        }
    }
}

#[test]
fn the_texts_of_a_pair_are_premise_and_hypothesis() {
    let Some(path) = shared("ANLI/r1_dev.tsv") else { return };
    let dataset = Dataset::load(&path, &preset("anli").unwrap().settings()).unwrap();
    let first = &dataset.examples[0];
    assert!(first.text.starts_with("Linguistics is the scientific study of language"), "{}", first.text);
    assert_eq!(
        first.pair.as_deref(),
        Some("Form and meaning are the only aspects of language linguistics is concerned with.")
    );
    let Some(path) = shared("QNLI/dev.tsv") else { return };
    let dataset = Dataset::load(&path, &preset("qnli").unwrap().settings()).unwrap();
    assert_eq!(dataset.examples[0].text, "What came into force after the new constitution was herald?");
}

#[test]
fn a_regression_has_its_published_range() {
    for (file, rows) in [("STS-B/train.tsv", 5749), ("STS-B/dev.tsv", 1500), ("STS-B/test.tsv", 1379)] {
        let Some(path) = shared(file) else { return };
        let dataset = Dataset::load(&path, &preset("stsb").unwrap().settings()).unwrap();
        let Some(Labels::Values(values)) = &dataset.labels else { panic!("values") };
        assert_eq!((dataset.examples.len(), values.len()), (rows, rows), "{file}");
        assert!(values.iter().all(|value| (0.0..=5.0).contains(value)), "{file}");
    }
}

/// The same rows as a Parquet file give the same data set.
#[cfg(feature = "parquet")]
#[test]
fn parquet_holds_what_the_published_table_holds() {
    let Some(path) = shared("ANLI/r3_dev.tsv") else { return };
    let settings = preset("anli").unwrap().settings();
    let table = Dataset::load(&path, &settings).unwrap();
    let names = preset("anli").unwrap().labels;
    let bytes = parquet_tests::pairs_as_parquet(&table, names);
    let (_folder, path) = file("r3.parquet", bytes);
    let parquet = Dataset::load(&path, &settings).unwrap();
    assert_eq!(parquet.labels, table.labels);
    let texts = |set: &Dataset| -> Vec<_> { set.examples.iter().map(|e| (e.text.clone(), e.pair.clone())).collect() };
    assert_eq!(texts(&parquet), texts(&table));
}
