//! The figure of intrinsic dimensions over the layers, with their 95 % intervals.

use serde::Serialize;

use crate::rank::Plan;

use super::chart::{Frame, Scale, Tick, label_every, round_values, tick_label};
use super::number;

/// Coordinates of the figure; the template draws them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Profile {
    frame: Frame,
    y_ticks: Vec<Tick>,
    x_ticks: Vec<Tick>,
    points: Vec<Point>,
    /// Layers without a dimension.
    gaps: Vec<Gap>,
    /// SVG path of the line, with a gap where a layer has no dimension.
    line: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Point {
    x: f64,
    y: f64,
    /// Upper and lower end of the interval.
    interval: Option<(f64, f64)>,
    words: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Gap {
    x: f64,
    y: f64,
    words: String,
}

/// The position of hidden state `i`: the same in every figure of the page, so that block `i` is between `i−1` and `i`.
pub(crate) fn layers_across(frame: &Frame, hidden_states: usize) -> Scale {
    let (left, right) = frame.across();
    let last = hidden_states.saturating_sub(1).max(1) as f64;
    let margin = (0.5 * (right - left) / (last + 1.0)).min(30.0);
    Scale { from: (0.0, last), to: (left + margin, right - margin) }
}

impl Profile {
    pub(crate) fn new(plan: &Plan, frame: Frame) -> Self {
        let states = &plan.hidden_states;
        let across = layers_across(&frame, states.len());
        let (low, high) = range(plan);
        let values = round_values(low, high, 5);
        let step = values[1] - values[0];
        let up = Scale { from: (values[0], values[values.len() - 1]), to: frame.upwards() };

        let mut points = Vec::new();
        let mut gaps = Vec::new();
        let mut line = String::new();
        let mut pen_up = true;
        for state in states {
            let x = across.at(state.index as f64);
            let Some(dimension) = state.dimension else {
                let reason = state.degenerate.as_deref().unwrap_or("it could not be estimated");
                gaps.push(Gap {
                    x,
                    y: frame.upwards().0,
                    words: format!("hidden state {}: no dimension, {reason}", state.index),
                });
                pen_up = true;
                continue;
            };
            let y = up.at(dimension);
            line += &format!("{}{x} {y}", if pen_up { "M" } else { "L" });
            pen_up = false;
            let mut words = format!("hidden state {}: {}", state.index, number::dimension(dimension));
            if let Some((low, high)) = state.interval {
                words += &format!(" (95 % interval {} to {})", number::dimension(low), number::dimension(high));
            }
            points.push(Point { x, y, interval: state.interval.map(|(low, high)| (up.at(high), up.at(low))), words });
        }

        let every = label_every(states.len(), across.to.1 - across.to.0, 26.0);
        let x_ticks = states
            .iter()
            .filter(|state| state.index % every == 0)
            .map(|state| Tick { at: across.at(state.index as f64), label: state.index.to_string() });
        Self {
            frame,
            y_ticks: values.iter().map(|value| Tick { at: up.at(*value), label: tick_label(*value, step) }).collect(),
            x_ticks: x_ticks.collect(),
            points,
            gaps,
            line,
        }
    }
}

/// The range of the axis: from zero where that costs little space, else with a margin below.
fn range(plan: &Plan) -> (f64, f64) {
    let mut low = f64::INFINITY;
    let mut high = f64::NEG_INFINITY;
    for state in &plan.hidden_states {
        for value in state.dimension.into_iter().chain(state.interval.into_iter().flat_map(|(low, high)| [low, high])) {
            if value.is_finite() {
                (low, high) = (low.min(value), high.max(value));
            }
        }
    }
    if low > high {
        return (0.0, 1.0);
    }
    let air = 0.12 * (high - low).max(0.05 * high.abs());
    if low >= 0.0 && low < 0.4 * high { (0.0, high) } else { (low - air, high) }
}
