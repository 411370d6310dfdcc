//! The type of the products with frozen weights: as told, as an earlier run chose, or by a trial.

use tch::Device;

use super::error::TrainError;
use super::input::TrainInput;
use super::program::{CLEARLY_FASTER, Precision, compare_precisions};
use crate::hint::Hint;
use crate::onnx::DataType;
use crate::progress::{Event, Observer};
use crate::settings::{Method, Precision as Wish};

/// The longest side of a weight in the trial: tables of a vocabulary are none of the layers that are multiplied.
const LONGEST: usize = 1 << 14;

/// What a setting means. `saved` is the choice of the run that is resumed. The choice of a trial is said.
pub(super) fn precision(
    (wish, method): (Wish, Method),
    saved: Option<Precision>,
    input: &TrainInput<'_>,
    device: Device,
    observer: &dyn Observer,
) -> Result<Precision, TrainError> {
    let shape = largest_weight(input).filter(|_| method != Method::Full);
    let shape = match (wish, saved, shape) {
        (Wish::Float32, ..) => return Ok(Precision::Float32),
        (_, _, None) => {
            // Nothing would be rounded, though it was asked for.
            observer.observe(Event::Warning(&format!(
                "{} changes nothing: there are no frozen float32 weights to multiply with",
                Hint::Precision.with(wish)
            )));
            return Ok(Precision::Float32);
        }
        (Wish::Bfloat16, ..) => return Ok(Precision::Bfloat16),
        (Wish::Auto, Some(saved), _) => return Ok(saved),
        (Wish::Auto, None, Some(shape)) => shape,
    };
    let ratio = compare_precisions(device, shape)?;
    let (chosen, other) =
        if ratio < CLEARLY_FASTER { (Precision::Bfloat16, "float32") } else { (Precision::Float32, "bfloat16") };
    let name = if chosen == Precision::Bfloat16 { "bfloat16" } else { "float32" };
    observer.observe(Event::Notice(&format!(
        "frozen weights are multiplied in {name}: in bfloat16 a product takes {ratio:.2} times as long as in float32 here ({} for the \
         other)",
        Hint::Precision.with(other)
    )));
    Ok(chosen)
}

/// The shape of the largest float32 matrix of the model that can be a layer.
fn largest_weight(input: &TrainInput<'_>) -> Option<(i64, i64)> {
    let matrices = input.model.graph.initializers.iter().filter(|tensor| tensor.data_type == DataType::Float);
    let shapes = matrices.filter_map(|tensor| match tensor.dims.as_slice() {
        &[first, second] if first.max(second) <= LONGEST => Some((first as i64, second as i64)),
        _ => None,
    });
    shapes.max_by_key(|(first, second)| first * second)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::train::tests::support::Bench;

    /// Keeps warnings.
    #[derive(Default)]
    struct Warnings(Mutex<Vec<String>>);

    impl Observer for Warnings {
        fn observe(&self, event: Event<'_>) {
            if let Event::Warning(text) = event {
                self.0.lock().unwrap().push(text.to_owned());
            }
        }
    }

    #[test]
    fn a_precision_without_frozen_weights_is_warned_of() {
        let bench = Bench::new("tiny_encoder");
        let warnings = Warnings::default();
        let chosen = |wish, method| precision((wish, method), None, &bench.input(), Device::Cpu, &warnings).unwrap();
        assert_eq!(chosen(Wish::Bfloat16, Method::Lora), Precision::Bfloat16);
        assert_eq!(chosen(Wish::Float32, Method::Full), Precision::Float32);
        assert!(warnings.0.lock().unwrap().is_empty());
        assert_eq!(chosen(Wish::Bfloat16, Method::Full), Precision::Float32);
        let said = warnings.0.lock().unwrap().join("\n");
        assert!(said.contains("bfloat16") && said.contains("changes nothing"), "{said}");
    }
}
