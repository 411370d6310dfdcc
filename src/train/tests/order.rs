//! Which rows form which batch.

use proptest::prelude::*;

use crate::train::{Batching, TrainSettings, all_batches, epoch_batches};

fn settings(batch_size: usize, batching: Batching, seed: u64) -> TrainSettings {
    TrainSettings { batch_size, batching, seed, epochs: 3, ..TrainSettings::default() }
}

proptest! {
    #[test]
    fn every_row_is_in_one_batch(
        lengths in proptest::collection::vec(1usize..60, 1..300),
        batch_size in 1usize..40,
        bucketed: bool,
        seed: u64,
    ) {
        let batching = if bucketed { Batching::Bucketed } else { Batching::Shuffled };
        let batches = epoch_batches(&settings(batch_size, batching, seed), &lengths, 1);
        prop_assert_eq!(batches.len(), lengths.len().div_ceil(batch_size));
        prop_assert!(batches.iter().all(|batch| !batch.is_empty() && batch.len() <= batch_size));
        let mut rows: Vec<usize> = batches.into_iter().flatten().collect();
        rows.sort_unstable();
        prop_assert_eq!(rows, (0..lengths.len()).collect::<Vec<_>>());
    }
}

#[test]
fn the_order_depends_on_seed_and_epoch_alone() {
    let lengths = vec![5; 100];
    let order = |seed, epoch| epoch_batches(&settings(8, Batching::Shuffled, seed), &lengths, epoch);
    assert_eq!(order(1, 2), order(1, 2));
    assert_ne!(order(1, 2), order(1, 1));
    assert_ne!(order(1, 2), order(2, 2));
    // The order must not change between versions: a run started with an earlier one is resumed.
    assert_eq!(order(1, 2)[0], [27, 4, 17, 68, 1, 81, 66, 99]);
}

#[test]
fn given_batches_are_taken_as_they_are() {
    let given = vec![vec![vec![3, 1], vec![2]], vec![vec![0]]];
    let settings = settings(8, Batching::Given(given.clone()), 0);
    assert_eq!(epoch_batches(&settings, &[1; 4], 0), given[0]);
    assert_eq!(epoch_batches(&settings, &[1; 4], 1), given[1]);
    assert_eq!(all_batches(&settings, &[1; 4]), given);
}

#[test]
fn bucketed_batches_pad_less() {
    let lengths: Vec<usize> = (0..500).map(|row| 5 + row * 7919 % 60).collect();
    let padding = |batching| {
        let batches = epoch_batches(&settings(16, batching, 3), &lengths, 0);
        let padded = |batch: &Vec<usize>| batch.len() * batch.iter().map(|&row| lengths[row]).max().unwrap_or(0);
        batches.iter().map(padded).sum::<usize>() - lengths.iter().sum::<usize>()
    };
    assert!(padding(Batching::Bucketed) * 4 < padding(Batching::Shuffled));
}
