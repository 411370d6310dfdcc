//! What a reader should know before trusting a plan.

use super::{BlockRank, HiddenStateDimension};

/// From this share of repeated rows on, they are worth a word.
const DUPLICATE_SHARE: f64 = 0.05;
/// A dimension that changes by this factor from a quarter of the rows to all of them belongs to the sample.
const SCALE_FACTOR: f64 = 1.3;
/// A rank that comes out less often than this is not established.
const CERTAIN: f64 = 0.8;
/// With fewer points, the noise of a dimension exceeds the ranks.
const FEW_POINTS: u64 = 1000;

/// Warnings in plain words, the weightiest first.
pub(super) fn warnings(hidden_states: &[HiddenStateDimension], blocks: &[BlockRank], pooling: &str) -> Vec<String> {
    let degenerate = hidden_states.iter().filter_map(|state| {
        let reason = state.degenerate.as_ref()?;
        Some(format!("hidden state {} has no dimension: {reason}", state.index))
    });
    let duplicates = duplicates(hidden_states, pooling);
    let all = [few_points(hidden_states), scale(hidden_states), uncertain(blocks), duplicates];
    degenerate.chain(non_finite(hidden_states)).chain(all.into_iter().flatten()).collect()
}

fn non_finite(states: &[HiddenStateDimension]) -> impl Iterator<Item = String> + '_ {
    states.iter().filter(|state| state.non_finite > 0).map(|state| {
        format!("{} rows of hidden state {} are NaN or infinite and were left out", state.non_finite, state.index)
    })
}

fn few_points(states: &[HiddenStateDimension]) -> Option<String> {
    let least = states.iter().filter(|state| state.dimension.is_some()).min_by_key(|state| state.points)?;
    (least.points < FEW_POINTS).then(|| {
        format!(
            "only {} distinct rows in hidden state {}: the dimensions are noisy, and with more rows they may differ; use \
             more data",
            least.points, least.index
        )
    })
}

fn scale(states: &[HiddenStateDimension]) -> Option<String> {
    let change = |state: &&HiddenStateDimension| {
        let (most, fewest) = (state.scale.first()?, state.scale.last()?);
        let factor = (most.1 / fewest.1).max(fewest.1 / most.1);
        (factor > SCALE_FACTOR).then_some((factor, *most, *fewest))
    };
    let changing = states.iter().filter(|state| change(state).is_some()).count();
    let (state, (_, most, fewest)) = states
        .iter()
        .filter_map(|state| Some((state, change(&state)?)))
        .max_by(|(_, a), (_, b)| a.0.total_cmp(&b.0))?;
    Some(format!(
        "the dimension depends on the number of rows in {changing} of {} hidden states (hidden state {}: {:.1} with {} \
         rows, {:.1} with {}): the ranks are those of this sample",
        states.len(),
        state.index,
        most.1,
        most.0,
        fewest.1,
        fewest.0
    ))
}

fn uncertain(blocks: &[BlockRank]) -> Option<String> {
    let uncertain: Vec<String> = blocks
        .iter()
        .filter(|block| block.rank_probabilities.first().is_some_and(|first| first.probability < CERTAIN))
        .map(|block| block.block.to_string())
        .collect();
    (!uncertain.is_empty()).then(|| {
        let (blocks, have) = if uncertain.len() == 1 { ("block", "has") } else { ("blocks", "have") };
        format!(
            "the data do not settle the rank of {blocks} {}, which {have} more than one probable value",
            uncertain.join(", ")
        )
    })
}

fn duplicates(states: &[HiddenStateDimension], pooling: &str) -> Option<String> {
    let share = |state: &&HiddenStateDimension| {
        let rows = state.points + state.duplicates + state.non_finite;
        state.dimension.is_some() && state.duplicates as f64 > DUPLICATE_SHARE * rows as f64
    };
    let state = states.iter().filter(share).max_by_key(|state| state.duplicates)?;
    let cure = match pooling {
        "first" | "last" => format!("the {pooling} token is often the same; --pooling mean tells texts apart"),
        _ => "look for repeated texts".to_owned(),
    };
    Some(format!("{} rows repeat others in hidden state {} and were left out; {cure}", state.duplicates, state.index))
}
