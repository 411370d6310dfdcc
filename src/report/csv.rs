//! `dimensions.csv`: one row per hidden state, for spreadsheets and plots.

use std::io::Write;
use std::path::Path;

use crate::files::write_atomically;
use crate::rank::Plan;

use super::ReportError;

/// Dimensions and ranks as CSV. A cell is empty where there is no value.
pub fn dimensions_csv(plan: &Plan) -> String {
    let mut text = String::from(
        "hidden_state,tensor,width,dimension,low,high,standard_error,points,duplicates,non_finite,degenerate,\
         block,difference,difference_low,difference_high,rank,alpha\n",
    );
    for state in &plan.hidden_states {
        let block = plan.blocks.iter().find(|block| block.block == state.index);
        let interval = |interval: Option<(f64, f64)>| [interval.map(|ends| ends.0), interval.map(|ends| ends.1)];
        let [low, high] = interval(state.interval);
        let [difference_low, difference_high] = interval(block.and_then(|block| block.difference_interval));
        let cells = [
            state.index.to_string(),
            quoted(&state.tensor),
            state.width.to_string(),
            number(state.dimension),
            number(low),
            number(high),
            number(state.standard_error),
            state.points.to_string(),
            state.duplicates.to_string(),
            state.non_finite.to_string(),
            quoted(state.degenerate.as_deref().unwrap_or_default()),
            block.map(|block| block.block.to_string()).unwrap_or_default(),
            number(block.and_then(|block| block.difference)),
            number(difference_low),
            number(difference_high),
            block.map(|block| block.rank.to_string()).unwrap_or_default(),
            number(block.map(|block| block.alpha)),
        ];
        text += &cells.join(",");
        text.push('\n');
    }
    text
}

/// Writes [`dimensions_csv`] to a file.
///
/// # Errors
/// When the file cannot be written.
pub fn write_dimensions(path: &Path, plan: &Plan) -> Result<(), ReportError> {
    Ok(write_atomically(path, |writer| writer.write_all(dimensions_csv(plan).as_bytes()))?)
}

fn number(value: Option<f64>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

/// Quotes a field as in RFC 4180.
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}
