//! Several labels per text: how rows are read, scored and written.

use super::*;

#[test]
fn rows_with_several_labels_are_read_scored_and_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tsv");
    let settings = |labels: Option<&[&str]>| DataSettings {
        task: Some("multi-label".into()),
        labels: labels.map(|labels| labels.iter().map(|label| label.to_string()).collect()),
        ..DataSettings::of(&path)
    };
    let targets = |rows: &dyn Rows| {
        let tokenizer = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("onnx/tiny_encoder/tokenizer.json");
        rows.encode(&crate::dataset::Tokenizer::open(&tokenizer, 24).unwrap(), &Silent).unwrap().targets
    };
    std::fs::write(&path, "text\tlabels\na\tno, yes\nb\t\nc\tyes\nd\tyes\n").unwrap();
    let rows = read(&settings(None), &How::default()).unwrap();
    assert_eq!(rows.objective(), Some(&several(&["no", "yes"])));
    let sets = vec![vec![true, true], vec![false, false], vec![false, true], vec![false, true]];
    assert_eq!(targets(rows.as_ref()), Some(Targets::LabelSets(sets)));
    assert_eq!(rows.strata().unwrap(), [vec![1], vec![2, 3], vec![0]]);
    // Logits of at least 0 are labels; a row without labels is an empty field.
    let logits = outputs(&[&[0.0, 1.5], &[-1.0, -2.0], &[-1.0, -2.0], &[-1.0, 2.0]]);
    let mut text = String::new();
    for name in ["p.csv", "p.jsonl"] {
        rows.write_predictions(&folder.path().join(name), &logits).unwrap();
        text.push_str(&std::fs::read_to_string(folder.path().join(name)).unwrap());
    }
    insta::assert_snapshot!(text, @r#"
    line,prediction,label,logit:no,logit:yes
    2,"no,yes","no,yes",0,1.5
    3,,,-1,-2
    4,,yes,-1,-2
    5,yes,yes,-1,2
    {"line":2,"prediction":["no","yes"],"label":["no","yes"],"logits":[0.0,1.5]}
    {"line":3,"prediction":[],"label":[],"logits":[-1.0,-2.0]}
    {"line":4,"prediction":[],"label":["yes"],"logits":[-1.0,-2.0]}
    {"line":5,"prediction":["yes"],"label":["yes"],"logits":[-1.0,2.0]}
    "#);
    // Held-out rows have the labels of the training rows; a model's labels are matched by name, and by number.
    let like = several(&["yes", "no", "maybe"]);
    let held_out = read(&settings(None), &How { like: Some(&like), ..How::default() }).unwrap();
    assert_eq!(held_out.objective(), Some(&like));
    let config = json!({"id2label": {"0": "yes", "1": "no"}});
    let named = read(&settings(None), &How { config: Some(&config), ..How::default() }).unwrap();
    assert_eq!(named.objective(), Some(&several(&["yes", "no"])));
    let said = |labels: Option<&[&str]>, how: &How<'_>| read(&settings(labels), how).err().unwrap().to_string();
    assert!(said(Some(&["no", "yes"]), &How { config: Some(&config), ..How::default() }).contains("in another order"));
    std::fs::write(&path, "text\tlabels\na\t1\nb\t\nc\t2,0\n").unwrap();
    let numbered = |labels: Option<&[&str]>, how: &How<'_>| {
        let rows = read(&settings(labels), how).unwrap();
        (rows.objective().unwrap().classes().unwrap().to_vec(), targets(rows.as_ref()))
    };
    let sets = |sets: &[[u8; 3]]| {
        Some(Targets::LabelSets(sets.iter().map(|set| set.iter().map(|&has| has == 1).collect()).collect()))
    };
    let expected = sets(&[[0, 1, 0], [0, 0, 0], [1, 0, 1]]);
    assert_eq!(numbered(None, &How::default()), (vec!["0".into(), "1".into(), "2".into()], expected.clone()));
    assert_eq!(numbered(Some(&["x", "y", "z"]), &How::default()).1, expected);
    assert_eq!(numbered(Some(&["2", "1", "0"]), &How::default()).1, sets(&[[0, 1, 0], [0, 0, 0], [1, 0, 1]]));
    let names = json!({"id2label": {"0": "x", "1": "y", "2": "z"}});
    assert_eq!(numbered(None, &How { config: Some(&names), ..How::default() }).1, expected);
    // Where names come from the training rows, numbers are not indices.
    let like = several(&["x", "y", "z"]);
    assert!(said(None, &How { like: Some(&like), ..How::default() }).contains("line 2: label `1` is not one of"));
    assert!(said(Some(&["1", "2", "3"]), &How::default()).contains("line 4: label `0` is not one of"));
    // One column per label; a named label column takes precedence.
    std::fs::write(&path, "text\tx\ty\tz\tlabels\na\t0\t1\t0\tx\nb\t0\t0\t0\t\nc\t1\t0\t1\t\n").unwrap();
    assert_eq!(numbered(Some(&["x", "y", "z"]), &How::default()).1, expected);
    let named = DataSettings { label: Some("labels".into()), ..settings(Some(&["x", "y", "z"])) };
    let rows = read(&named, &How::default()).unwrap();
    assert_eq!(targets(rows.as_ref()), sets(&[[1, 0, 0], [0, 0, 0], [0, 0, 0]]));
    // Without labels, where only predictions are requested.
    std::fs::write(&path, "text\na\n").unwrap();
    let how = How { predictions: true, config: Some(&config), ..How::default() };
    assert!(read(&settings(None), &how).unwrap().lacks().is_some());
    let texts = [
        said(None, &How::default()),
        settings(Some(&["a", "a"])).check().unwrap_err().to_string(),
        settings(Some(&["a", ""])).check().unwrap_err().to_string(),
        DataSettings { metrics: Some(vec![Metric::F1]), ..settings(None) }.check().unwrap_err().to_string(),
        DataSettings { objective: Some(LabelKind::Classes), ..settings(None) }.check().unwrap_err().to_string(),
    ];
    insta::assert_snapshot!(texts.join("\n").replace(&path.display().to_string(), "a.tsv"), @r#"
    a.tsv, line 1: no column `labels`; the columns are `text`; name the column of the labels (`label`), or the columns of 0 and 1 (`labels = ["A", "B", …]`)
    `labels` has `a` twice; name every label once
    `labels` has a label without a name; name every label once
    `metrics` has `f1`, which does not fit several labels per text; choose among f1_micro, f1_macro, f1_samples, average_precision, average_precision_micro, subset_accuracy
    `objective` does not go with the task multi-label; leave it out
    "#);
}

#[test]
fn thresholds_are_those_of_the_best_f1_and_come_with_the_model() {
    let task = MultiLabel { labels: ["a", "b", "c"].map(String::from).to_vec() };
    let logits = outputs(&[&[-1.0, 3.0, 0.0], &[-2.0, 2.0, 0.0], &[-3.0, 1.0, 0.0], &[-4.0, 0.5, 0.0]]);
    let truth =
        vec![vec![true, true, false], vec![true, false, false], vec![false, false, false], vec![false, false, false]];
    let targets = Targets::LabelSets(truth.clone());
    let found = task.thresholds(&targets, &logits).unwrap();
    assert_eq!(task.predictions(&logits, &found).unwrap()[..2], [[true, true, true], [true, false, true]]);
    // Halfway between two probabilities; a label without rows keeps the default.
    let probability = |logit: f64| 1.0 / (1.0 + (-logit).exp());
    let middle = |one, other| (probability(one) + probability(other)) / 2.0;
    assert_eq!(found, [middle(-2.0, -3.0), middle(3.0, 2.0), 0.5]);
    assert_eq!(task.thresholds_of(None).unwrap(), [0.5; 3]);
    assert_eq!(task.thresholds_of(Some(&json!({"gelora_thresholds": found}))).unwrap(), found);
    for wrong in [json!({"gelora_thresholds": [0.5]}), json!({"gelora_thresholds": ["a", 1, 2]})] {
        let said = task.thresholds_of(Some(&wrong)).unwrap_err().to_string();
        assert!(said.contains("not a list of 3 numbers"), "{said}");
    }
}
