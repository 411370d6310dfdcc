//! The rule: from the dimensions before and after a block to its rank, and how probable other ranks are.

use std::collections::BTreeMap;

use super::{RankProbability, RankSettings};
use crate::dimension::{Measurement, NORMAL_QUANTILE, Scale, standard_error};

/// The result of the rule for one block, before any budget.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ruling {
    pub difference: Option<f64>,
    pub interval: Option<(f64, f64)>,
    /// Probability that the dimension rises.
    pub growth: Option<f64>,
    pub rank: usize,
    /// The rank required by the geometry, unrounded and unlimited: `max(d_i − d_{i−1}, 0) + offset`.
    pub bound: f64,
    pub probabilities: Vec<RankProbability>,
    pub reason: String,
}

impl RankSettings {
    /// The rank for a difference of dimensions.
    pub fn rank(&self, difference: f64) -> usize {
        self.limit((self.rounding.apply(difference.max(0.0)) as usize).saturating_add(self.offset))
    }

    /// The rank where the dimension does not rise or is unknown.
    pub fn floor_rank(&self) -> usize {
        self.limit(self.offset)
    }

    fn limit(&self, rank: usize) -> usize {
        rank.max(self.minimum).min(self.maximum.unwrap_or(usize::MAX))
    }
}

/// The rank of the block between hidden states `block − 1` and `block`.
pub(super) fn rule(
    block: usize,
    before: &Measurement,
    after: &Measurement,
    scale: Scale,
    settings: &RankSettings,
) -> Ruling {
    let (Some(lower), Some(upper)) = (before.at(scale), after.at(scale)) else {
        return undefined(block, before, after, scale, settings);
    };
    let difference = upper.dimension - lower.dimension;
    let deviations: Vec<f64> = lower.deviations.iter().zip(&upper.deviations).map(|(b, a)| a - b).collect();
    let interval = standard_error(&deviations)
        .map(|error| (difference - NORMAL_QUANTILE * error, difference + NORMAL_QUANTILE * error));
    let growth = growth(difference, &deviations);
    let probabilities = probabilities(difference, &deviations, settings);
    let unsure = settings.confidence.zip(growth).filter(|(wanted, growth)| difference > 0.0 && growth < wanted);
    let (rank, bound, reason) = match unsure {
        Some((wanted, growth)) => {
            let rank = settings.floor_rank();
            (rank, settings.offset as f64, not_established(difference, growth, wanted, rank))
        }
        None => {
            let rank = settings.rank(difference);
            let bound = difference.max(0.0) + settings.offset as f64;
            (rank, bound, reason(difference, rank, &probabilities, settings))
        }
    };
    Ruling { difference: Some(difference), interval, growth, rank, bound, probabilities, reason }
}

/// How often the dimension rises when the difference deviates as it does between the halves of the rows.
fn growth(difference: f64, deviations: &[f64]) -> Option<f64> {
    let rises = |deviation: &f64| [difference + deviation, difference - deviation].into_iter().filter(|d| *d > 0.0);
    let count: usize = deviations.iter().map(|deviation| rises(deviation).count()).sum();
    (!deviations.is_empty()).then(|| count as f64 / (2.0 * deviations.len() as f64))
}

fn not_established(difference: f64, growth: f64, wanted: f64, rank: usize) -> String {
    format!(
        "the dimension grows by {difference:.2}, but only in {:.0} % of the subsamples, and {:.0} % were asked for: smallest \
         rank {rank}",
        100.0 * growth,
        100.0 * wanted
    )
}

fn undefined(block: usize, before: &Measurement, after: &Measurement, scale: Scale, settings: &RankSettings) -> Ruling {
    let without: Vec<String> = [(block - 1, before), (block, after)]
        .into_iter()
        .filter(|(_, layer)| layer.at(scale).is_none())
        .map(|(index, _)| format!("hidden state {index}"))
        .collect();
    let rank = settings.floor_rank();
    let verb = if without.len() == 1 { "has" } else { "have" };
    Ruling {
        difference: None,
        interval: None,
        growth: None,
        rank,
        bound: settings.offset as f64,
        probabilities: Vec::new(),
        reason: format!(
            "{} {verb} no dimension, so the difference is undefined: smallest rank {rank}",
            without.join(" and ")
        ),
    }
}

/// How often each rank comes out when the difference deviates as it does between the halves of the rows. A deviation is
/// half the difference between two halves; which one is subtracted is arbitrary, so both signs count.
fn probabilities(difference: f64, deviations: &[f64], settings: &RankSettings) -> Vec<RankProbability> {
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    for deviation in deviations {
        for value in [difference + deviation, difference - deviation] {
            *counts.entry(settings.rank(value)).or_default() += 1;
        }
    }
    let total = 2.0 * deviations.len() as f64;
    let mut probabilities: Vec<RankProbability> =
        counts.into_iter().map(|(rank, count)| RankProbability { rank, probability: count as f64 / total }).collect();
    probabilities.sort_by(|a, b| b.probability.total_cmp(&a.probability).then(a.rank.cmp(&b.rank)));
    probabilities
}

fn reason(difference: f64, rank: usize, probabilities: &[RankProbability], settings: &RankSettings) -> String {
    let unlimited = settings.rounding.apply(difference.max(0.0)) as usize + settings.offset;
    let growth = if difference > 0.0 {
        format!("the dimension grows by {difference:.2}: {} of it plus {}", settings.rounding, settings.offset)
    } else {
        format!("the dimension does not grow ({difference:+.2}): {} alone", settings.offset)
    };
    let limit = match rank.cmp(&unlimited) {
        std::cmp::Ordering::Less => format!(", cut from {unlimited} to the maximum"),
        std::cmp::Ordering::Greater => format!(", raised from {unlimited} to the minimum"),
        std::cmp::Ordering::Equal => String::new(),
    };
    let share = probabilities.iter().find(|entry| entry.rank == rank).map_or(0.0, |entry| entry.probability);
    let certainty =
        if probabilities.is_empty() { String::new() } else { format!("; in {:.0} % of the subsamples", 100.0 * share) };
    format!("{growth} gives {rank}{limit}{certainty}")
}
