//! Does a changed copy of an export still give the outputs of the original?

use std::path::Path;

use ndarray::ArrayD;
use serde::{Deserialize, Serialize};

use super::{Feeder, InferenceSession, Library, RuntimeError, SessionSettings, Tokens};
use crate::dataset::Positions;
use crate::onnx::DataType;

/// Result of comparing the outputs of two exports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Names of the outputs that were compared: all floating-point outputs of the original.
    pub outputs: Vec<String>,
    /// Whether the outputs are equal to the bit.
    pub equal: bool,
    /// Largest absolute difference of an element; infinite where shapes differ.
    pub largest_difference: f32,
}

/// Runs both exports on the same tokens and compares the outputs of the original. ONNX Runtime's graph optimizations are
/// off: turning an inner value into an output keeps ONNX Runtime from fusing nodes, and fused nodes round differently.
pub fn compare_outputs(
    library: &Library,
    original: &Path,
    copy: &Path,
    vocabulary: usize,
    settings: &SessionSettings,
) -> Result<Comparison, RuntimeError> {
    let settings = SessionSettings { unoptimized: true, ..settings.clone() };
    let run = |path: &Path, outputs: Option<&[String]>| -> Result<(Vec<String>, Vec<ArrayD<f32>>), RuntimeError> {
        let mut session = InferenceSession::from_file(library, path, &settings)?;
        let floats = session.outputs().iter().filter(|output| output.data_type.is_some_and(DataType::is_float));
        let names = outputs.map_or_else(|| floats.map(|output| output.name.clone()).collect(), <[String]>::to_vec);
        let feeder = Feeder::new(session.inputs(), &[])?;
        let (rows, length) = (feeder.sizes().rows.unwrap_or(ROWS), feeder.sizes().length.unwrap_or(LENGTH));
        let (ids, mask) = tokens(vocabulary, rows * length);
        let type_ids = vec![0; rows * length];
        let feed = feeder.feed(&Tokens {
            rows,
            length,
            ids: &ids,
            mask: &mask,
            type_ids: &type_ids,
            positions: Positions::FromZero,
        });
        let arrays = session.run(&feed.tensors(), &names.iter().map(String::as_str).collect::<Vec<_>>())?;
        Ok((names, arrays))
    };
    let (outputs, expected) = run(original, None)?;
    let (_, found) = run(copy, Some(&outputs))?;
    let mut largest_difference = 0f32;
    let mut equal = true;
    for (one, other) in expected.iter().zip(&found) {
        if one.shape() != other.shape() {
            (equal, largest_difference) = (false, f32::INFINITY);
            continue;
        }
        for (a, b) in one.iter().zip(other).filter(|(a, b)| a.to_bits() != b.to_bits()) {
            equal = false;
            let difference = (a - b).abs();
            largest_difference = largest_difference.max(if difference.is_nan() { f32::INFINITY } else { difference });
        }
    }
    Ok(Comparison { outputs, equal, largest_difference })
}

const ROWS: usize = 2;
const LENGTH: usize = 8;

/// Rows of tokens, the last with padding.
fn tokens(vocabulary: usize, places: usize) -> (Vec<i64>, Vec<i64>) {
    let ids = (0..places).map(|place| ((place * 7919 + 11) % vocabulary.max(1)) as i64).collect();
    let mask = (0..places).map(|place| i64::from(place + 3 < places)).collect();
    (ids, mask)
}
