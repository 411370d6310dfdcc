//! Values computed with scikit-learn 1.9.1 and SciPy 1.17.1, and properties that the metrics must share.

use proptest::prelude::*;

use super::*;

fn close(found: Option<f64>, wanted: f64) {
    let found = found.unwrap();
    assert!((found - wanted).abs() < 1e-12, "{found} instead of {wanted}");
}

/// Lists of pseudo-random numbers from a linear congruence that both sides can compute.
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
    let classes = |metric: Metric, a: &[usize], b: &[usize]| metric.of_classes(a, b).unwrap();
    let numbers = |metric: Metric, a: &[f32], b: &[f32]| metric.of_values(a, b).unwrap();
    let shown = [
        classes(Metric::Matthews, &[1, 1, 1], &[0, 1, 1]),
        classes(Metric::Matthews, &[1, 0, 1], &[1, 1, 1]),
        classes(Metric::Accuracy, &[1, 1], &[0, 1]),
        classes(Metric::F1, &[0, 0], &[0, 0]),
        classes(Metric::F1, &[0, 0], &[0, 1]),
        classes(Metric::F1, &[], &[]),
        numbers(Metric::Pearson, &[2.0, 2.0], &[1.0, 2.0]),
        numbers(Metric::Spearman, &[1.0, 2.0], &[2.0, 2.0]),
        numbers(Metric::Spearman, &[1.0, f32::NAN], &[1.0, 2.0]),
        numbers(Metric::Pearson, &[1.0, f32::INFINITY], &[1.0, 2.0]),
        numbers(Metric::Pearson, &[1.0], &[2.0]),
    ];
    insta::assert_json_snapshot!(shown);
}

#[test]
fn a_metric_of_something_else_is_refused() {
    let texts = [
        Metric::Accuracy.of_values(&[1.0], &[1.0]).unwrap_err().to_string(),
        Metric::Pearson.of_classes(&[1], &[1]).unwrap_err().to_string(),
        Metric::Accuracy.of_classes(&[], &[1]).unwrap_err().to_string(),
        "f2".parse::<Metric>().unwrap_err(),
    ];
    insta::assert_snapshot!(texts.join("\n"), @r"
    accuracy cannot be computed for numbers; choose one of pearson, spearman
    pearson cannot be computed for classes; choose one of accuracy, f1, matthews
    0 predictions for 1 labels; give one for each
    unknown metric `f2`; choose one of accuracy, f1, matthews, pearson, spearman, perplexity, f1_micro, f1_macro, f1_samples, average_precision, average_precision_micro, subset_accuracy
    ");
}

proptest! {
    /// Correlations stay within bounds, and depend neither on scale and shift nor on the order of the rows.
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

#[test]
fn sets_of_labels_as_scikit_learn_compares_them() {
    const LABELS: usize = 4;
    let mut truth: Vec<Vec<bool>> =
        congruence(50 * LABELS, 4, 2).chunks(LABELS).map(|row| row.iter().map(|&value| value == 0).collect()).collect();
    // A label without rows.
    truth.iter_mut().for_each(|row| row[3] = false);
    let half = |value: u64, has: bool| (value as f32 - 4.0 + if has { 3.0 } else { 0.0 }) / 2.0;
    let noise = congruence(50 * LABELS, 9, 1);
    let scores: Vec<Vec<f32>> = noise
        .chunks(LABELS)
        .zip(&truth)
        .map(|(row, truth)| row.iter().zip(truth).map(|(&value, &has)| half(value, has)).collect())
        .collect();
    let predictions: Vec<Vec<bool>> =
        scores.iter().map(|row| row.iter().map(|&score| score >= 0.0).collect()).collect();
    let wanted = [
        0.392_638_036_809_815_96,
        0.356_810_115_350_488,
        0.36,
        0.376_918_869_916_312_57,
        0.430_737_884_459_258_5,
        0.06,
    ];
    for (metric, wanted) in Metric::OF_LABEL_SETS.into_iter().zip(wanted) {
        let score = metric.of_label_sets(&predictions, &scores, &truth).unwrap();
        close(score.value, wanted);
        assert_eq!(score.note.is_some(), metric == Metric::AveragePrecision, "{metric}");
        assert_eq!(metric.of_label_sets(&[], &[], &[]).unwrap().note, Some("no rows"));
        assert!(metric.of_label_sets(&predictions, &scores, &[]).is_err());
        // Nothing predicted and nothing true is 0, without a division by it; for label sets it is right.
        let none = vec![vec![false; LABELS]; 2];
        let value = metric.of_label_sets(&none, &[vec![0.0; LABELS], vec![1.0; LABELS]], &none).unwrap().value;
        assert_eq!(value, Some(if metric == Metric::SubsetAccuracy { 1.0 } else { 0.0 }), "{metric}");
    }
    let unknown = vec![vec![f32::NAN; LABELS]; 50];
    let score = Metric::AveragePrecision.of_label_sets(&predictions, &unknown, &truth).unwrap();
    assert_eq!((score.value, score.note), (None, Some("undefined: a logit is not a number")));
    assert!(Metric::Accuracy.of_label_sets(&predictions, &scores, &truth).is_err());
}
