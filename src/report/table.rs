//! Tables for the terminal.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table};

use crate::rank::{HiddenStateDimension, Plan, PlanScale, ScaleChoice};

use super::number;
use super::ranks::certainty;
use super::spark::spark;

/// A table with a line under its header; columns in `right` (from 0) are right-aligned, for numbers.
pub fn table(header: &[&str], right: &[usize], rows: &[Vec<String>]) -> String {
    use comfy_table::{ContentLineStyle, LineStyle, TableStyle};
    const STYLE: TableStyle = TableStyle::new()
        .header_lines(ContentLineStyle::none().junction(' '))
        .header_separator(LineStyle::none().fill('─').junction('─'))
        .content_lines(ContentLineStyle::none().junction(' '));
    let mut table = Table::new();
    // Tables go into files and pipes too: their width must not depend on a terminal.
    table.load_style(STYLE).set_content_arrangement(ContentArrangement::Disabled);
    let align = |column: usize| if right.contains(&column) { CellAlignment::Right } else { CellAlignment::Left };
    let cells = |row: &[String]| -> Vec<Cell> {
        row.iter().enumerate().map(|(column, text)| Cell::new(text).set_alignment(align(column))).collect()
    };
    table.set_header(cells(&header.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()));
    for row in rows {
        table.add_row(cells(row));
    }
    table.trim_fmt()
}

/// Names and values in two columns, without lines.
pub fn facts(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
    let lines = facts.iter().map(|(name, value)| format!("{name:width$}  {value}"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Label of the sparks: the dimension at these neighbours, from left to right.
const BY_SCALE: &str = "1:2 … 32:64";

/// One line of [`dimension_table`].
#[derive(Debug, Clone, PartialEq)]
pub struct DimensionRow {
    /// Layer index (`0`, `1` …) or the name of a file.
    pub layer: String,
    /// The dimension at growing scale, for a spark.
    pub scales: Vec<f64>,
    /// The estimate, or why there is none.
    pub dimension: Result<f64, String>,
    /// 95 % interval of the dimension.
    pub interval: Option<(f64, f64)>,
    /// Number of points used.
    pub points: u64,
    /// Number of rows left out as duplicates.
    pub duplicates: u64,
    /// Rows left out because they hold NaN or infinity.
    pub non_finite: u64,
}

impl From<&HiddenStateDimension> for DimensionRow {
    fn from(state: &HiddenStateDimension) -> Self {
        let reason = || state.degenerate.clone().unwrap_or_else(|| "not estimated".to_owned());
        Self {
            layer: state.index.to_string(),
            scales: state.dimension_by_scale.iter().map(|at| at.dimension).collect(),
            dimension: state.dimension.ok_or_else(reason),
            interval: state.interval,
            points: state.points,
            duplicates: state.duplicates,
            non_finite: state.non_finite,
        }
    }
}

/// Dimensions with their intervals, as a table; columns that would be zero in every row are left out.
pub fn dimension_table(rows: &[DimensionRow]) -> String {
    let duplicates = rows.iter().any(|row| row.duplicates > 0);
    let non_finite = rows.iter().any(|row| row.non_finite > 0);
    let (sparks, scales) = sparks(rows.iter().map(|row| &row.scales[..]));
    let mut header = vec!["layer", "dimension", "95 % interval", "points"];
    header.extend(scales.is_some().then_some(BY_SCALE));
    header.extend(duplicates.then_some("duplicates"));
    header.extend(non_finite.then_some("not finite"));
    let lines: Vec<Vec<String>> = rows
        .iter()
        .zip(sparks)
        .map(|(row, spark)| {
            let mut line = vec![
                row.layer.clone(),
                match &row.dimension {
                    Ok(dimension) => number::dimension(*dimension),
                    Err(reason) => format!("– ({reason})"),
                },
                interval(row.interval),
                number::thousands(row.points),
            ];
            line.extend(scales.is_some().then_some(spark));
            line.extend(duplicates.then(|| number::thousands(row.duplicates)));
            line.extend(non_finite.then(|| number::thousands(row.non_finite)));
            line
        })
        .collect();
    table(&header, &[0, 1, 2, 3, 4, 5], &lines)
}

/// A spark of every layer's dimensions from the scale 1:2 on, and their maximum; `None` where there is only one scale.
fn sparks<'a>(layers: impl Iterator<Item = &'a [f64]> + Clone) -> (Vec<String>, Option<f64>) {
    let highest = layers.clone().flatten().copied().filter(|value| value.is_finite()).fold(0.0, f64::max);
    let some = layers.clone().any(|scales| scales.len() > 1);
    (layers.map(|scales| spark(scales, highest)).collect(), some.then_some(highest))
}

/// A plan as a table, one line per hidden state: dimension, its change with the scale, difference, rank and how often that
/// rank occurred; and the scale at which the dimensions were read.
pub fn plan_table(plan: &Plan) -> String {
    let scales: Vec<Vec<f64>> = plan
        .hidden_states
        .iter()
        .map(|state| state.dimension_by_scale.iter().map(|at| at.dimension).collect())
        .collect();
    let (sparks, has_scales) = sparks(scales.iter().map(Vec::as_slice));
    let line = |(state, spark): (&HiddenStateDimension, String)| {
        let mut row = vec![state.index.to_string(), with_half_interval(state)];
        row.extend(has_scales.is_some().then_some(spark));
        match plan.blocks.iter().find(|block| block.block == state.index) {
            Some(block) => row.extend([
                block.difference.map(number::signed).unwrap_or_else(|| "–".to_owned()),
                block.rank.to_string(),
                certainty(block).map(number::percent).unwrap_or_default(),
                number::thousands(block.modules.iter().filter(|module| module.rank > 0).count() as u64),
            ]),
            None => row.extend(std::iter::repeat_n(String::new(), 4)),
        }
        row
    };
    let rows: Vec<Vec<String>> = plan.hidden_states.iter().zip(sparks).map(line).collect();
    let mut header = vec!["layer", "dimension"];
    header.extend(has_scales.is_some().then_some(BY_SCALE));
    header.extend(["difference", "rank", "probability", "weights"]);
    let table = table(&header, &[0, 1, 2, 3, 4, 5, 6], &rows);
    format!("{table}\n\n{}", scale_in_words(&plan.scale))
}

/// The scale at which dimensions were read and why, as text.
pub fn scale_in_words(scale: &PlanScale) -> String {
    let (near, far) = scale.neighbours;
    let estimator = if near == 1 { "TwoNN" } else { "GRIDE" };
    let percent = |change: f64| format!("{:.0} %", 100.0 * change);
    let why = match (scale.chosen, scale.change) {
        (ScaleChoice::Plateau, Some(change)) => {
            let noise = if change > 0.1 { ", within its noise" } else { "" };
            format!(", from which on they stay level ({} change to {far}:{}{noise})", percent(change), 2 * far)
        }
        (ScaleChoice::LeastChange, Some(change)) => format!(
            "; they are level at no scale, and change least there (by {} to {far}:{})",
            percent(change),
            2 * far
        ),
        (ScaleChoice::Given, _) => ", as asked for".to_owned(),
        (_, None) => String::new(),
    };
    format!("dimensions read by {estimator} at the neighbours {near}:{far}{why}")
}

/// Formats as `2.41 ± 0.12`: with half the 95 % interval.
pub(crate) fn with_half_interval(state: &HiddenStateDimension) -> String {
    match (state.dimension, state.interval) {
        (Some(dimension), Some((low, high))) => {
            format!("{} ± {}", number::dimension(dimension), number::dimension((high - low) / 2.0))
        }
        (Some(dimension), None) => number::dimension(dimension),
        (None, _) => "degenerate".to_owned(),
    }
}

fn interval(interval: Option<(f64, f64)>) -> String {
    interval.map(|(low, high)| format!("{} … {}", number::dimension(low), number::dimension(high))).unwrap_or_default()
}
