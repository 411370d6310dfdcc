//! The loop over a model that is a closure, and what is written of it. The loop over a session is an integration test.

use itertools::Itertools;
use ndarray::{Array2, array};
use proptest::prelude::*;

use super::*;
use crate::dataset::{Dataset, Encoding, Example, Label, Objective, Padding};
use crate::progress::{CancelFlag, Event, Observer, Silent};

fn encoding(ids: &[u32]) -> Encoding {
    Encoding { ids: ids.to_vec(), type_ids: vec![0; ids.len()] }
}

fn classes(names: &[&str]) -> Objective {
    Objective::Classification { labels: names.iter().map(|name| name.to_string()).collect() }
}

/// A model that sums the ids of a row, without padding: logits `[sum, 10]`.
fn sums(batch: &crate::dataset::Batch) -> Result<Array2<f32>, EvaluateError> {
    let sum = |row: usize| {
        let at = row * batch.length..(row + 1) * batch.length;
        batch.ids[at.clone()].iter().zip_eq(&batch.mask[at]).map(|(id, mask)| (id * mask) as f32).sum::<f32>()
    };
    Ok(Array2::from_shape_fn((batch.rows.len(), 2), |(row, column)| if column == 0 { sum(row) } else { 10.0 }))
}

proptest! {
    /// Whatever the batches are, row i of the logits belongs to row i of the data.
    #[test]
    fn logits_come_in_the_order_of_the_rows(
        rows in prop::collection::vec(prop::collection::vec(0..9_u32, 1..20), 1..40),
        batch_tokens in 1..100_usize,
        equal_lengths: bool,
    ) {
        let encodings: Vec<Encoding> = rows.iter().map(|ids| encoding(ids)).collect();
        let settings = EvaluateSettings { batch_tokens, equal_lengths, padding: Padding { id: 5, ..Padding::default() } };
        let logits = logits(&encodings, &settings, &Silent, sums).unwrap();
        let wanted: Vec<f32> = rows.iter().map(|ids| ids.iter().sum::<u32>() as f32).collect();
        prop_assert_eq!(logits.column(0).to_vec(), wanted);
    }
}

#[test]
fn logits_become_predictions_and_scores() {
    let logits = array![[3.0, 1.0], [1.0, 2.0], [5.0, 5.0]];
    let objective = classes(&["no", "yes"]);
    let predicted = predictions(&logits, &objective).unwrap();
    assert_eq!(predicted, [Label::Class(0), Label::Class(1), Label::Class(0)]);
    let labels = [Label::Class(0), Label::Class(1), Label::Class(1)];
    let scores = score(&predicted, &labels, &objective, &[]).unwrap();
    assert_eq!((scores[0].metric, scores[0].value), (Metric::Accuracy, Some(2.0 / 3.0)));
    let scores = score(&predicted, &labels, &objective, &[Metric::F1, Metric::Matthews]).unwrap();
    assert_eq!(scores.iter().map(|score| score.value).collect::<Vec<_>>(), [Some(2.0 / 3.0), Some(0.5)]);

    let numbers = predictions(&array![[0.5], [2.0]], &Objective::Regression).unwrap();
    assert_eq!(numbers, [Label::Value(0.5), Label::Value(2.0)]);
}

struct Stopped(CancelFlag);

impl Observer for Stopped {
    fn observe(&self, event: Event<'_>) {
        if let Event::Advance { .. } = event {
            self.0.raise();
        }
    }

    fn is_cancelled(&self) -> bool {
        self.0.is_raised()
    }
}

#[test]
fn what_is_wrong_with_an_evaluation() {
    let encodings = [encoding(&[1, 2, 3]), encoding(&[4])];
    let one = EvaluateSettings { batch_tokens: 1, ..Default::default() };
    let run = |model: fn(&crate::dataset::Batch) -> Array2<f32>| {
        logits(&encodings, &one, &Silent, |batch| Ok::<_, EvaluateError>(model(batch))).unwrap_err().to_string()
    };
    let three = classes(&["a", "b", "c"]);
    let names = ["Contradiction", "Neutral", "Entailment"].map(String::from);
    let inference = classes(&["entailment", "neutral", "contradiction"]);
    let texts = [
        run(|_| array![[f32::NAN, 1.0]]),
        run(|batch| if batch.length > 1 { array![[1.0, 2.0]] } else { array![[1.0]] }),
        run(|_| array![[1.0], [2.0]]),
        logits(&encodings, &one, &Stopped(CancelFlag::default()), sums).unwrap_err().to_string(),
        predictions(&array![[1.0, 2.0]], &three).unwrap_err().to_string(),
        predictions(&array![[1.0, 2.0]], &Objective::Regression).unwrap_err().to_string(),
        score(&[], &[], &three, &[Metric::F1]).unwrap_err().to_string(),
        check_label_order(&names, &inference).unwrap_err().to_string(),
    ];
    assert!(texts.iter().all(|text| text.lines().count() == 1));
    insta::assert_snapshot!(texts.join("\n"));
    assert!(check_label_order(&names, &three).is_ok(), "other names say nothing of the order");
    assert!(check_label_order(&names, &classes(&["contradiction", "neutral", "entailment"])).is_ok());
}

#[test]
fn a_model_names_its_classes() {
    let names = |text: &str| label_names(&serde_json::from_str(text).unwrap());
    let named = names(r#"{"id2label": {"1": "yes", "0": "no", "2": "perhaps"}}"#);
    assert_eq!(named, Some(vec!["no".into(), "yes".into(), "perhaps".into()]));
    assert_eq!(names(r#"{"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}"#), None);
    assert_eq!(names(r#"{"id2label": {"0": "a", "2": "b"}}"#), None);
    assert_eq!(names("{}"), None);
}

#[test]
fn predictions_are_written_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let example = |line, label| Example { line, text: "t".into(), pair: None, label };
    let mut dataset = Dataset {
        path: "dev.tsv".into(),
        sha256: String::new(),
        objective: None,
        examples: vec![example(2, Some(Label::Class(1))), example(4, Some(Label::Class(0)))],
        warnings: Vec::new(),
    };
    let objective = classes(&["no, never", "yes"]);
    let logits = array![[0.25, 1.5], [-1.0, 2.0]];
    let predictions = predictions(&logits, &objective).unwrap();
    let evaluation = Evaluation { logits, predictions, scores: Vec::new() };
    let write = |name: &str, dataset: &Dataset, objective: &Objective, evaluation: &Evaluation| {
        let path = folder.path().join(name);
        write_predictions(&path, dataset, objective, evaluation).unwrap();
        std::fs::read_to_string(path).unwrap()
    };
    let mut text = write("a.csv", &dataset, &objective, &evaluation);
    text.push_str(&write("a.jsonl", &dataset, &objective, &evaluation));
    dataset.examples.iter_mut().for_each(|example| example.label = None);
    text.push_str(&write("a.tsv", &dataset, &objective, &evaluation));
    let numbers = array![[0.5], [2.0]];
    let predictions = super::predictions(&numbers, &Objective::Regression).unwrap();
    let numbers = Evaluation { logits: numbers, predictions, scores: Vec::new() };
    text.push_str(&write("b.csv", &dataset, &Objective::Regression, &numbers));
    insta::assert_snapshot!(text);

    for name in ["a.txt", "a", "a.parquet", "a.csv.gz"] {
        let refused = write_predictions(&folder.path().join(name), &dataset, &objective, &evaluation).unwrap_err();
        assert!(matches!(refused, EvaluateError::UnknownFormat { .. }), "{name}");
    }
    dataset.examples.pop();
    let refused = write_predictions(&folder.path().join("c.csv"), &dataset, &objective, &evaluation).unwrap_err();
    assert!(matches!(refused, EvaluateError::Lengths { found: 2, expected: 1, .. }));
    assert!(!folder.path().join("c.csv").exists());
}
