//! Metrics of classes. All compare the predicted with the true class of each row, and return `None` for no rows.

/// Share of rows whose class is right.
pub fn accuracy(predictions: &[usize], truth: &[usize]) -> Option<f64> {
    let right = predictions.iter().zip(truth).filter(|(predicted, actual)| predicted == actual).count();
    (!truth.is_empty()).then(|| right as f64 / truth.len() as f64)
}

/// F1 of class 1: `2·TP / (2·TP + FP + FN)`; 0 where class 1 is neither predicted nor true, as in scikit-learn.
pub fn f1(predictions: &[usize], truth: &[usize]) -> Option<f64> {
    let (mut hits, mut misses) = (0_u64, 0_u64);
    for (&predicted, &actual) in predictions.iter().zip(truth) {
        match (predicted == 1, actual == 1) {
            (true, true) => hits += 1,
            (false, false) => {}
            _ => misses += 1,
        }
    }
    let value = if hits == 0 { 0.0 } else { (2 * hits) as f64 / (2 * hits + misses) as f64 };
    (!truth.is_empty()).then_some(value)
}

/// Matthews' correlation coefficient for any number of classes (Gorodkin 2004, "Comparing two K-category assignments by a
/// K-category correlation coefficient"): `(c·s − Σ pₖtₖ) / √((s² − Σ pₖ²)(s² − Σ tₖ²))`, where c of s rows are right, class
/// k is predicted pₖ times and true tₖ times; 0 where the denominator is 0.
pub fn matthews(predictions: &[usize], truth: &[usize]) -> Option<f64> {
    let classes = predictions.iter().chain(truth).max()? + 1;
    let (mut predicted, mut actual) = (vec![0_f64; classes], vec![0_f64; classes]);
    let (mut right, mut rows) = (0_f64, 0_f64);
    for (&prediction, &truth) in predictions.iter().zip(truth) {
        predicted[prediction] += 1.0;
        actual[truth] += 1.0;
        rows += 1.0;
        right += f64::from(u8::from(prediction == truth));
    }
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let numerator = right * rows - product(&predicted, &actual);
    let spread = (rows * rows - product(&predicted, &predicted)) * (rows * rows - product(&actual, &actual));
    Some(if spread == 0.0 { 0.0 } else { numerator / spread.sqrt() })
}
