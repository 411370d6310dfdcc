//! Which rows a plan is made from, and in which order: all, a sample, as many as an interval needs, or mini-batches.

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::dataset::{Tokenizer, sample_rows};
use crate::dimension::{Measurement, NORMAL_QUANTILE, Scale};
use crate::progress::{Event, Observer};
use crate::rank::{Sampling, choose_scale};

use super::export::Export;
use super::{Session, WorkflowError};
use crate::settings::PlanSettings;
use crate::task::Rows;

/// Number of rows in the first step, before the intervals are first checked.
const FIRST_ROWS: usize = 1024;

/// The rows used, as indices into the data.
pub struct Drawn {
    pub rows: Vec<usize>,
    stratified: bool,
}

impl Drawn {
    /// Samples rows according to the settings: in data order, or in random order where their number is not yet known.
    pub fn new(rows: &dyn Rows, plan: &PlanSettings) -> Result<Self, WorkflowError> {
        let all: Vec<usize> = (0..rows.len()).collect();
        let limit = plan.rows.unwrap_or(usize::MAX);
        let mut drawn = match plan.stratified {
            true if limit < all.len() => {
                let strata = rows.strata().map_err(|what| WorkflowError::NoStrata { what })?;
                stratified(&strata, limit, plan.seed)
            }
            _ => sample_rows(&all, limit, plan.seed),
        };
        if plan.until.is_some() || plan.mini_batch.is_some() {
            drawn.shuffle(&mut ChaCha8Rng::seed_from_u64(plan.seed));
        }
        Ok(Self { rows: drawn, stratified: plan.stratified })
    }

    /// The items at these rows.
    pub fn of<T: Clone>(&self, all: &[T]) -> Vec<T> {
        self.rows.iter().map(|&row| all[row].clone()).collect()
    }

    /// The record for the plan; `None` where simply all rows are used.
    pub fn sampling(&self, used: usize, all: usize, plan: &PlanSettings) -> Option<Sampling> {
        let plain = used == all && plan.until.is_none() && plan.mini_batch.is_none();
        (!plain).then_some(Sampling {
            rows: used as u64,
            stratified: self.stratified,
            until: plan.until,
            width: None,
            mini_batch: plan.mini_batch.map(|rows| rows as u64),
            mini_batches: None,
            change_with_size: None,
        })
    }
}

/// Samples `limit` rows in proportion to the strata, by largest remainders; in data order.
fn stratified(strata: &[Vec<usize>], limit: usize, seed: u64) -> Vec<usize> {
    let total: usize = strata.iter().map(Vec::len).sum();
    let exact = |stratum: &Vec<usize>| limit as f64 * stratum.len() as f64 / total as f64;
    let mut counts: Vec<usize> = strata.iter().map(|stratum| exact(stratum) as usize).collect();
    let mut by_remainder: Vec<usize> = (0..strata.len()).collect();
    by_remainder.sort_by(|&a, &b| exact(&strata[b]).fract().total_cmp(&exact(&strata[a]).fract()).then(a.cmp(&b)));
    let missing = limit - counts.iter().sum::<usize>();
    by_remainder.into_iter().take(missing).for_each(|stratum| counts[stratum] += 1);
    let drawn = strata.iter().zip(counts).enumerate();
    let mut rows: Vec<usize> =
        drawn.flat_map(|(number, (stratum, count))| sample_rows(stratum, count, seed + number as u64)).collect();
    rows.sort_unstable();
    rows
}

/// A model, and the rows to run through it.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    pub session: &'a Session<'a>,
    pub model: &'a Export,
    pub rows: &'a dyn Rows,
    pub tokenizer: &'a Tokenizer,
    pub drawn: &'a Drawn,
    pub plan: &'a PlanSettings,
}

/// Width of the widest 95 % interval of a dimension.
pub fn widest<'a>(measurements: impl Iterator<Item = &'a Measurement> + Clone, wanted: Option<Scale>) -> Option<f64> {
    let (scale, _) = choose_scale(measurements.clone(), wanted);
    let readings = measurements.filter_map(|measured| measured.at(scale));
    readings.map(|reading| 2.0 * NORMAL_QUANTILE * reading.standard_error()).reduce(f64::max)
}

/// The number of rows, increased step by step until the intervals are narrow enough.
pub struct Growth {
    width: f64,
    rows: usize,
    limit: usize,
}

impl Growth {
    /// Grows until intervals have this width, up to `limit` rows.
    pub fn new(width: f64, limit: Option<usize>) -> Self {
        let limit = limit.unwrap_or(usize::MAX);
        Self { width, rows: FIRST_ROWS.min(limit), limit }
    }

    /// Number of rows of this step.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Raises the number of rows to those that a store already has.
    pub fn reached(&mut self, rows: usize) {
        self.rows = rows.max(self.rows);
    }

    /// Whether the widest interval is narrow enough, or there are no more rows; otherwise moves to the next step.
    pub fn is_enough(&mut self, widest: Option<f64>, total: usize, observer: &dyn Observer) -> bool {
        let total = total.min(self.limit);
        let rows = self.rows.min(total);
        // Without an interval in any layer, none is known to be narrow.
        let found = widest.unwrap_or(f64::INFINITY);
        let is_narrow = found <= self.width;
        let enough = is_narrow || rows >= total;
        // Widths shrink with the square root of the number of rows.
        let guess = rows as f64 * (found / self.width).powi(2) * 1.1;
        self.rows = (guess as usize).clamp(rows + rows / 4, 4 * rows).min(total);
        let said = match (enough, is_narrow) {
            (true, true) => String::new(),
            (true, false) => ", which are all there are".to_owned(),
            (false, _) => format!(": on to {}", self.rows),
        };
        let width = match widest {
            Some(width) => format!("the widest interval is {width:.2}"),
            None => "no layer has an interval".to_owned(),
        };
        observer.observe(Event::Notice(&format!("{width} with {rows} of {total} rows{said}")));
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_grow_until_the_interval_is_narrow() {
        use crate::progress::Silent;
        let mut growth = Growth::new(0.5, None);
        assert_eq!(growth.rows(), FIRST_ROWS);
        // Twice the requested width: four times the rows, plus a margin, but at most four times at once.
        assert!(!growth.is_enough(Some(1.0), 100_000, &Silent));
        assert_eq!(growth.rows(), 4 * FIRST_ROWS);
        assert!(!growth.is_enough(Some(0.51), 100_000, &Silent));
        assert_eq!(growth.rows(), 5 * FIRST_ROWS);
        assert!(growth.is_enough(Some(0.5), 100_000, &Silent));
        let mut growth = Growth::new(0.5, Some(2000));
        assert!(!growth.is_enough(Some(9.0), 100_000, &Silent));
        assert_eq!(growth.rows(), 2000);
        assert!(growth.is_enough(Some(9.0), 100_000, &Silent));
    }

    #[test]
    fn no_interval_is_not_a_narrow_one() {
        use crate::progress::Silent;
        let mut growth = Growth::new(0.5, None);
        assert!(!growth.is_enough(None, 3000, &Silent));
        assert_eq!(growth.rows(), 3000);
        assert!(growth.is_enough(None, 3000, &Silent));
    }

    #[test]
    fn strata_keep_their_shares() {
        let strata = [(0..70).collect::<Vec<_>>(), (70..95).collect(), (95..100).collect()];
        let drawn = stratified(&strata, 50, 1);
        let count = |from: usize, to: usize| drawn.iter().filter(|row| (from..to).contains(*row)).count();
        assert_eq!((drawn.len(), count(0, 70), count(70, 95), count(95, 100)), (50, 35, 13, 2));
        assert!(drawn.is_sorted());
        assert_ne!(drawn, stratified(&strata, 50, 2));
    }
}
