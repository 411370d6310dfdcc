//! The figure of ranks per block; a bar fades where the subsamples did not always reach that rank.

use serde::Serialize;

use crate::rank::{BlockRank, Plan};

use super::chart::{Frame, Scale, Tick, label_every, round_values, tenth, tick_label};
use super::number;
use super::profile::layers_across;

/// Coordinates of the figure; the template draws them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Ranks {
    frame: Frame,
    y_ticks: Vec<Tick>,
    bars: Vec<Bar>,
    /// Whether the bars show how often their rank occurred.
    shares: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Bar {
    /// Left edge and width of the bar.
    x: f64,
    width: f64,
    middle: f64,
    /// One cell per rank that occurred at least once, from below.
    cells: Vec<Cell>,
    /// Height of the planned rank.
    cap: f64,
    rank: usize,
    /// Share of the subsamples with the planned rank; empty without room or without subsamples.
    share: String,
    /// Index of the block; empty without room.
    label: String,
    words: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Cell {
    y: f64,
    height: f64,
    /// Share of the subsamples whose rank is at least this.
    share: f64,
}

impl Ranks {
    pub(crate) fn new(plan: &Plan, mut frame: Frame) -> Self {
        let across = layers_across(&frame, plan.hidden_states.len());
        let step = across.at(1.0) - across.at(0.0);
        let shares = step >= 42.0 && plan.blocks.iter().any(|block| certainty(block).is_some());
        if shares {
            frame.height += 20.0;
            frame.bottom += 20.0;
        }
        let highest = plan.blocks.iter().map(highest_rank).max().unwrap_or(1).max(2);
        let values: Vec<f64> =
            round_values(0.0, highest as f64, 4).into_iter().filter(|value| value.fract() == 0.0).collect();
        let top = values.last().copied().unwrap_or(2.0).max(highest as f64);
        let up = Scale { from: (0.0, top), to: frame.upwards() };
        let width = tenth((0.62 * step).clamp(2.0, 72.0));
        let every = label_every(plan.blocks.len(), step * plan.blocks.len() as f64, 26.0);

        let bars = plan.blocks.iter().map(|block| {
            let middle = across.at(block.block as f64 - 0.5);
            let share = certainty(block).map(number::percent).filter(|_| shares).unwrap_or_default();
            let label = if block.block % every == 0 || every == 1 { block.block.to_string() } else { String::new() };
            Bar {
                x: tenth(middle - width / 2.0),
                width,
                middle,
                cells: cells(block, &up),
                cap: up.at(block.rank as f64),
                rank: block.rank,
                share,
                label,
                words: words(block),
            }
        });
        let bars = bars.collect();
        Self {
            frame,
            y_ticks: values.iter().map(|value| Tick { at: up.at(*value), label: tick_label(*value, 1.0) }).collect(),
            bars,
            shares,
        }
    }
}

fn highest_rank(block: &BlockRank) -> usize {
    block
        .rank_probabilities
        .iter()
        .filter(|entry| entry.probability > 0.0)
        .map(|entry| entry.rank)
        .fold(block.rank, usize::max)
}

/// How often the planned rank occurred; `None` without subsamples.
pub(crate) fn certainty(block: &BlockRank) -> Option<f64> {
    if block.rank_probabilities.is_empty() {
        return None;
    }
    Some(block.rank_probabilities.iter().filter(|entry| entry.rank == block.rank).map(|entry| entry.probability).sum())
}

fn cells(block: &BlockRank, up: &Scale) -> Vec<Cell> {
    (1..=highest_rank(block))
        .map(|rank| {
            let at_least = |entry: &&crate::rank::RankProbability| entry.rank >= rank;
            let share = match certainty(block) {
                None => 1.0,
                Some(_) => block.rank_probabilities.iter().filter(at_least).map(|entry| entry.probability).sum(),
            };
            let (low, high) = (up.at(rank as f64 - 1.0), up.at(rank as f64));
            Cell { y: high, height: tenth(low - high), share: (share * 1000.0_f64).round() / 1000.0 }
        })
        .collect()
}

fn words(block: &BlockRank) -> String {
    let mut text = format!("block {}: rank {}", block.block, block.rank);
    if let Some(difference) = block.difference {
        text += &format!(", difference of dimensions {}", number::signed(difference));
    }
    if !block.rank_probabilities.is_empty() {
        text += &format!("; under subsampling {}", probabilities(block));
    }
    text
}

/// The probabilities of the ranks as text: `1: 80 %, 2: 20 %`.
pub(crate) fn probabilities(block: &BlockRank) -> String {
    let entries = block.rank_probabilities.iter().filter(|entry| entry.probability > 0.0);
    entries
        .map(|entry| format!("{}: {}", entry.rank, number::percent(entry.probability)))
        .collect::<Vec<_>>()
        .join(", ")
}
