//! From the rows of a plan to measured hidden states: from a store, from as many rows as an interval needs, or by mini-batches.

use std::ops::ControlFlow;
use std::path::Path;

use crate::activations::{self, ExtractSettings, Manifest, MiniBatch, Store, stream_texts};
use crate::dimension::{FEWEST_BATCHES, MeasureSettings, Measurement, MiniBatches, NORMAL_QUANTILE, Scale, plateau};
use crate::progress::Unseen;
use crate::rank::{RankError, Sampling, choose_scale, measure_hidden_states};
use crate::task::Source;

use super::WorkflowError;
use super::extract::extract;
use super::sampling::{Growth, Subject, widest};

/// The measurements, and the rows they were made from.
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
        let mut load = |index: usize| store.mapped_layer(index).map_err(Into::into);
        let (representation, settings) = (self.plan.representation(), self.measuring());
        let observer = self.session.observer();
        let measurements =
            measure_hidden_states(&mut load, store.hidden_states(), representation, &settings, observer)?;
        let used = store.manifest().rows_done();
        let sampling = self.drawn.sampling(used, self.rows.len(), self.plan);
        Ok(Measured { measurements, sampling })
    }

    /// Extracts all sampled rows; or with `until`, increasing numbers of them until every interval is narrow enough.
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
            // From now on the store is this loop's own.
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

    /// Measures mini-batches as the model produces them, without a store.
    pub fn stream(&self, batch_rows: usize) -> Result<(Manifest, Measured), WorkflowError> {
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
        let manifest = match self.rows.source() {
            Source::Examples(examples) => {
                let examples = self.drawn.of(examples);
                let take = &mut take;
                stream_texts(model, &examples, self.tokenizer, &settings, batch_rows, take, observer)?
            }
            Source::Encodings(encodings) => {
                let encodings = self.drawn.of(encodings);
                let settings: ExtractSettings = settings.of_tokenizer(self.tokenizer);
                activations::stream(model, &encodings, &settings, batch_rows, &mut take, observer)?
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

    /// Adds a mini-batch to the averages; returns whether they are certain enough.
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
