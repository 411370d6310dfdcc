//! Metrics of label sets. Truth and predictions say for every row whether it has each label; scores say how likely that is.
//! Labels and rows with nothing predicted and nothing true count as 0 (`zero_division=0` of scikit-learn). All return `None`
//! for no rows.

/// Labels that are right, and labels predicted plus labels true (right ones count twice): F1 is twice the first over the
/// second.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    right: u64,
    all: u64,
}

impl Counts {
    fn add(&mut self, predicted: bool, actual: bool) {
        self.right += u64::from(predicted && actual);
        self.all += u64::from(predicted) + u64::from(actual);
    }

    fn f1(self) -> f64 {
        if self.all == 0 { 0.0 } else { (2 * self.right) as f64 / self.all as f64 }
    }
}

type LabelMatrix<'a> = &'a [Vec<bool>];

fn pairs<'a>(
    predictions: LabelMatrix<'a>,
    truth: LabelMatrix<'a>,
) -> impl Iterator<Item = impl Iterator<Item = (bool, bool)>> {
    predictions.iter().zip(truth).map(|(predicted, actual)| predicted.iter().copied().zip(actual.iter().copied()))
}

fn by_row(predictions: LabelMatrix<'_>, truth: LabelMatrix<'_>) -> Vec<Counts> {
    let count = |row| {
        let mut counts = Counts::default();
        Iterator::for_each(row, |(predicted, actual)| counts.add(predicted, actual));
        counts
    };
    pairs(predictions, truth).map(count).collect()
}

fn by_label(predictions: LabelMatrix<'_>, truth: LabelMatrix<'_>) -> Vec<Counts> {
    let mut counts = vec![Counts::default(); truth.first().map_or(0, Vec::len)];
    for row in pairs(predictions, truth) {
        counts.iter_mut().zip(row).for_each(|(counts, (predicted, actual))| counts.add(predicted, actual));
    }
    counts
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

fn mean_f1(counts: &[Counts]) -> Option<f64> {
    mean(&counts.iter().map(|counts| counts.f1()).collect::<Vec<_>>())
}

/// F1 over all labels of all rows together.
pub fn f1_micro(predictions: LabelMatrix<'_>, truth: LabelMatrix<'_>) -> Option<f64> {
    let mut all = Counts::default();
    pairs(predictions, truth).flatten().for_each(|(predicted, actual)| all.add(predicted, actual));
    (!truth.is_empty()).then(|| all.f1())
}

/// Mean of the labels' F1.
pub fn f1_macro(predictions: LabelMatrix<'_>, truth: LabelMatrix<'_>) -> Option<f64> {
    mean_f1(&by_label(predictions, truth))
}

/// Mean of the rows' F1.
pub fn f1_samples(predictions: LabelMatrix<'_>, truth: LabelMatrix<'_>) -> Option<f64> {
    mean_f1(&by_row(predictions, truth))
}

/// Share of rows whose label set is exactly right.
pub fn subset_accuracy(predictions: LabelMatrix<'_>, truth: LabelMatrix<'_>) -> Option<f64> {
    let right = predictions.iter().zip(truth).filter(|(predicted, actual)| predicted == actual).count();
    (!truth.is_empty()).then(|| right as f64 / truth.len() as f64)
}

/// Whether a label is neither predicted nor true in any row.
pub(super) fn has_unseen_label(predictions: LabelMatrix<'_>, truth: LabelMatrix<'_>) -> bool {
    by_label(predictions, truth).iter().any(|counts| counts.all == 0)
}

/// Whether a row has no label, predicted or true.
pub(super) fn has_empty_row(predictions: LabelMatrix<'_>, truth: LabelMatrix<'_>) -> bool {
    by_row(predictions, truth).iter().any(|counts| counts.all == 0)
}

/// Average precision of one label: over all thresholds from the highest, the gain in recall times the precision,
/// `Σ (Rₙ − Rₙ₋₁) Pₙ`. Equal scores are one threshold. 0 where no row has the label; `None` where a score is not a number.
pub fn average_precision(scores: &[f32], truth: &[bool]) -> Option<f64> {
    if truth.is_empty() || scores.iter().any(|score| score.is_nan()) {
        return None;
    }
    let positives = truth.iter().filter(|&&actual| actual).count() as f64;
    let mut order: Vec<usize> = (0..truth.len().min(scores.len())).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let (mut seen, mut hits, mut sum) = (0.0, 0.0, 0.0);
    // `chunk_by` compares with ==, so that −0 and 0 are one threshold.
    for equal in order.chunk_by(|&a, &b| scores[a] == scores[b]) {
        let gained = equal.iter().filter(|&&row| truth[row]).count() as f64;
        seen += equal.len() as f64;
        hits += gained;
        if gained > 0.0 {
            sum += gained / positives * (hits / seen);
        }
    }
    Some(sum)
}

/// Mean of the labels' average precisions.
pub fn average_precision_macro(scores: &[Vec<f32>], truth: LabelMatrix<'_>) -> Option<f64> {
    let labels = truth.first().map_or(0, Vec::len);
    let of_label = |label: usize| {
        let scores: Vec<f32> = scores.iter().filter_map(|row| row.get(label).copied()).collect();
        let truth: Vec<bool> = truth.iter().filter_map(|row| row.get(label).copied()).collect();
        average_precision(&scores, &truth)
    };
    mean(&(0..labels).map(of_label).collect::<Option<Vec<f64>>>()?)
}

/// Average precision over all labels of all rows together.
pub fn average_precision_micro(scores: &[Vec<f32>], truth: LabelMatrix<'_>) -> Option<f64> {
    average_precision(&scores.concat(), &truth.concat())
}

/// Whether some label occurs in no row.
pub(super) fn has_label_without_rows(truth: LabelMatrix<'_>) -> bool {
    let labels = truth.first().map_or(0, Vec::len);
    (0..labels).any(|label| truth.iter().all(|row| row.get(label) == Some(&false)))
}

/// The threshold with the best F1 for one label: a score of at least this has the label. It lies halfway between two scores
/// that occur; of equally good ones it is the highest. `None` where no row has the label, or a score is not a number.
pub fn best_threshold(scores: &[f64], truth: &[bool]) -> Option<f64> {
    let positives = truth.iter().filter(|&&actual| actual).count() as u64;
    if positives == 0 || scores.len() != truth.len() || scores.iter().any(|score| score.is_nan()) {
        return None;
    }
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let groups: Vec<&[usize]> = order.chunk_by(|&a, &b| scores[a] == scores[b]).collect();
    let mut counts = Counts { right: 0, all: positives };
    let mut best: Option<(f64, f64)> = None;
    for (at, group) in groups.iter().enumerate() {
        counts.right += group.iter().filter(|&&row| truth[row]).count() as u64;
        counts.all += group.len() as u64;
        if best.is_none_or(|(f1, _)| counts.f1() > f1) {
            let score = scores[group[0]];
            let next = groups.get(at + 1).map_or(0.0, |next| scores[next[0]]);
            let middle = (score + next) / 2.0;
            // Between adjacent floating-point numbers there is nothing.
            best = Some((counts.f1(), if middle > next { middle } else { score }));
        }
    }
    best.map(|(_, threshold)| threshold)
}
