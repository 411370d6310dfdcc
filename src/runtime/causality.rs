//! Do tokens see those after them? A language model does not: its prediction of a token must not know that token.

use std::path::Path;

use ndarray::{Axis, Ix3, s};

use super::self_check::padded;
use super::{Difference, Feeder, InferenceSession, Library, RuntimeError, SessionSettings, Tokens};
use crate::dataset::{Encoding, Padding};
use crate::onnx::{Additions, DataType, Transformer, ValueInfo, has_training_dropout, subgraph};

/// Number of rows that are tried.
const ROWS: usize = 4;
/// Differences up to this are rounding: the same tokens take the same path through the same shapes.
const TOLERANCE: f32 = 1e-3;

/// How the values of earlier tokens change when the last token is replaced.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Causality {
    /// Largest change of their values.
    pub difference: Difference,
    /// Whether the values stayed the same.
    pub is_causal: bool,
}

/// Runs a few rows with their own last token and with another one, and compares `output` (`[batch, sequence, width]`) at
/// the tokens before it. `None` where no row has two tokens, or the output has no token axis.
///
/// # Errors
/// When ONNX Runtime cannot run the model.
pub fn causality(
    library: &Library,
    model: &Transformer,
    output: &str,
    encodings: &[Encoding],
    padding: Padding,
    settings: &SessionSettings,
) -> Result<Option<Causality>, RuntimeError> {
    let element = model.element_type(output).unwrap_or(DataType::Float);
    let additions = Additions { outputs: vec![ValueInfo::tensor(output, element, None)], ..Default::default() };
    let bytes = subgraph(model, &[output], &additions)?;
    let settings = SessionSettings { keep_dropout: has_training_dropout(model), ..settings.clone() };
    let mut session =
        InferenceSession::from_bytes(library, &bytes, model.path().parent().unwrap_or(Path::new(".")), &settings)?;
    drop(bytes);
    let feeder = Feeder::new(session.inputs(), &[])?;
    let mut run = |row: &Encoding| -> Result<Option<_>, RuntimeError> {
        let batch = padded(std::slice::from_ref(row), row.len(), padding, feeder.sizes())?;
        let feed = feeder.feed(&Tokens::from(&batch));
        let array = session.run(&feed.tensors(), &[output])?.remove(0);
        let array = array.into_dimensionality::<Ix3>().ok();
        let of_tokens = array.filter(|array| array.shape()[..2] == [batch.rows.len(), batch.length]);
        Ok(of_tokens.map(|array| array.index_axis(Axis(0), 0).slice(s![..row.len() - 1, ..]).to_owned()))
    };
    let mut difference = None;
    for (row, other) in changed_rows(encodings) {
        let (Some(before), Some(after)) = (run(&row)?, run(&other)?) else { return Ok(None) };
        difference.get_or_insert_with(Difference::default).compare(&vec![before], &vec![after]);
    }
    Ok(difference.map(|difference| Causality { difference, is_causal: difference.relative <= TOLERANCE }))
}

/// The longest rows, each paired with a copy whose last token is replaced by another that occurs in the rows.
fn changed_rows(encodings: &[Encoding]) -> Vec<(Encoding, Encoding)> {
    let mut longest: Vec<&Encoding> = encodings.iter().filter(|row| row.len() > 1).collect();
    longest.sort_by_key(|row| std::cmp::Reverse(row.len()));
    let other = |last: u32| encodings.iter().flat_map(|row| &row.ids).copied().find(|id| *id != last);
    let pair = |row: &Encoding| {
        let mut changed = row.clone();
        let last = changed.ids.last_mut()?;
        *last = other(*last)?;
        Some((row.clone(), changed))
    };
    longest.into_iter().take(ROWS).filter_map(pair).collect()
}
