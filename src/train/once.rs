//! Computations without training steps: the adapter a run starts from, logits, and a gradient.

use std::sync::{Mutex, MutexGuard, PoisonError};

use ndarray::Array2;
use tch::Kind;

use super::error::TrainError;
use super::input::TrainInput;
use super::learner::Learner;
use super::losses::{class_weights, loss_of};
use super::precision::precision;
use super::program::{LinearBackend, Precision};
use super::rows::LabelledRows;
use super::{device, evaluation};
use crate::adapter::Adapter;
use crate::progress::{Observer, Silent};
use crate::settings::{Kernels, TrainSettings};
use crate::task::Lines;

/// libtorch's random generator and its number of threads belong to the whole process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Waits until no other run of this process is in progress.
pub(super) fn take_turn() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The adapter that a run with these settings starts from: A random, B zero, the head unchanged or new.
///
/// # Errors
/// As for [`train`](super::train).
pub fn initial_adapter(input: &TrainInput<'_>, settings: &TrainSettings) -> Result<Adapter, TrainError> {
    settings.check()?;
    input.check()?;
    let device = device::open(settings.device)?;
    let learner = Learner::new(input, settings, device, (LinearBackend::Torch, Precision::Float32))?;
    Ok(learner.adapter(&learner.parameters().read()?))
}

/// Logits `[rows, outputs]` of some rows, computed with an adapter.
///
/// # Errors
/// As for [`train`](super::train); [`TrainError::AdapterLacks`] and [`TrainError::AdapterShape`] if the adapter does not fit the
/// plan; an error if the logits of the task are not one vector per row.
pub fn logits(
    input: &TrainInput<'_>,
    settings: &TrainSettings,
    adapter: &Adapter,
    rows: LabelledRows<'_>,
    observer: &dyn Observer,
) -> Result<Array2<f32>, TrainError> {
    let _turn = take_turn();
    settings.check()?;
    input.check()?;
    let device = device::open(settings.device)?;
    let precision = precision((settings.precision, settings.method), None, input, device, &Silent)?;
    let mut learner = Learner::new(input, settings, device, (backend(settings.linear), precision))?;
    learner.load(adapter)?;
    learner.start(rows.encodings, threads(settings))?;
    let head = input.objective.head();
    if head.lines != Lines::Row {
        return Err(TrainError::Shape {
            value: head.outputs.join(", "),
            found: Vec::new(),
            expected: "[rows, outputs]: the task has other logits, which are not handed out",
        });
    }
    let budget = settings.evaluation_tokens;
    let (outputs, _) = evaluation::outputs_and_loss(&mut learner, input, rows, None, budget, observer)?;
    let lines = outputs.rows();
    let width = lines.first().map_or(0, Vec::len);
    let value = |(row, column): (usize, usize)| lines[row].get(column).copied().unwrap_or(f32::NAN);
    Ok(Array2::from_shape_fn((lines.len(), width), value))
}

/// The mean loss over some rows (for a language model, over their tokens that count) with an adapter, and its gradient, as an
/// adapter that holds the derivatives in place of the values.
///
/// # Errors
/// As for [`logits`].
pub fn loss_and_gradient(
    input: &TrainInput<'_>,
    settings: &TrainSettings,
    adapter: &Adapter,
    rows: LabelledRows<'_>,
) -> Result<(f64, Adapter), TrainError> {
    let _turn = take_turn();
    settings.check()?;
    input.check()?;
    let device = device::open(settings.device)?;
    let precision = precision((settings.precision, settings.method), None, input, device, &Silent)?;
    let mut learner = Learner::new(input, settings, device, (backend(settings.linear), precision))?;
    learner.load(adapter)?;
    let weights = class_weights(settings.class_weights.as_ref(), input.objective, input.train.targets)?;
    let targets = loss_of("given", input.objective, &rows, weights.as_deref())?;
    let all: Vec<usize> = (0..rows.encodings.len()).collect();
    let weight = targets.total_weight();
    learner.start(input.train.encodings, threads(settings))?;
    let part = learner.gradient(rows.encodings, &[all], (&targets, weight), |piece| piece as i64)?;
    let Some(part) = part else { return Err(TrainError::NothingToTrain) };
    let gradient = super::parameters::read(&part.gradient)?;
    Ok((part.loss.f_to_kind(Kind::Double)?.f_double_value(&[])?, learner.adapter(&gradient)))
}

/// The number of threads to compute with: as many as the settings say, or as the process may use.
pub(super) fn threads(settings: &TrainSettings) -> usize {
    settings.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// The chosen kernels as a setting of the program.
pub(super) fn backend(kernels: Kernels) -> LinearBackend {
    match kernels {
        Kernels::Auto => LinearBackend::Auto,
        Kernels::Torch => LinearBackend::Torch,
        Kernels::OneDnn => LinearBackend::OneDnn,
    }
}
