//! Schedule, optimizer, clipping, losses and the new head against PyTorch and transformers.

use itertools::Itertools;
use ndarray::Array2;
use tch::{Device, Kind, Tensor};

use crate::onnx::HeadPooling;
use crate::settings::ClassWeights;
use crate::task::{Objective, Targets};
use crate::train::head::NewHead;
use crate::train::losses::{class_weights, loss_of};
use crate::train::optimizer::{AdamW, clip_norm};
use crate::train::parameters::{self, Parameters, flat_gradient};
use crate::train::schedule::LearningRate;
use crate::train::tests::support::classes;
use crate::train::{LabelledRows, Schedule, TrainSettings};

fn close(found: f64, expected: f64, tolerance: f64) -> bool {
    (found - expected).abs() <= tolerance * expected.abs().max(1e-30)
}

fn rates(schedule: Schedule, warmup_steps: Option<u64>, warmup_ratio: Option<f64>) -> Vec<f64> {
    let settings =
        TrainSettings { schedule, warmup_steps, warmup_ratio, learning_rate: 5e-4, ..TrainSettings::default() };
    let rate = LearningRate::new(&settings, 10);
    (0..=10).map(|step| rate.at(step)).collect()
}

#[test]
fn schedules_are_those_of_transformers() {
    let rise = [0.0, 0.00016666666666666666, 0.0003333333333333333, 0.0005];
    let linear = [
        0.00042857142857142855,
        0.00035714285714285714,
        0.0002857142857142857,
        0.00021428571428571427,
        0.00014285714285714284,
        7.142857142857142e-05,
        0.0,
    ];
    let cosine = [
        0.00047524221697560476,
        0.0004058724504646834,
        0.0003056302334890786,
        0.00019436976651092142,
        9.412754953531663e-05,
        2.4757783024395242e-05,
        0.0,
    ];
    for (schedule, rest) in [(Schedule::Linear, linear), (Schedule::Cosine, cosine), (Schedule::Constant, [0.0005; 7])]
    {
        let expected: Vec<f64> = rise.iter().chain(&rest).copied().collect();
        for (steps, ratio) in [(Some(3), None), (None, Some(0.21))] {
            let found = rates(schedule, steps, ratio);
            assert!(
                found.iter().zip_eq(&expected).all(|(found, expected)| close(*found, *expected, 1e-12)),
                "{schedule:?} {steps:?} {ratio:?}: {found:?}"
            );
        }
    }
    assert!(close(rates(Schedule::Linear, Some(0), None)[1], 0.00045, 1e-12));
}

/// Five steps of `torch.optim.AdamW(lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)` on two tensors after
/// `clip_grad_norm_(4.0)`.
#[test]
fn adamw_and_clipping_are_those_of_pytorch() {
    let norms = [9.695446014404297, 7.108283042907715, 6.151493072509766, 10.198075294494629, 2.1248838901519775];
    let expected: [[f64; 7]; 5] = [
        [0.489500016, -1.25874996, 1.98800004, 0.0109957987, -0.289700031, 0.989000022, -2.00800014],
        [0.485974133, -1.26748753, 1.97793233, 0.0119247623, -0.279550999, 0.988783538, -2.00157833],
        [0.489806086, -1.26913118, 1.96753347, 0.00683234306, -0.277582616, 0.993753135, -1.99818802],
        [0.49368307, -1.26692808, 1.9618125, 0.00221468927, -0.278880864, 0.999311328, -1.99764073],
        [0.491645277, -1.26480401, 1.96207082, 0.00390217779, -0.278960675, 1.00161088, -1.99205971],
    ];
    let settings = TrainSettings { betas: (0.9, 0.99), weight_decay: 0.1, ..TrainSettings::default() };
    let leaf = |values: &[f32]| Tensor::from_slice(values).set_requires_grad(true);
    let leaves = [leaf(&[0.5, -1.25, 2.0, 0.001, -0.3]), leaf(&[1.0, -2.0])];
    let named = leaves.iter().enumerate().map(|(i, leaf)| (format!("p{i}"), leaf.shallow_clone())).collect();
    let parameters = Parameters::gather(named).unwrap();
    let mut optimizer = AdamW::new(&settings, parameters.values()).unwrap();
    for (step, (norm, expected)) in norms.into_iter().zip_eq(expected).enumerate() {
        let t = step as f32;
        let scale = [1.0, 10.0, 0.1, 1e-4, 3.0];
        let mut gradient: Vec<f32> = (0..5).map(|i| (t * 5.0 + i as f32 + 1.0).sin() * scale[i]).collect();
        gradient.extend([2.0 * (t + 1.0).cos(), 2.0 * (2.0 * t + 1.0).cos()]);
        let mut gradient = Tensor::from_slice(&gradient);
        let found = clip_norm(&mut gradient, Some(4.0)).unwrap().double_value(&[]);
        assert!(close(found, norm, 1e-6), "{found} {norm}");
        optimizer.step(parameters.values(), &gradient, 0.01).unwrap();
        let values = parameters.read().unwrap();
        for (found, expected) in values.iter().zip_eq(expected) {
            assert!((f64::from(*found) - expected).abs() < 2e-6, "step {step}: {values:?}");
        }
    }
    assert!((leaves[1].double_value(&[1]) + 1.992_059_71).abs() < 2e-6, "the leaves share the flat storage");
}

#[test]
fn the_optimizer_goes_on_to_the_bit() {
    let settings = TrainSettings { weight_decay: 0.01, ..TrainSettings::default() };
    let gradient = |step: i64| (Tensor::arange(1000, (Kind::Float, Device::Cpu)) + step).sin();
    let run = |interrupted: bool| {
        let mut values = Tensor::ones([1000], (Kind::Float, Device::Cpu));
        let mut optimizer = AdamW::new(&settings, &values).unwrap();
        for step in 0..6 {
            optimizer.step(&values, &gradient(step), 1e-3).unwrap();
            if interrupted && step == 2 {
                let (saved, state) = (parameters::read(&values).unwrap(), optimizer.state().unwrap());
                values = Tensor::from_slice(&saved);
                optimizer = AdamW::new(&settings, &values).unwrap();
                optimizer.restore(&state).unwrap();
            }
        }
        parameters::read(&values).unwrap()
    };
    assert_eq!(run(false), run(true));
}

#[test]
fn gradients_are_flat_and_zero_where_nothing_depends() {
    let leaf = |values: &[f32]| Tensor::from_slice(values).set_requires_grad(true);
    let leaves = [leaf(&[1.0, 2.0]), leaf(&[5.0])];
    let loss = (&leaves[0] * &leaves[0]).sum(Kind::Float);
    assert_eq!(parameters::read(&flat_gradient(&loss, &leaves).unwrap()).unwrap(), [2.0, 4.0, 0.0]);
}

fn several(names: &[&str]) -> Objective {
    Objective::MultiLabel(crate::task::MultiLabel { labels: names.iter().map(|&name| name.into()).collect() })
}

#[test]
fn losses_are_those_of_pytorch() {
    let loss = |objective: &Objective, targets: Targets, logits: &Tensor, rows: &[usize]| {
        let loss = loss_of("training", objective, &LabelledRows { encodings: &[], targets: &targets }, None).unwrap();
        loss.sum(logits, rows).unwrap().double_value(&[])
    };
    let logits = Tensor::from_slice2(&[[0.5f32, -1.0, 2.0], [1.5, 0.2, -0.7]]);
    let classes = loss(&classes(&["a", "b", "c"]), Targets::Classes(vec![0, 2, 1]), &logits, &[1, 2]);
    assert!(close(classes, 1.8658084869384766, 1e-6));
    // The mean over the labels of a row, the sum over the rows.
    let sets = Targets::LabelSets(vec![vec![true, false, true], vec![false; 3]]);
    let sets = loss(&several(&["a", "b", "c"]), sets, &logits, &[0, 1]);
    assert!(close(sets, 1.2723350524902344, 1e-6));
    let logits = Tensor::from_slice2(&[[0.5f32], [-1.0]]);
    let values = loss(&Objective::Regression, Targets::Values(vec![1.0, 2.5]), &logits, &[0, 1]);
    assert!(close(values, 12.5, 1e-6));
}

#[test]
fn weights_of_classes_are_those_of_pytorch_and_scikit_learn() {
    let weighted = |objective: &Objective, targets: &Targets, wanted: ClassWeights| {
        let weights = class_weights(Some(&wanted), objective, targets).unwrap().unwrap();
        (loss_of("training", objective, &LabelledRows { encodings: &[], targets }, Some(&weights)).unwrap(), weights)
    };
    let logits = Tensor::from_slice2(&[[0.5f32, -1.0, 2.0], [1.5, 0.2, -0.7]]);
    let (three, rows) = (classes(&["a", "b", "c"]), Targets::Classes(vec![0, 2, 2, 2]));
    let (loss, weights) = weighted(&three, &rows, ClassWeights::Balanced);
    // No row is in class 1.
    assert_eq!(weights, [2.0, 1.0, 4.0 / 6.0]);
    assert!(close(loss.weight(&[0, 1]), 2.0 + 4.0 / 6.0, 1e-12) && close(loss.total_weight(), 4.0, 1e-12));
    let mean = loss.sum(&logits, &[0, 1]).unwrap().double_value(&[]) / loss.weight(&[0, 1]);
    assert!(close(mean, 1.937107801437378, 1e-6), "{mean}");
    let sets = Targets::LabelSets(vec![vec![true, false, true], vec![false; 3], vec![false, false, true]]);
    let (loss, weights) = weighted(&several(&["a", "b", "c"]), &sets, ClassWeights::Balanced);
    assert_eq!(weights, [2.0, 1.0, 0.5]);
    assert_eq!((loss.weight(&[0, 1]), loss.total_weight()), (2.0, 3.0));
    let sum = loss.sum(&logits, &[0, 1]).unwrap().double_value(&[]);
    assert!(close(sum, 1.4092060327529907, 1e-6), "{sum}");
    let refuse = |objective: &Objective, targets: &Targets, wanted| {
        class_weights(Some(&wanted), objective, targets).unwrap_err().to_string()
    };
    let two = ClassWeights::Given(vec![1.0, 2.0]);
    insta::assert_snapshot!(refuse(&three, &rows, two.clone()), @"`class_weights` has 2 weights for 3 classes; give 3, in their order");
    insta::assert_snapshot!(refuse(&Objective::Regression, &Targets::Values(vec![0.0]), two), @"`class_weights` has no use for a regression; leave it out");
}

#[test]
fn labels_must_fit_the_objective() {
    let refuse = |objective: &Objective, targets: Targets| {
        loss_of("validation", objective, &LabelledRows { encodings: &[], targets: &targets }, None)
            .unwrap_err()
            .to_string()
    };
    let two = classes(&["a", "b"]);
    insta::assert_snapshot!(refuse(&several(&["a", "b"]), Targets::LabelSets(vec![vec![true]])), @"row 0 of the validation data has a set of 1 labels where one of 2 labels is needed; check the label column");
    insta::assert_snapshot!(refuse(&two, Targets::Classes(vec![0, 2])), @"row 1 of the validation data has class 2 where one of 2 classes is needed; check the label column");
    insta::assert_snapshot!(refuse(&Objective::Regression, Targets::Classes(vec![0])), @"row 0 of the validation data has a class where a value is needed; check the label column");
}

#[test]
fn a_new_head_pools_what_it_is_told_to() {
    let hidden = Array2::from_shape_fn((6, 2), |(token, column)| (token * 10 + column) as f32);
    let hidden = Tensor::from_slice(hidden.as_slice().unwrap()).reshape([2, 3, 2]);
    let mask = Tensor::from_slice(&[1i64, 1, 1, 1, 1, 0]).reshape([2, 3]);
    let pooled = |pooling| {
        let head = NewHead::new(pooling, 2, 2, 0, Device::Cpu).unwrap();
        let identity = Tensor::from_slice2(&[[1.0f32, 0.0], [0.0, 1.0]]);
        tch::no_grad(|| head.trainables()[0].1.shallow_clone().copy_(&identity));
        parameters::read(&head.logits(&hidden, &mask).unwrap()).unwrap()
    };
    assert_eq!(pooled(HeadPooling::First), [0.0, 1.0, 30.0, 31.0]);
    assert_eq!(pooled(HeadPooling::Mean), [10.0, 11.0, 35.0, 36.0]);
    assert_eq!(pooled(HeadPooling::Last), [20.0, 21.0, 40.0, 41.0]);
}

#[test]
fn a_new_head_is_small_random_and_seeded() {
    let weight = |seed| {
        let head = NewHead::new(HeadPooling::First, 384, 20, seed, Device::Cpu).unwrap();
        parameters::read(&head.trainables()[0].1).unwrap()
    };
    let values = weight(7);
    let deviation = (values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / values.len() as f64).sqrt();
    assert!((deviation - 0.02).abs() < 0.001, "{deviation}");
    assert_eq!(values, weight(7));
    assert_ne!(values, weight(8));
}
