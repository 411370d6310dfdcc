//! What ONNX Runtime returns, in the order of the rows, and the errors in it.

use ndarray::{ArrayD, array};

use super::EvaluateError;
use super::executor::take_rows;
use crate::dataset::{Encoding, Padding, pad};
use crate::task::{Classification, HeadSpec, Objective, Spans};

fn encodings() -> Vec<Encoding> {
    [2, 3].map(|length| Encoding { ids: vec![1; length], type_ids: vec![0; length] }).to_vec()
}

/// The values taken from a batch of both rows, the second row first.
fn taken(outputs: &[ArrayD<f32>], head: &HeadSpec) -> Result<Vec<(usize, Vec<f32>)>, EvaluateError> {
    let encodings = encodings();
    let batch = pad(&encodings, &[1, 0], Padding::default());
    let mut rows = Vec::new();
    take_rows(outputs, head, &batch, &encodings, &mut |row, parts| rows.push((row, parts.concat())))?;
    Ok(rows)
}

#[test]
fn rows_have_their_part_of_every_output() {
    let two = Objective::Classification(Classification { labels: vec!["a".into(), "b".into()] }).head();
    let rows = taken(&[array![[1.0, 2.0], [3.0, 4.0]].into_dyn()], &two).unwrap();
    assert_eq!(rows, [(1, vec![1.0, 2.0]), (0, vec![3.0, 4.0])]);
    let rows = taken(&[array![5.0, 6.0].into_dyn()], &Objective::Regression.head()).unwrap();
    assert_eq!(rows, [(1, vec![5.0]), (0, vec![6.0])], "exporters leave out the axis of a single number");
    // Padding is left out of both ends.
    let spans = Objective::Spans(Spans { null_answers: false }).head();
    let starts = array![[1.0, 2.0, 3.0], [4.0, 5.0, f32::NAN]].into_dyn();
    let rows = taken(&[starts.clone(), -starts], &spans).unwrap();
    assert_eq!(rows, [(1, vec![1.0, 2.0, 3.0, -1.0, -2.0, -3.0]), (0, vec![4.0, 5.0, -4.0, -5.0])]);
}

#[test]
fn what_is_wrong_with_logits_is_one_line() {
    let row = Objective::Regression.head();
    let spans = Objective::Spans(Spans { null_answers: false }).head();
    let refuse = |outputs: &[ArrayD<f32>], head| taken(outputs, head).unwrap_err().to_string();
    let texts = [
        refuse(&[array![[1.0], [f32::NAN]].into_dyn()], &row),
        refuse(&[array![[1.0]].into_dyn()], &row),
        refuse(&[array![[[1.0]], [[2.0]]].into_dyn()], &row),
        refuse(&[], &row),
        refuse(&[array![[1.0], [2.0]].into_dyn(), array![[1.0], [2.0]].into_dyn()], &spans),
    ];
    assert!(texts.iter().all(|text| text.lines().count() == 1));
    insta::assert_snapshot!(texts.join("\n"), @r"
    the model gives NaN for row 0, counted from 0; check the model with `gelora inspect`: in float16 it may overflow
    the model gives logits of shape [1, 1] for 2 rows; export it with a head that gives [rows, classes]
    the model gives logits of shape [2, 1, 1] for 2 rows; export it with a head that gives [rows, classes]
    the model gives logits of shape [] for 2 rows; export it with a head that gives [rows, classes]
    the model gives start or end logits of shape [2, 1] for 2 rows of 3 tokens; export it with a head that gives [rows, tokens]
    ");
}
