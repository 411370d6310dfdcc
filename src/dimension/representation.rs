//! Preprocessing of vectors before their distances are measured.

use std::fmt;
use std::str::FromStr;

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, ArrayViewMut1, Axis, CowArray, Ix2};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::neighbours::Scalar;
use crate::progress::{Cancelled, Observer};

/// Rows processed at a time.
const CHUNK: usize = 1024;
/// A direction whose remaining variance is below this share of the largest is left out of whitened vectors: it holds only
/// float noise, which whitening would raise to the size of everything else.
const LEAST_VARIANCE: f64 = 1e-9;

/// How vectors are centred and scaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preprocessing {
    /// Unchanged.
    #[default]
    Raw,
    /// The mean is subtracted, which changes every angle but no Euclidean distance.
    Centred,
    /// Centred, with unit variance in every direction: distances are Mahalanobis distances.
    Whitened,
}

/// How distances are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DistanceMetric {
    /// Euclidean distance.
    #[default]
    Euclidean,
    /// Euclidean distance between vectors of unit length, `√(2 − 2 cos)`: neighbours are in the same order as by cosine.
    /// (`1 − cos` itself is half its square, which would halve every dimension.)
    Cosine,
}

/// How vectors are represented before their distances are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Representation {
    /// Applied to the vectors first.
    pub preprocessing: Preprocessing,
    /// Applied to the preprocessed vectors.
    pub metric: DistanceMetric,
}

impl Representation {
    /// Whether vectors stay unchanged.
    pub fn is_identity(self) -> bool {
        self.metric == DistanceMetric::Euclidean && self.preprocessing != Preprocessing::Whitened
    }

    /// The vectors `[rows, columns]` in this representation, and the number of directions left out. Rows that are not finite
    /// stay so and do not enter mean or variance; rows of length 0 have no direction and stay unchanged.
    ///
    /// # Errors
    /// Returns an error only if cancelled.
    pub fn apply<'a, T: Scalar>(
        self,
        points: ArrayView2<'a, T>,
        observer: &dyn Observer,
    ) -> Result<(CowArray<'a, T, Ix2>, usize), Cancelled> {
        if self.is_identity() {
            return Ok((points.into(), 0));
        }
        let scale = power_near(points);
        let (mean, whitening) = match self.preprocessing {
            Preprocessing::Raw => (None, None),
            Preprocessing::Centred => (Some(Moments::of(points, scale, false, observer)?.mean), None),
            Preprocessing::Whitened => {
                let moments = Moments::of(points, scale, true, observer)?;
                (Some(moments.mean.clone()), Some(Whitening::of(&moments.covariance)))
            }
        };
        let columns = whitening.as_ref().map_or(points.ncols(), Whitening::directions);
        let mut result = Array2::from_elem((points.nrows(), columns), T::from_f64(0.0));
        result
            .axis_chunks_iter_mut(Axis(0), CHUNK)
            .into_par_iter()
            .zip(points.axis_chunks_iter(Axis(0), CHUNK))
            .try_for_each(|(mut results, points)| {
                observer.check()?;
                for (result, point) in results.rows_mut().into_iter().zip(points.rows()) {
                    self.represent(point, scale, result, mean.as_ref(), whitening.as_ref());
                }
                Ok(())
            })?;
        Ok((result.into(), points.ncols() - columns))
    }

    fn represent<T: Scalar>(
        self,
        point: ArrayView1<'_, T>,
        scale: f64,
        result: ArrayViewMut1<'_, T>,
        mean: Option<&Array1<f64>>,
        whitening: Option<&Whitening>,
    ) {
        let mut values: Array1<f64> = point.mapv(|value| value.to_f64() * scale);
        if let Some(mean) = mean {
            values -= mean;
        }
        if let Some(whitening) = whitening {
            values = whitening.apply(&values);
        }
        if self.metric == DistanceMetric::Cosine {
            // A row may be far smaller than the largest.
            let largest = values.iter().fold(0.0, |largest: f64, value| largest.max(value.abs()));
            if largest > 0.0 && largest.is_finite() {
                values /= largest;
            }
            let norm = values.dot(&values).sqrt();
            if norm > 0.0 {
                values /= norm;
            }
        }
        for (result, value) in result.into_iter().zip(values) {
            *result = T::from_f64(value);
        }
    }
}

/// A power of two that scales the largest value to about 1, so that squares stay in range.
fn power_near<T: Scalar>(points: ArrayView2<'_, T>) -> f64 {
    let largest = |row: ArrayView1<'_, T>| {
        row.iter().map(|value| value.to_f64().abs()).filter(|v| v.is_finite()).fold(0.0, f64::max)
    };
    let largest = points.axis_iter(Axis(0)).into_par_iter().map(largest).reduce(|| 0.0, f64::max);
    if largest > 0.0 { (-largest.log2().floor()).clamp(-1022.0, 1022.0).exp2() } else { 1.0 }
}

/// Mean and covariance of the finite rows.
struct Moments {
    mean: Array1<f64>,
    covariance: Array2<f64>,
}

impl Moments {
    /// Mean and covariance of the points times `scale`.
    fn of<T: Scalar>(
        points: ArrayView2<'_, T>,
        scale: f64,
        covariance: bool,
        observer: &dyn Observer,
    ) -> Result<Self, Cancelled> {
        let columns = points.ncols();
        let finite = |part: ArrayView2<'_, T>| -> Vec<Array1<f64>> {
            let rows = part.rows().into_iter().map(|row| row.mapv(|value| value.to_f64() * scale));
            rows.filter(|row| row.iter().all(|value| value.is_finite())).collect()
        };
        // Parts are summed in order: the result does not depend on the number of threads.
        let sums: Vec<(usize, Array1<f64>)> = points
            .axis_chunks_iter(Axis(0), CHUNK)
            .into_par_iter()
            .map(|part| {
                let rows = finite(part);
                (rows.len(), rows.iter().fold(Array1::zeros(columns), |sum, row| sum + row))
            })
            .collect();
        let count = sums.iter().map(|(count, _)| count).sum::<usize>().max(1) as f64;
        let mean = sums.iter().fold(Array1::zeros(columns), |sum, (_, part)| sum + part) / count;
        let mut total = Array2::zeros(if covariance { (columns, columns) } else { (0, 0) });
        if covariance {
            // A few chunks at a time: each has its own matrix.
            let chunks: Vec<_> = points.axis_chunks_iter(Axis(0), CHUNK).collect();
            for some in chunks.chunks(2 * rayon::current_num_threads()) {
                observer.check()?;
                let products: Vec<Array2<f64>> = some
                    .par_iter()
                    .map(|part| {
                        let rows = finite(*part);
                        let mut centred = Array2::zeros((rows.len(), columns));
                        centred.rows_mut().into_iter().zip(&rows).for_each(|(mut to, row)| to.assign(&(row - &mean)));
                        centred.t().dot(&centred)
                    })
                    .collect();
                products.iter().for_each(|product| total += product);
            }
            total /= count;
        }
        Ok(Self { mean, covariance: total })
    }
}

/// `L⁻¹` of the covariance `L Lᵀ`, by pivoted Cholesky factorisation: `|L⁻¹(x − y)|` is the Mahalanobis distance.
struct Whitening {
    /// Columns used, in pivot order.
    columns: Vec<usize>,
    /// Lower triangle `[directions, directions]`.
    factor: Array2<f64>,
}

impl Whitening {
    fn of(covariance: &Array2<f64>) -> Self {
        let size = covariance.nrows();
        let mut left: Vec<f64> = covariance.diag().to_vec();
        let largest = left.iter().copied().fold(0.0, f64::max);
        let mut taken = vec![false; size];
        let mut columns: Vec<usize> = Vec::new();
        // Row `column`: its components along the directions so far.
        let mut along = Array2::<f64>::zeros((size, size));
        while columns.len() < size {
            let free = (0..size).filter(|&column| !taken[column]);
            let Some(next) = free.max_by(|&a, &b| left[a].total_cmp(&left[b])) else { break };
            if left[next] <= LEAST_VARIANCE * largest || largest == 0.0 {
                break;
            }
            let direction = columns.len();
            let root = left[next].sqrt();
            taken[next] = true;
            columns.push(next);
            let pivot = along.row(next).to_owned();
            for column in (0..size).filter(|&column| !taken[column]) {
                let known: f64 = (0..direction).map(|d| along[[column, d]] * pivot[d]).sum();
                let value = (covariance[[column, next]] - known) / root;
                along[[column, direction]] = value;
                left[column] -= value * value;
            }
            along[[next, direction]] = root;
        }
        let directions = columns.len();
        let factor = Array2::from_shape_fn((directions, directions), |(row, column)| along[[columns[row], column]]);
        Self { columns, factor }
    }

    fn directions(&self) -> usize {
        self.columns.len()
    }

    /// `L⁻¹ x`, by forward substitution.
    fn apply(&self, point: &Array1<f64>) -> Array1<f64> {
        let mut solved = Array1::<f64>::zeros(self.directions());
        for (row, &column) in self.columns.iter().enumerate() {
            let factor = self.factor.row(row);
            let known: f64 = factor.iter().zip(&solved).take(row).map(|(a, b)| a * b).sum();
            solved[row] = (point[column] - known) / factor[row];
        }
        solved
    }
}

macro_rules! words {
    ($type:ty, $($variant:path => $word:literal),+) => {
        impl $type {
            /// The name used in options and plans.
            pub fn as_str(self) -> &'static str {
                match self { $($variant => $word),+ }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $type {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                let found = [$($variant),+].into_iter().find(|found| found.as_str() == text);
                found.ok_or_else(|| format!("take {}", [$($word),+].join(", ")))
            }
        }
    };
}

words!(Preprocessing, Preprocessing::Raw => "raw", Preprocessing::Centred => "centred", Preprocessing::Whitened => "whitened");
words!(DistanceMetric, DistanceMetric::Euclidean => "euclidean", DistanceMetric::Cosine => "cosine");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dimension::{Manifold, Shape};
    use crate::progress::Silent;

    fn represented(points: &Array2<f64>, preprocessing: Preprocessing, metric: DistanceMetric) -> (Array2<f64>, usize) {
        let (found, left_out) = Representation { preprocessing, metric }.apply(points.view(), &Silent).unwrap();
        (found.into_owned(), left_out)
    }

    fn points() -> Array2<f64> {
        let mut points = Manifold::new(Shape::Gaussian, 5, Some(5), 0.0, 1).unwrap().points(3000);
        points.column_mut(2).mapv_inplace(|value| 10.0 * value + 7.0);
        points
    }

    #[test]
    fn whitened_vectors_have_unit_covariance() {
        let (found, left_out) = represented(&points(), Preprocessing::Whitened, DistanceMetric::Euclidean);
        assert_eq!(left_out, 0);
        let covariance = found.t().dot(&found) / 3000.0;
        for ((row, column), value) in covariance.indexed_iter() {
            assert!((value - f64::from(row == column)).abs() < 1e-9, "{row} {column}: {value}");
        }
        assert!(found.mean_axis(Axis(0)).unwrap().iter().all(|mean| mean.abs() < 1e-9));
    }

    #[test]
    fn whitening_does_not_depend_on_the_axes() {
        let points = points();
        let map = Manifold::new(Shape::Affine, 5, Some(5), 0.0, 2).unwrap().points(5);
        let turned = points.dot(&map);
        let [(a, 0), (b, 0)] =
            [points, turned].map(|points| represented(&points, Preprocessing::Whitened, DistanceMetric::Euclidean))
        else {
            panic!("directions were left out")
        };
        let distance = |points: &Array2<f64>, i: usize| {
            let difference = &points.row(0) - &points.row(i);
            difference.dot(&difference).sqrt()
        };
        (1..100).for_each(|i| {
            let (a, b) = (distance(&a, i), distance(&b, i));
            assert!((a / b - 1.0).abs() < 1e-6, "{a} {b}");
        });
    }

    #[test]
    fn directions_without_variance_are_left_out() {
        let mut points = points();
        let sum = &points.column(0) + &points.column(1);
        points.column_mut(3).assign(&sum);
        points.column_mut(4).fill(3.0);
        let (found, left_out) = represented(&points, Preprocessing::Whitened, DistanceMetric::Euclidean);
        assert_eq!((found.dim(), left_out), ((3000, 3), 2));
    }

    #[test]
    fn very_large_and_very_small_values_are_represented_alike() {
        let points = points();
        for preprocessing in [Preprocessing::Raw, Preprocessing::Whitened] {
            let metric =
                if preprocessing == Preprocessing::Raw { DistanceMetric::Cosine } else { DistanceMetric::Euclidean };
            let usual = represented(&points, preprocessing, metric).0;
            for factor in [1e200, 1e-200] {
                let other = represented(&points.mapv(|value| factor * value), preprocessing, metric).0;
                let off = (&other - &usual).iter().fold(0.0, |off: f64, value| off.max(value.abs()));
                assert!(off < 1e-8, "{preprocessing} {factor:e}: {off}");
            }
        }
    }

    #[test]
    fn cosine_is_the_distance_of_unit_vectors() {
        let points = ndarray::array![[3.0, 4.0], [0.0, 0.0], [f64::NAN, 1.0], [-3.0, -4.0]];
        let (found, _) = represented(&points, Preprocessing::Raw, DistanceMetric::Cosine);
        assert_eq!(found.row(0), ndarray::aview1(&[0.6, 0.8]));
        assert_eq!(found.row(1), ndarray::aview1(&[0.0, 0.0]));
        assert!(found[[2, 0]].is_nan());
        // The mean of the finite rows is 0.
        let (centred, _) = represented(&points, Preprocessing::Centred, DistanceMetric::Cosine);
        assert_eq!(centred.row(3), found.row(3));
        // A sphere has one dimension fewer than its ball.
        let raw = Representation::default();
        assert!(raw.is_identity());
        let (same, _) = raw.apply(points.view(), &Silent).unwrap();
        assert!(same.is_view());
    }
}
