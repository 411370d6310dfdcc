//! What a reader should know before trusting a plan.

use super::{BlockRank, HiddenStateDimension, PlanScale, Sampling, ScaleChoice};
use crate::hint::Hint;

/// Share of duplicate rows from which a warning is given.
const DUPLICATE_SHARE: f64 = 0.05;
/// A dimension that changes by this factor from a quarter of the rows to all of them, or from one scale to the next, depends
/// on the sample.
const SCALE_FACTOR: f64 = 1.3;
/// Relative change of the dimension from one mini-batch to two from which a warning is given.
const BATCH_CHANGE: f64 = 0.05;
/// Share of rows in near-duplicates from which a warning is given.
const NEAR_SHARE: f64 = 0.01;
/// Maximum length of an example, in characters.
const EXAMPLE_LETTERS: usize = 60;
/// A rank that occurs less often than this is not established.
const CERTAIN: f64 = 0.8;
/// With fewer points, the noise of a dimension exceeds the ranks.
const FEW_POINTS: u64 = 1000;

/// Warnings as text, the most important first.
pub(super) fn warnings(
    hidden_states: &[HiddenStateDimension],
    blocks: &[BlockRank],
    chosen: &PlanScale,
    sampling: Option<&Sampling>,
    pooling: &str,
) -> Vec<String> {
    let degenerate = hidden_states.iter().filter_map(|state| {
        let reason = state.degenerate.as_ref()?;
        Some(format!("hidden state {} has no dimension: {reason}", state.index))
    });
    let duplicates = duplicates(hidden_states, pooling);
    let near = near_duplicates(hidden_states);
    let all = [
        few_points(hidden_states),
        scale(hidden_states, chosen),
        mini_batches(sampling),
        too_wide(sampling),
        near,
        uncertain(blocks),
        duplicates,
    ];
    degenerate.chain(non_finite(hidden_states)).chain(all.into_iter().flatten()).collect()
}

fn non_finite(states: &[HiddenStateDimension]) -> impl Iterator<Item = String> + '_ {
    states.iter().filter(|state| state.non_finite > 0).map(|state| {
        let rows = if state.non_finite == 1 { "row, which is" } else { "rows, which are" };
        format!("hidden state {} has NaN or infinity in {} {rows} left out", state.index, state.non_finite)
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

/// A warning about the scale at which the dimensions were read.
fn scale(states: &[HiddenStateDimension], scale: &PlanScale) -> Option<String> {
    let (near, far) = scale.neighbours;
    match scale.chosen {
        ScaleChoice::LeastChange => Some(match scale.change {
            Some(change) => format!(
                "the dimension is level at no scale (from the neighbours {near}:{far} to {far}:{} it still changes by {:.0} %): \
                 the ranks are those of this scale and of this sample",
                2 * far,
                100.0 * change
            ),
            None => {
                "there are too few neighbours to compare scales: the ranks are those of the nearest ones".to_owned()
            }
        }),
        ScaleChoice::Given => given(states, scale),
        ScaleChoice::Plateau => rising(states, scale).or_else(|| decimation(states).filter(|_| near == 1)),
    }
}

/// A warning about an interval that stayed wider than requested.
fn too_wide(sampling: Option<&Sampling>) -> Option<String> {
    let sampling = sampling?;
    let (until, width) = sampling.until.zip(sampling.width)?;
    (width > until).then(|| {
        format!(
            "the widest interval is {width:.2} with all {} rows there are, wider than the {until} asked for",
            sampling.rows
        )
    })
}

/// A warning about the effect of averaging over mini-batches.
fn mini_batches(sampling: Option<&Sampling>) -> Option<String> {
    let (rows, change) = sampling?.mini_batch.zip(sampling?.change_with_size)?;
    (change.abs() > BATCH_CHANGE).then(|| {
        format!(
            "the dimensions are averages over mini-batches of {rows} rows, and two of them together give up to {:+.0} %: all rows \
             at once would give something else, by more than the intervals say",
            100.0 * change
        )
    })
}

/// A warning about layers that still rise at the scale where most are level.
fn rising(states: &[HiddenStateDimension], scale: &PlanScale) -> Option<String> {
    let rise = |state: &HiddenStateDimension| {
        let place = state.dimension_by_scale.iter().position(|at| at.neighbours == scale.neighbours)?;
        let (own, farther) = state.dimension_by_scale.split_at(place + 1);
        let highest = farther.iter().map(|at| at.dimension).fold(0.0, f64::max);
        let dimension = own.last()?.dimension;
        (highest > SCALE_FACTOR * dimension).then_some((state.index, dimension, highest))
    };
    let rising: Vec<_> = states.iter().filter_map(rise).collect();
    let (index, dimension, highest) = rising.iter().copied().max_by(|a, b| (a.2 / a.1).total_cmp(&(b.2 / b.1)))?;
    let named: Vec<String> = rising.iter().map(|(index, ..)| index.to_string()).collect();
    let (states, verb) = if named.len() == 1 { ("hidden state", "is") } else { ("hidden states", "are") };
    Some(format!(
        "{states} {} {verb} not level at the scale of the others (hidden state {index}: {dimension:.1} there, {highest:.1} farther \
         away): the ranks of the blocks beside depend on the scale",
        named.join(", ")
    ))
}

/// A warning about a scale set by the user, where the next one gives another dimension.
fn given(states: &[HiddenStateDimension], scale: &PlanScale) -> Option<String> {
    let (near, far) = scale.neighbours;
    let change = |state: &HiddenStateDimension| {
        let place = state.dimension_by_scale.iter().position(|at| at.neighbours == scale.neighbours)?;
        let next = state.dimension_by_scale.get(place + 1)?;
        let factor = next.dimension / state.dimension_by_scale[place].dimension;
        Some((factor.max(factor.recip()), state.dimension_by_scale[place].dimension, next.dimension, state.index))
    };
    let changes: Vec<_> = states.iter().filter_map(change).collect();
    let changing = changes.iter().filter(|change| change.0 > SCALE_FACTOR).count();
    let most = changes.iter().max_by(|a, b| a.0.total_cmp(&b.0)).filter(|_| changing > 0)?;
    Some(format!(
        "the dimension depends on the scale in {changing} of {} hidden states (hidden state {}: {:.1} at the neighbours \
         {near}:{far}, {:.1} at {far}:{}): the ranks are those of the scale that was asked for",
        states.len(),
        most.3,
        most.1,
        most.2,
        2 * far
    ))
}

/// A warning about nearly identical rows, in the layer with most of them.
fn near_duplicates(states: &[HiddenStateDimension]) -> Option<String> {
    let many = |state: &&HiddenStateDimension| {
        let found = state.near_duplicates.as_ref();
        found.is_some_and(|found| found.rows as f64 > (NEAR_SHARE * state.points as f64).max(5.0 * found.expected))
    };
    let state =
        states.iter().filter(many).max_by_key(|state| state.near_duplicates.as_ref().map(|found| found.rows))?;
    let found = state.near_duplicates.as_ref()?;
    let share = |rows: f64| 100.0 * rows / state.points as f64;
    let example = found.examples.iter().find_map(|example| example.texts.as_ref());
    let example = example
        .map(|(first, second)| told_apart(first, second, EXAMPLE_LETTERS))
        .map(|(first, second)| format!(", for example “{first}” and “{second}”"))
        .unwrap_or_default();
    let without = match found.dimension_without {
        Some(without) => format!(" and {without:.1} without them"),
        None => String::new(),
    };
    Some(format!(
        "{:.0} % of the rows of hidden state {} are nearer to another row than chance explains ({:.1} % would be){example}: \
         the nearest neighbours alone give a dimension of {:.1}{without}",
        share(found.rows as f64),
        state.index,
        share(found.expected),
        found.dimension_with
    ))
}

/// The beginnings of two texts, at most `letters` characters of each; where they begin alike, from a little before they differ.
pub(crate) fn told_apart(first: &str, second: &str, letters: usize) -> (String, String) {
    let [first, second] = [first, second].map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
    let alike = first.chars().zip(second.chars()).take_while(|(a, b)| a == b).count();
    let before = letters / 3;
    let show = |text: &str| {
        let skipped = if alike > 2 * before { alike - before } else { 0 };
        let mut shown: String = text.chars().skip(skipped).take(letters).collect();
        if skipped > 0 {
            shown.insert(0, '…');
        }
        if text.chars().count() > skipped + letters {
            shown = format!("{}…", shown.trim_end());
        }
        shown
    };
    (show(&first), show(&second))
}

/// A warning about how the nearest neighbours depend on the number of rows.
fn decimation(states: &[HiddenStateDimension]) -> Option<String> {
    let change = |state: &&HiddenStateDimension| {
        let (most, fewest) = (state.decimation.first()?, state.decimation.last()?);
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
        "first" | "last" => {
            format!("the {pooling} token is often the same; {} tells texts apart", Hint::Pooling.with("mean"))
        }
        _ => "look for repeated texts".to_owned(),
    };
    Some(format!("{} rows repeat others in hidden state {} and were left out; {cure}", state.duplicates, state.index))
}
