//! The dimension of one layer, how it varies between halves of the rows, and how it depends on their number.
//!
//! **Uncertainty.** The rows are split at random into two halves, many times, with the same splits in every layer. The two
//! halves `A`, `B` are independent samples of half the size, so `(d_A − d_B)/2` deviates as much as an estimate from all
//! rows does: `Var(d_A − d_B)/4 = Var(d_N)` where the variance falls as `1/N`. (The spread of overlapping half-samples
//! around their mean, the delete-half jackknife, would need the estimates to be averages over rows; neighbours make it too
//! large.) As errors are proportional to the dimension, which may itself depend on the number of rows, the deviation is
//! taken relative to the halves: `d_N · (d_A − d_B)/(d_A + d_B)`. Rows are never repeated: a repeated row has a neighbour
//! at distance zero. Differences between layers use the deviations of the same splits, so what layers share cancels.
//!
//! **Cost.** One search for 20 neighbours serves all splits: the two nearest rows of the same half are nearly always among
//! them. Rows with fewer than two there are searched directly.

use ndarray::{ArrayView2, Axis};
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rayon::prelude::*;

use super::RankSettings;
use crate::dimension::{Cloud, DimensionError, LayerDimension, MINIMUM_POINTS, Prepared, TwoNn, prepare};
use crate::neighbours::{Real, nearest_among};
use crate::progress::{Observer, Silent};

/// Neighbours kept per row: fewer than two of them are in the half of the row once in 50,000 times.
const NEIGHBOURS: usize = 20;
/// Disjoint parts of the smallest scale.
const QUARTERS: usize = 4;

/// What is known about one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Measurement {
    /// Width of the hidden state.
    pub width: usize,
    /// The estimate from all rows.
    pub dimension: LayerDimension,
    /// One deviation per split of the rows; empty where there is no dimension or no split was asked for.
    pub deviations: Vec<f64>,
    /// (points, dimension) at N, N/2 and N/4: the latter are means over halves and quarters.
    pub scale: Vec<(u64, f64)>,
}

/// Standard error by the spread of deviations around 0; `None` without any.
pub fn standard_error(deviations: &[f64]) -> Option<f64> {
    let squares: f64 = deviations.iter().map(|deviation| deviation * deviation).sum();
    (!deviations.is_empty()).then(|| (squares / deviations.len() as f64).sqrt())
}

/// Measures one layer `[rows, width]`.
///
/// # Errors
/// Fewer than 50 distinct finite rows; a failed or cancelled search.
pub fn measure<T: Real>(
    layer: ArrayView2<'_, T>,
    estimator: &TwoNn,
    settings: &RankSettings,
    observer: &dyn Observer,
) -> Result<Measurement, DimensionError> {
    let width = layer.ncols();
    let cloud = match prepare(layer, NEIGHBOURS, estimator, observer)? {
        Prepared::Cloud(cloud) => cloud,
        Prepared::Degenerate { reason, counts } => {
            let dimension = LayerDimension::Degenerate { reason, counts };
            return Ok(Measurement { width, dimension, deviations: Vec::new(), scale: Vec::new() });
        }
    };
    let dimension = estimator.estimate_cloud(&cloud)?;
    let Some(full) = dimension.dimension() else {
        return Ok(Measurement { width, dimension, deviations: Vec::new(), scale: Vec::new() });
    };
    let halves = (0..settings.subsamples)
        .into_par_iter()
        .map(|split| {
            observer.check()?;
            halves(&cloud, layer.nrows(), estimator, settings.seed, split)
        })
        .collect::<Result<Vec<_>, _>>()?;
    // A half on a grid has an infinite dimension: then anything between nothing and twice the estimate is possible.
    let relative = |(a, b): &(f64, f64)| if (a + b).is_finite() { (a - b) / (a + b) } else { 1.0 };
    let deviations = halves.iter().map(|half| full * relative(half)).collect();
    let scale = scale(&cloud, full, &halves, estimator, settings.seed, observer)?;
    Ok(Measurement { width, dimension, deviations, scale })
}

/// Dimensions of two random halves of the rows. The split depends on nothing but the number of rows, seed and number.
fn halves<T: Real>(
    cloud: &Cloud<'_, T>,
    rows: usize,
    estimator: &TwoNn,
    seed: u64,
    split: usize,
) -> Result<(f64, f64), DimensionError> {
    let order = shuffled(rows, seed, split as u64 + 1);
    let mut in_first = vec![false; rows];
    order[..rows / 2].iter().for_each(|&row| in_first[row as usize] = true);
    let in_first: Vec<bool> = cloud.rows.iter().map(|&row| in_first[row as usize]).collect();
    let members = |first: bool| -> Vec<u32> {
        cloud.rows.iter().zip(&in_first).filter(|&(_, &half)| half == first).map(|(&row, _)| row).collect()
    };
    let members = [members(false), members(true)];
    let mut ratios = [Vec::with_capacity(cloud.rows.len()), Vec::with_capacity(cloud.rows.len())];
    for (point, &first) in in_first.iter().enumerate() {
        let half = usize::from(first);
        ratios[half].extend(ratio(cloud, point, &in_first, &members[half]));
    }
    let [mut second, mut first] = ratios;
    Ok((estimator.method.dimension(&mut first)?, estimator.method.dimension(&mut second)?))
}

/// `r₂/r₁` of a point among the rows of its half.
fn ratio<T: Real>(cloud: &Cloud<'_, T>, point: usize, in_first: &[bool], members: &[u32]) -> Option<f64> {
    let neighbours = cloud.neighbours.indices.row(point);
    let distances = cloud.neighbours.distances.row(point);
    let mut near = neighbours.iter().zip(distances).filter(|&(&other, _)| in_first[other as usize] == in_first[point]);
    if let (Some((_, nearest)), Some((_, second))) = (near.next(), near.next()) {
        return Some(second / nearest);
    }
    match nearest_among(cloud.points, cloud.rows[point] as usize, members, 2)[..] {
        [(nearest, _), (second, _)] => Some(second / nearest),
        _ => None,
    }
}

/// Row numbers in random order.
fn shuffled(rows: usize, seed: u64, stream: u64) -> Vec<u32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(stream);
    let mut order: Vec<u32> = (0..rows as u32).collect();
    order.shuffle(&mut random);
    order
}

/// The dimension at N, N/2 and N/4 points.
fn scale<T: Real>(
    cloud: &Cloud<'_, T>,
    full: f64,
    halves: &[(f64, f64)],
    estimator: &TwoNn,
    seed: u64,
    observer: &dyn Observer,
) -> Result<Vec<(u64, f64)>, DimensionError> {
    let points = cloud.rows.len();
    let mut scale = vec![(points as u64, full)];
    if !halves.is_empty() {
        let sum: f64 = halves.iter().map(|(a, b)| a + b).sum();
        scale.push((points as u64 / 2, sum / (2.0 * halves.len() as f64)));
    }
    let size = points / QUARTERS;
    if size < MINIMUM_POINTS || halves.is_empty() {
        return Ok(scale);
    }
    let order = shuffled(points, seed, 0);
    let mut sum = 0.0;
    for part in order.chunks_exact(size).take(QUARTERS) {
        observer.check()?;
        let rows: Vec<usize> = part.iter().map(|&point| cloud.rows[point as usize] as usize).collect();
        let quarter = cloud.points.select(Axis(0), &rows);
        match estimator.estimate(quarter.view(), &Silent)?.dimension() {
            Some(dimension) => sum += dimension,
            None => return Ok(scale),
        }
    }
    scale.push((size as u64, sum / QUARTERS as f64));
    Ok(scale)
}
