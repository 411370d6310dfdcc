//! Which rows a plan is made from, and in which order: all, a sample, as many as an interval needs, or mini-batches.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::activations::{self, ExtractSettings, Manifest, MiniBatch, Store, stream_texts};
use crate::dataset::{Label, Tokenizer, sample_rows};
use crate::dimension::{FEWEST_BATCHES, MeasureSettings, Measurement, MiniBatches, NORMAL_QUANTILE, Scale, plateau};
use crate::progress::{Event, Observer, Unseen};
use crate::rank::{RankError, Sampling, choose_scale, measure_hidden_states};

use super::export::Export;
use super::extract::extract;
use super::rows::Rows;
use super::{Session, WorkflowError};
use crate::settings::PlanSettings;

/// Strata of labels that are numbers.
const QUANTILES: usize = 10;
/// Rows that are drawn before the first look at the intervals.
const FIRST_ROWS: usize = 1024;

/// The rows that are used, as numbers of the data.
pub struct Drawn {
    pub rows: Vec<usize>,
    stratified: bool,
}

impl Drawn {
    /// As the settings say: in the order of the data, or in random order where it is not known how many are needed.
    pub fn new(rows: &Rows, plan: &PlanSettings) -> Result<Self, WorkflowError> {
        let all: Vec<usize> = (0..rows.len()).collect();
        let limit = plan.rows.unwrap_or(usize::MAX);
        let mut drawn = match plan.stratified {
            true if limit < all.len() => stratified(&strata(rows)?, limit, plan.seed),
            _ => sample_rows(&all, limit, plan.seed),
        };
        if plan.until.is_some() || plan.mini_batch.is_some() {
            drawn.shuffle(&mut ChaCha8Rng::seed_from_u64(plan.seed));
        }
        Ok(Self { rows: drawn, stratified: plan.stratified })
    }

    /// The items of these rows.
    pub fn of<T: Clone>(&self, all: &[T]) -> Vec<T> {
        self.rows.iter().map(|&row| all[row].clone()).collect()
    }

    /// What a plan says of it; nothing where it is simply all rows.
    fn sampling(&self, used: usize, all: usize, plan: &PlanSettings) -> Option<Sampling> {
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

/// Rows by label; numbers by tenths of the rows.
fn strata(rows: &Rows) -> Result<Vec<Vec<usize>>, WorkflowError> {
    let Rows::Table(dataset) = rows else {
        return Err(WorkflowError::NoStrata { what: "questions have none; leave it out".into() });
    };
    let no_labels = || WorkflowError::NoStrata {
        what: format!("{} has none; name their column with --label", dataset.path.display()),
    };
    let mut classes: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let mut values: Vec<(f32, usize)> = Vec::new();
    for (row, example) in dataset.examples.iter().enumerate() {
        match example.label.as_ref().ok_or_else(no_labels)? {
            Label::Class(class) => classes.entry(*class).or_default().push(row),
            Label::Value(value) => values.push((*value, row)),
            Label::Learnt { .. } | Label::Span { .. } => return Err(no_labels()),
        }
    }
    values.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let tenths = values.chunks(values.len().div_ceil(QUANTILES).max(1));
    Ok(classes.into_values().chain(tenths.map(|part| part.iter().map(|(_, row)| *row).collect())).collect())
}

/// So many rows in proportion to the strata, by largest remainders; in the order of the data.
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

/// A model, and the rows that go through it.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    pub session: &'a Session<'a>,
    pub model: &'a Export,
    pub rows: &'a Rows,
    pub tokenizer: &'a Tokenizer,
    pub drawn: &'a Drawn,
    pub plan: &'a PlanSettings,
}

/// What was measured, and of which rows.
pub struct Measured {
    pub measurements: Vec<Measurement>,
    pub sampling: Option<Sampling>,
}

impl Subject<'_> {
    fn measuring(&self) -> MeasureSettings {
        self.plan.rank_settings().measuring(self.plan.two_nn())
    }

    /// Measures every hidden state of a store.
    pub fn measure(&self, store: &Store) -> Result<Measured, WorkflowError> {
        let mut load = |index: usize| store.layer(index).map_err(Into::into);
        let (representation, settings) = (self.plan.representation(), self.measuring());
        let observer = self.session.observer();
        let measurements =
            measure_hidden_states(&mut load, store.hidden_states(), representation, &settings, observer)?;
        let used = store.manifest().rows_done();
        let sampling = self.drawn.sampling(used, self.rows.len(), self.plan);
        Ok(Measured { measurements, sampling })
    }

    /// Extracts all rows that were drawn; or with `until` more and more of them, until every interval is narrow enough.
    pub fn extract(&self, out: &Path, overwrite: bool) -> Result<(Store, Option<Measured>), WorkflowError> {
        let Some(width) = self.plan.until else { return Ok((extract(self, out, overwrite, None)?, None)) };
        if self.plan.subsamples == 0 {
            return Err(WorkflowError::UntilWithoutSubsamples);
        }
        let observer = self.session.observer();
        let total = self.drawn.rows.len();
        let mut growth = Growth::new(width, None);
        let mut overwrite = overwrite;
        loop {
            let store = extract(self, out, overwrite, Some(growth.rows().min(total)))?;
            // What is there now is what this loop made.
            overwrite = false;
            let mut measured = self.measure(&store)?;
            let widest = widest(measured.measurements.iter(), self.plan.scale.0);
            if let Some(sampling) = &mut measured.sampling {
                sampling.width = widest;
            }
            growth.reached(store.manifest().rows_done());
            if growth.is_enough(widest, total, observer) {
                return Ok((store, Some(measured)));
            }
        }
    }

    /// Measures mini-batches as they come out of the model, and keeps nothing.
    pub fn stream(&self, batch_rows: usize) -> Result<(Manifest, Measured), WorkflowError> {
        let states = &self.model.states;
        let observer = self.session.observer();
        let settings = self.extraction(false);
        let batches = (self.drawn.rows.len() + batch_rows / 2) / batch_rows;
        if batches < FEWEST_BATCHES {
            let (rows, needed) = (self.drawn.rows.len(), FEWEST_BATCHES);
            return Err(WorkflowError::FewMiniBatches { rows, batches, batch_rows, needed });
        }
        let mut averages: Vec<MiniBatches<f32>> = Vec::new();
        let mut failure: Option<RankError> = None;
        let mut take = |batch: MiniBatch| {
            if batch.layers.iter().any(|layer| 2 * layer.nrows() < batch_rows) && !averages.is_empty() {
                // The last rows: too few to count as a batch.
                return Ok(ControlFlow::Break(()));
            }
            match self.enter(&mut averages, &batch) {
                Ok(enough) => Ok(if enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }),
                Err(error) => {
                    failure = Some(error);
                    Ok(ControlFlow::Break(()))
                }
            }
        };
        let model = &self.model.model;
        let manifest = match self.rows {
            Rows::Table(dataset) => {
                let examples = self.drawn.of(&dataset.examples);
                let take = &mut take;
                stream_texts(model, states, &examples, self.tokenizer, &settings, batch_rows, take, observer)?
            }
            Rows::Spans(spans) => {
                let encodings = self.drawn.of(&spans.encodings);
                let settings: ExtractSettings = settings.of_tokenizer(self.tokenizer);
                activations::stream(model, states, &encodings, &settings, batch_rows, &mut take, observer)?
            }
        };
        if let Some(failure) = failure {
            return Err(failure.into());
        }
        let measurements: Vec<Measurement> = averages.iter().map(MiniBatches::finish).collect();
        let batches = averages.first().map_or(0, MiniBatches::batches);
        let mut sampling = self.drawn.sampling(manifest.rows_done(), self.rows.len(), self.plan);
        if let Some(sampling) = &mut sampling {
            sampling.width = self.plan.until.and(widest(measurements.iter(), self.plan.scale.0));
            sampling.mini_batches = Some(batches as u64);
            let (scale, _) = choose_scale(measurements.iter(), self.plan.scale.0);
            let changes = averages.iter().filter_map(|average| average.change_with_size(scale));
            sampling.change_with_size = changes.max_by(|a, b| a.abs().total_cmp(&b.abs()));
        }
        Ok((manifest, Measured { measurements, sampling }))
    }

    /// Enters a mini-batch into the averages, and says whether they are certain enough.
    fn enter(&self, averages: &mut Vec<MiniBatches<f32>>, batch: &MiniBatch) -> Result<bool, RankError> {
        let observer = self.session.observer();
        let within = Unseen(observer);
        if averages.is_empty() {
            averages.extend(batch.layers.iter().map(|layer| MiniBatches::new(self.measuring(), layer.ncols())));
        }
        for (hidden_state, (average, layer)) in averages.iter_mut().zip(&batch.layers).enumerate() {
            observer.check()?;
            let (points, _) = self.plan.representation().apply(layer.view(), observer)?;
            average.push(points.view(), &within).map_err(|source| RankError::Dimension { hidden_state, source })?;
        }
        let Some(width) = self.plan.until else { return Ok(false) };
        let curves: Vec<_> = averages.iter().map(MiniBatches::curve).collect();
        let curves: Vec<&[_]> = curves.iter().map(Vec::as_slice).collect();
        let scale = self.plan.scale.0.or(plateau(&curves).map(|found| found.scale)).unwrap_or(Scale::NEAREST);
        let errors: Vec<f64> = averages.iter().filter_map(|average| average.standard_error(scale)).collect();
        let narrow = errors.iter().all(|error| 2.0 * NORMAL_QUANTILE * error <= width);
        Ok(!errors.is_empty() && narrow)
    }
}

/// The widest 95 % interval of a dimension.
pub fn widest<'a>(measurements: impl Iterator<Item = &'a Measurement> + Clone, wanted: Option<Scale>) -> Option<f64> {
    let (scale, _) = choose_scale(measurements.clone(), wanted);
    let readings = measurements.filter_map(|measured| measured.at(scale));
    readings.map(|reading| 2.0 * NORMAL_QUANTILE * reading.standard_error()).reduce(f64::max)
}

/// How many rows are drawn, step by step, until an interval is narrow enough.
pub struct Growth {
    width: f64,
    rows: usize,
    limit: usize,
}

impl Growth {
    /// For intervals of this width, with at most so many rows.
    pub fn new(width: f64, limit: Option<usize>) -> Self {
        let limit = limit.unwrap_or(usize::MAX);
        Self { width, rows: FIRST_ROWS.min(limit), limit }
    }

    /// Rows of this step.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// There were more rows than wanted.
    fn reached(&mut self, rows: usize) {
        self.rows = rows.max(self.rows);
    }

    /// Whether the widest interval is narrow enough, or there are no more rows; else goes on to the next step.
    pub fn is_enough(&mut self, widest: Option<f64>, total: usize, observer: &dyn Observer) -> bool {
        let total = total.min(self.limit);
        let (found, rows) = (widest.unwrap_or(0.0), self.rows.min(total));
        let is_narrow = found <= self.width;
        let enough = is_narrow || rows >= total;
        // Widths fall as the root of the number of rows.
        let guess = rows as f64 * (found / self.width).powi(2) * 1.1;
        self.rows = (guess as usize).clamp(rows + rows / 4, 4 * rows).min(total);
        let said = match (enough, is_narrow) {
            (true, true) => String::new(),
            (true, false) => ", which are all there are".to_owned(),
            (false, _) => format!(": on to {}", self.rows),
        };
        observer
            .observe(Event::Notice(&format!("the widest interval is {found:.2} with {rows} of {total} rows{said}")));
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
        // Twice as wide as wanted: four times the rows, and a little more, but not more than four times at once.
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
    fn strata_keep_their_shares() {
        let strata = [(0..70).collect::<Vec<_>>(), (70..95).collect(), (95..100).collect()];
        let drawn = stratified(&strata, 50, 1);
        let count = |from: usize, to: usize| drawn.iter().filter(|row| (from..to).contains(*row)).count();
        assert_eq!((drawn.len(), count(0, 70), count(70, 95), count(95, 100)), (50, 35, 13, 2));
        assert!(drawn.is_sorted());
        assert_ne!(drawn, stratified(&strata, 50, 2));
    }
}
