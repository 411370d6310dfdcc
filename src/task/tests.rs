//! The loop over a model that is a closure, what tasks derive from logits, and what they write. The loop over a session is an
//! integration test.

use itertools::Itertools;
use proptest::prelude::*;
use serde_json::json;

use super::table::TableRows;
use super::*;
use crate::dataset::{
    Dataset, Encoding, Example, LabelKind, Labels, Padding, SquadFile, SquadSettings, Window, pad, token_budget_batches,
};
use crate::evaluate::EvaluateError;
use crate::progress::{CancelFlag, Event, Observer, Silent};

mod multi_label;

fn encoding(ids: &[u32]) -> Encoding {
    Encoding { ids: ids.to_vec(), type_ids: vec![0; ids.len()] }
}

fn classes(names: &[&str]) -> Objective {
    Objective::Classification(Classification { labels: names.iter().map(|name| name.to_string()).collect() })
}

fn entities() -> Objective {
    let labels = ["O", "B-a", "I-a"].map(str::to_owned).to_vec();
    Objective::Entities(Entities { labels, scheme: crate::dataset::TagScheme::Iob2 })
}

fn several(names: &[&str]) -> Objective {
    Objective::MultiLabel(MultiLabel { labels: names.iter().map(|name| name.to_string()).collect() })
}

fn rows_of(labels: Labels) -> Vec<usize> {
    let Labels::Classes { rows, .. } = labels else { panic!("classes") };
    rows
}

fn outputs(rows: &[&[f32]]) -> Outputs {
    Outputs::Rows(rows.iter().map(|row| row.to_vec()).collect())
}

/// A model that sums the ids of a row, without padding: logits `[sum, 10]`.
struct Sums<'a> {
    encodings: &'a [Encoding],
    batch_tokens: usize,
    equal_lengths: bool,
}

impl Executor for Sums<'_> {
    type Error = EvaluateError;

    fn batches(&self) -> Vec<Vec<usize>> {
        let lengths: Vec<usize> = self.encodings.iter().map(Encoding::len).collect();
        let rows: Vec<usize> = (0..lengths.len()).collect();
        token_budget_batches(&lengths, &rows, self.batch_tokens, self.equal_lengths)
    }

    fn logits(
        &mut self,
        rows: &[usize],
        _head: &HeadSpec,
        take: &mut dyn FnMut(usize, &[&[f32]]),
    ) -> Result<(), EvaluateError> {
        let batch = pad(self.encodings, rows, Padding { id: 5, ..Padding::default() });
        for (place, &row) in batch.rows.iter().enumerate() {
            let at = place * batch.length..(place + 1) * batch.length;
            let real = batch.ids[at.clone()].iter().zip_eq(&batch.mask[at]);
            take(row, &[&[real.map(|(id, mask)| (id * mask) as f32).sum(), 10.0]]);
        }
        Ok(())
    }

    fn token_loss(&mut self, rows: &[usize]) -> Result<TokenLoss, EvaluateError> {
        let tokens: usize = rows.iter().map(|&row| self.encodings[row].len()).sum();
        Ok(TokenLoss { sum: 2.0 * tokens as f64, tokens: tokens as u64 })
    }
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
        let mut sums = Sums { encodings: &encodings, batch_tokens, equal_lengths };
        let found = predict(&mut sums, rows.len(), &classes(&["a", "b"]).head(), "rows", &Silent).unwrap();
        let wanted: Vec<Vec<f32>> = rows.iter().map(|ids| vec![ids.iter().sum::<u32>() as f32, 10.0]).collect();
        prop_assert_eq!(found.rows(), wanted);
        // The logits of a vocabulary are not kept, their loss is.
        let found = predict(&mut sums, rows.len(), &Objective::CausalLm.head(), "rows", &Silent).unwrap();
        let tokens = rows.iter().map(Vec::len).sum::<usize>() as u64;
        prop_assert_eq!(&found, &Outputs::Loss(TokenLoss { sum: 2.0 * tokens as f64, tokens }));
        prop_assert!(found.rows().is_empty());
    }
}

#[test]
fn logits_become_predictions_and_scores() {
    let logits = outputs(&[&[3.0, 1.0], &[1.0, 2.0], &[5.0, 5.0]]);
    let objective = classes(&["no", "yes"]);
    let Objective::Classification(task) = &objective else { unreachable!() };
    assert_eq!(task.predictions(&logits).unwrap(), [0, 1, 0]);
    let targets = Targets::Classes(vec![0, 1, 1]);
    let scores = objective.score(&targets, &logits, &[]).unwrap();
    assert_eq!((scores[0].name.as_str(), scores[0].value), ("accuracy", Some(2.0 / 3.0)));
    let scores = objective.score(&targets, &logits, &[Metric::F1, Metric::Matthews]).unwrap();
    assert_eq!(scores.iter().map(|score| score.value).collect::<Vec<_>>(), [Some(2.0 / 3.0), Some(0.5)]);
    assert_eq!(Regression::predictions(&outputs(&[&[0.5], &[2.0]])).unwrap(), [0.5, 2.0]);

    let loss = Outputs::Loss(TokenLoss { sum: 8.0, tokens: 4 });
    let perplexity = Objective::CausalLm.score(&Targets::Tokens(Vec::new()), &loss, &[]).unwrap();
    assert_eq!((perplexity[0].name.as_str(), perplexity[0].value), ("perplexity", Some(2f64.exp())));
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
    let mut sums = Sums { encodings: &encodings, batch_tokens: 1, equal_lengths: false };
    let three = classes(&["a", "b", "c"]);
    let names = ["Contradiction", "Neutral", "Entailment"].map(String::from);
    let inference = classes(&["entailment", "neutral", "contradiction"]);
    let two = outputs(&[&[1.0, 2.0]]);
    let stopped = Stopped(CancelFlag::default());
    let texts = [
        predict(&mut sums, 2, &three.head(), "rows", &stopped).unwrap_err().to_string(),
        three.score(&Targets::Classes(vec![0]), &two, &[]).unwrap_err().to_string(),
        Objective::Regression.score(&Targets::Values(vec![0.0]), &two, &[]).unwrap_err().to_string(),
        three.score(&Targets::Classes(vec![0]), &outputs(&[&[1.0, 2.0, 3.0]]), &[Metric::F1]).unwrap_err().to_string(),
        check_label_order(&names, &inference).unwrap_err().to_string(),
    ];
    assert!(texts.iter().all(|text| text.lines().count() == 1));
    insta::assert_snapshot!(texts.join("\n"));
    let judged = |problem: &str, objective: &Objective| {
        other_problem(&serde_json::json!({"problem_type": problem}), objective).unwrap_or_default()
    };
    insta::assert_snapshot!(judged("multi_label_classification", &three), @r#"config.json says that the model gives a text several labels (`problem_type`), and it is judged by a class here: if the rows have several labels, say so (`task = "multi-label"`)"#);
    insta::assert_snapshot!(judged("regression", &several(&["a", "b"])), @"config.json says that the model's `problem_type` is regression, and several labels per text are read off its logits: use a model that was trained for them");
    assert_eq!(judged("single_label_classification", &three), "");
    assert_eq!(judged("multi_label_classification", &several(&["a", "b"])), "");
    assert_eq!(judged("multi_label_classification", &Objective::CausalLm), "");
    assert!(check_label_order(&names, &three).is_ok(), "other names say nothing of the order");
    assert!(check_label_order(&names, &classes(&["contradiction", "neutral", "entailment"])).is_ok());
}

#[test]
fn a_metric_that_does_not_fit_says_which_do() {
    let (two, three) = (classes(&["0", "1"]), classes(&["a", "b", "c"]));
    let refuse = |objective: &Objective, metric| objective.check_metrics(&[metric]).unwrap_err().to_string();
    let spans = Objective::Spans(Spans { null_answers: true });
    let texts = [
        refuse(&three, Metric::F1),
        refuse(&three, Metric::Spearman),
        refuse(&two, Metric::Pearson),
        refuse(&Objective::Regression, Metric::Accuracy),
        refuse(&Objective::CausalLm, Metric::Accuracy),
        refuse(&spans, Metric::F1),
        refuse(&several(&["a", "b"]), Metric::F1),
    ];
    insta::assert_snapshot!(texts.join("\n"), @r"
    f1 cannot be computed for 3 classes; choose one of accuracy, matthews
    spearman cannot be computed for 3 classes; choose one of accuracy, matthews
    pearson cannot be computed for 2 classes; choose one of accuracy, f1, matthews
    accuracy cannot be computed for a regression; choose one of pearson, spearman
    accuracy cannot be computed for tokens; choose perplexity
    f1 cannot be computed for span answers; leave it out
    f1 cannot be computed for several labels per text; choose one of f1_micro, f1_macro, f1_samples, average_precision, average_precision_micro, subset_accuracy
    ");
    // Fitting and default metrics must themselves be accepted.
    for objective in [two, three, several(&["a"]), Objective::Regression, Objective::CausalLm] {
        assert!(objective.check_metrics(&objective.fitting_metrics()).is_ok());
        assert!(objective.check_metrics(objective.usual_metrics()).is_ok());
    }
}

#[test]
fn every_task_is_named_once_and_read_by_its_own_reader() {
    let names: Vec<&str> = presets().map(|preset| preset.name).collect();
    assert!(names.iter().all_unique() && names.len() == 15, "{names:?}");
    let keys = |task: &str| super::preset::reader(Some(task)).head().lines;
    assert_eq!((keys("cola"), keys("STS-B")), (Lines::Row, Lines::Row));
    assert_eq!((keys("squad2"), keys("instruct")), (Lines::Ends, Lines::Vocabulary));
    assert_eq!(keys("NER"), Lines::Token);
    assert_eq!(super::preset::reader(None).head().lines, Lines::Row);
    // What a task accepts is a key of `[data]`.
    let known = DataSettings::of(std::path::Path::new("a"));
    let known = serde_json::to_value(&known).unwrap();
    for preset in presets() {
        assert!(preset.keys.iter().all(|key| known.get(key).is_some()), "{}", preset.name);
    }
}

#[test]
fn keys_of_other_tasks_are_refused() {
    let refuse = |task: Option<&str>, change: &dyn Fn(&mut DataSettings)| {
        let mut settings = DataSettings { task: task.map(Into::into), ..DataSettings::of("a".as_ref()) };
        change(&mut settings);
        settings.check().unwrap_err().to_string()
    };
    let texts = [
        refuse(Some("squad"), &|settings| settings.labels = Some(vec!["a".into(), "b".into()])),
        refuse(Some("squad"), &|settings| settings.null_threshold = Some(1.0)),
        refuse(Some("squad2"), &|settings| settings.metrics = Some(vec![Metric::F1])),
        refuse(Some("causal-lm"), &|settings| settings.pair = Some("b".into())),
        refuse(Some("causal-lm"), &|settings| settings.template = Some("{instruction}{output}".into())),
        refuse(Some("cola"), &|settings| settings.packing = true),
        refuse(None, &|settings| settings.stride = Some(4)),
    ];
    insta::assert_snapshot!(texts.join("\n"), @r"
    `labels` does not go with the task squad; leave it out
    `null_threshold` is for the task squad2; leave it out
    `metrics` does not go with the task squad2; leave it out
    `pair` does not go with the task causal-lm; leave it out
    `template` is for the task instruct; leave it out
    `packing` is for the tasks causal-lm, instruct; leave it out
    `stride` is for the tasks squad, squad2; leave it out
    ");
}

#[test]
fn what_was_learnt_is_written_as_before() {
    let written = |objective: Objective| serde_json::to_string(&objective).unwrap();
    assert_eq!(written(classes(&["no", "yes"])), r#"{"classification":{"labels":["no","yes"]}}"#);
    assert_eq!(written(several(&["a"])), r#"{"multi-label":{"labels":["a"]}}"#);
    assert_eq!(written(Objective::Regression), r#""regression""#);
    assert_eq!(written(Objective::CausalLm), r#""causal-lm""#);
    assert_eq!(written(Objective::Spans(Spans { null_answers: true })), r#"{"spans":{"null_answers":true}}"#);
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
    let example = |line| Example { line, text: "t".into(), pair: None };
    let names = ["no, never", "yes"].map(String::from).to_vec();
    let mut rows = TableRows {
        dataset: Dataset {
            path: "dev.tsv".into(),
            sha256: String::new(),
            examples: vec![example(2), example(4)],
            labels: Some(Labels::Classes { names, rows: vec![1, 0] }),
            warnings: Vec::new(),
        },
        objective: Some(classes(&["no, never", "yes"])),
        columns: Vec::new(),
    };
    let logits = outputs(&[&[0.25, 1.5], &[-1.0, 2.0]]);
    let write = |name: &str, rows: &TableRows, outputs: &Outputs| {
        let path = folder.path().join(name);
        rows.write_predictions(&path, outputs).unwrap();
        std::fs::read_to_string(path).unwrap()
    };
    let mut text = write("a.csv", &rows, &logits);
    text.push_str(&write("a.jsonl", &rows, &logits));
    rows.dataset.labels = None;
    text.push_str(&write("a.tsv", &rows, &logits));
    rows.objective = Some(Objective::Regression);
    text.push_str(&write("b.csv", &rows, &outputs(&[&[0.5], &[2.0]])));
    insta::assert_snapshot!(text);

    for name in ["a.txt", "a", "a.parquet", "a.csv.gz"] {
        let refused = rows.write_predictions(&folder.path().join(name), &logits).unwrap_err();
        assert!(matches!(refused, TaskError::UnknownFormat { .. }), "{name}");
    }
    rows.dataset.examples.pop();
    let refused = rows.write_predictions(&folder.path().join("c.csv"), &logits).unwrap_err();
    assert!(matches!(refused, TaskError::Lengths { found: 2, expected: 1, .. }));
    assert!(!folder.path().join("c.csv").exists());
}

#[test]
fn the_best_span_of_all_windows_answers() {
    let question = json!({"id": "1", "question": "Which?", "answers": [{"text": "blue", "answer_start": 10}]});
    let content = json!({"data": [{"paragraphs": [{"context": "red green blue", "qas": [question]}]}]});
    let window = |offsets: &[(u32, u32)]| Window { question: 0, first: 2, offsets: offsets.to_vec() };
    let windows = [window(&[(0, 3), (4, 9)]), window(&[(4, 9), (10, 14)])];
    let logits = |start: [f32; 4], end: [f32; 4]| SpanLogits { start: start.to_vec(), end: end.to_vec() };
    // The question's own token (index 1) scores best and does not count; nor does an end before its start.
    let both = [logits([2.0, 9.0, 1.0, 3.0], [2.0, 9.0, 4.0, 0.0]), logits([1.0, 9.0, 0.0, 2.0], [0.0, 9.0, 0.0, 2.5])];
    let answer = |null_answers, change: fn(&mut AnswerSettings)| {
        let (folder, settings) = (tempfile::tempdir().unwrap(), SquadSettings { null_answers, limit: None });
        let path = folder.path().join("a.json");
        std::fs::write(&path, content.to_string()).unwrap();
        let file = SquadFile::load(&path, settings).unwrap();
        let mut settings = AnswerSettings::default();
        change(&mut settings);
        SpanQuestions { file: &file, windows: &windows, settings }.answers(&both)[0].to_owned()
    };
    assert_eq!(answer(false, |_| ()), "red", "start 1 + end 4");
    // No answer scores 1, the smallest of both windows; the best answer 5.
    assert_eq!(answer(true, |_| ()), "red");
    assert_eq!(
        answer(true, |settings| settings.null_threshold = -4.0),
        "red",
        "a difference of −4 is not more than −4"
    );
    assert_eq!(answer(true, |settings| settings.null_threshold = -4.5), "");
    assert_eq!(answer(false, |settings| settings.candidates = 1), "blue", "the best start and end of window 1 cross");
}

#[test]
fn presets_know_names_and_numbers_of_classes() {
    let rte = preset("rte").unwrap().settings();
    let content = "sentence1\tsentence2\tlabel\na\tb\tnot_entailment\nc\td\tentailment\ne\tf\t1\n";
    assert_eq!(
        rows_of(Dataset::from_bytes("a.tsv".as_ref(), content.as_bytes(), &rte).unwrap().labels.unwrap()),
        [1, 0, 1]
    );
    assert_eq!(preset("STS-B").unwrap().settings().kind, Some(LabelKind::Values));
    assert_eq!(preset("sts_b"), preset("stsb"));
    assert_eq!(preset("glue"), None);
    assert_eq!(preset("mnli").unwrap().labels, ["entailment", "neutral", "contradiction"]);
    for preset in presets() {
        let fitting: &[Metric] = match preset.kind {
            Some(LabelKind::Classes) => &Metric::OF_CLASSES,
            Some(LabelKind::Values) => &Metric::OF_VALUES,
            None if preset.name == "multi-label" => &Metric::OF_LABEL_SETS,
            None => &[Metric::Perplexity],
        };
        assert!(preset.metrics.iter().all(|metric| fitting.contains(metric)), "{}", preset.name);
    }
}

/// What determines how a table is read, besides its settings.
#[derive(Default)]
struct How<'a> {
    purpose: Option<Purpose>,
    like: Option<&'a Objective>,
    config: Option<&'a serde_json::Value>,
    predictions: bool,
}

/// Reads a table through the reader of its task.
fn read(settings: &DataSettings, how: &How<'_>) -> Result<Box<dyn Rows>, TaskError> {
    let model = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("onnx/tiny_encoder/tokenizer.json");
    let tokenizer = crate::dataset::Tokenizer::open(&model, 24).unwrap();
    settings.reader().read(&Request {
        path: &settings.train,
        settings,
        purpose: how.purpose.unwrap_or(Purpose::Evaluate),
        like: how.like,
        model_config: how.config,
        predictions: how.predictions,
        tokenizer: &tokenizer,
        observer: &Silent,
    })
}

#[test]
fn held_out_rows_are_whole_and_have_the_classes_of_the_training_rows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tsv");
    std::fs::write(&path, "text\tlabel\na\tx\nb\tz\nc\ty\n").unwrap();
    let settings = DataSettings { limit: Some(2), ..DataSettings::of(&path) };
    let train = read(&settings, &How { purpose: Some(Purpose::Train), ..How::default() }).unwrap();
    assert_eq!((train.len(), train.objective().unwrap().classes().unwrap().len()), (2, 2), "y is beyond the limit");
    let like = classes(&["z", "y", "x"]);
    let held_out = read(&settings, &How { like: Some(&like), ..How::default() }).unwrap();
    assert_eq!((held_out.len(), held_out.objective()), (3, Some(&like)));
    let other = classes(&["x", "y"]);
    let refused = read(&settings, &How { like: Some(&other), ..How::default() }).err().unwrap().to_string();
    assert!(refused.contains("line 3: label `z` is not one of `x`, `y`"), "{refused}");
    // A plan without named labels reads none.
    assert!(read(&settings, &How { purpose: Some(Purpose::Plan), ..How::default() }).unwrap().objective().is_none());
}

#[test]
fn rows_without_labels_are_predicted_as_the_classes_of_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tsv");
    std::fs::write(&path, "text\na\nb\n").unwrap();
    let settings = DataSettings::of(&path);
    let config = json!({"id2label": {"0": "no", "1": "yes"}});
    let rows = read(&settings, &How { predictions: true, config: Some(&config), ..How::default() }).unwrap();
    assert_eq!((rows.objective(), rows.lacks().is_some()), (Some(&classes(&["no", "yes"])), true));
    let rows = read(&settings, &How { predictions: true, ..How::default() }).unwrap();
    assert!(rows.objective().is_none(), "nobody knows the classes");
    let how = |config| How { predictions: true, config: Some(config), ..How::default() };
    let given = DataSettings { labels: Some(vec!["bad".into(), "good".into()]), ..DataSettings::of(&path) };
    assert_eq!(read(&given, &how(&config)).unwrap().objective(), Some(&classes(&["bad", "good"])));
    // The single output of a regression is not a class.
    let one = json!({"id2label": {"0": "score"}});
    assert_eq!(read(&settings, &how(&one)).unwrap().objective(), Some(&Objective::Regression));
    let values = DataSettings { objective: Some(LabelKind::Values), ..DataSettings::of(&path) };
    assert_eq!(read(&values, &how(&config)).unwrap().objective(), Some(&Objective::Regression));
    let refused = read(&settings, &How::default()).err().unwrap().to_string();
    assert!(refused.contains("no column `label`"), "{refused}");
    // The same names in a different order from the model's.
    std::fs::write(&path, "text\tlabel\na\tyes\nb\tno\n").unwrap();
    let named = DataSettings { labels: Some(vec!["yes".into(), "no".into()]), ..DataSettings::of(&path) };
    let refused = read(&named, &How { config: Some(&config), ..How::default() }).err().unwrap();
    assert!(matches!(refused, TaskError::LabelOrder { .. }), "{refused}");
}

#[test]
fn targets_and_outputs_of_another_task_are_refused() {
    let all = [
        (classes(&["a", "b"]), Targets::Classes(vec![0])),
        (several(&["a", "b"]), Targets::LabelSets(vec![vec![true, false]])),
        (Objective::Regression, Targets::Values(vec![0.5])),
        (Objective::CausalLm, Targets::Tokens(vec![vec![false, true]])),
        (Objective::Spans(Spans { null_answers: false }), Targets::Spans(vec![None])),
        (entities(), Targets::TokenClasses(vec![vec![None, Some(0)]])),
    ];
    for (at, (objective, own)) in all.iter().enumerate() {
        assert!(objective.fits(own), "{objective:?}");
        for (_, other) in all.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, pair)| pair) {
            let error = objective.score(other, &outputs(&[&[0.0, 1.0]]), &[]).unwrap_err().to_string();
            assert!(error.contains(other.in_words()) && error.contains(own.in_words()), "{objective:?}: {error}");
        }
    }
    let (lm, own) = &all[3];
    let error = lm.score(own, &outputs(&[&[0.0]]), &[]).unwrap_err().to_string();
    assert!(error.contains("loss over tokens"), "{error}");
}
