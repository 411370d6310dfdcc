//! The parameters of a search: its kernels, and how many coordinates replace the points, chosen from a sample.

use rayon::prelude::*;

use super::exact_distance::{Best, Points};
use super::normalization::Centring;
use super::principal_axes::PrincipalAxes;
use super::projection::{Projection, centred_rows, shares, spread};
use super::search::candidates;
use super::simd::int8_dot::BLOCK;
use super::simd::isa::Isa;
use super::simd::projection_gemm::{self, AXES};
use super::{NeighbourError, Scalar};

/// With fewer columns than this, all of them are compared.
const FEW_COLUMNS: usize = 96;
/// Rows from which the axes are found and their number is chosen.
const SAMPLE: usize = 1024;
const QUERIES: usize = 16;

/// How the search is done; the neighbours found do not depend on it.
#[derive(Debug, Clone, Copy)]
pub(super) struct SearchPlan {
    pub codes: Isa,
    pub products: projection_gemm::Kernel,
    pub coordinates: Coordinates,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coordinates {
    /// As many as the sample suggests.
    Chosen,
    /// All coordinates.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests choose it"))]
    Whole,
    /// Coordinates along one axis fewer than this number, and the length of the remainder.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests choose it"))]
    Along(usize),
}

impl SearchPlan {
    /// The fastest plan on this processor, or with the instruction set that the environment names.
    pub fn best() -> Result<Self, NeighbourError> {
        let (codes, products) = (Isa::chosen()?, projection_gemm::Kernel::detect());
        Ok(Self { codes, products, coordinates: Coordinates::Chosen })
    }

    /// The vectors that replace the points in a search for `k` neighbours.
    pub fn projection<'a, T: Scalar>(
        self,
        points: &'a Points<'a, T>,
        centring: &'a Centring,
        k: usize,
    ) -> Projection<'a, T> {
        match self.coordinates {
            Coordinates::Chosen => chosen(self, points, centring, k),
            Coordinates::Whole => Projection::whole(points, centring),
            Coordinates::Along(count) => {
                let sample = centred_rows(points, centring, &spread(points.rows(), SAMPLE));
                match PrincipalAxes::of(sample.view(), count) {
                    Some(axes) => Projection::with_axes(points, centring, &axes, count, self.products),
                    None => Projection::whole(points, centring),
                }
            }
        }
    }
}

fn chosen<'a, T: Scalar>(
    plan: SearchPlan,
    points: &'a Points<'a, T>,
    centring: &'a Centring,
    k: usize,
) -> Projection<'a, T> {
    let (rows, columns) = (points.rows(), points.columns());
    let pairs = rows as f64 * rows as f64 / 2.0;
    let counts: Vec<usize> =
        [1, 2, 3, 4, 6].into_iter().map(|n| n * AXES).filter(|&count| 4 * count <= 3 * columns).collect();
    let costs = Costs::of(plan.codes);
    let saved = costs.comparing(columns) - costs.comparing(3 * AXES);
    if columns < FEW_COLUMNS || pairs * saved < costs.choice * columns as f64 {
        return Projection::whole(points, centring);
    }
    let sample = centred_rows(points, centring, &spread(rows, SAMPLE));
    let (Some(&most), true) = (counts.last(), counts.len() > 1) else { return Projection::whole(points, centring) };
    let Some(axes) = PrincipalAxes::of(sample.view(), most) else { return Projection::whole(points, centring) };

    let queries = spread(rows, QUERIES);
    let near = radii(points, &queries, k);
    let query_rows = centred_rows(points, centring, &queries);
    let square = |rows: &ndarray::Array2<f32>| -> Vec<f64> {
        rows.rows().into_iter().map(|row| row.iter().map(|&value| f64::from(value) * f64::from(value)).sum()).collect()
    };
    let (query_squares, squares) = (square(&query_rows), square(&sample));
    let (query_coordinates, coordinates) = (query_rows.dot(&axes.values.t()), sample.dot(&axes.values.t()));
    let left =
        shares((query_coordinates.view(), &query_squares), (coordinates.view(), &squares), &near, &counts, CODES_LOSE);
    let many = k > candidates::FEW;
    let (leaves, longer) = match many {
        true => (WHOLE_LEAVES_OF_MANY, RADIUS_FACTOR_OF_MANY),
        false => (WHOLE_LEAVES, costs.longer(rows)),
    };
    let cost = |coordinates: usize, left: f64, look: f64| pairs * (costs.comparing(coordinates) + left.min(1.0) * look);
    let whole = cost(columns, leaves * k as f64 / rows as f64, look_cost(columns, many));
    let look = look_cost(columns, many || looks_twice(plan.codes, rows, columns));
    let few = counts.iter().zip(&left).map(|(&count, &left)| {
        let turning = rows as f64 * columns as f64 * (count as f64 * TURN_COST + 1.0);
        (cost(count, longer * left, look) + turning, count)
    });
    match few.min_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((cost, count)) if cost < whole => Projection::with_axes(points, centring, &axes, count, plan.products),
        _ => Projection::whole(points, centring),
    }
}

/// By how much more pairs are left by the radii during the search than by the final ones, for many neighbours; used for the
/// choice only, measured with 64 of them among 50,000 points.
const RADIUS_FACTOR_OF_MANY: f64 = 6.0;
/// By how much the codes shorten distances, as a share of the length of a vector; used for the choice only.
const CODES_LOSE: f64 = 0.008;
/// Pairs per neighbour left to be measured when all coordinates are compared; used for the choice only.
const WHOLE_LEAVES: f64 = 12.0;
/// Like [`WHOLE_LEAVES`], where many neighbours are collected by the bounds of their codes.
const WHOLE_LEAVES_OF_MANY: f64 = 3.0;
// Costs are in nanoseconds, measured on one processor per instruction set; only their ratios matter.
/// Cost of projecting one row onto one axis, per column.
const TURN_COST: f64 = 0.02;

/// What an instruction set makes of the work.
struct Costs {
    /// Comparing one pair, besides its coordinates.
    pair: f64,
    /// Comparing one coordinate of one pair.
    coordinate: f64,
    /// Finding axes and trying them, per column; where it says more than that takes, the choice pays only later.
    choice: f64,
    /// By how much more pairs are left by the radii during the search than by the final ones, and how that grows with the
    /// number of blocks: radii start as the distances within a block.
    longer: (f64, f64),
}

impl Costs {
    fn of(isa: Isa) -> Self {
        let (pair, coordinate, choice, longer) = match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => (0.35, 0.0021, 1e5, (1.5, 0.0)),
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => (0.7, 0.0035, 2.5e5, (3.0, 0.5)),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => (1.0, 0.0052, 2.5e5, (3.0, 0.5)),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => (1.0, 0.007, 2.5e5, (3.0, 0.5)),
            Isa::Scalar => (1.5, 0.06, 1e5, (3.0, 0.5)),
        };
        Self { pair, coordinate, choice, longer }
    }

    /// Cost of comparing one pair.
    fn comparing(&self, coordinates: usize) -> f64 {
        self.pair + self.coordinate * coordinates as f64
    }

    fn longer(&self, rows: usize) -> f64 {
        let (factor, power) = self.longer;
        factor * (rows as f64 / BLOCK as f64).powf(power)
    }
}

/// Memory of all coordinates in 12-bit codes, in bytes, up to which they are kept only to look at pairs once more.
const SECOND_LOOK: usize = 1 << 29;

/// Whether pairs that the codes of some coordinates do not exclude are looked at by 12-bit codes of all of them before they
/// are measured. With AVX-512 there are fewer of these pairs, as more coordinates are compared, and it does not pay.
pub(super) fn looks_twice(isa: Isa, rows: usize, columns: usize) -> bool {
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx512 {
        return false;
    }
    let _ = isa;
    3 * rows * columns / 2 <= SECOND_LOOK
}

/// Cost of examining one pair: of measuring it, or of bounding its distance by codes.
fn look_cost(columns: usize, by_codes: bool) -> f64 {
    match by_codes {
        true => 35.0 + 0.025 * columns as f64,
        false => 55.0 + 0.1 * columns as f64,
    }
}

/// The distance from each query row to its k-th neighbour, in scaled units.
fn radii<T: Scalar>(points: &Points<'_, T>, queries: &[usize], k: usize) -> Vec<f64> {
    let nearest = |query: usize| {
        let mut best = Best::new(k);
        for other in (0..points.rows()).filter(|&other| other != query) {
            let radius = best.limit().sqrt();
            if let Some(squared) = points.squared_distance_within(query, other, radius) {
                best.offer(squared, other as u32);
            }
        }
        best.limit().sqrt()
    };
    queries.par_iter().map(|&query| nearest(query)).collect()
}
