//! Points on manifolds of known dimension, for testing estimators.
//!
//! The manifolds are those on which the literature compares estimators: Hein, Audibert (2005), *Intrinsic dimensionality
//! estimation of submanifolds in R^d*; Campadelli, Casiraghi, Ceruti, Rozza (2015), *Intrinsic dimension estimation:
//! relevant techniques and a benchmark framework*.

use std::f64::consts::{PI, TAU};
use std::fmt;
use std::str::FromStr;

use ndarray::{Array1, Array2, ArrayViewMut1, Axis, s};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};
use rayon::prelude::*;

/// Rows that share a stream of random numbers.
const CHUNK: usize = 1024;
/// Random stream of the map into the ambient space; rows use the streams from 1 on.
const MAP_STREAM: u64 = 0;

/// A manifold that points can be drawn from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// The unit sphere of dimension `d` in `d + 1` columns, uniformly.
    Sphere,
    /// The unit ball, uniformly.
    Ball,
    /// The unit cube, uniformly.
    Cube,
    /// A normal distribution with unit variance in every direction.
    Gaussian,
    /// A rolled-up rectangle, `(t cos t, h, t sin t)`, `t` in 3π/2 … 9π/2 and `h` in 0 … 21; dimension 2 in 3 columns.
    SwissRoll,
    /// A strip of width 1 with a half twist, around a circle of radius 1; dimension 2 in 3 columns.
    Moebius,
    /// A normal distribution under a linear map that stretches directions differently, by default into `2 d` columns.
    Affine,
    /// `(x_{i+1} cos 2π x_i, x_{i+1} sin 2π x_i)` for `i = 1 … d`, `x` uniform in the unit cube, `x_{d+1} = x_1`; by default
    /// rotated into `6 d` columns.
    Nonlinear,
}

impl Shape {
    /// All shapes.
    pub const ALL: [Shape; 8] = [
        Shape::Sphere,
        Shape::Ball,
        Shape::Cube,
        Shape::Gaussian,
        Shape::SwissRoll,
        Shape::Moebius,
        Shape::Affine,
        Shape::Nonlinear,
    ];

    /// The name of the shape: `sphere`, `ball`, `cube`, `gaussian`, `swiss-roll`, `moebius`, `affine` or `nonlinear`.
    pub fn as_str(self) -> &'static str {
        match self {
            Shape::Sphere => "sphere",
            Shape::Ball => "ball",
            Shape::Cube => "cube",
            Shape::Gaussian => "gaussian",
            Shape::SwissRoll => "swiss-roll",
            Shape::Moebius => "moebius",
            Shape::Affine => "affine",
            Shape::Nonlinear => "nonlinear",
        }
    }

    /// The only dimension the shape can have; `None` where it can be chosen.
    pub fn fixed_dimension(self) -> Option<usize> {
        matches!(self, Shape::SwissRoll | Shape::Moebius).then_some(2)
    }

    /// The fewest columns that the shape needs.
    fn columns(self, dimension: usize) -> usize {
        match self {
            Shape::Sphere => dimension + 1,
            Shape::Ball | Shape::Cube | Shape::Gaussian | Shape::Affine => dimension,
            Shape::SwissRoll | Shape::Moebius => 3,
            Shape::Nonlinear => 2 * dimension,
        }
    }

    /// Default number of columns.
    fn usual_columns(self, dimension: usize) -> usize {
        match self {
            Shape::Affine => 2 * dimension,
            Shape::Nonlinear => 6 * dimension,
            _ => self.columns(dimension),
        }
    }

    /// Writes one point, of as many columns as [`Shape::columns`] gives.
    fn point(self, dimension: usize, random: &mut ChaCha8Rng, mut point: ArrayViewMut1<'_, f64>) {
        match self {
            Shape::Sphere => {
                fill_normal(&mut point, random);
                let norm = point.dot(&point).sqrt();
                point /= norm;
            }
            Shape::Ball => {
                fill_normal(&mut point, random);
                let norm = point.dot(&point).sqrt();
                let radius: f64 = random.random();
                point *= radius.powf(1.0 / dimension as f64) / norm;
            }
            Shape::Cube => point.iter_mut().for_each(|value| *value = random.random()),
            Shape::Gaussian | Shape::Affine => fill_normal(&mut point, random),
            Shape::SwissRoll => {
                let t = 1.5 * PI * (1.0 + 2.0 * random.random::<f64>());
                let height = 21.0 * random.random::<f64>();
                point.assign(&ndarray::aview1(&[t * t.cos(), height, t * t.sin()]));
            }
            Shape::Moebius => {
                let (angle, across) = (TAU * random.random::<f64>(), random.random::<f64>() - 0.5);
                let radius = 1.0 + across * (angle / 2.0).cos();
                let height = across * (angle / 2.0).sin();
                point.assign(&ndarray::aview1(&[radius * angle.cos(), radius * angle.sin(), height]));
            }
            Shape::Nonlinear => {
                let cube: Vec<f64> = (0..dimension).map(|_| random.random()).collect();
                for (place, &x) in cube.iter().enumerate() {
                    let next = cube[(place + 1) % dimension];
                    point[2 * place] = next * (TAU * x).cos();
                    point[2 * place + 1] = next * (TAU * x).sin();
                }
            }
        }
    }
}

fn fill_normal(point: &mut ArrayViewMut1<'_, f64>, random: &mut ChaCha8Rng) {
    point.iter_mut().for_each(|value| *value = StandardNormal.sample(random));
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Shape {
    type Err = ManifoldError;

    fn from_str(text: &str) -> Result<Self, ManifoldError> {
        let found = Self::ALL.into_iter().find(|shape| shape.as_str() == text);
        found.ok_or_else(|| ManifoldError::UnknownShape { found: text.to_owned() })
    }
}

/// An invalid manifold.
#[derive(Debug, thiserror::Error)]
pub enum ManifoldError {
    /// An unknown shape name.
    #[error("unknown manifold {found:?}; use sphere, ball, cube, gaussian, swiss-roll, moebius, affine or nonlinear")]
    UnknownShape {
        /// The name given.
        found: String,
    },
    /// The shape does not exist in this dimension.
    #[error("a {shape} of dimension {wanted} does not exist; {cure}")]
    Dimension {
        /// The shape requested.
        shape: Shape,
        /// The dimension requested.
        wanted: usize,
        /// What to give instead.
        cure: &'static str,
    },
    /// There are fewer columns than the shape needs.
    #[error(
        "a {shape} of dimension {dimension} needs {needed} columns, {wanted} were asked for; give at least as many"
    )]
    Columns {
        /// The shape requested.
        shape: Shape,
        /// The dimension of the shape.
        dimension: usize,
        /// Columns that the shape needs.
        needed: usize,
        /// Columns requested.
        wanted: usize,
    },
    /// The noise is negative or not finite.
    #[error("the noise is {found}; give its standard deviation, 0 or more")]
    Noise {
        /// The value given.
        found: f64,
    },
}

/// Random points near a manifold of known dimension.
#[derive(Debug, Clone)]
pub struct Manifold {
    shape: Shape,
    dimension: usize,
    noise: f64,
    seed: u64,
    /// `[columns of the shape, columns]`: map into the ambient space; `None` where there is none.
    map: Option<Array2<f64>>,
    columns: usize,
}

impl Manifold {
    /// A manifold in `columns` columns (the default of the shape where `None`), rotated into them at random, with normal
    /// noise of standard deviation `noise` added to every column.
    ///
    /// # Errors
    /// Returns an error for a dimension that the shape does not have, for too few columns, and for noise that is negative or
    /// not finite.
    pub fn new(
        shape: Shape,
        dimension: usize,
        columns: Option<usize>,
        noise: f64,
        seed: u64,
    ) -> Result<Self, ManifoldError> {
        match shape.fixed_dimension() {
            Some(fixed) if fixed != dimension => {
                return Err(ManifoldError::Dimension { shape, wanted: dimension, cure: "it has dimension 2" });
            }
            None if dimension == 0 => {
                return Err(ManifoldError::Dimension { shape, wanted: dimension, cure: "give at least 1" });
            }
            _ => {}
        }
        if !(noise >= 0.0 && noise.is_finite()) {
            return Err(ManifoldError::Noise { found: noise });
        }
        let needed = shape.columns(dimension);
        let columns = columns.unwrap_or_else(|| shape.usual_columns(dimension));
        if columns < needed {
            return Err(ManifoldError::Columns { shape, dimension, needed, wanted: columns });
        }
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(MAP_STREAM);
        let map = match shape {
            Shape::Affine => Some(normal(needed, columns, &mut random)),
            _ if columns > needed => Some(orthonormal(normal(needed, columns, &mut random))),
            _ => None,
        };
        Ok(Self { shape, dimension, noise, seed, map, columns })
    }

    /// Intrinsic dimension of the manifold.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// Number of columns of its points.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The first points `[points, columns]`. A larger number of points starts with the same ones.
    pub fn points(&self, points: usize) -> Array2<f64> {
        let mut all = Array2::zeros((points, self.columns));
        all.axis_chunks_iter_mut(Axis(0), CHUNK)
            .into_par_iter()
            .enumerate()
            .for_each(|(chunk, mut rows)| rows.assign(&self.chunk(chunk, rows.nrows())));
        all
    }

    /// The same points as [`Manifold::points`], chunk by chunk, for more of them than fit in memory.
    pub fn pieces(&self, points: usize) -> impl Iterator<Item = Array2<f64>> + '_ {
        (0..points.div_ceil(CHUNK)).map(move |chunk| self.chunk(chunk, CHUNK.min(points - chunk * CHUNK)))
    }

    /// The first rows of a chunk. The whole chunk is computed: a product of fewer rows may differ in its last bits.
    fn chunk(&self, chunk: usize, rows: usize) -> Array2<f64> {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        random.set_stream(chunk as u64 + 1);
        let mut points = Array2::zeros((CHUNK, self.shape.columns(self.dimension)));
        points.rows_mut().into_iter().for_each(|row| self.shape.point(self.dimension, &mut random, row));
        let mut points = match &self.map {
            Some(map) => points.dot(map),
            None => points,
        };
        if self.noise > 0.0 {
            // A separate stream: the points themselves are the same without noise.
            random.set_stream(u64::MAX - chunk as u64);
            points.iter_mut().for_each(|value| {
                let normal: f64 = StandardNormal.sample(&mut random);
                *value += self.noise * normal;
            });
        }
        points.slice_move(s![..rows, ..])
    }
}

fn normal(rows: usize, columns: usize, random: &mut ChaCha8Rng) -> Array2<f64> {
    Array2::from_shape_simple_fn((rows, columns), || StandardNormal.sample(random))
}

/// Makes the rows orthonormal (Gram–Schmidt, twice).
fn orthonormal(mut rows: Array2<f64>) -> Array2<f64> {
    for row in 0..rows.nrows() {
        let mut own: Array1<f64> = rows.row(row).to_owned();
        for _ in 0..2 {
            let before = rows.slice(s![..row, ..]);
            own -= &before.t().dot(&before.dot(&own));
        }
        own /= own.dot(&own).sqrt();
        rows.row_mut(row).assign(&own);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dimension::{Method, two_nn};
    use crate::neighbours::Engine;
    use crate::progress::Silent;

    fn manifold(shape: Shape, dimension: usize) -> Manifold {
        Manifold::new(shape, dimension, None, 0.0, 3).unwrap()
    }

    #[test]
    fn every_shape_has_the_dimension_that_it_says() {
        for shape in Shape::ALL {
            for dimension in [2, 5] {
                if shape.fixed_dimension().is_some_and(|fixed| fixed != dimension) {
                    continue;
                }
                let points = manifold(shape, dimension).points(4000);
                let found = two_nn(points.view(), Method::default(), Engine::Exact, &Silent).unwrap();
                let found = found.dimension().unwrap();
                // TwoNN is a tenth too low in five dimensions.
                let off = found / dimension as f64 - 1.0;
                assert!((-0.15..0.1).contains(&off), "{shape} of dimension {dimension}: {found}");
            }
        }
    }

    #[test]
    fn points_lie_on_their_shapes() {
        let norms = |points: Array2<f64>| points.rows().into_iter().map(|row| row.dot(&row)).collect::<Vec<_>>();
        assert!(norms(manifold(Shape::Sphere, 6).points(500)).iter().all(|norm| (norm - 1.0).abs() < 1e-12));
        let ball = norms(manifold(Shape::Ball, 6).points(2000));
        assert!(ball.iter().all(|norm| *norm <= 1.0));
        // Half of a ball's volume is within the radius 2^(−1/d).
        let inner = ball.iter().filter(|norm| norm.sqrt() < 0.5f64.powf(1.0 / 6.0)).count();
        assert!((900..1100).contains(&inner), "{inner}");
    }

    #[test]
    fn an_ambient_space_changes_no_distance_and_noise_adds_to_the_same_points() {
        let plain = manifold(Shape::Ball, 3).points(50);
        let turned = Manifold::new(Shape::Ball, 3, Some(40), 0.0, 3).unwrap().points(50);
        let noisy = Manifold::new(Shape::Ball, 3, Some(40), 1e-3, 3).unwrap().points(50);
        let distance = |points: &Array2<f64>, i: usize, j: usize| {
            let difference = &points.row(i) - &points.row(j);
            difference.dot(&difference).sqrt()
        };
        for i in 1..50 {
            assert!((distance(&plain, 0, i) - distance(&turned, 0, i)).abs() < 1e-12);
        }
        let deviation = (&noisy - &turned).std(0.0);
        assert!((deviation - 1e-3).abs() < 1e-4, "{deviation}");
    }

    #[test]
    fn more_points_begin_with_the_same_ones() {
        let manifold = Manifold::new(Shape::Nonlinear, 4, None, 0.1, 9).unwrap();
        let many = manifold.points(3000);
        assert_eq!(many.slice(s![..1500, ..]), manifold.points(1500));
        let pieces: Vec<_> = manifold.pieces(3000).collect();
        let views: Vec<_> = pieces.iter().map(Array2::view).collect();
        assert_eq!(ndarray::concatenate(Axis(0), &views).unwrap(), many);
        assert_ne!(Manifold::new(Shape::Nonlinear, 4, None, 0.1, 8).unwrap().points(10), manifold.points(10));
    }

    #[test]
    fn what_does_not_exist_is_an_error() {
        let error = |shape, dimension, columns, noise| {
            Manifold::new(shape, dimension, columns, noise, 0).unwrap_err().to_string()
        };
        insta::assert_snapshot!(error(Shape::Moebius, 3, None, 0.0), @"a moebius of dimension 3 does not exist; it has dimension 2");
        insta::assert_snapshot!(error(Shape::Ball, 0, None, 0.0), @"a ball of dimension 0 does not exist; give at least 1");
        insta::assert_snapshot!(error(Shape::Sphere, 3, Some(3), 0.0), @"a sphere of dimension 3 needs 4 columns, 3 were asked for; give at least as many");
        insta::assert_snapshot!(error(Shape::Ball, 3, None, -1.0), @"the noise is -1; give its standard deviation, 0 or more");
        insta::assert_snapshot!("torus".parse::<Shape>().unwrap_err(), @r#"unknown manifold "torus"; use sphere, ball, cube, gaussian, swiss-roll, moebius, affine or nonlinear"#);
    }
}
