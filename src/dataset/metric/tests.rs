//! Values computed with scikit-learn 1.9.1 and SciPy 1.17.1, and what the metrics cannot help having in common.

use proptest::prelude::*;

use super::*;

fn close(found: Option<f64>, wanted: f64) {
    let found = found.unwrap();
    assert!((found - wanted).abs() < 1e-12, "{found} instead of {wanted}");
}

/// `rng(17)`-like lists without a generator: a linear congruence both sides can compute.
fn congruence(count: usize, modulus: u64, seed: u64) -> Vec<u64> {
    let mut state = seed;
    let mut next = || {
        state = (1_103_515_245 * state + 12_345) % (1 << 31);
        (state >> 16) % modulus
    };
    (0..count).map(|_| next()).collect()
}

#[test]
fn classes_as_scikit_learn_counts_them() {
    for (count, accuracy_wanted, matthews_wanted) in
        [(2, 0.835, 0.674_185_058_648_753_1), (3, 0.75, 0.626_472_296_986_243_8)]
    {
        let class = |value: u64| value as usize;
        let truth: Vec<usize> = congruence(200, count, 2).into_iter().map(class).collect();
        let other = congruence(200, count, 1).into_iter().map(class);
        let mixed = other.zip(&truth).zip(congruence(200, 3, 3));
        let predictions: Vec<usize> =
            mixed.map(|((other, &truth), pick)| if pick == 0 { other } else { truth }).collect();
        close(accuracy(&predictions, &truth), accuracy_wanted);
        close(matthews(&predictions, &truth), matthews_wanted);
        if count == 2 {
            close(f1(&predictions, &truth), 0.849_315_068_493_150_8);
        }
    }
}

#[test]
fn numbers_as_scipy_correlates_them() {
    let a: Vec<f64> = congruence(200, 50, 4).into_iter().map(|value| value as f64).collect();
    let b: Vec<f64> = congruence(200, 50, 5).into_iter().zip(&a).map(|(value, a)| value as f64 + a).collect();
    close(pearson(&a, &b), 0.657_424_372_051_168_5);
    close(spearman(&a, &b), 0.666_313_565_999_576);
    close(spearman(&[1.0, 2.0, 2.0, 3.0, 5.0], &[2.0, 1.0, 4.0, 4.0, 9.0]), 0.763_157_894_736_842_1);
    close(pearson(&[1e-200, 2e-200, 4e-200], &[1.0, 2.0, 3.0]), 0.981_980_506_061_965_6);
    close(pearson(&[1.0, 2.0], &[2.0, 1.0]), -1.0);
}

#[test]
fn degenerate_cases_have_a_value_or_a_reason() {
    let classes = |values: &[usize]| values.iter().map(|&class| Label::Class(class)).collect::<Vec<_>>();
    let numbers = |values: &[f32]| values.iter().map(|&value| Label::Value(value)).collect::<Vec<_>>();
    let score = |metric: Metric, predictions: &[Label], truth: &[Label]| metric.score(predictions, truth).unwrap();
    let shown = [
        score(Metric::Matthews, &classes(&[1, 1, 1]), &classes(&[0, 1, 1])),
        score(Metric::Matthews, &classes(&[1, 0, 1]), &classes(&[1, 1, 1])),
        score(Metric::Accuracy, &classes(&[1, 1]), &classes(&[0, 1])),
        score(Metric::F1, &classes(&[0, 0]), &classes(&[0, 0])),
        score(Metric::F1, &classes(&[0, 0]), &classes(&[0, 1])),
        score(Metric::F1, &classes(&[]), &classes(&[])),
        score(Metric::Pearson, &numbers(&[2.0, 2.0]), &numbers(&[1.0, 2.0])),
        score(Metric::Spearman, &numbers(&[1.0, 2.0]), &numbers(&[2.0, 2.0])),
        score(Metric::Spearman, &numbers(&[1.0, f32::NAN]), &numbers(&[1.0, 2.0])),
        score(Metric::Pearson, &numbers(&[1.0, f32::INFINITY]), &numbers(&[1.0, 2.0])),
        score(Metric::Pearson, &numbers(&[1.0]), &numbers(&[2.0])),
    ];
    insta::assert_json_snapshot!(shown);
}

#[test]
fn a_metric_that_does_not_fit_says_which_do() {
    let two = Objective::Classification { labels: vec!["0".into(), "1".into()] };
    let three = Objective::Classification { labels: vec!["a".into(), "b".into(), "c".into()] };
    assert!(Metric::F1.check(&two).is_ok() && Metric::Matthews.check(&three).is_ok());
    assert!(Metric::usual(&Objective::Regression).iter().all(|metric| metric.check(&Objective::Regression).is_ok()));
    let texts = [
        Metric::F1.check(&three).unwrap_err().to_string(),
        Metric::Spearman.check(&three).unwrap_err().to_string(),
        Metric::Pearson.check(&two).unwrap_err().to_string(),
        Metric::Accuracy.check(&Objective::Regression).unwrap_err().to_string(),
        Metric::Accuracy.score(&[Label::Value(1.0)], &[Label::Class(1)]).unwrap_err().to_string(),
        Metric::Accuracy.score(&[], &[Label::Class(1)]).unwrap_err().to_string(),
        "f2".parse::<Metric>().unwrap_err(),
    ];
    insta::assert_snapshot!(texts.join("\n"));
    // What is advised is not refused in its turn.
    for objective in [two, three, Objective::Regression, Objective::CausalLm] {
        let fitting = Metric::fitting(&objective);
        assert!(!fitting.is_empty() && fitting.iter().all(|metric| metric.check(&objective).is_ok()));
        for metric in Metric::ALL {
            let Err(error) = metric.check(&objective) else { continue };
            let advised = error.to_string().rsplit_once("; choose ").unwrap().1.replace("one of ", "");
            assert_eq!(advised, fitting.iter().map(|metric| metric.name()).collect::<Vec<_>>().join(", "));
        }
    }
}

proptest! {
    /// Correlations stay within bounds, do not care for scale and shift, and not for the order of the rows.
    #[test]
    fn correlations_do_not_care_for_scale(rows in prop::collection::vec((-9_i32..9, -9_i32..9), 2..60), turn in 0..60_usize) {
        let (a, b): (Vec<f64>, Vec<f64>) = rows.iter().map(|&(a, b)| (f64::from(a), f64::from(b))).unzip();
        let scaled: Vec<f64> = a.iter().map(|value| 3.0 * value - 100.0).collect();
        let (mut turned_a, mut turned_b) = (a.clone(), b.clone());
        turned_a.rotate_left(turn % rows.len());
        turned_b.rotate_left(turn % rows.len());
        for correlation in [pearson, spearman] {
            let Some(value) = correlation(&a, &b) else {
                prop_assert!(a.iter().all(|x| *x == a[0]) || b.iter().all(|x| *x == b[0]));
                continue;
            };
            prop_assert!((-1.0..=1.0).contains(&value));
            for same in [correlation(&scaled, &b), correlation(&b, &a), correlation(&turned_a, &turned_b)] {
                prop_assert!((same.unwrap() - value).abs() < 1e-12);
            }
        }
    }

    /// With two classes, Matthews' coefficient is Pearson's correlation of the class numbers.
    #[test]
    fn matthews_is_the_correlation_of_two_classes(rows in prop::collection::vec((0..2_usize, 0..2_usize), 1..60)) {
        let (a, b): (Vec<usize>, Vec<usize>) = rows.into_iter().unzip();
        let real = |values: &[usize]| values.iter().map(|&value| value as f64).collect::<Vec<_>>();
        let wanted = pearson(&real(&a), &real(&b)).unwrap_or(0.0);
        prop_assert!((matthews(&a, &b).unwrap() - wanted).abs() < 1e-12);
    }
}
