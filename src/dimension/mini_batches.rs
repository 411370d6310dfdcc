//! The dimension as an average over mini-batches of rows, for more rows than fit in memory.
//!
//! Each batch of `B` rows in random order is measured on its own. The average weights it by its points, because the variance
//! of an estimate falls as `1/N`, and its standard error is that of the batches about their average. The price is bias:
//! neighbours in a batch are as far apart as in a sample of `B` rows. Every second batch is measured together with the
//! previous one, which shows how the dimension changes from `B` to `2B` rows. Where it is level over scales, the bias is
//! negligible.

use ndarray::{Array2, ArrayView2, Axis, concatenate};

use super::measure::{Decimated, Reading, spread};
use super::{
    Counts, DimensionError, Estimate, LayerDimension, MeasureSettings, Measurement, NORMAL_QUANTILE, Scale,
    ScaleEstimate, measure,
};
use crate::neighbours::{Engine, Scalar, Work};
use crate::progress::Observer;

/// Number of batches needed before the average has a standard error.
pub const FEWEST_BATCHES: usize = 4;

/// The running average of one layer.
pub struct MiniBatches<T> {
    settings: MeasureSettings,
    width: usize,
    measured: Vec<Measurement>,
    /// The previous batch, while it waits for its partner.
    waiting: Option<Array2<T>>,
    /// Measurements of two batches together.
    pairs: Vec<Measurement>,
    degenerate: Option<String>,
    counts: Counts,
}

impl<T: Scalar> MiniBatches<T> {
    /// An average without batches yet, for vectors of this width.
    pub fn new(settings: MeasureSettings, width: usize) -> Self {
        // The batches themselves show how certain the average is.
        let settings = MeasureSettings { subsamples: 0, ..settings };
        Self {
            settings,
            width,
            measured: Vec::new(),
            waiting: None,
            pairs: Vec::new(),
            degenerate: None,
            counts: Counts::default(),
        }
    }

    /// Measures a batch `[rows, width]`.
    ///
    /// # Errors
    /// Returns an error if the search fails or is cancelled.
    pub fn push(&mut self, batch: ArrayView2<'_, T>, observer: &dyn Observer) -> Result<(), DimensionError> {
        let found = match measure(batch, &self.settings, observer) {
            Err(DimensionError::TooFewRows { rows, non_finite, duplicates, distinct }) => {
                let reason = format!("only {distinct} of {rows} rows are distinct");
                let counts = Counts { rows, non_finite, duplicates, near_duplicates: 0 };
                Measurement::without(self.width, LayerDimension::Degenerate { reason, counts })
            }
            other => other?,
        };
        let counts = found.dimension.counts();
        self.counts.rows += counts.rows;
        self.counts.non_finite += counts.non_finite;
        self.counts.duplicates += counts.duplicates;
        self.counts.near_duplicates += counts.near_duplicates;
        if let LayerDimension::Degenerate { reason, .. } = &found.dimension {
            self.degenerate.get_or_insert_with(|| format!("in a mini-batch {reason}"));
        }
        self.measured.push(found);
        match self.waiting.take() {
            None => self.waiting = Some(batch.to_owned()),
            Some(before) if self.degenerate.is_none() => {
                let both = concatenate(Axis(0), &[before.view(), batch.view()]).expect("batches are equally wide");
                let found = measure(both.view(), &self.settings, observer)?;
                if found.dimension.dimension().is_some() {
                    self.pairs.push(found);
                }
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// Number of batches so far.
    pub fn batches(&self) -> usize {
        self.measured.len()
    }

    /// Standard error of the average at a scale; `None` with fewer than four batches or without a dimension.
    pub fn standard_error(&self, scale: Scale) -> Option<f64> {
        if self.measured.len() < FEWEST_BATCHES {
            return None;
        }
        self.reading(scale).map(|reading| reading.standard_error())
    }

    /// The dimension at growing scale, averaged over the batches.
    pub fn curve(&self) -> Vec<ScaleEstimate> {
        if self.degenerate.is_some() {
            return Vec::new();
        }
        let places = self.measured.iter().map(|measured| measured.curve.len()).min().unwrap_or(0);
        let average = |place: usize| {
            let at = |value: fn(&ScaleEstimate) -> f64| {
                self.averaged(|measured| value(&measured.curve[place])).unwrap_or(f64::NAN)
            };
            let batches = self.measured.len() as f64;
            ScaleEstimate {
                neighbours: (1 << place, 2 << place),
                dimension: at(|at| at.dimension),
                standard_error: at(|at| at.standard_error) / batches.sqrt(),
                distance: at(|at| at.distance),
                left_out: self.measured.iter().map(|measured| measured.curve[place].left_out).sum(),
            }
        };
        (0..places).map(average).collect()
    }

    /// The relative change of the dimension at a scale from one batch to two together; `None` where no two were measured
    /// together.
    pub fn change_with_size(&self, scale: Scale) -> Option<f64> {
        let both: Vec<f64> = self.pairs.iter().filter_map(|pair| Some(pair.at(scale)?.dimension)).collect();
        let mean = both.iter().sum::<f64>() / both.len() as f64;
        let one = self.reading(scale)?.dimension;
        (!both.is_empty()).then_some(mean / one - 1.0)
    }

    /// Mean over the batches, weighted by points; `None` without batches.
    fn averaged(&self, value: impl Fn(&Measurement) -> f64) -> Option<f64> {
        let points: usize = self.measured.iter().map(Measurement::points).sum();
        let sum: f64 = self.measured.iter().map(|measured| measured.points() as f64 * value(measured)).sum();
        (points > 0).then(|| sum / points as f64)
    }

    fn reading(&self, scale: Scale) -> Option<Reading> {
        if self.degenerate.is_some() {
            return None;
        }
        let dimensions: Option<Vec<f64>> =
            self.measured.iter().map(|measured| measured.at(scale).map(|at| at.dimension)).collect();
        let dimensions = dimensions.filter(|dimensions| !dimensions.is_empty())?;
        let points: f64 = self.measured.iter().map(|measured| measured.points() as f64).sum();
        let weights: Vec<f64> = self.measured.iter().map(|measured| measured.points() as f64 / points).collect();
        let dimension: f64 = dimensions.iter().zip(&weights).map(|(d, weight)| d * weight).sum();
        let batches = dimensions.len() as f64;
        // The root mean square of these is the standard error of the weighted average.
        let deviation = |(d, weight): (&f64, &f64)| weight * (d - dimension) * batches / (batches - 1.0).sqrt();
        let deviations: Vec<f64> = match dimensions.len() {
            0 | 1 => Vec::new(),
            _ => dimensions.iter().zip(&weights).map(deviation).collect(),
        };
        let analytic_error = self.measured.iter().filter_map(|measured| measured.at(scale)).map(|at| at.analytic_error);
        let analytic_error = analytic_error.sum::<f64>() / batches / batches.sqrt();
        Some(Reading { scale, dimension, analytic_error, deviations })
    }

    /// The average as the measurement of a layer. Its decimation holds pairs of batches and single batches.
    pub fn finish(&self) -> Measurement {
        let counts = self.counts;
        if let Some(reason) = &self.degenerate {
            let reason = reason.clone();
            return Measurement::without(self.width, LayerDimension::Degenerate { reason, counts });
        }
        let readings: Vec<Reading> = Scale::ALL
            .into_iter()
            .filter(|scale| self.settings.scale.is_none_or(|wanted| wanted == *scale))
            .filter_map(|scale| self.reading(scale))
            .collect();
        let two_nn = self.two_nn();
        let points = counts.points() / self.measured.len().max(1);
        let mut decimation = Vec::new();
        let paired: Vec<f64> = self.pairs.iter().filter_map(|pair| pair.dimension.dimension()).collect();
        if !paired.is_empty() {
            decimation.push(Decimated {
                points: self.pairs.iter().map(Measurement::points).sum::<usize>() / self.pairs.len(),
                dimension: paired.iter().sum::<f64>() / paired.len() as f64,
                spread: spread(&paired),
            });
        }
        let single: Vec<f64> = self.measured.iter().filter_map(|measured| measured.dimension.dimension()).collect();
        decimation.push(Decimated { points, dimension: two_nn.dimension, spread: spread(&single) });
        Measurement {
            width: self.width,
            dimension: LayerDimension::Estimate(two_nn),
            readings,
            curve: self.curve(),
            decimation,
            near_duplicates: None,
            fit: Vec::new(),
        }
    }

    /// The TwoNN estimate, averaged over the batches.
    fn two_nn(&self) -> Estimate {
        let at = |value: fn(&Estimate) -> f64| {
            let value = |measured: &Measurement| match &measured.dimension {
                LayerDimension::Estimate(estimate) => value(estimate),
                LayerDimension::Degenerate { .. } => f64::NAN,
            };
            self.averaged(value).unwrap_or(f64::NAN)
        };
        let dimension = at(|estimate| estimate.dimension);
        let error = at(|estimate| estimate.standard_error) / (self.measured.len() as f64).sqrt();
        let engines = self.measured.iter().filter_map(|measured| match &measured.dimension {
            LayerDimension::Estimate(estimate) => Some((estimate.engine, estimate.work)),
            LayerDimension::Degenerate { .. } => None,
        });
        let (engine, work) =
            engines.fold((Engine::Exact, Work::default()), |(_, sum), (engine, work)| (engine, sum + work));
        Estimate {
            dimension,
            interval: (dimension - NORMAL_QUANTILE * error, dimension + NORMAL_QUANTILE * error),
            standard_error: error,
            points: self.counts.points(),
            counts: self.counts,
            mean_distances: (at(|estimate| estimate.mean_distances.0), at(|estimate| estimate.mean_distances.1)),
            method: self.settings.estimator.method,
            engine,
            work,
        }
    }
}

impl Measurement {
    fn points(&self) -> usize {
        self.dimension.counts().points()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dimension::{Manifold, Shape};
    use crate::progress::Silent;

    fn averaged(shape: Shape, dimension: usize, batches: usize, seed: u64) -> MiniBatches<f64> {
        let points = Manifold::new(shape, dimension, None, 0.0, seed).unwrap().points(400 * batches);
        let mut average = MiniBatches::new(MeasureSettings::default(), points.ncols());
        for batch in points.axis_chunks_iter(Axis(0), 400) {
            average.push(batch, &Silent).unwrap();
        }
        assert_eq!(average.batches(), batches);
        average
    }

    #[test]
    fn the_average_is_as_certain_as_it_says() {
        let found: Vec<(f64, f64)> = (0..24)
            .map(|seed| {
                let found = averaged(Shape::Cube, 3, 8, seed).finish();
                let reading = found.at(Scale::ALL[1]).unwrap();
                (reading.dimension, reading.standard_error())
            })
            .collect();
        let mean = found.iter().map(|(d, _)| d).sum::<f64>() / 24.0;
        let spread = (found.iter().map(|(d, _)| (d - mean).powi(2)).sum::<f64>() / 23.0).sqrt();
        let error = found.iter().map(|(_, error)| error).sum::<f64>() / 24.0;
        assert!((0.6..1.6).contains(&(error / spread)), "{error} {spread}");
        assert!((mean - 3.0).abs() < 0.25, "{mean}");
    }

    #[test]
    fn the_change_with_the_size_of_batches_is_known() {
        let level = averaged(Shape::Cube, 2, 8, 1);
        for scale in [Scale::NEAREST, Scale::ALL[2]] {
            assert!(level.change_with_size(scale).unwrap().abs() < 0.08, "{:?}", level.change_with_size(scale));
        }
        let level = level.finish();
        assert_eq!(level.decimation.iter().map(|at| at.points).collect::<Vec<_>>(), [800, 400]);
        assert_eq!(level.dimension.counts().points(), 3200);
        // The estimate of a high dimension rises with the number of points.
        let rising = averaged(Shape::Cube, 30, 8, 1).change_with_size(Scale::ALL[2]);
        assert!(rising.unwrap() > 0.01, "{rising:?}");
    }

    #[test]
    fn a_batch_without_a_dimension_is_told() {
        let mut average = MiniBatches::new(MeasureSettings::default(), 3);
        average.push(Manifold::new(Shape::Ball, 3, None, 0.0, 1).unwrap().points(100).view(), &Silent).unwrap();
        average.push(Array2::from_elem((100, 3), 1.0).view(), &Silent).unwrap();
        let LayerDimension::Degenerate { reason, counts } = average.finish().dimension else { panic!() };
        assert!(reason.starts_with("in a mini-batch all 100 rows are the same vector"), "{reason}");
        assert_eq!(counts.rows, 200);
        assert_eq!(average.standard_error(Scale::NEAREST), None);
    }
}
