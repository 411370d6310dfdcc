//! Correlations of numbers. `None` where the value is undefined: fewer than two rows, a constant side, or a value that is
//! not finite.

/// Pearson's correlation coefficient.
pub fn pearson(predictions: &[f64], truth: &[f64]) -> Option<f64> {
    let rows = truth.len() as f64;
    let constant = |values: &[f64]| values.windows(2).all(|pair| pair[0] == pair[1]);
    if truth.len() < 2 || predictions.len() != truth.len() || constant(predictions) || constant(truth) {
        return None;
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / rows;
    let (mean_p, mean_t) = (mean(predictions), mean(truth));
    // Scaled by the largest deviation: the squares of very small or large values would vanish or overflow.
    let norm = |values: &[f64], mean: f64| {
        let largest = values.iter().map(|value| (value - mean).abs()).fold(0.0, f64::max);
        values.iter().map(|value| ((value - mean) / largest).powi(2)).sum::<f64>().sqrt() * largest
    };
    let (norm_p, norm_t) = (norm(predictions, mean_p), norm(truth, mean_t));
    // Divided before multiplying: the product of two small norms may vanish.
    let sum: f64 = predictions.iter().zip(truth).map(|(p, t)| (p - mean_p) / norm_p * ((t - mean_t) / norm_t)).sum();
    // Rounding may exceed the bounds.
    sum.is_finite().then(|| sum.clamp(-1.0, 1.0))
}

/// Spearman's rank correlation coefficient: Pearson's of the ranks, where equal values share their mean rank.
pub fn spearman(predictions: &[f64], truth: &[f64]) -> Option<f64> {
    if predictions.iter().chain(truth).any(|value| !value.is_finite()) {
        return None;
    }
    pearson(&ranks(predictions), &ranks(truth))
}

/// Rank of every value, from 1; equal values share the mean of their ranks.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    // `chunk_by` compares with ==, so that −0 and 0 share a rank.
    for equal in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let shared = (start + 1 + start + equal.len()) as f64 / 2.0;
        for &row in equal {
            ranks[row] = shared;
        }
        start += equal.len();
    }
    ranks
}
