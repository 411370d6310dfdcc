//! Chooses the fastest engine, by a short trial on a sample of the points.

use std::time::Instant;

use super::exact_distance::Points;
use super::normalization::Centring;
use super::projection::spread;
use super::rows::RowView;
use super::{Engine, NeighbourError, Scalar, search_by};
use crate::progress::{Event, Observer, Silent};

/// With more columns a tree visits nearly all points: measured on uniform points, the ball tree is 10 to 40 times slower
/// than the exact search in 8 and 12 columns.
const COLUMNS: usize = 6;
/// With fewer points the exact search takes less time than a trial.
const POINTS: usize = 20_000;
/// Points of the larger of the two trials; the other has half as many, which shows how the time grows.
const TRIAL: usize = 8192;
/// Runs of each trial, of which the fastest counts: the first one finds the processor cold.
const TURNS: usize = 2;

/// The engine that would take the least time for all points, extrapolated from its growth between 4,096 and 8,192 of them;
/// the exact search, without a trial, where no tree can be faster. The neighbours found do not depend on the choice.
pub(super) fn fastest<T: Scalar>(
    points: &Points<'_, T>,
    centring: &Centring,
    k: usize,
    observer: &dyn Observer,
) -> Result<Engine, NeighbourError> {
    let rows = points.rows();
    if points.columns() > COLUMNS || rows < POINTS || k >= TRIAL / 4 {
        return Ok(Engine::Exact);
    }
    let mut found = Vec::new();
    for engine in [Engine::Exact, Engine::KdTree, Engine::BallTree] {
        observer.check()?;
        let small = seconds(engine, points, centring, k, TRIAL / 2)?;
        let large = seconds(engine, points, centring, k, TRIAL)?;
        let power = (large / small).log2().clamp(1.0, 2.0);
        found.push((large * (rows as f64 / TRIAL as f64).powf(power), engine));
    }
    found.sort_by(|a, b| a.0.total_cmp(&b.0));
    let said: Vec<String> = found.iter().map(|(seconds, engine)| format!("{engine} {seconds:.2} s")).collect();
    let (_, best) = found[0];
    observer.observe(Event::Notice(&format!(
        "neighbours by {best}, by a trial with {TRIAL} of {rows} points (for all of them about {})",
        said.join(", ")
    )));
    Ok(best)
}

fn seconds<T: Scalar>(
    engine: Engine,
    points: &Points<'_, T>,
    centring: &Centring,
    k: usize,
    wanted: usize,
) -> Result<f64, NeighbourError> {
    let chosen: Vec<u32> =
        spread(points.rows(), wanted).into_iter().map(|row| points.rows.number(row) as u32).collect();
    let rows = RowView::chosen(points.rows.values(), points.columns(), &chosen);
    let sample = Points { rows, scale: points.scale };
    let mut fastest = f64::INFINITY;
    for _ in 0..TURNS {
        let start = Instant::now();
        search_by(engine, &sample, centring, k, &Silent)?;
        fastest = start.elapsed().as_secs_f64().clamp(1e-6, fastest);
    }
    Ok(fastest)
}
