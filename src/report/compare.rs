//! Several plans side by side: tasks, checkpoints or poolings on one page.

use std::io::Write;
use std::path::Path;

use serde::Serialize;

use crate::dimension::NORMAL_QUANTILE;
use crate::files::write_atomically;
use crate::rank::{BlockRank, HiddenStateDimension, Plan};

use super::ReportError;
use super::chart::{Frame, Scale, Tick, label_every, round_values, tick_label};
use super::number;
use super::page::{environment, file_name, model_name, sentence};
use super::profile::layers_across;
use super::ranks::certainty;
use super::table::{scale_in_words, table};

/// A plan and its name.
#[derive(Debug, Clone, Copy)]
pub struct Named<'a> {
    /// Name of the plan on the page.
    pub name: &'a str,
    /// The plan to compare.
    pub plan: &'a Plan,
}

/// The comparison as an HTML page without external resources, like [`report_html`](super::report_html).
///
/// # Errors
/// When the template does not fit the values, which is a bug.
pub fn compare_html(plans: &[Named<'_>]) -> Result<String, ReportError> {
    let environment = environment()?;
    let page = minijinja::Value::from(minijinja::value::Serde(&Page::new(plans)));
    Ok(environment.get_template("compare.html")?.render(page)?)
}

/// Writes [`compare_html`] to a file.
///
/// # Errors
/// When the file cannot be written.
pub fn write_comparison(path: &Path, plans: &[Named<'_>]) -> Result<(), ReportError> {
    let html = compare_html(plans)?;
    Ok(write_atomically(path, |writer| writer.write_all(html.as_bytes()))?)
}

/// The ranks of the plans for the terminal, one line per block, and the differences from the first plan beyond noise.
pub fn compare_table(plans: &[Named<'_>]) -> String {
    let blocks = plans.iter().map(|named| named.plan.blocks.len()).max().unwrap_or(0);
    let mut header = vec!["block"];
    header.extend(plans.iter().map(|named| named.name));
    let line = |block: usize| {
        let mut line = vec![(block + 1).to_string()];
        line.extend(plans.iter().map(|named| match named.plan.blocks.get(block) {
            Some(block) => match block.difference {
                Some(difference) => format!("{} ({})", block.rank, number::signed(difference)),
                None => block.rank.to_string(),
            },
            None => String::new(),
        }));
        line
    };
    let lines: Vec<Vec<String>> = (0..blocks).map(line).collect();
    let columns: Vec<usize> = (0..header.len()).collect();
    let mut text = table(&header, &columns, &lines);
    for difference in differences(plans) {
        text += &format!("\n{difference}");
    }
    text
}

#[derive(Debug, Serialize)]
struct Page {
    title: String,
    plans: Vec<Row>,
    profiles: [Figure; 2],
    blocks: Vec<BlockRow>,
    differences: Vec<String>,
    warnings: Vec<Warnings>,
    version: &'static str,
}

/// One row of the table of plans.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    colour: usize,
    model: String,
    data: String,
    rows: String,
    pooling: String,
    scale: String,
    scale_words: String,
    dimensions: String,
    ranks: String,
    parameters: String,
    width: f64,
    sha256: String,
}

#[derive(Debug, Serialize)]
struct Warnings {
    name: String,
    lines: Vec<String>,
}

/// The ranks of a block in all plans.
#[derive(Debug, Serialize)]
struct BlockRow {
    block: usize,
    cells: Vec<Option<Cell>>,
}

#[derive(Debug, Serialize)]
struct Cell {
    rank: usize,
    difference: String,
    certainty: String,
    /// Rank as a share of the highest: intensity of the cell's colour.
    strength: f64,
    /// Whether the rank differs from the first plan's beyond noise.
    differs: bool,
}

/// The dimensions over the layers, one line per plan.
#[derive(Debug, Serialize)]
struct Figure {
    frame: Frame,
    y_ticks: Vec<Tick>,
    x_ticks: Vec<Tick>,
    lines: Vec<Line>,
}

#[derive(Debug, Serialize)]
struct Line {
    colour: usize,
    path: String,
    points: Vec<(f64, f64)>,
    intervals: Vec<String>,
    words: String,
}

impl Page {
    fn new(plans: &[Named<'_>]) -> Self {
        let most = plans.iter().map(|named| named.plan.adapter_parameters).max().unwrap_or(1).max(1);
        let names: Vec<&str> = plans.iter().map(|named| named.name).collect();
        Self {
            title: names.join(", "),
            plans: plans.iter().enumerate().map(|(place, named)| row(place, named, most)).collect(),
            profiles: [Figure::profile(plans, Frame::wide(320.0)), Figure::profile(plans, Frame::narrow(260.0))],
            blocks: blocks(plans),
            differences: differences(plans),
            warnings: plans
                .iter()
                .filter(|named| !named.plan.warnings.is_empty())
                .map(|named| Warnings {
                    name: named.name.to_owned(),
                    lines: named.plan.warnings.iter().map(|warning| sentence(warning)).collect(),
                })
                .collect(),
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

fn row(place: usize, named: &Named<'_>, most: u64) -> Row {
    let plan = named.plan;
    let dimensions = plan.hidden_states.iter().filter_map(|state| state.dimension);
    let (low, high) = dimensions.fold((f64::INFINITY, 0.0_f64), |(low, high), d| (low.min(d), high.max(d)));
    let ranks: Vec<String> = plan.blocks.iter().map(|block| block.rank.to_string()).collect();
    Row {
        name: named.name.to_owned(),
        colour: place,
        model: model_name(&plan.model.onnx),
        data: file_name(&plan.data.file),
        rows: number::thousands(plan.data.sampling.as_ref().map_or(plan.data.distinct_rows, |sampling| sampling.rows)),
        pooling: plan.extraction.pooling.clone(),
        scale: format!("{}:{}", plan.scale.neighbours.0, plan.scale.neighbours.1),
        scale_words: scale_in_words(&plan.scale),
        dimensions: match low <= high {
            true => format!("{} to {}", number::dimension(low), number::dimension(high)),
            false => "–".to_owned(),
        },
        ranks: ranks.join(" "),
        parameters: number::thousands(plan.adapter_parameters),
        width: (1000.0 * plan.adapter_parameters as f64 / most as f64).round() / 10.0,
        sha256: plan.model.onnx_sha256.chars().take(12).collect(),
    }
}

fn blocks(plans: &[Named<'_>]) -> Vec<BlockRow> {
    let count = plans.iter().map(|named| named.plan.blocks.len()).max().unwrap_or(0);
    let highest = plans.iter().flat_map(|named| &named.plan.blocks).map(|block| block.rank).max().unwrap_or(1).max(1);
    let cell = |place: usize, block: usize| {
        let own = plans[place].plan.blocks.get(block)?;
        let first = plans[0].plan.blocks.get(block);
        Some(Cell {
            rank: own.rank,
            difference: own.difference.map_or_else(|| "–".to_owned(), number::signed),
            certainty: certainty(own).map(number::percent).unwrap_or_default().replace(' ', "\u{a0}"),
            strength: (100.0 * own.rank as f64 / highest as f64).round(),
            differs: place > 0 && first.is_some_and(|first| block_differs(first, own)),
        })
    };
    (0..count)
        .map(|block| BlockRow { block: block + 1, cells: (0..plans.len()).map(|place| cell(place, block)).collect() })
        .collect()
}

/// The standard error that belongs to a 95 % interval.
fn error_of(interval: Option<(f64, f64)>) -> Option<f64> {
    interval.map(|(low, high)| (high - low) / (2.0 * NORMAL_QUANTILE))
}

/// Whether two values differ by more than their combined errors explain in 95 of 100 cases, as for independent samples.
fn differs(a: Option<(f64, f64)>, b: Option<(f64, f64)>) -> bool {
    let Some(((a, error_a), (b, error_b))) = a.zip(b) else { return false };
    (a - b).abs() > NORMAL_QUANTILE * error_a.hypot(error_b)
}

fn block_differs(a: &BlockRank, b: &BlockRank) -> bool {
    let value = |block: &BlockRank| block.difference.zip(error_of(block.difference_interval));
    differs(value(a), value(b))
}

fn state_differs(a: &HiddenStateDimension, b: &HiddenStateDimension) -> bool {
    let value = |state: &HiddenStateDimension| state.dimension.zip(state.standard_error);
    differs(value(a), value(b))
}

/// The differences from the first plan beyond noise, as text.
fn differences(plans: &[Named<'_>]) -> Vec<String> {
    let Some((first, others)) = plans.split_first() else { return Vec::new() };
    let compare = |other: &Named<'_>| {
        let (a, b) = (first.plan, other.plan);
        let states: Vec<String> = a
            .hidden_states
            .iter()
            .zip(&b.hidden_states)
            .filter(|(a, b)| state_differs(a, b))
            .map(|(a, _)| a.index.to_string())
            .collect();
        let blocks: Vec<String> = a
            .blocks
            .iter()
            .zip(&b.blocks)
            .filter(|(a, b)| block_differs(a, b))
            .map(|(a, _)| a.block.to_string())
            .collect();
        let named = |what: &str, numbers: Vec<String>, all: usize| match numbers.len() {
            0 => format!("no {what}"),
            count if count == all && all > 1 => format!("every {what}"),
            1 => format!("{what} {}", numbers[0]),
            _ => format!("{what}s {}", numbers.join(", ")),
        };
        let mut text = format!(
            "{} against {}: beyond noise differ the dimension of {}, and the rise over {}",
            other.name,
            first.name,
            named("hidden state", states, a.hidden_states.len().min(b.hidden_states.len())),
            named("block", blocks, a.blocks.len().min(b.blocks.len())),
        );
        if a.data.sha256 == b.data.sha256 {
            text += "; they share their data, and are judged as if they did not";
        }
        if a.scale.neighbours != b.scale.neighbours {
            text += "; they are read at different scales";
        }
        if a.hidden_states.len() != b.hidden_states.len() {
            text += "; they have different numbers of layers, which are compared from the first";
        }
        text
    };
    others.iter().map(compare).collect()
}

impl Figure {
    fn profile(plans: &[Named<'_>], frame: Frame) -> Self {
        let deepest = plans.iter().map(|named| named.plan.hidden_states.len()).max().unwrap_or(1);
        let across = layers_across(&frame, deepest);
        let all = plans.iter().flat_map(|named| &named.plan.hidden_states);
        let ends = all.flat_map(|state| {
            state.dimension.into_iter().chain(state.interval.into_iter().flat_map(|(low, high)| [low, high]))
        });
        let highest = ends.filter(|value| value.is_finite()).fold(1.0, f64::max);
        let values = round_values(0.0, highest, 5);
        let step = values[1] - values[0];
        let up = Scale { from: (values[0], values[values.len() - 1]), to: frame.upwards() };
        let every = label_every(deepest, across.to.1 - across.to.0, 26.0);
        let lines = plans.iter().enumerate().map(|(colour, named)| {
            let states = || named.plan.hidden_states.iter().filter_map(|state| Some((state, state.dimension?)));
            let x = |state: &HiddenStateDimension| across.at(state.index as f64);
            let points: Vec<(f64, f64)> = states().map(|(state, d)| (x(state), up.at(d))).collect();
            let places: Vec<String> = points.iter().map(|(x, y)| format!("{x} {y}")).collect();
            let intervals = states().filter_map(|(state, _)| {
                let (low, high) = state.interval?;
                Some(format!("M{} {}V{}", x(state), up.at(low), up.at(high)))
            });
            let said: Vec<String> = states().map(|(_, d)| number::dimension(d)).collect();
            Line {
                colour,
                path: if places.is_empty() { String::new() } else { format!("M{}", places.join("L")) },
                intervals: intervals.collect(),
                words: format!("{}: {}", named.name, said.join(", ")),
                points,
            }
        });
        Self {
            lines: lines.collect(),
            y_ticks: values.iter().map(|value| Tick { at: up.at(*value), label: tick_label(*value, step) }).collect(),
            x_ticks: (0..deepest)
                .step_by(every)
                .map(|index| Tick { at: across.at(index as f64), label: index.to_string() })
                .collect(),
            frame,
        }
    }
}
