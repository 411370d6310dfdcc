//! How a batch is divided into pieces that are computed side by side, each with one thread.
//!
//! Which rows form a piece depends on their lengths alone, and gradients are added in the order of the pieces. So a result is
//! the same to the bit for every number of threads, and however busy the machine is.

/// Tokens that a piece has about: with fewer, calling operations costs more than a second thread gains.
const TOKENS: usize = 128;
/// The same where so many parameters are trained that adding up the gradients of pieces takes time.
const TOKENS_OF_MANY: usize = 256;
/// From so many parameters on.
const MANY: usize = 4_000_000;
/// The most pieces of a batch: as many threads can work on it.
const MOST: usize = 32;
/// From three on, the number of pieces is a multiple of this one, so that two and four threads have the same to do.
const EVEN: usize = 4;

/// Divides rows into stretches of about equally many tokens. `lengths` are those of the rows, in their order; `parameters` is the
/// number of those that are trained.
pub(super) fn pieces(lengths: &[usize], parameters: usize) -> Vec<std::ops::Range<usize>> {
    let total: usize = lengths.iter().sum();
    let tokens = if parameters < MANY { TOKENS } else { TOKENS_OF_MANY };
    let count = total / tokens;
    let even = if count < 3 { count.max(1) } else { (count / EVEN).max(1) * EVEN };
    let count = even.min(MOST).min(lengths.len().max(1));
    let mut pieces = Vec::with_capacity(count);
    let (mut start, mut tokens) = (0, 0);
    for (row, length) in lengths.iter().enumerate() {
        tokens += length;
        // Rows must be left for the pieces that are still to come.
        let (done, left) = (pieces.len() + 1, lengths.len() - row - 1);
        let is_full = tokens * count >= done * total || left < count - done + 1;
        if done < count && is_full {
            pieces.push(start..row + 1);
            start = row + 1;
        }
    }
    if start < lengths.len() {
        pieces.push(start..lengths.len());
    }
    pieces
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_row_is_in_one_piece(lengths in prop::collection::vec(1usize..600, 1..80)) {
            let pieces = pieces(&lengths, 1000);
            let rows: Vec<usize> = pieces.iter().cloned().flatten().collect();
            prop_assert_eq!(rows, (0..lengths.len()).collect::<Vec<_>>());
            prop_assert!(pieces.len() <= MOST && pieces.iter().all(|piece| !piece.is_empty()));
        }

        #[test]
        fn pieces_are_about_equal(lengths in prop::collection::vec(1usize..40, 64..128)) {
            let tokens = |piece: &std::ops::Range<usize>| lengths[piece.clone()].iter().sum::<usize>();
            let pieces = pieces(&lengths, 1000);
            let mean = lengths.iter().sum::<usize>() as f64 / pieces.len() as f64;
            // A cut is at most a row away from where it should be.
            prop_assert!(pieces.iter().all(|piece| (tokens(piece) as f64 - mean).abs() <= 40.0));
        }
    }

    #[test]
    fn few_tokens_stay_together() {
        assert_eq!(pieces(&[20; 5], 1000), vec![0..5; 1]);
        assert_eq!(pieces(&[], 1000), Vec::<std::ops::Range<usize>>::new());
        assert_eq!(pieces(&[11; 32], 1000), [0..16, 16..32]);
        let count = |length: usize, parameters: usize| pieces(&vec![length; 32], parameters).len();
        assert_eq!([14, 30, 40, 100, 512].map(|length| count(length, 1000)), [4, 4, 8, 24, 32]);
        assert_eq!([14, 30, 40, 100, 512].map(|length| count(length, MANY)), [1, 4, 4, 12, 32]);
    }
}
