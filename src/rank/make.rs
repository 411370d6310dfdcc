//! Makes a plan from the activations of a model.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use super::budget::{self, Share};
use super::check::largest_rank;
use super::rule::{Ruling, rule};
use super::{
    BlockRank, BlockToAdapt, DataProvenance, ExtractionProvenance, FORMAT_VERSION, HiddenStateDimension,
    ModelProvenance, ModuleToAdapt, NearDuplicateExample, NearDuplicateRows, Plan, PlanScale, PlannedModule, RankError,
    RankSettings, ScaleChoice,
};
use crate::dimension::{
    DimensionError, LayerDimension, MeasureSettings, Measurement, NORMAL_QUANTILE, Plateau, Representation, Scale,
    ScaleEstimate, TwoNn, measure, plateau, standard_error,
};
use crate::files::Matrix;
use crate::onnx::Role;
use crate::progress::{Cancelled, Event, Observer, Unseen};

/// Everything a plan is made from, except the activations.
#[derive(Clone)]
pub struct PlanRequest<'a> {
    /// Provenance of the model.
    pub model: ModelProvenance,
    /// Provenance of the data.
    pub data: DataProvenance,
    /// How the activations were extracted.
    pub extraction: ExtractionProvenance,
    /// Names of the hidden states in the graph, 0 to L.
    pub hidden_states: &'a [String],
    /// The blocks, 1 to L.
    pub blocks: &'a [BlockToAdapt],
    /// Preprocessing of the activations before distances are measured.
    pub representation: Representation,
    /// How dimensions are estimated.
    pub estimator: TwoNn,
    /// How dimensions become ranks.
    pub settings: RankSettings,
    /// The text behind each row of the activations, for examples in the plan; optional.
    pub text: Option<&'a RowText<'a>>,
}

/// Returns the text behind a row of the activations, if known.
pub type RowText<'a> = dyn Fn(usize) -> Option<String> + 'a;

/// Activations of one hidden state `[rows, width]`; all have the same rows.
pub type LoadLayer<'a> = dyn FnMut(usize) -> Result<Matrix, Box<dyn std::error::Error + Send + Sync>> + 'a;

/// The share of rows that may be NaN or infinite in a layer; they are left out with a warning.
const NON_FINITE_SHARE: f64 = 0.01;

/// Measures every hidden state, one or a few at a time in memory, and assigns every block its rank.
///
/// A weight shared by several blocks gets one adapter with the largest of their ranks, listed at the first of them.
///
/// # Errors
/// Returns an error for layers that cannot be loaded or differ in their rows, more than 1 % of the rows NaN or infinite,
/// fewer than 50 distinct rows in every layer, no weight with a requested role, a budget below the smallest ranks, and if
/// cancelled.
pub fn make_plan(
    load: &mut LoadLayer<'_>,
    request: &PlanRequest<'_>,
    observer: &dyn Observer,
) -> Result<Plan, RankError> {
    request.checked()?;
    let settings = request.settings.measuring(request.estimator);
    let states = request.hidden_states.len();
    let measurements = measure_hidden_states(load, states, request.representation, &settings, observer)?;
    plan_of(&measurements, request)
}

impl PlanRequest<'_> {
    /// Checks that the request can give a plan, whatever the activations are.
    ///
    /// # Errors
    /// Returns an error for settings out of range, if there is not one block between each two hidden states, or if no weight
    /// has a requested role.
    pub fn checked(&self) -> Result<(), RankError> {
        self.settings.checked()?;
        let states = self.hidden_states.len();
        if states < 2 || self.blocks.len() != states - 1 {
            return Err(RankError::Blocks { hidden_states: states, blocks: self.blocks.len() });
        }
        check_blocks(self.blocks, &self.settings)
    }
}

/// Checks that these blocks can give a plan, whatever their hidden states turn out to be.
///
/// # Errors
/// Returns an error for settings out of range, no weight with a requested role, or a budget below the smallest ranks.
pub fn check_blocks(blocks: &[BlockToAdapt], settings: &RankSettings) -> Result<(), RankError> {
    settings.checked()?;
    let modules = wanted_modules(blocks, settings)?;
    let Some(budget) = settings.budget else { return Ok(()) };
    // No rank is below this: neither the rule's, nor one that the budget has lowered.
    let smallest = |block: usize| widest(&modules, block).unwrap_or(settings.minimum).min(settings.minimum);
    let needed = (0..blocks.len()).map(|block| smallest(block) as u64 * parameters_per_rank(&modules, block)).sum();
    if needed > budget { Err(RankError::Budget { needed, budget }) } else { Ok(()) }
}

/// Assigns every block its rank, from the measurements of all hidden states, 0 to L.
///
/// # Errors
/// As [`PlanRequest::checked`], and for a budget below the smallest ranks.
pub fn plan_of(measurements: &[Measurement], request: &PlanRequest<'_>) -> Result<Plan, RankError> {
    request.checked()?;
    let settings = &request.settings;
    let states = request.hidden_states.len();
    let modules = wanted_modules(request.blocks, settings)?;
    let (scale, chosen) = choose_scale(measurements.iter(), settings.scale);
    let mut rulings: Vec<Ruling> =
        (1..states).map(|block| rule(block, &measurements[block - 1], &measurements[block], scale, settings)).collect();
    limit_to_weights(&mut rulings, &modules);
    let (ranks, lowered) = ranks_within_budget(&rulings, &modules, settings)?;
    let blocks = assemble_blocks(request, rulings, &ranks, &lowered, modules);
    let hidden_states: Vec<_> = measurements
        .iter()
        .enumerate()
        .map(|(index, measurement)| hidden_state(index, request, measurement, scale))
        .collect();
    let all = blocks.iter().flat_map(|block| &block.modules);
    Ok(Plan {
        format_version: FORMAT_VERSION,
        gelora_version: env!("CARGO_PKG_VERSION").to_owned(),
        model: request.model.clone(),
        data: request.data.clone(),
        extraction: request.extraction.clone(),
        settings: settings_json(request, measurements),
        adapter_parameters: all.map(|m| m.rank as u64 * (m.in_features + m.out_features) as u64).sum(),
        warnings: super::warnings::warnings(
            &hidden_states,
            &blocks,
            &chosen,
            request.data.sampling.as_ref(),
            &request.extraction.pooling,
        ),
        scale: chosen,
        hidden_states,
        blocks,
    })
}

/// For every block, the modules with a requested role; a shared weight only in the first block that uses it, with all the
/// blocks that do.
fn wanted_modules<'a>(blocks: &'a [BlockToAdapt], settings: &RankSettings) -> Result<Vec<Vec<Wanted<'a>>>, RankError> {
    let mut users: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (place, block) in blocks.iter().enumerate() {
        for module in block.modules.iter().filter(|module| module.role.is_in(&settings.projections)) {
            users.entry(&module.weight).or_default().push(place);
        }
    }
    if users.is_empty() {
        let names = |mut roles: Vec<Role>| {
            roles.sort_unstable();
            roles.dedup();
            roles.into_iter().map(|role| role.as_str().replace('_', "-")).collect::<Vec<_>>().join(", ")
        };
        let present = blocks.iter().flat_map(|block| &block.modules).map(|module| module.role).collect();
        return Err(RankError::NothingToAdapt { wanted: names(settings.projections.clone()), found: names(present) });
    }
    let wanted = |(place, block): (usize, &'a BlockToAdapt)| {
        let mut wanted: Vec<Wanted<'_>> = Vec::new();
        for module in &block.modules {
            let Some(users) = users.get(module.weight.as_str()) else { continue };
            let first_here = users[0] == place && !wanted.iter().any(|other| other.module.weight == module.weight);
            if module.role.is_in(&settings.projections) && first_here {
                wanted.push(Wanted { module, users: users.clone() });
            }
        }
        wanted
    };
    Ok(blocks.iter().enumerate().map(wanted).collect())
}

/// A module and the blocks (from 0) that use its weight.
struct Wanted<'a> {
    module: &'a ModuleToAdapt,
    users: Vec<usize>,
}

impl Wanted<'_> {
    fn rank(&self, ranks: &[usize]) -> usize {
        self.users.iter().map(|&block| ranks[block]).max().unwrap_or_default()
    }
}

/// Measures hidden states, one or a few at a time in memory.
///
/// # Errors
/// Returns an error for layers that cannot be loaded or differ in their rows, more than 1 % of the rows NaN or infinite,
/// fewer than 50 distinct rows in every layer, and if cancelled.
pub fn measure_hidden_states(
    load: &mut LoadLayer<'_>,
    states: usize,
    representation: Representation,
    settings: &MeasureSettings,
    observer: &dyn Observer,
) -> Result<Vec<Measurement>, RankError> {
    observer.observe(Event::Begin {
        stage: "measuring dimensions",
        total: Some(states as u64),
        done: 0,
        unit: "hidden states",
    });
    let mut measured = Vec::with_capacity(states);
    let mut rows = None;
    while measured.len() < states {
        let mut group = Vec::new();
        while measured.len() + group.len() < states && group.len() < at_once(&group) {
            observer.check()?;
            let hidden_state = measured.len() + group.len();
            let layer = load(hidden_state).map_err(|source| RankError::Activations { hidden_state, source })?;
            let expected = *rows.get_or_insert(layer.nrows());
            if layer.nrows() != expected {
                return Err(RankError::RowsDiffer { hidden_state, found: layer.nrows(), expected });
            }
            group.push(layer);
        }
        let inner = Unseen(observer);
        let done = AtomicU64::new(measured.len() as u64);
        let found = group.into_par_iter().map(|layer| {
            let (points, _) = representation.apply(layer.view(), observer)?;
            let found = (layer.ncols(), measure(points.view(), settings, &inner));
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            observer.observe(Event::Advance { done, detail: "" });
            Ok(found)
        });
        measured.extend(found.collect::<Result<Vec<_>, Cancelled>>()?);
    }
    observer.observe(Event::End);
    let some_layer_has_points = measured.iter().any(|(_, result)| result.is_ok());
    let settle = |(hidden_state, (width, result)): (usize, (usize, Result<Measurement, DimensionError>))| {
        let measurement = match result {
            Err(DimensionError::TooFewRows { rows, non_finite, duplicates, distinct }) if some_layer_has_points => {
                few_distinct_rows(width, rows, non_finite, duplicates, distinct)
            }
            other => other.map_err(RankError::dimension(hidden_state))?,
        };
        let counts = measurement.dimension.counts();
        if counts.non_finite as f64 > NON_FINITE_SHARE * counts.rows as f64 {
            return Err(RankError::NonFinite { hidden_state, non_finite: counts.non_finite, rows: counts.rows });
        }
        Ok(measurement)
    };
    measured.into_iter().enumerate().map(settle).collect()
}

/// How many layers are measured at once: side by side they take about a tenth less time than one after the other with all
/// cores on each (measured on two cores), as long as they fit in [`SIDE_BY_SIDE_BYTES`].
fn at_once(group: &[Matrix]) -> usize {
    let bytes = group.first().map_or(1, |layer| 4 * layer.nrows() * layer.ncols()).max(1);
    (SIDE_BY_SIDE_BYTES / bytes).clamp(1, rayon::current_num_threads().max(1))
}

/// Memory for the layers measured at once, in bytes.
const SIDE_BY_SIDE_BYTES: usize = 1 << 30;

/// The measurement of a layer with few distinct rows where others have many, such as the embedding of a last token.
fn few_distinct_rows(width: usize, rows: usize, non_finite: usize, duplicates: usize, distinct: usize) -> Measurement {
    let counts = crate::dimension::Counts { rows, non_finite, duplicates, near_duplicates: 0 };
    let reason = format!("only {distinct} of {rows} rows are distinct");
    let dimension = LayerDimension::Degenerate { reason, counts };
    Measurement::without(width, dimension)
}

/// The largest useful rank for the weights of a block; `None` if it has none.
fn widest(modules: &[Vec<Wanted<'_>>], block: usize) -> Option<usize> {
    let users = modules.iter().flatten().filter(|wanted| wanted.users.contains(&block));
    largest_rank(users.map(|wanted| (wanted.module.in_features, wanted.module.out_features)))
}

/// Parameters per rank of a block. Weights shared by several blocks, which have one rank, are counted at the first of them.
fn parameters_per_rank(modules: &[Vec<Wanted<'_>>], block: usize) -> u64 {
    let own = modules.iter().flatten().filter(|wanted| wanted.users[0] == block);
    own.map(|wanted| (wanted.module.in_features + wanted.module.out_features) as u64).sum()
}

/// Limits every rank to the largest that is useful for the weights of its block.
fn limit_to_weights(rulings: &mut [Ruling], modules: &[Vec<Wanted<'_>>]) {
    for (block, ruling) in rulings.iter_mut().enumerate() {
        if let Some(largest) = widest(modules, block).filter(|&largest| ruling.rank > largest) {
            ruling.reason += &format!("; lowered from {} to {largest}, as wide as its weights are", ruling.rank);
            ruling.rank = largest;
        }
    }
}

/// The ranks of all blocks within the budget, and the ranks before it lowered them.
fn ranks_within_budget(
    rulings: &[Ruling],
    modules: &[Vec<Wanted<'_>>],
    settings: &RankSettings,
) -> Result<(Vec<usize>, Vec<usize>), RankError> {
    let before: Vec<usize> = rulings.iter().map(|ruling| ruling.rank).collect();
    let Some(limit) = settings.budget else { return Ok((before.clone(), before)) };
    let cost = |block: usize| parameters_per_rank(modules, block);
    let mut shares: Vec<Share> = rulings
        .iter()
        .enumerate()
        .map(|(block, ruling)| Share { rank: ruling.rank, cost: cost(block), bound: ruling.bound })
        .collect();
    for wanted in modules.iter().flatten().filter(|wanted| wanted.users.len() > 1) {
        let first = wanted.users[0];
        shares[first].rank = wanted.rank(&before).max(shares[first].rank);
    }
    budget::fit(&mut shares, limit, settings.minimum)?;
    let mut ranks: Vec<usize> = shares.iter().map(|share| share.rank).collect();
    for wanted in modules.iter().flatten().filter(|wanted| wanted.users.len() > 1) {
        let first = ranks[wanted.users[0]];
        wanted.users[1..].iter().for_each(|&block| ranks[block] = ranks[block].min(first));
    }
    Ok((ranks, before))
}

fn assemble_blocks(
    request: &PlanRequest<'_>,
    rulings: Vec<Ruling>,
    ranks: &[usize],
    before: &[usize],
    modules: Vec<Vec<Wanted<'_>>>,
) -> Vec<BlockRank> {
    let settings = &request.settings;
    let planned = |wanted: &Wanted<'_>| {
        let (rank, module) = (wanted.rank(ranks), wanted.module);
        PlannedModule {
            module: module.module.clone(),
            checkpoint_tensor: module.checkpoint_tensor.clone(),
            node: module.node.clone(),
            weight: module.weight.clone(),
            copies: module.copies.clone(),
            role: module.role.as_str().to_owned(),
            in_features: module.in_features,
            out_features: module.out_features,
            rank,
            alpha: settings.scaling * rank as f64,
        }
    };
    let block = |(place, (ruling, modules)): (usize, (Ruling, Vec<Wanted<'_>>))| {
        let rank = ranks[place];
        let lowered = if rank < before[place] {
            format!("; lowered from {} by the budget", before[place])
        } else {
            String::new()
        };
        BlockRank {
            block: request.blocks[place].block,
            difference: ruling.difference,
            difference_interval: ruling.interval,
            growth_probability: ruling.growth,
            rank,
            alpha: settings.scaling * rank as f64,
            rank_probabilities: ruling.probabilities,
            reason: ruling.reason + &lowered,
            // PEFT has no rank 0: such modules are left out.
            modules: modules.iter().map(planned).filter(|module| module.rank > 0).collect(),
        }
    };
    rulings.into_iter().zip(modules).enumerate().map(block).collect()
}

/// The requested scale, or else the one where the layers are level.
pub fn choose_scale<'a>(
    measurements: impl Iterator<Item = &'a Measurement>,
    wanted: Option<Scale>,
) -> (Scale, PlanScale) {
    let curves: Vec<&[ScaleEstimate]> = measurements.map(|measurement| &measurement.curve[..]).collect();
    let described = |scale: Scale, chosen: ScaleChoice, change: Option<f64>| {
        (scale, PlanScale { neighbours: (scale.near(), scale.far()), chosen, change })
    };
    match (wanted, plateau(&curves)) {
        (Some(scale), _) => described(scale, ScaleChoice::Given, None),
        (None, Some(Plateau { scale, level: true, change })) => described(scale, ScaleChoice::Plateau, Some(change)),
        (None, Some(Plateau { scale, change, .. })) => described(scale, ScaleChoice::LeastChange, Some(change)),
        (None, None) => described(Scale::NEAREST, ScaleChoice::LeastChange, None),
    }
}

fn hidden_state(
    index: usize,
    request: &PlanRequest<'_>,
    measurement: &Measurement,
    scale: Scale,
) -> HiddenStateDimension {
    let reading = measurement.at(scale);
    let dimension = reading.map(|reading| reading.dimension);
    let counts = measurement.dimension.counts();
    let error = reading.and_then(|reading| standard_error(&reading.deviations));
    let reach = error.map(|error| NORMAL_QUANTILE * error);
    HiddenStateDimension {
        index,
        tensor: request.hidden_states[index].clone(),
        width: measurement.width,
        dimension,
        interval: dimension.zip(reach).map(|(d, reach)| ((d - reach).max(0.0), d + reach)),
        standard_error: error,
        points: counts.points() as u64,
        duplicates: (counts.duplicates + counts.near_duplicates) as u64,
        non_finite: counts.non_finite as u64,
        degenerate: match &measurement.dimension {
            LayerDimension::Degenerate { reason, .. } => Some(reason.clone()),
            LayerDimension::Estimate(_) => None,
        },
        decimation: measurement.decimation.iter().map(|at| (at.points as u64, at.dimension)).collect(),
        decimation_spread: measurement.decimation.iter().map(|at| at.spread).collect(),
        dimension_by_scale: measurement.curve.iter().copied().filter(|at| at.dimension.is_finite()).collect(),
        near_duplicates: near_duplicate_rows(request, measurement),
        fit: measurement.fit.clone(),
    }
}

/// Positions of the example pairs, as shares of all pairs.
const EXAMPLES: [f64; 3] = [0.0, 0.4, 0.8];

fn near_duplicate_rows(request: &PlanRequest<'_>, measurement: &Measurement) -> Option<NearDuplicateRows> {
    let found = measurement.near_duplicates.as_ref()?;
    let text = |row: u32| request.text.and_then(|text| text(row as usize));
    let mut places = EXAMPLES.map(|share| (share * found.pairs.len() as f64) as usize).to_vec();
    places.dedup();
    let examples = places.into_iter().filter_map(|place| found.pairs.get(place)).map(|pair| NearDuplicateExample {
        rows: (u64::from(pair.rows.0), u64::from(pair.rows.1)),
        distance: pair.distance,
        texts: text(pair.rows.0).zip(text(pair.rows.1)),
    });
    Some(NearDuplicateRows {
        rows: found.points as u64,
        expected: found.expected,
        dimension_with: measurement.dimension.dimension()?,
        dimension_without: found.dimension_without,
        examples: examples.collect(),
    })
}

fn settings_json(request: &PlanRequest<'_>, measurements: &[Measurement]) -> serde_json::Value {
    let TwoNn { method, engine, noise } = request.estimator;
    let used = measurements.iter().find_map(|measurement| match &measurement.dimension {
        LayerDimension::Estimate(estimate) => Some(estimate.engine.as_str()),
        LayerDimension::Degenerate { .. } => None,
    });
    serde_json::json!({
        "dimension": {
            "representation": request.representation.preprocessing,
            "metric": request.representation.metric,
            "estimator": "two_nn",
            "method": method.as_str(),
            "discard": method.discard(),
            "neighbours": engine.as_str(),
            "neighbours_used": used,
            "noise": noise,
        },
        "rank": request.settings.to_json(),
    })
}
