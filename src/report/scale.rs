//! The figure of dimensions against the number of points: one number without its scale misleads.

use serde::Serialize;

use crate::rank::Plan;

use super::chart::{Frame, Scale, Tick, round_values, tick_label};
use super::number;

/// Coordinates of the figure; the template draws them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ScaleCurves {
    frame: Frame,
    y_ticks: Vec<Tick>,
    x_ticks: Vec<Tick>,
    curves: Vec<Curve>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Curve {
    line: String,
    /// 0 for the embeddings, 100 for the last layer: mixes two colours.
    depth: u32,
    layer: usize,
    words: String,
}

impl ScaleCurves {
    /// `None` where the plan holds no curve of at least two points.
    pub(crate) fn new(plan: &Plan, mut frame: Frame) -> Option<Self> {
        let states: Vec<_> = plan.hidden_states.iter().filter(|state| state.scale.len() >= 2).collect();
        let all = || states.iter().flat_map(|state| state.scale.iter()).filter(|(_, dimension)| dimension.is_finite());
        let fewest = all().map(|(points, _)| *points).min()?.max(1);
        let most = all().map(|(points, _)| *points).max()?;
        let highest = all().map(|(_, dimension)| *dimension).fold(0.0, f64::max);
        if fewest >= most {
            return None;
        }
        frame.right += 14.0;
        let values = round_values(0.0, highest, 4);
        let up = Scale { from: (values[0], values[values.len() - 1]), to: frame.upwards() };
        let (left, right) = frame.across();
        let across = Scale { from: ((fewest as f64).log2(), (most as f64).log2()), to: (left + 16.0, right - 16.0) };
        let deepest = plan.hidden_states.len().saturating_sub(1).max(1);

        let mut points: Vec<u64> = all().map(|(points, _)| *points).collect();
        points.sort_unstable();
        points.dedup();
        let curves = states.iter().map(|state| {
            let mut scale = state.scale.clone();
            scale.sort_by_key(|(points, _)| *points);
            let places = scale
                .iter()
                .map(|(points, dimension)| format!("{} {}", across.at((*points as f64).log2()), up.at(*dimension)));
            let said = scale.iter().map(|(points, dimension)| {
                format!("{} at {}", number::dimension(*dimension), number::thousands(*points))
            });
            Curve {
                line: format!("M{}", places.collect::<Vec<_>>().join("L")),
                depth: (100 * state.index / deepest) as u32,
                layer: state.index,
                words: format!("hidden state {}: {}", state.index, said.collect::<Vec<_>>().join(", ")),
            }
        });
        Some(Self {
            frame,
            y_ticks: values
                .iter()
                .map(|value| Tick { at: up.at(*value), label: tick_label(*value, values[1] - values[0]) })
                .collect(),
            x_ticks: ticks_apart(&points, &across),
            curves: curves.collect(),
        })
    }
}

/// Numbers of points that stand far enough from each other to be read; the largest always.
fn ticks_apart(points: &[u64], across: &Scale) -> Vec<Tick> {
    let mut ticks: Vec<Tick> = Vec::new();
    for count in points.iter().rev() {
        let at = across.at((*count as f64).log2());
        if ticks.last().is_none_or(|last| last.at - at >= 44.0) {
            ticks.push(Tick { at, label: number::thousands(*count) });
        }
    }
    ticks.reverse();
    ticks
}
