//! Which rows form which batch: decided by the seed and the epoch alone, so that a resumed run continues with the same rows.

use rand::rand_core::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::error::TrainError;
use crate::settings::{Batching, SettingError, TrainSettings};

/// Number of batches, sorted by length, that are cut from one stretch of the shuffled rows.
const BUCKET: usize = 32;

/// The batches of an epoch (counted from 0), each a list of rows. `lengths[row]` is the number of tokens of a row.
pub fn epoch_batches(settings: &TrainSettings, lengths: &[usize], epoch: u64) -> Vec<Vec<usize>> {
    if let Batching::Given(epochs) = &settings.batching {
        return usize::try_from(epoch).ok().and_then(|epoch| epochs.get(epoch)).cloned().unwrap_or_default();
    }
    let mut random = generator(settings.seed, epoch);
    let mut rows: Vec<usize> = (0..lengths.len()).collect();
    shuffle(&mut rows, &mut random);
    let size = settings.batch_size.max(1);
    if settings.batching != Batching::Bucketed {
        return rows.chunks(size).map(<[usize]>::to_vec).collect();
    }
    let mut batches = Vec::new();
    for stretch in rows.chunks_mut(size * BUCKET) {
        // A stable sort: rows of equal length stay in their random order.
        stretch.sort_by_key(|&row| lengths[row]);
        batches.extend(stretch.chunks(size).map(<[usize]>::to_vec));
    }
    shuffle(&mut batches, &mut random);
    batches
}

/// All batches of a run, `[epoch][batch][row]`, in the form of [`Batching::Given`].
pub fn all_batches(settings: &TrainSettings, lengths: &[usize]) -> Vec<Vec<Vec<usize>>> {
    (0..epochs(settings)).map(|epoch| epoch_batches(settings, lengths, epoch)).collect()
}

/// Number of epochs of a run that is not cut short.
pub(super) fn epochs(settings: &TrainSettings) -> u64 {
    match &settings.batching {
        Batching::Given(epochs) => epochs.len() as u64,
        _ => settings.epochs,
    }
}

/// Optimizer steps in an epoch of `batches` batches; the last step may have fewer batches.
fn steps_of(batches: usize, accumulation: usize) -> u64 {
    batches.div_ceil(accumulation.max(1)) as u64
}

/// Optimizer steps of the whole run.
pub(super) fn total_steps(settings: &TrainSettings, lengths: &[usize]) -> u64 {
    let all: u64 = match &settings.batching {
        Batching::Given(epochs) => epochs.iter().map(|batches| steps_of(batches.len(), settings.accumulation)).sum(),
        _ => steps_of(lengths.len().div_ceil(settings.batch_size), settings.accumulation) * settings.epochs,
    };
    settings.maximum_steps.map_or(all, |maximum| all.min(maximum))
}

/// Given batches must not be empty, and must name rows that exist.
pub(super) fn check_batches(settings: &TrainSettings, rows: usize) -> Result<(), TrainError> {
    let Batching::Given(epochs) = &settings.batching else { return Ok(()) };
    let batches = || epochs.iter().flatten();
    if batches().next().is_none() || batches().any(Vec::is_empty) {
        let cure = "give [epoch][batch][row] with at least one row in every batch";
        return Err(SettingError::new("batches", "has nothing in it".into(), cure).into());
    }
    match batches().flatten().find(|&&row| row >= rows) {
        Some(&row) => Err(TrainError::BatchRow { row, rows }),
        None => Ok(()),
    }
}

/// A stream of random numbers for one purpose: the key holds the seed, the stream number the epoch.
fn generator(seed: u64, epoch: u64) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(epoch + 1); // stream 0 belongs to the initial adapters
    random
}

/// Fisher and Yates. Written out so that an order never changes with a version of a library.
fn shuffle<T>(items: &mut [T], random: &mut ChaCha8Rng) {
    for last in (1..items.len()).rev() {
        items.swap(last, below(random, last as u64 + 1) as usize);
    }
}

/// Uniform in `0..bound`, without bias: draws that fall into the incomplete last stretch are thrown away.
fn below(random: &mut ChaCha8Rng, bound: u64) -> u64 {
    let limit = u64::MAX - u64::MAX % bound;
    loop {
        let drawn = random.next_u64();
        if drawn < limit {
            return drawn % bound;
        }
    }
}
