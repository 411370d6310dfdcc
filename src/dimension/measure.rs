//! The dimension of one layer at every scale, how it varies between halves of the rows, and how it depends on their number.
//!
//! **Uncertainty.** The rows are split at random into two halves, many times, with the same splits in every layer. The two
//! halves `A`, `B` are independent samples of half the size, so `(d_A − d_B)/2` deviates as much as an estimate from all
//! rows does: `Var(d_A − d_B)/4 = Var(d_N)` where the variance falls as `1/N`. (The spread of overlapping half-samples
//! around their mean, the delete-half jackknife, would need the estimates to be averages over rows; neighbours make it too
//! large.) As errors are proportional to the dimension, which may itself depend on the number of rows, the deviation is
//! taken relative to the halves: `d_N · (d_A − d_B)/(d_A + d_B)`. Rows are never repeated: a repeated row has a neighbour at
//! distance zero. Differences between layers use the deviations of the same splits, so what layers have in common cancels.
//!
//! **Scale.** Halves are read at the same neighbours `n:2n` as all rows. At `16:32` a half would need more neighbours than
//! are known: it is read at `8:16`, and its deviations are multiplied by the factor by which they change from `4:8` to `8:16`.
//!
//! **Cost.** One search for 64 neighbours serves all scales and all splits: the nearest rows of the same half are nearly
//! always among them. A row with fewer than needed, once in 60,000 times at 16 neighbours, is left out of that split. That
//! depends on how the rows were split and not on where they are, so it favours no dimension. Of the decimation, halves, quarters
//! and eighths are read from it too, and only smaller parts are searched.

use std::time::Instant;

use ndarray::ArrayView2;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rayon::prelude::*;

use super::two_nn::ratios;
use super::{
    Cloud, DimensionError, GRIDE_NEIGHBOURS, LayerDimension, MINIMUM_POINTS, NearDuplicates, Prepared, Scale,
    ScaleEstimate, TwoNn, dimension_of, gride_scan, near_duplicates, plateau, prepare,
};
use crate::neighbours::{Neighbours, Scalar, nearest_in_rows, nearest_of_some};
use crate::progress::{Observer, Silent};

/// The farthest neighbour sought in a half: among 64 neighbours, fewer than 16 are in it once in 60,000 times.
const FARTHEST_IN_A_HALF: usize = 16;
/// Largest number of disjoint parts on which a smaller number of rows is measured.
const PARTS: usize = 8;
/// Smallest number of rows in the decimation.
const FEWEST: usize = 2 * MINIMUM_POINTS;
/// One point in so many, or fewer, is compared with a whole part; with more of them, the part is searched anew.
const FEW: usize = 64;
/// Number of points of the straight-line fit that are kept for plotting.
const FIT_POINTS: usize = 96;

/// How layers are measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MeasureSettings {
    /// The estimator at the nearest neighbours.
    pub estimator: TwoNn,
    /// The scale to read; all scales where `None`.
    pub scale: Option<Scale>,
    /// Random splits of the rows into halves, from which the uncertainty is estimated; 0 for none, and for no decimation.
    pub subsamples: usize,
    /// Seed of the splits.
    pub seed: u64,
}

impl Default for MeasureSettings {
    fn default() -> Self {
        Self { estimator: TwoNn::default(), scale: None, subsamples: 100, seed: 0 }
    }
}

impl MeasureSettings {
    /// Neighbours needed per point: two for TwoNN alone, 64 to compare scales or to estimate the uncertainty.
    pub fn neighbours(&self) -> usize {
        match self.scale {
            Some(scale) if self.subsamples == 0 => scale.far(),
            _ => GRIDE_NEIGHBOURS,
        }
    }
}

/// Measurements of one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Measurement {
    /// Width of the hidden state.
    pub width: usize,
    /// TwoNN from all rows.
    pub dimension: LayerDimension,
    /// The dimension at each requested scale; empty where there is none.
    pub readings: Vec<Reading>,
    /// TwoNN at `1:2` and GRIDE at `2:4`, `4:8` … as far as there are neighbours.
    pub curve: Vec<ScaleEstimate>,
    /// TwoNN at N, N/2, N/4 … points.
    pub decimation: Vec<Decimated>,
    /// Rows that are nearer to each other than their surroundings explain; `None` where this cannot be determined.
    pub near_duplicates: Option<NearDuplicates>,
    /// A selection of the points `(ln μ, −ln(1 − i/N))` of TwoNN's straight line.
    pub fit: Vec<(f64, f64)>,
}

/// The dimension at one scale.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// The neighbours whose distances are compared.
    pub scale: Scale,
    /// The estimate from all rows.
    pub dimension: f64,
    /// Standard error as if the points shared no neighbours: too small, increasingly so at farther scales.
    pub analytic_error: f64,
    /// One deviation per split of the rows; empty without splits.
    pub deviations: Vec<f64>,
}

/// TwoNN on fewer rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decimated {
    /// Points in each part.
    pub points: usize,
    /// The mean over the parts.
    pub dimension: f64,
    /// Standard deviation over disjoint parts; `None` with one part, or where parts overlap.
    pub spread: Option<f64>,
}

impl Measurement {
    /// The measurement of a layer that has no dimension.
    pub fn without(width: usize, dimension: LayerDimension) -> Self {
        Self {
            width,
            dimension,
            readings: Vec::new(),
            curve: Vec::new(),
            decimation: Vec::new(),
            near_duplicates: None,
            fit: Vec::new(),
        }
    }

    /// The dimension at a scale; the nearest smaller one where the points do not have that many neighbours.
    pub fn at(&self, scale: Scale) -> Option<&Reading> {
        self.readings.iter().rev().find(|reading| reading.scale <= scale)
    }
}

impl Reading {
    /// Standard error: from the halves of the rows, or without splits as if points shared no neighbours.
    pub fn standard_error(&self) -> f64 {
        standard_error(&self.deviations).unwrap_or(self.analytic_error)
    }
}

/// Standard error as the root mean square of the deviations; `None` without any.
pub fn standard_error(deviations: &[f64]) -> Option<f64> {
    let squares: f64 = deviations.iter().map(|deviation| deviation * deviation).sum();
    (!deviations.is_empty()).then(|| (squares / deviations.len() as f64).sqrt())
}

/// Measures one layer `[rows, width]` at the scale of the settings, or at all of them.
///
/// # Errors
/// Returns an error if there are fewer than 50 distinct finite rows, or if the search fails or is cancelled.
pub fn measure<T: Scalar>(
    layer: ArrayView2<'_, T>,
    settings: &MeasureSettings,
    observer: &dyn Observer,
) -> Result<Measurement, DimensionError> {
    match prepare(layer, settings.neighbours(), &settings.estimator, observer)? {
        Prepared::Cloud(cloud) => measure_cloud(&cloud, settings, observer),
        Prepared::Degenerate { reason, counts } => {
            Ok(Measurement::without(layer.ncols(), LayerDimension::Degenerate { reason, counts }))
        }
    }
}

/// Like [`measure`], for points whose neighbours are known: at least as many as [`MeasureSettings::neighbours`], or all.
///
/// # Errors
/// As [`measure`].
pub fn measure_cloud<T: Scalar>(
    cloud: &Cloud<'_, T>,
    settings: &MeasureSettings,
    observer: &dyn Observer,
) -> Result<Measurement, DimensionError> {
    let width = cloud.points.ncols();
    let dimension = settings.estimator.estimate_cloud(cloud)?;
    let LayerDimension::Estimate(two_nn) = &dimension else { return Ok(Measurement::without(width, dimension)) };
    let full = two_nn.dimension;
    let mut curve = gride_scan(&cloud.neighbours);
    (curve[0].dimension, curve[0].standard_error, curve[0].left_out) = (full, two_nn.standard_error, 0);
    let estimates: Vec<(Scale, ScaleEstimate)> = Scale::ALL
        .into_iter()
        .filter(|scale| settings.scale.is_none_or(|wanted| wanted == *scale))
        .filter_map(|scale| Some((scale, *curve.get(scale.place())?)))
        .filter(|(_, found)| found.dimension.is_finite())
        .collect();
    let readable = Scale::ALL.into_iter().filter(|scale| scale.far() <= FARTHEST_IN_A_HALF);
    let wanted = |scale: &Scale| {
        let extrapolated = |at: Scale| at.far() > FARTHEST_IN_A_HALF && scale.far() > FARTHEST_IN_A_HALF / 4;
        estimates.iter().any(|(at, _)| at == scale || extrapolated(*at))
    };
    let scales: Vec<Scale> = readable.filter(wanted).collect();
    let start = Instant::now();
    let halves = (0..settings.subsamples)
        .into_par_iter()
        .map(|split| {
            observer.check()?;
            halves(cloud, &scales, settings, split)
        })
        .collect::<Result<Vec<_>, _>>()?;
    tracing::debug!(splits = halves.len(), seconds = start.elapsed().as_secs_f64(), "halves of the points read");
    let relative = |place: usize| halves.iter().map(|halves| relative(halves[place])).collect::<Vec<f64>>();
    let readings = estimates.iter().map(|&(scale, found)| {
        let deviations = match scales.iter().position(|at| *at == scale) {
            Some(place) => relative(place),
            None => extrapolated(&relative(scales.len() - 2), &relative(scales.len() - 1)),
        };
        Reading {
            scale,
            dimension: found.dimension,
            analytic_error: found.standard_error,
            deviations: deviations.into_iter().map(|deviation| found.dimension * deviation).collect(),
        }
    });
    let readings = readings.collect();
    let level = plateau(&[&curve]).map_or(full, |plateau| curve[plateau.scale.place()].dimension);
    let near_duplicates = near_duplicates(cloud, level, &settings.estimator);
    let start = Instant::now();
    let decimation = decimation(cloud, full, settings, observer)?;
    tracing::debug!(seconds = start.elapsed().as_secs_f64(), "fewer points read");
    let fit = fit(&cloud.neighbours);
    Ok(Measurement { width, dimension, readings, curve, decimation, near_duplicates, fit })
}

/// Relative difference of two halves. A half on a grid has an infinite dimension: then anything between zero and twice the
/// estimate is possible.
fn relative((a, b): (f64, f64)) -> f64 {
    if (a + b).is_finite() { (a - b) / (a + b) } else { 1.0 }
}

/// The deviations at the farther scale, extrapolated to twice that scale by their change from the nearer one.
fn extrapolated(nearer: &[f64], farther: &[f64]) -> Vec<f64> {
    let factor = standard_error(farther).zip(standard_error(nearer)).map_or(1.0, |(farther, nearer)| farther / nearer);
    // Farther neighbours carry more information, but reduce the variance by no more than half.
    let factor = if factor.is_finite() { factor.clamp(0.5f64.sqrt(), 1.0) } else { 1.0 };
    farther.iter().map(|deviation| factor * deviation).collect()
}

/// Dimensions of two random halves of the rows at each scale. The split depends only on the number of rows, the seed and the
/// index of the split.
fn halves<T: Scalar>(
    cloud: &Cloud<'_, T>,
    scales: &[Scale],
    settings: &MeasureSettings,
    split: usize,
) -> Result<Vec<(f64, f64)>, DimensionError> {
    let rows = cloud.points.nrows();
    let order = shuffled(rows, settings.seed, split as u64 + 1);
    let mut in_first = vec![false; rows];
    order[..rows / 2].iter().for_each(|&row| in_first[row as usize] = true);
    let in_first: Vec<bool> = cloud.rows.iter().map(|&row| in_first[row as usize]).collect();
    let farthest = scales.iter().map(|scale| scale.far()).max().unwrap_or(2);
    // `ln μ` of the points of both halves, per scale.
    let mut logarithms = vec![[Vec::new(), Vec::new()]; scales.len()];
    let mut distances = Vec::with_capacity(farthest);
    for (point, &first) in in_first.iter().enumerate() {
        let neighbours = cloud.neighbours.indices.row(point);
        let known = neighbours.iter().zip(cloud.neighbours.distances.row(point));
        let in_half = known.filter(|&(&other, _)| in_first[other as usize] == first);
        distances.clear();
        distances.extend(in_half.map(|(_, &distance)| distance).take(farthest));
        for (scale, logarithms) in scales.iter().zip(&mut logarithms) {
            if let (Some(near), Some(far)) = (distances.get(scale.near() - 1), distances.get(scale.far() - 1)) {
                logarithms[usize::from(first)].push((far / near).ln());
            }
        }
    }
    let estimate = |scale: Scale, logarithms: &[f64]| {
        if scale == Scale::NEAREST {
            return settings
                .estimator
                .method
                .dimension(&mut logarithms.iter().map(|log| log.exp()).collect::<Vec<_>>());
        }
        Ok(dimension_of(logarithms, scale.near(), scale.far()).0)
    };
    let both =
        |(&scale, [second, first]): (&Scale, &[Vec<f64>; 2])| Ok((estimate(scale, first)?, estimate(scale, second)?));
    scales.iter().zip(&logarithms).map(both).collect()
}

/// Row indices in random order.
fn shuffled(rows: usize, seed: u64, stream: u64) -> Vec<u32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(stream);
    let mut order: Vec<u32> = (0..rows as u32).collect();
    order.shuffle(&mut random);
    order
}

/// TwoNN at N, N/2, N/4 … points, on disjoint parts of the rows for all but the first; only N without subsamples.
fn decimation<T: Scalar>(
    cloud: &Cloud<'_, T>,
    full: f64,
    settings: &MeasureSettings,
    observer: &dyn Observer,
) -> Result<Vec<Decimated>, DimensionError> {
    let points = cloud.rows.len();
    let mut decimation = vec![Decimated { points, dimension: full, spread: None }];
    if settings.subsamples == 0 {
        return Ok(decimation);
    }
    let order = shuffled(points, settings.seed, 0);
    for halvings in 1.. {
        let size = points >> halvings;
        if size < FEWEST {
            break;
        }
        let parts = (1 << halvings).min(PARTS);
        let mut found = Vec::with_capacity(parts);
        for part in order.chunks_exact(size).take(parts) {
            observer.check()?;
            let mut part = part.to_vec();
            part.sort_unstable();
            found.push(settings.estimator.method.dimension(&mut ratios_in(cloud, &part, settings)?)?);
        }
        let mean = found.iter().sum::<f64>() / found.len() as f64;
        if !mean.is_finite() {
            break;
        }
        decimation.push(Decimated { points: size, dimension: mean, spread: spread(&found) });
    }
    Ok(decimation)
}

/// The ratios of the distances to the second and the first neighbour within a part of the points, whose indices ascend.
///
/// The first two of a point's known neighbours that are in the part are its nearest ones there. Points with fewer known ones
/// are compared with the whole part; where that are many, the part is searched anew. The ratios are the same to the last bit.
fn ratios_in<T: Scalar>(
    cloud: &Cloud<'_, T>,
    part: &[u32],
    settings: &MeasureSettings,
) -> Result<Vec<f64>, DimensionError> {
    let rows: Vec<u32> = part.iter().map(|&point| cloud.rows[point as usize]).collect();
    let mut is_in = vec![false; cloud.rows.len()];
    part.iter().for_each(|&point| is_in[point as usize] = true);
    let known = |&point: &u32| {
        let neighbours = cloud.neighbours.indices.row(point as usize);
        let mut near = neighbours.iter().zip(cloud.neighbours.distances.row(point as usize));
        let mut next = || near.find(|(other, _)| is_in[**other as usize]).map(|(_, &distance)| distance);
        let (first, second) = (next()?, next()?);
        Some(second / first)
    };
    let mut ratios_of: Vec<Option<f64>> = part.par_iter().map(known).collect();
    let unknown: Vec<usize> = (0..part.len()).filter(|&place| ratios_of[place].is_none()).collect();
    if unknown.len() * FEW > part.len() {
        let neighbours = nearest_in_rows(cloud.points, &rows, 2, settings.estimator.engine, &Silent)?;
        return Ok(ratios(&neighbours));
    }
    if !unknown.is_empty() {
        let distances = nearest_of_some(cloud.points, &rows, &unknown, 2)?;
        for (place, distances) in unknown.into_iter().zip(distances) {
            ratios_of[place] = distances.get(1).zip(distances.first()).map(|(second, first)| second / first);
        }
    }
    Ok(ratios_of.into_iter().flatten().collect())
}

/// Standard deviation; `None` with fewer than two values.
pub(super) fn spread(values: &[f64]) -> Option<f64> {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (values.len() > 1).then(|| (squares / (values.len() - 1) as f64).sqrt())
}

/// A selection of the points of the straight line, evenly spaced in `−ln(1 − i/N)`; the last one, at infinity, is left out.
fn fit(neighbours: &Neighbours) -> Vec<(f64, f64)> {
    let mut logarithms: Vec<f64> = ratios(neighbours).iter().map(|ratio| ratio.ln()).collect();
    logarithms.sort_unstable_by(f64::total_cmp);
    let points = logarithms.len() as f64;
    let highest = points.ln();
    let mut places: Vec<usize> = (1..=FIT_POINTS)
        .map(|step| (points * -(-highest * step as f64 / FIT_POINTS as f64).exp_m1()).round() as usize)
        .filter(|place| (1..logarithms.len()).contains(place))
        .collect();
    places.dedup();
    places.into_iter().map(|place| (logarithms[place - 1], -(-(place as f64) / points).ln_1p())).collect()
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;

    /// Points near a curved sheet in ten columns, from a fixed sequence.
    fn sheet(points: usize) -> Array2<f32> {
        let mut state = 7u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        let rows: Vec<[f32; 3]> = (0..points).map(|_| [next(), next(), 0.05 * next()]).collect();
        Array2::from_shape_fn((points, 10), |(row, column)| {
            let [x, y, z] = rows[row];
            (x * (column + 1) as f32).sin() + y * column as f32 + z
        })
    }

    #[test]
    fn parts_are_read_from_known_neighbours_to_the_last_bit() {
        let points = sheet(1600);
        let settings = MeasureSettings::default();
        let prepared = prepare(points.view(), settings.neighbours(), &settings.estimator, &Silent).unwrap();
        let Prepared::Cloud(cloud) = prepared else { panic!("the points are not degenerate") };
        let order = shuffled(cloud.rows.len(), settings.seed, 0);
        for size in [800, 400, 200, 100] {
            for part in order.chunks_exact(size) {
                let mut part = part.to_vec();
                part.sort_unstable();
                let rows: Vec<u32> = part.iter().map(|&point| cloud.rows[point as usize]).collect();
                let searched = nearest_in_rows(cloud.points, &rows, 2, settings.estimator.engine, &Silent).unwrap();
                assert_eq!(ratios_in(&cloud, &part, &settings).unwrap(), ratios(&searched), "parts of {size}");
            }
        }
        // Some points of an eighth have too few known neighbours in it.
        let mut first: Vec<u32> = order[..200].to_vec();
        first.sort_unstable();
        let rows: Vec<u32> = first.iter().map(|&point| cloud.rows[point as usize]).collect();
        let all: Vec<usize> = (0..rows.len()).collect();
        let compared = nearest_of_some(cloud.points, &rows, &all, 2).unwrap();
        let searched = nearest_in_rows(cloud.points, &rows, 2, settings.estimator.engine, &Silent).unwrap();
        assert_eq!(compared.concat(), searched.distances.iter().copied().collect::<Vec<_>>());
    }
}
