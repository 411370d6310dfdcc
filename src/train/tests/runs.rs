//! Whole runs on tiny exports.

use super::support::{Bench, classes, settings, with_head};
use crate::dataset::Metric;
use crate::onnx::{DataType, HeadPooling, Transformer};
use crate::progress::{Event, Observer, Silent};
use crate::task::{Objective, Targets};
use crate::train::run::in_float16;
use crate::train::{Batching, TrainError, TrainSettings, all_batches, epoch_batches, initial_adapter, logits, train};
use itertools::Itertools;

fn losses(bench: &Bench) -> Vec<f64> {
    bench.journal().iter().filter_map(|line| line["loss"].as_f64()).collect()
}

/// What counts is the type of the trained weights, not what else the export stores.
#[test]
fn an_export_in_float16_is_known_by_its_planned_weights() {
    let mut bench = Bench::new("tiny_encoder");
    let modules = bench.plan.blocks.iter().flat_map(|block| &block.modules);
    let planned: Vec<String> = modules.map(|module| module.weight.clone()).collect();
    for half in [false, true] {
        let mut model = bench.model.into_model();
        let initializers = model.graph.initializers.iter_mut();
        for tensor in initializers.filter(|tensor| planned.contains(&tensor.name) == half) {
            tensor.data_type = DataType::Float16;
        }
        bench.model = Transformer::new(model);
        assert_eq!(in_float16(&bench.input()), half);
    }
}

#[test]
fn a_run_learns_and_gives_the_best_epoch() {
    let bench = Bench::new("tiny_encoder");
    let outcome = train(&bench.input(), &TrainSettings { epochs: 12, ..settings() }, &Silent).unwrap();
    let losses = losses(&bench);
    assert!(losses.last().unwrap() < &(0.5 * losses[0]), "{losses:?}");
    let best = outcome.best.clone().unwrap();
    assert!(outcome.evaluations.iter().all(|evaluation| evaluation.decisive().unwrap() <= best.value));
    assert!(best.value > 0.8, "{best:?}");
    // The adapter is that of the best evaluation: its logits give the best accuracy again.
    let input = bench.input();
    let rows = input.validation.unwrap();
    let found = logits(&input, &settings(), &outcome.adapter, rows, &Silent).unwrap();
    let Targets::Classes(classes) = rows.targets else { panic!("classes") };
    let right = found.rows().into_iter().zip_eq(classes);
    let right = right.filter(|(row, class)| **class == usize::from(row[1] > row[0])).count();
    assert_eq!(right as f64 / classes.len() as f64, best.value);
}

#[test]
fn factors_and_head_have_the_shapes_of_peft_and_of_the_checkpoint() {
    let bench = Bench::new("tiny_encoder");
    let outcome = train(&bench.input(), &settings(), &Silent).unwrap();
    let adapter = outcome.adapter;
    assert_eq!(adapter.factors.len(), 8);
    for factors in &adapter.factors {
        let rank = if factors.module.contains("layer.0") { 2 } else { 1 };
        assert!(factors.module.starts_with("bert.encoder.layer."), "{}", factors.module);
        assert_eq!((factors.a.dim(), factors.b.dim()), ((rank, 16), (16, rank)));
        assert!(factors.b.iter().any(|value| *value != 0.0), "{} was not trained", factors.module);
    }
    let saved: Vec<_> =
        adapter.saved.iter().map(|saved| (saved.name.as_str(), saved.values.shape().to_vec())).collect();
    assert_eq!(saved, [("classifier.weight", vec![2, 16]), ("classifier.bias", vec![2])]);
}

#[test]
fn a_run_begins_with_a_random_a_a_zero_b_and_the_head_of_the_export() {
    let bench = Bench::new("tiny_encoder");
    let start = initial_adapter(&bench.input(), &settings()).unwrap();
    let checkpoint = bench.folder.checkpoint.as_ref().unwrap();
    for factors in &start.factors {
        assert!(factors.b.iter().all(|value| *value == 0.0));
        assert!(factors.a.iter().all(|value| value.abs() <= 0.25), "uniform within 1/√16");
        assert!(factors.a.iter().any(|value| value.abs() > 0.1));
    }
    for saved in &start.saved {
        assert_eq!(saved.values.as_slice().unwrap(), checkpoint.to_f32(&saved.name).unwrap());
    }
    let other = initial_adapter(&bench.input(), &TrainSettings { seed: 1, ..settings() }).unwrap();
    assert_ne!(start.factors[0].a, other.factors[0].a);
}

#[test]
fn a_given_start_is_taken() {
    let bench = Bench::new("tiny_encoder");
    let (first, second) = (settings(), TrainSettings { seed: 9, ..settings() });
    let start = initial_adapter(&bench.input(), &first).unwrap();
    let mut input = bench.input();
    input.initial = Some(&start);
    assert_eq!(initial_adapter(&input, &second).unwrap(), start);
    let mut short = start.clone();
    short.factors.pop();
    input.initial = Some(&short);
    insta::assert_snapshot!(initial_adapter(&input, &second).unwrap_err(), @"the adapter to start from has no `bert.encoder.layer.1.attention.output.dense.lora_A.weight`; take one that was made with the same plan");
}

#[test]
fn accumulation_is_a_larger_batch() {
    let (small, large) = (Bench::new("tiny_encoder"), Bench::new("tiny_encoder"));
    let lengths: Vec<usize> = large.encodings.iter().map(|encoding| encoding.len()).collect();
    let batches = all_batches(&settings(), &lengths);
    let halves: Vec<Vec<Vec<usize>>> = batches
        .iter()
        .map(|epoch| epoch.iter().flat_map(|batch| batch.chunks(8).map(<[usize]>::to_vec)).collect())
        .collect();
    let whole = TrainSettings { batching: Batching::Given(batches), ..settings() };
    let parts = TrainSettings { batching: Batching::Given(halves), accumulation: 2, ..settings() };
    let whole = train(&large.input(), &whole, &Silent).unwrap();
    let parts = train(&small.input(), &parts, &Silent).unwrap();
    assert_eq!(whole.steps, parts.steps);
    let difference = (&whole.adapter.factors[0].a - &parts.adapter.factors[0].a).mapv(f32::abs);
    let largest = difference.iter().copied().fold(0.0, f32::max);
    assert!(largest < 1e-3, "{largest}");
}

#[test]
fn dumped_batches_give_the_same_run() {
    let (one, two) = (Bench::new("tiny_encoder"), Bench::new("tiny_encoder"));
    let lengths: Vec<usize> = one.encodings.iter().map(|encoding| encoding.len()).collect();
    let given = TrainSettings { batching: Batching::Given(all_batches(&settings(), &lengths)), ..settings() };
    let first = train(&one.input(), &settings(), &Silent).unwrap();
    assert_eq!(first.adapter, train(&two.input(), &given, &Silent).unwrap().adapter);
}

#[test]
fn an_export_without_a_head_gets_one() {
    for pooling in [HeadPooling::First, HeadPooling::Mean, HeadPooling::Last] {
        let bench = Bench::new("tiny_encoder_base");
        let outcome = train(&bench.input(), &TrainSettings { epochs: 8, ..with_head(pooling) }, &Silent).unwrap();
        let losses = losses(&bench);
        assert!(losses.last().unwrap() < &(0.9 * losses[0]), "{pooling:?}: {losses:?}");
        assert_eq!(outcome.new_head, Some(pooling));
        assert_eq!(outcome.adapter.saved[0].values.shape(), [2, 16]);
    }
}

#[test]
fn a_regression_learns_a_number() {
    let mut bench = Bench::new("tiny_encoder_base");
    bench.objective = Objective::Regression;
    bench.metrics = vec![Metric::Pearson, Metric::Spearman];
    let values = |targets: &Targets| {
        let Targets::Classes(classes) = targets else { panic!("classes") };
        Targets::Values(classes.iter().map(|&class| [1.0, 3.0][class]).collect())
    };
    bench.targets = values(&bench.targets);
    bench.validation.1 = values(&bench.validation.1);
    let outcome =
        train(&bench.input(), &TrainSettings { epochs: 10, ..with_head(HeadPooling::Mean) }, &Silent).unwrap();
    assert!(outcome.best.unwrap().value > 0.5, "{:?}", outcome.evaluations);
}

#[test]
fn both_exporters_train_to_the_same_adapter() {
    let (classic, dynamo) = (Bench::new("tiny_encoder"), Bench::new("tiny_encoder_dynamo"));
    let short = TrainSettings { epochs: 1, ..settings() };
    let one = train(&classic.input(), &short, &Silent).unwrap().adapter;
    let two = train(&dynamo.input(), &short, &Silent).unwrap().adapter;
    for (one, two) in one.factors.iter().zip_eq(&two.factors) {
        assert_eq!(one.module, two.module);
        let largest = (&one.b - &two.b).iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        assert!(largest < 1e-3, "{}: {largest}", one.module);
    }
}

#[test]
fn an_export_that_ignores_its_mask_is_trained_without_padding() {
    let mut bench = Bench::new("tiny_encoder_maskless");
    bench.padding_is_safe = false;
    let input = bench.input();
    let outcome = train(&input, &settings(), &Silent).unwrap();
    let rows = input.validation.unwrap();
    let together = logits(&input, &settings(), &outcome.adapter, rows, &Silent).unwrap();
    for row in 0..5 {
        let one = Targets::Classes(vec![0]);
        let alone = crate::train::LabelledRows { encodings: &rows.encodings[row..=row], targets: &one };
        let alone = logits(&input, &settings(), &outcome.adapter, alone, &Silent).unwrap();
        assert!((alone[[0, 0]] - together[[row, 0]]).abs() < 1e-5);
    }
}

#[test]
fn training_stops_early_for_want_of_a_better_metric() {
    let bench = Bench::new("tiny_encoder");
    // With a rate this small nothing ever changes: the first evaluation stays the best.
    let settings = TrainSettings { learning_rate: 1e-12, patience: Some(2), epochs: 10, ..settings() };
    let outcome = train(&bench.input(), &settings, &Silent).unwrap();
    assert!(outcome.stopped_early);
    assert_eq!(outcome.evaluations.len(), 3);
}

#[test]
fn a_maximum_of_steps_ends_a_run_inside_an_epoch() {
    let bench = Bench::new("tiny_encoder");
    let outcome = train(&bench.input(), &TrainSettings { maximum_steps: Some(11), ..settings() }, &Silent).unwrap();
    assert_eq!(outcome.steps, 11);
    let last = outcome.evaluations.last().unwrap();
    assert!((last.step, last.epoch) == (11, 1.375), "{last:?}");
    assert_eq!(
        bench.journal().iter().filter(|line| line["step"] == 11).count(),
        2,
        "a line of steps and an evaluation"
    );
}

#[test]
fn a_journal_has_a_line_for_every_interval_and_epoch() {
    let bench = Bench::new("tiny_encoder");
    train(&bench.input(), &TrainSettings { epochs: 1, evaluate_before: true, ..settings() }, &Silent).unwrap();
    let lines = bench.journal();
    let steps: Vec<i64> = lines.iter().filter_map(|line| line["step"].as_i64()).collect();
    assert_eq!(steps, [0, 3, 6, 8, 8]);
    assert_eq!((&lines[5]["rows"], &lines[5]["kept_step"]), (&120.into(), &8.into()));
    assert!(lines[0]["metrics"]["accuracy"].is_f64() && lines[4]["best"] == true, "{lines:?}");
    assert!(lines[1]["learning_rate"].as_f64().unwrap() > 0.0 && lines[1]["examples_per_second"].is_f64());
}

#[test]
fn a_loss_that_is_not_finite_ends_the_run_with_the_step() {
    let bench = Bench::new("tiny_encoder");
    let settings = TrainSettings { learning_rate: 1e30, clip_norm: 0.0, ..settings() };
    let error = train(&bench.input(), &settings, &Silent).unwrap_err();
    assert!(matches!(error, TrainError::NotFinite { step: 2..=4, .. }), "{error}");
    assert!(error.to_string().contains("lower learning rate"), "{error}");
}

#[test]
fn what_does_not_fit_is_refused_in_one_line() {
    let bench = Bench::new("tiny_encoder");
    let refuse = |input: crate::train::TrainInput<'_>, settings: &TrainSettings| {
        let text = train(&input, settings, &Silent).unwrap_err().to_string();
        assert!(!text.contains('\n'), "{text}");
        text.replace(env!("CARGO_MANIFEST_DIR"), "")
    };
    let mut other = bench.plan.clone();
    other.model.onnx_sha256 = "0".into();
    let mut input = bench.input();
    input.plan = Some(&other);
    let mut found = vec![refuse(input, &settings())];
    found.push(refuse(bench.input(), &with_head(HeadPooling::Mean)));
    let base = Bench::new("tiny_encoder_base");
    found.push(refuse(base.input(), &settings()));
    let three = classes(&["a", "b", "c"]);
    let mut input = bench.input();
    input.objective = &three;
    found.push(refuse(input, &settings()));
    let mut input = bench.input();
    input.train.encodings = &[];
    found.push(refuse(input, &settings()));
    let given = TrainSettings { batching: Batching::Given(vec![vec![vec![0, 120]]]), ..settings() };
    found.push(refuse(bench.input(), &given));
    found.push(refuse(bench.input(), &TrainSettings { dropout: 1.5, ..settings() }));
    insta::assert_snapshot!(found.join("\n"), @r"
    the plan was made for another model (model.onnx) than /onnx/tiny_encoder/model.onnx; run `gelora plan` for this model, or give the model of the plan
    /onnx/tiny_encoder/model.onnx has a head of its own (`logits`), which is trained; leave out `head`
    /onnx/tiny_encoder_base/model.onnx makes no logits; add a head with `head` = first, mean or last, or export the model with its head
    the head of the export gives 2 number(s) a row, the data needs 3; export the model with 3 label(s)
    the training data has no rows; check the file and its columns
    the given batches name row 120, and the training data has 120 rows; make the batches for this data
    `dropout` is 1.5; give a share from 0 to below 1
    ");
}

#[test]
fn a_token_that_the_model_does_not_know_is_one_line() {
    let mut bench = Bench::new("tiny_encoder");
    bench.encodings[3].ids[1] = 100;
    let error = train(&bench.input(), &settings(), &Silent).unwrap_err();
    insta::assert_snapshot!(error, @"token id 100 in row 3 is outside the model's vocabulary of 100: tokenizer and model do not fit; use the tokenizer.json that belongs to this model");
}

#[cfg(target_os = "linux")]
#[test]
fn cuda_is_an_error_where_there_is_none() {
    use crate::runtime::Device;
    if crate::train::cuda_devices().is_ok_and(|count| count > 0) {
        assert!(crate::train::open_device(Device::Cuda(99)).is_err());
        return;
    }
    let error = crate::train::open_device(Device::Cuda(0)).unwrap_err().to_string();
    assert!(error.contains("`device = \"cpu\"`"), "{error}");
    assert_eq!(crate::train::open_device(Device::Auto).unwrap(), tch::Device::Cpu);
}

#[test]
fn dropout_changes_the_run_and_follows_the_seed() {
    let run = |dropout, seed| {
        let bench = Bench::new("tiny_encoder");
        let settings = TrainSettings { dropout, seed, epochs: 1, ..settings() };
        assert_eq!(epoch_batches(&settings, &[1; 3], 0).len(), 1);
        train(&bench.input(), &settings, &Silent).unwrap().adapter
    };
    assert_eq!(run(0.3, 5), run(0.3, 5));
    assert_ne!(run(0.3, 5), run(0.0, 5));
}

/// Keeps the warnings.
#[derive(Default)]
struct Warnings(std::sync::Mutex<Vec<String>>);

impl Observer for Warnings {
    fn observe(&self, event: Event<'_>) {
        if let Event::Warning(text) = event {
            self.0.lock().unwrap().push(text.to_owned());
        }
    }
}

#[test]
fn logits_that_change_with_padding_are_told_once() {
    for (name, expected) in [("tiny_encoder_maskless", 1), ("tiny_encoder", 0)] {
        let warnings = Warnings::default();
        let bench = Bench::new(name);
        train(&bench.input(), &TrainSettings { epochs: 1, ..settings() }, &warnings).unwrap();
        let found = warnings.0.into_inner().unwrap();
        assert_eq!(found.len(), expected, "{name}: {found:?}");
        assert!(found.iter().all(|text| text.contains("padding")), "{found:?}");
    }
}
