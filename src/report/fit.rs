//! The figure of TwoNN's straight line: small plots of some layers, each with its residuals.

use serde::Serialize;

use crate::rank::Plan;

use super::chart::{Frame, Scale, tenth};
use super::number;

/// Maximum number of layers shown.
const LAYERS: usize = 6;
/// Upper end of the vertical axis; the tail of the ratios above is not drawn: 99.5 % of the points are below.
const HIGHEST: f64 = 5.3;

/// Coordinates of the figure; the template draws them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Fits {
    frame: Frame,
    panels: Vec<Panel>,
}

/// The plot of one layer.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Panel {
    layer: usize,
    /// Left edge and width of the panel.
    x: f64,
    width: f64,
    /// Top and bottom of the plot, and the middle line of the residuals with its reach.
    top: f64,
    bottom: f64,
    middle: f64,
    reach: f64,
    points: Vec<(f64, f64)>,
    /// The straight line.
    line: String,
    /// Height of the area left out of the fit.
    discarded: Option<f64>,
    residuals: String,
    title: String,
    words: String,
}

impl Fits {
    /// The figure; `None` where the plan holds no points of a fit.
    pub(crate) fn new(plan: &Plan, frame: Frame, columns: usize) -> Option<Self> {
        let states: Vec<_> = plan.hidden_states.iter().filter(|state| state.fit.len() > 2).collect();
        if states.is_empty() {
            return None;
        }
        let shown = LAYERS.min(states.len());
        let pick = |place: usize| states[place * (states.len() - 1) / (shown - 1).max(1)];
        let discard = plan.settings["dimension"]["discard"].as_f64();
        let rows = shown.div_ceil(columns);
        let (left, right) = (frame.left, frame.width - frame.right);
        let gap = 28.0;
        let width = tenth((right - left - gap * (columns - 1) as f64) / columns as f64);
        let height = frame.height;
        let mut panels = Vec::new();
        for place in 0..shown {
            let state = pick(place);
            let (column, row) = (place % columns, place / columns);
            let x = tenth(left + column as f64 * (width + gap));
            let top = row as f64 * height + 34.0;
            let (bottom, reach) = (top + 0.56 * height, 0.09 * height);
            let middle = bottom + 0.17 * height;
            let dimension = state.dimension_by_scale.first().map_or(f64::NAN, |at| at.dimension);
            let fit: Vec<(f64, f64)> = state.fit.iter().copied().filter(|(_, y)| *y <= HIGHEST).collect();
            let highest_y = fit.iter().map(|(_, y)| *y).fold(0.0, f64::max);
            let highest_x = fit.iter().map(|(x, _)| *x).fold(highest_y / dimension, f64::max);
            let across = Scale { from: (0.0, highest_x), to: (x, x + width) };
            let up = Scale { from: (0.0, highest_y), to: (bottom, top) };
            let end = highest_x.min(highest_y / dimension);
            // Residuals of the line, in the units of the vertical axis; values beyond 1 are drawn at the edge.
            let left_over = Scale { from: (-1.0, 1.0), to: (middle + reach, middle - reach) };
            let residual = |&(ratio, y): &(f64, f64)| {
                format!("{} {}", across.at(ratio), left_over.at((y - dimension * ratio).clamp(-1.0, 1.0)))
            };
            let worst = fit.iter().filter(|(_, y)| discard.is_none_or(|share| *y <= -share.ln()));
            let worst = worst.map(|(ratio, y)| (y - dimension * ratio).abs()).fold(0.0, f64::max);
            panels.push(Panel {
                layer: state.index,
                x,
                width,
                top,
                bottom,
                middle,
                reach,
                points: fit.iter().map(|(ratio, y)| (across.at(*ratio), up.at(*y))).collect(),
                line: format!("M{x} {bottom}L{} {}", across.at(end), up.at(end * dimension)),
                discarded: discard.map(|share| -share.ln()).filter(|y| *y < highest_y).map(|y| up.at(y)),
                residuals: format!("M{}", fit.iter().map(residual).collect::<Vec<_>>().join("L")),
                title: format!("layer {}: slope {}", state.index, number::dimension(dimension)),
                words: format!(
                    "hidden state {}: slope {}; the line is off by {worst:.2} at most where it is fitted",
                    state.index,
                    number::dimension(dimension)
                ),
            });
        }
        let frame = Frame { height: rows as f64 * height + 8.0, ..frame };
        Some(Self { frame, panels })
    }
}
