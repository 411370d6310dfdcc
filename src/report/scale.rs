//! The figures of dimensions against scale: over increasingly far neighbours, and over decreasing numbers of points. A
//! single number without its scale misleads.

use serde::Serialize;

use crate::rank::{HiddenStateDimension, Plan};

use super::chart::{Frame, Scale, Tick, round_values, tick_label};
use super::number;

/// Coordinates of a figure; the template draws them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ScaleCurves {
    frame: Frame,
    /// Distinguishes the figures of a page.
    name: &'static str,
    y_ticks: Vec<Tick>,
    x_ticks: Vec<Tick>,
    curves: Vec<Curve>,
    /// Position and label of the scale of the plan.
    chosen: Option<Tick>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Curve {
    line: String,
    /// Standard deviations as SVG paths, up and down from the points.
    spreads: Vec<String>,
    /// 0 for the embeddings, 100 for the last layer: mixes two colours.
    depth: u32,
    layer: usize,
    words: String,
}

/// One point of a curve.
struct At {
    /// Index of the nearer neighbour, or number of points.
    scale: u64,
    label: String,
    dimension: f64,
    spread: Option<f64>,
}

impl ScaleCurves {
    /// The figure over neighbours, 1:2 to 32:64, with the scale of the plan; `None` where the plan holds no curve of two points.
    pub(crate) fn neighbours(plan: &Plan, frame: Frame) -> Option<Self> {
        let curve = |state: &HiddenStateDimension| -> Vec<At> {
            let at = state.dimension_by_scale.iter().map(|at| At {
                scale: at.neighbours.0 as u64,
                label: format!("{}:{}", at.neighbours.0, at.neighbours.1),
                dimension: at.dimension,
                spread: None,
            });
            at.collect()
        };
        Self::new(plan, frame, "neighbours", &curve, Some(plan.scale.neighbours.0 as u64))
    }

    /// The figure over numbers of points; `None` where the plan holds no curve of two points.
    pub(crate) fn decimation(plan: &Plan, frame: Frame) -> Option<Self> {
        let curve = |state: &HiddenStateDimension| -> Vec<At> {
            let spreads = state.decimation_spread.iter().copied().chain(std::iter::repeat(None));
            let at = state.decimation.iter().zip(spreads).map(|(&(points, dimension), spread)| At {
                scale: points,
                label: number::thousands(points),
                dimension,
                spread,
            });
            at.collect()
        };
        Self::new(plan, frame, "points", &curve, None)
    }

    fn new(
        plan: &Plan,
        mut frame: Frame,
        name: &'static str,
        curve: &dyn Fn(&HiddenStateDimension) -> Vec<At>,
        chosen: Option<u64>,
    ) -> Option<Self> {
        let states: Vec<(usize, Vec<At>)> = plan
            .hidden_states
            .iter()
            .map(|state| {
                let mut curve = curve(state);
                curve.retain(|at| at.dimension.is_finite());
                curve.sort_by_key(|at| at.scale);
                (state.index, curve)
            })
            .filter(|(_, curve)| curve.len() >= 2)
            .collect();
        let all = || states.iter().flat_map(|(_, curve)| curve);
        let fewest = all().map(|at| at.scale).min()?.max(1);
        let most = all().map(|at| at.scale).max()?;
        let highest = all().map(|at| at.dimension + at.spread.unwrap_or(0.0)).fold(0.0, f64::max);
        if fewest >= most {
            return None;
        }
        frame.right += 14.0;
        let values = round_values(0.0, highest, 4);
        let up = Scale { from: (values[0], values[values.len() - 1]), to: frame.upwards() };
        let (left, right) = frame.across();
        let across = Scale { from: ((fewest as f64).log2(), (most as f64).log2()), to: (left + 16.0, right - 16.0) };
        let deepest = plan.hidden_states.len().saturating_sub(1).max(1);

        let mut labels: Vec<(u64, &str)> = all().map(|at| (at.scale, at.label.as_str())).collect();
        labels.sort_unstable();
        labels.dedup();
        let x_ticks = ticks_apart(&labels, &across);
        let place = |scale: u64| across.at((scale as f64).log2());
        let chosen = chosen.and_then(|chosen| labels.iter().find(|(scale, _)| *scale == chosen));
        let chosen = chosen.map(|&(scale, label)| Tick { at: place(scale), label: label.to_owned() });
        let curves = states.iter().map(|(index, curve)| {
            let places = curve.iter().map(|at| format!("{} {}", place(at.scale), up.at(at.dimension)));
            let spreads = curve.iter().filter_map(|at| {
                let spread = at.spread?;
                let (low, high) = (up.at((at.dimension - spread).max(0.0)), up.at(at.dimension + spread));
                Some(format!("M{} {low}V{high}", place(at.scale)))
            });
            let said = curve.iter().map(|at| format!("{} at {}", number::dimension(at.dimension), at.label));
            Curve {
                line: format!("M{}", places.collect::<Vec<_>>().join("L")),
                spreads: spreads.collect(),
                depth: (100 * index / deepest) as u32,
                layer: *index,
                words: format!("hidden state {index}: {}", said.collect::<Vec<_>>().join(", ")),
            }
        });
        Some(Self {
            frame,
            name,
            y_ticks: values
                .iter()
                .map(|value| Tick { at: up.at(*value), label: tick_label(*value, values[1] - values[0]) })
                .collect(),
            x_ticks,
            curves: curves.collect(),
            chosen,
        })
    }
}

/// Ticks with labels far enough apart to be read; the largest is always kept.
fn ticks_apart(labels: &[(u64, &str)], across: &Scale) -> Vec<Tick> {
    let mut ticks: Vec<Tick> = Vec::new();
    for (scale, label) in labels.iter().rev() {
        let at = across.at((*scale as f64).log2());
        if ticks.last().is_none_or(|last| last.at - at >= 44.0) {
            ticks.push(Tick { at, label: (*label).to_owned() });
        }
    }
    ticks.reverse();
    ticks
}
