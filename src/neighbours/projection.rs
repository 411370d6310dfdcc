//! Vectors with fewer coordinates that are never farther apart than the points.
//!
//! With orthonormal axes V and ρ(x) = |x − VᵀVx|, the length of a point's component orthogonal to the axes,
//!
//! ```text
//! |x − y|² = |Vx − Vy|² + |(x − VᵀVx) − (y − VᵀVy)|² ≥ |Vx − Vy|² + (ρ(x) − ρ(y))²,
//! ```
//!
//! so the vectors (Vx, ρ(x)) may replace the points wherever a pair is to be excluded. Activations are far from isotropic: a
//! third of the coordinates separates most pairs. Where that does not pay, all coordinates are kept. The rounding error of a
//! vector is bounded, row by row: `| |u(x) − u(y)| − d | ≤ error(x) + error(y)` for a `d ≤ |x − y|`.

use ndarray::{Array2, ArrayView2};

use super::Scalar;
use super::exact_distance::Points;
use super::normalization::{Centring, square};
use super::principal_axes::PrincipalAxes;
use super::random_rotation::RandomRotation;
use super::simd::int8_dot::{BLOCK, GROUP};
use super::simd::projection_gemm::{self, AXES, products};

/// u, the largest relative error of one rounding to float32.
const UNIT: f64 = f32::EPSILON as f64 / 2.0;
/// Squares smaller than this may be lost to underflow, per column.
const UNDERFLOW: f64 = f32::MIN_POSITIVE as f64;
/// Number of coordinates by which points are ordered.
pub(super) const LEADING: usize = 16;

pub(super) struct Projection<'a, T> {
    points: &'a Points<'a, T>,
    centring: &'a Centring,
    axes: Option<Packed>,
    rotation: RandomRotation,
    /// Coordinates of a vector, padded with zeros to a multiple of [`GROUP`].
    pub width: usize,
    /// Columns with the largest variation, used where there are no axes.
    widest: Vec<usize>,
}

/// Axes in the layout of the matrix product.
struct Packed {
    kernel: projection_gemm::Kernel,
    values: Vec<f32>,
    count: usize,
    defect: f64,
}

impl Packed {
    fn of(axes: &PrincipalAxes, count: usize, kernel: projection_gemm::Kernel) -> Self {
        let columns = axes.values.ncols();
        let mut values = vec![0.0; count * columns];
        for ((row, column), &value) in axes.values.slice(ndarray::s![..count, ..]).indexed_iter() {
            values[kernel.place(columns, row, column)] = value;
        }
        Self { kernel, values, count, defect: axes.defect }
    }

    /// Bound on the total error of the coordinates of a vector of length 1.
    fn error(&self, columns: usize) -> f64 {
        let roundings = self.kernel.roundings(columns) as f64 * UNIT;
        roundings / (1.0 - roundings) * (self.count as f64).sqrt() * (1.0 + self.defect)
    }
}

/// Buffers for one block.
#[derive(Default)]
pub(super) struct Space {
    /// `[BLOCK · columns]`: centred rows in the layout of the matrix product.
    rows: Vec<f32>,
    /// `[BLOCK, count]`: coordinates along the axes.
    coordinates: Vec<f32>,
    /// `[BLOCK]`: squared lengths of the centred rows.
    squares: Vec<f64>,
    mixed: Vec<f32>,
}

impl<'a, T: Scalar> Projection<'a, T> {
    /// Coordinates along `count − 1` axes, and the length of the remainder.
    pub fn with_axes(
        points: &'a Points<'a, T>,
        centring: &'a Centring,
        axes: &PrincipalAxes,
        count: usize,
        kernel: projection_gemm::Kernel,
    ) -> Self {
        let axes = Packed::of(axes, count, kernel);
        Self {
            points,
            centring,
            axes: Some(axes),
            rotation: RandomRotation::new(count),
            width: count,
            widest: Vec::new(),
        }
    }

    /// Vectors of all coordinates.
    pub fn whole(points: &'a Points<'a, T>, centring: &'a Centring) -> Self {
        let columns = points.columns();
        let sample = centred_rows(points, centring, &spread(points.rows(), 1024));
        let mut widest: Vec<(f32, usize)> = (0..columns)
            .map(|column| (sample.column(column).iter().map(|value| value * value).sum(), column))
            .collect();
        widest.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let widest = widest.into_iter().take(LEADING).map(|(_, column)| column).collect();
        let width = columns.next_multiple_of(GROUP);
        Self { points, centring, axes: None, rotation: RandomRotation::new(columns), width, widest }
    }

    /// Vectors of all coordinates of the same points.
    pub fn all_coordinates(&self) -> Projection<'a, T> {
        Self::whole(self.points, self.centring)
    }

    /// Whether the vectors keep distances, rather than only never increase them.
    pub fn keeps_distances(&self) -> bool {
        self.axes.is_none()
    }

    /// Number of coordinates by which points are ordered.
    pub fn leading_columns(&self) -> usize {
        if self.axes.is_some() { LEADING } else { self.widest.len() }
    }

    /// Writes the leading coordinates of rows `first..` into `values` `[rows, leading_columns]`, and the distances of these
    /// rows from the centre into `distances`; at most [`BLOCK`] rows.
    pub fn leading(&self, first: usize, values: &mut [f32], distances: &mut [f64], space: &mut Space) {
        let columns = self.leading_columns();
        match &self.axes {
            None => {
                space.mixed.resize(self.points.columns(), 0.0);
                for (row, (values, distance)) in values.chunks_exact_mut(columns).zip(distances).enumerate() {
                    *distance = self.centring.centre(self.points.row(first + row), &mut space.mixed).sqrt();
                    values.iter_mut().zip(&self.widest).for_each(|(value, &column)| *value = space.mixed[column]);
                }
            }
            Some(axes) => {
                let rows: Vec<u32> = (first..first + values.len() / columns).map(|row| row as u32).collect();
                self.centre(&rows, axes.kernel, space);
                let axes_values = &axes.values[..AXES * self.points.columns()];
                space.coordinates.resize(BLOCK * AXES, 0.0);
                products(axes.kernel, &space.rows, axes_values, self.points.columns(), &mut space.coordinates);
                for (values, found) in values.chunks_exact_mut(columns).zip(space.coordinates.chunks_exact(AXES)) {
                    values.copy_from_slice(&found[..columns]);
                }
                distances.iter_mut().zip(&space.squares).for_each(|(distance, square)| *distance = square.sqrt());
            }
        }
    }

    /// By how much a gap between leading coordinates may be overestimated for points at this distance from the centre.
    pub fn leading_error(&self, distance: f64) -> f64 {
        let product = self.axes.as_ref().map_or(0.0, |axes| axes.error(self.points.columns()) + axes.defect);
        distance * (product + 4.0 * UNIT) + self.underflow()
    }

    fn underflow(&self) -> f64 {
        (self.points.columns() as f64 * UNDERFLOW).sqrt()
    }

    /// Writes centred rows into `space.rows`, and their squared lengths into `space.squares`.
    fn centre(&self, rows: &[u32], kernel: projection_gemm::Kernel, space: &mut Space) {
        let columns = self.points.columns();
        space.rows.clear();
        space.rows.resize(BLOCK * columns, 0.0);
        space.squares.clear();
        space.mixed.resize(columns, 0.0);
        for (place, &row) in rows.iter().enumerate() {
            space.squares.push(self.centring.centre(self.points.row(row as usize), &mut space.mixed));
            for (column, &value) in space.mixed.iter().enumerate() {
                space.rows[kernel.place(columns, place, column)] = value;
            }
        }
    }

    /// Writes the vectors of at most [`BLOCK`] rows into `vectors` `[BLOCK, width]`, row-major, and their errors into `errors`.
    pub fn vectors(&self, rows: &[u32], vectors: &mut Vec<f32>, errors: &mut Vec<f64>, space: &mut Space) {
        let (columns, width) = (self.points.columns(), self.width);
        vectors.clear();
        vectors.resize(BLOCK * width, 0.0);
        errors.clear();
        let rotation = RandomRotation::relative_error(self.width);
        match &self.axes {
            None => {
                for (&row, vector) in rows.iter().zip(vectors.chunks_exact_mut(width)) {
                    let length = self.centring.centre(self.points.row(row as usize), &mut vector[..columns]).sqrt();
                    self.rotation.apply(&mut vector[..columns], &mut space.mixed);
                    errors.push(length * (2.0 * UNIT + rotation) + self.underflow());
                }
            }
            Some(axes) => {
                self.centre(rows, axes.kernel, space);
                space.coordinates.resize(BLOCK * width, 0.0);
                products(axes.kernel, &space.rows, &axes.values, columns, &mut space.coordinates);
                // V/√(1 + defect) makes no vector longer.
                let shrink = (1.0 / (1.0 + axes.defect).sqrt()) as f32;
                let product = axes.error(columns);
                let both = space.coordinates.chunks_exact(width).zip(vectors.chunks_exact_mut(width));
                for ((found, vector), &whole) in both.zip(&space.squares) {
                    let (along, length) = (square(&found[..width - 1]), whole.sqrt());
                    let rest = (whole - along).max(0.0);
                    // The part along the axes is known up to the errors of the matrix product and of the axes.
                    let doubt = whole * (2.5 * product + 2.5 * axes.defect + 1e-12);
                    let doubt = if rest > doubt { doubt / rest.sqrt() } else { doubt.sqrt() };
                    for (to, value) in vector.iter_mut().zip(&found[..width - 1]) {
                        *to = value * shrink;
                    }
                    vector[width - 1] = rest.sqrt() as f32;
                    let length_of_vector = square(vector).sqrt();
                    self.rotation.apply(vector, &mut space.mixed);
                    let rounding = length * (4.0 * UNIT + product) + length_of_vector * (4.0 * UNIT + rotation);
                    errors.push(rounding + doubt + self.underflow());
                }
            }
        }
    }
}

/// At most `wanted` row indices, evenly spaced.
pub(super) fn spread(rows: usize, wanted: usize) -> Vec<usize> {
    (0..rows).step_by(rows.div_ceil(wanted)).collect()
}

/// The given rows, centred.
pub(super) fn centred_rows<T: Scalar>(points: &Points<'_, T>, centring: &Centring, rows: &[usize]) -> Array2<f32> {
    let mut values = Array2::zeros((rows.len(), points.columns()));
    for (mut to, &row) in values.rows_mut().into_iter().zip(rows) {
        centring.centre(points.row(row), to.as_slice_mut().expect("rows are contiguous"));
    }
    values
}

/// For every number of axes, the share of pairs that the bounds do not exclude: `near[q]` is the distance that counts for
/// query `q`, `vectors` are coordinates along all axes, `squares` the squared lengths of the full vectors.
pub(super) fn shares(
    queries: (ArrayView2<'_, f32>, &[f64]),
    others: (ArrayView2<'_, f32>, &[f64]),
    near: &[f64],
    counts: &[usize],
    slack: f64,
) -> Vec<f64> {
    let mut left = vec![0u64; counts.len()];
    let rest = |coordinates: &[f32], whole: f64| -> Vec<f64> {
        let along = counts.iter().map(|&count| square(&coordinates[..count - 1]));
        along.map(|along| (whole - along).max(0.0).sqrt()).collect()
    };
    let rests: Vec<Vec<f64>> = others
        .0
        .rows()
        .into_iter()
        .zip(others.1)
        .map(|(row, &whole)| rest(row.as_slice().expect("rows"), whole))
        .collect();
    for ((query, &whole), &near) in queries.0.rows().into_iter().zip(queries.1).zip(near) {
        let query = query.as_slice().expect("rows are contiguous");
        let own = rest(query, whole);
        for (other, rests) in others.0.rows().into_iter().zip(&rests) {
            let other = other.as_slice().expect("rows are contiguous");
            let (mut sum, mut done) = (0.0f32, 0);
            for (at, &count) in counts.iter().enumerate() {
                let pairs = query[done..count - 1].iter().zip(&other[done..count - 1]);
                sum += pairs.map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
                done = count - 1;
                let bound = (f64::from(sum) + (own[at] - rests[at]).powi(2)).sqrt();
                left[at] += u64::from(bound - slack * whole.sqrt() <= near);
            }
        }
    }
    let pairs = (queries.0.nrows() * others.0.nrows()) as f64;
    left.into_iter().map(|left| left as f64 / pairs).collect()
}
