//! Does an export behave as it should? The same batch twice, a row alone and among others, a row with and without padding.

use std::path::Path;

use ndarray::{Array2, Axis, Ix3, s};
use serde::{Deserialize, Serialize};

use super::sizes::widened;
use super::{Feeder, FixedSizes, InferenceSession, Library, RuntimeError, SessionSettings, Tokens};
use crate::dataset::{Encoding, Padding, pad};
use crate::onnx::{Additions, DataType, Transformer, ValueInfo, has_training_dropout, precision_of, subgraph};

/// Result of the check. A difference is compared with `tolerance`, which depends on the precision of the export.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SelfCheck {
    /// The same batch gives the same hidden states twice. `false`: a random operation (dropout) is active.
    pub deterministic: bool,
    /// A row has the same hidden states alone and among others of its length.
    pub batch_invariant: bool,
    /// A row has the same hidden states with and without padding. `false`: the attention mask is ignored.
    pub padding_invariant: bool,
    /// Difference between two runs of a batch.
    pub between_runs: Difference,
    /// Difference between a row alone and in a batch.
    pub between_batches: Difference,
    /// Difference between a row with and without padding.
    pub between_paddings: Difference,
    /// Relative differences up to this are rounding.
    pub tolerance: f32,
    /// Number of rows that were checked.
    pub rows: usize,
    /// Index of the first hidden state with a value that is infinite or not a number. Such values cannot be compared: the
    /// results for this state and those after it mean nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_finite: Option<usize>,
}

/// The largest difference between two vectors that should be equal.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Difference {
    /// Largest absolute difference of a component.
    pub absolute: f32,
    /// Largest difference relative to the largest component of its vector.
    pub relative: f32,
    /// Index of the hidden state in which the relative difference is largest.
    pub hidden_state: usize,
}

/// The vectors of one row: `[hidden state]` → `[vectors, width]`.
pub type RowStates = Vec<Array2<f32>>;

/// Checks an export on a few rows of the data.
pub fn self_check(
    library: &Library,
    model: &Transformer,
    encodings: &[Encoding],
    padding: Padding,
    settings: &SessionSettings,
) -> Result<SelfCheck, RuntimeError> {
    let wanted: Vec<&str> = model.states()?.values.iter().map(String::as_str).collect();
    let precision = precision_of(model)?;
    let element = |name| model.element_type(name).unwrap_or(DataType::Float);
    let outputs = wanted.iter().map(|name| ValueInfo::tensor(name, element(name), None));
    let additions = Additions { outputs: outputs.collect(), ..Default::default() };
    let bytes = subgraph(model, &wanted, &additions)?;
    let settings = SessionSettings { keep_dropout: has_training_dropout(model), ..settings.clone() };
    let mut session =
        InferenceSession::from_bytes(library, &bytes, model.path().parent().unwrap_or(Path::new(".")), &settings)?;
    drop(bytes);
    let feeder = Feeder::new(session.inputs(), &[])?;
    let mut run = |rows: &[Encoding], length: usize| {
        let batch = padded(rows, length, padding, feeder.sizes())?;
        let feed = feeder.feed(&Tokens::from(&batch));
        let arrays = session.run(&feed.tensors(), &wanted)?;
        let mut result: Vec<RowStates> = vec![Vec::with_capacity(wanted.len()); rows.len()];
        for (array, name) in arrays.into_iter().zip(&wanted) {
            let found = array.shape().to_vec();
            let wrong = || RuntimeError::HiddenStateShape {
                name: (*name).into(),
                found: found.clone(),
                rows: batch.rows.len(),
                length: batch.length,
            };
            let array = array.into_dimensionality::<Ix3>().map_err(|_| wrong())?;
            if found[..2] != [batch.rows.len(), batch.length] {
                return Err(wrong());
            }
            for ((row, result), encoding) in array.axis_iter(Axis(0)).zip(&mut result).zip(rows) {
                result.push(row.slice(s![..encoding.len(), ..]).to_owned());
            }
        }
        Ok::<_, RuntimeError>(result)
    };
    check_rows(encodings, precision, |rows, length| {
        let mut states = Vec::with_capacity(rows.len());
        for part in feeder.sizes().parts(rows) {
            states.extend(run(part, length)?);
        }
        Ok(states)
    })
}

/// The check itself, for anything that computes the hidden states of rows padded to a length.
pub(crate) fn check_rows<E>(
    encodings: &[Encoding],
    precision: f32,
    mut run: impl FnMut(&[Encoding], usize) -> Result<Vec<RowStates>, E>,
) -> Result<SelfCheck, E> {
    let tolerance = (16.0 * precision).max(1e-4);
    let mut differences = [Difference::default(); 3];
    let rows = choose(encodings);
    let longest = rows.iter().map(Encoding::len).max().unwrap_or(0);
    let mut not_finite = None;
    if longest > 0 {
        let first = run(&rows, longest)?;
        not_finite = first.iter().filter_map(first_not_finite).min();
        let second = run(&rows, longest)?;
        first.iter().zip(&second).for_each(|(a, b)| differences[0].compare(a, b));
    }
    for row in &rows {
        let alone = run(std::slice::from_ref(row), row.len())?;
        let among = run(&with_companions(row), row.len())?;
        differences[1].compare(&alone[0], &among[0]);
        // Padding must not exceed the longest row: the model may have no more positions.
        let short = if row.len() < longest { row.clone() } else { prefix(row, (row.len() / 2).max(1)) };
        let alone = run(std::slice::from_ref(&short), short.len())?;
        let padded = run(std::slice::from_ref(&short), longest.max(short.len() + 1))?;
        differences[2].compare(&alone[0], &padded[0]);
    }
    let [between_runs, between_batches, between_paddings] = differences;
    let small = |difference: Difference| difference.relative <= tolerance;
    Ok(SelfCheck {
        deterministic: small(between_runs),
        batch_invariant: small(between_batches),
        padding_invariant: small(between_paddings),
        between_runs,
        between_batches,
        between_paddings,
        tolerance,
        rows: rows.len(),
        not_finite,
    })
}

fn first_not_finite(states: &RowStates) -> Option<usize> {
    states.iter().position(|state| state.iter().any(|value| !value.is_finite()))
}

/// Up to four rows, from the shortest to the longest.
fn choose(encodings: &[Encoding]) -> Vec<Encoding> {
    let mut order: Vec<usize> = (0..encodings.len()).filter(|row| !encodings[*row].is_empty()).collect();
    order.sort_by_key(|row| encodings[*row].len());
    let mut places: Vec<usize> = (0..4).map(|i| i * order.len().saturating_sub(1) / 3).collect();
    places.dedup();
    places.into_iter().filter_map(|place| order.get(place)).map(|row| encodings[*row].clone()).collect()
}

/// The row, and three of the same length with its tokens in a different order.
fn with_companions(row: &Encoding) -> Vec<Encoding> {
    let turned = |by: usize| {
        let mut turned = row.clone();
        turned.ids.rotate_left(by % row.len().max(1));
        turned
    };
    vec![row.clone(), turned(1), turned(2), turned(3)]
}

fn prefix(row: &Encoding, length: usize) -> Encoding {
    Encoding { ids: row.ids[..length].to_vec(), type_ids: row.type_ids[..length].to_vec() }
}

/// Rows padded to a given length. Where the export fixes the length, a length greater than that of the rows means another
/// filler: the contents of padding must not matter either.
pub(crate) fn padded(
    rows: &[Encoding],
    length: usize,
    padding: Padding,
    sizes: FixedSizes,
) -> Result<crate::dataset::Batch, RuntimeError> {
    let all: Vec<usize> = (0..rows.len()).collect();
    if sizes.length.is_none() {
        return Ok(widened(pad(rows, &all, padding), length, padding));
    }
    let longest = rows.iter().map(Encoding::len).max().unwrap_or(0);
    let other = rows.iter().flat_map(|row| row.ids.iter().copied()).find(|id| *id != padding.id);
    let id = if length > longest { other.unwrap_or(padding.id) } else { padding.id };
    sizes.batch(rows, &all, Padding { id, ..padding })
}

impl Difference {
    pub(super) fn compare(&mut self, one: &RowStates, other: &RowStates) {
        for (state, (one, other)) in one.iter().zip(other).enumerate() {
            for (a, b) in one.outer_iter().zip(other.outer_iter()) {
                let (absolute, scale) = a.iter().zip(&b).fold((0f32, 0f32), |(absolute, scale), (a, b)| {
                    let difference = if a.is_nan() && b.is_nan() || a == b { 0.0 } else { (a - b).abs() };
                    let difference = if difference.is_nan() { f32::INFINITY } else { difference };
                    (absolute.max(difference), if a.is_finite() { scale.max(a.abs()) } else { scale })
                });
                let relative = if absolute == 0.0 { 0.0 } else { absolute / scale.max(f32::MIN_POSITIVE) };
                self.absolute = self.absolute.max(absolute);
                if relative > self.relative {
                    self.relative = relative;
                    self.hidden_state = state;
                }
            }
        }
    }
}
