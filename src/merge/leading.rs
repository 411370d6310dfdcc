//! The largest eigenvalues of a symmetric matrix and their vectors, to the precision of float64, without computing the others.
//!
//! Householder's reflections make the matrix tridiagonal, bisection counts out the largest eigenvalues of that, and inverse
//! iteration gives their vectors (Golub and Van Loan, *Matrix Computations*, 8.3 to 8.5). A full decomposition takes twice as
//! long and cannot be interrupted.

use nalgebra::{DMatrix, DVector};

use crate::progress::{Cancelled, Observer};

/// The largest eigenvalues, one more than the vectors, in descending order, and an orthonormal basis for all but the last,
/// `[n, count]`.
pub(super) struct Leading {
    pub values: Vec<f64>,
    pub vectors: DMatrix<f64>,
}

/// Computes `count` vectors and `count + 1` values of a symmetric matrix larger than `count`.
///
/// # Errors
/// If the user asks to stop.
pub(super) fn leading(matrix: DMatrix<f64>, count: usize, observer: &dyn Observer) -> Result<Leading, Cancelled> {
    let (tridiagonal, reflections) = reduce(matrix.clone(), observer)?;
    let values: Vec<f64> = (0..=count).map(|place| tridiagonal.eigenvalue(place)).collect();
    let mut vectors = DMatrix::zeros(matrix.nrows(), count);
    for (place, value) in values.iter().enumerate().take(count) {
        observer.check()?;
        let Some(vector) = tridiagonal.eigenvector(*value, &vectors.columns(0, place).into_owned()) else {
            // The eigenvalues are too close together for inverse iteration.
            return Ok(all(matrix, count));
        };
        vectors.set_column(place, &vector);
    }
    // Applied from the last to the first, the reflections give the vectors of the matrix itself.
    for place in (0..reflections.ncols()).rev() {
        let mirror = reflections.view((place + 1, place), (reflections.nrows() - place - 1, 1));
        let mut below = vectors.rows_mut(place + 1, mirror.nrows());
        let share = mirror.tr_mul(&below);
        below.gemm(-2.0, &mirror, &share, 1.0);
    }
    Ok(Leading { values, vectors })
}

/// The plain way: a full decomposition.
fn all(matrix: DMatrix<f64>, count: usize) -> Leading {
    let found = matrix.symmetric_eigen();
    let mut order: Vec<usize> = (0..found.eigenvalues.len()).collect();
    order.sort_by(|&a, &b| found.eigenvalues[b].total_cmp(&found.eigenvalues[a]));
    Leading {
        values: order.iter().take(count + 1).map(|&place| found.eigenvalues[place]).collect(),
        vectors: DMatrix::from_fn(order.len(), count, |i, j| found.eigenvectors[(i, order[j])]),
    }
}

/// A symmetric tridiagonal matrix.
struct Tridiagonal {
    diagonal: Vec<f64>,
    /// The elements beside the diagonal.
    beside: Vec<f64>,
    /// Upper bound of the absolute eigenvalues.
    bound: f64,
}

/// The tridiagonal matrix, and the unit vectors of the reflections below the diagonal, one per column.
fn reduce(mut matrix: DMatrix<f64>, observer: &dyn Observer) -> Result<(Tridiagonal, DMatrix<f64>), Cancelled> {
    let size = matrix.nrows();
    let mut beside = vec![0.0; size.saturating_sub(1)];
    let mut product = DVector::zeros(size);
    for (place, beside) in beside.iter_mut().enumerate() {
        observer.check()?;
        let rest = size - place - 1;
        let (mut column, mut right) = matrix.columns_range_pair_mut(place..place + 1, place + 1..size);
        let mut mirror = column.view_mut((place + 1, 0), (rest, 1));
        // With the sign that avoids cancellation.
        *beside = -mirror.norm().copysign(mirror[0]);
        mirror[0] -= *beside;
        let length = mirror.norm();
        if length == 0.0 {
            continue;
        }
        mirror.unscale_mut(length);
        let mirror = mirror.column(0);
        let mut below = right.view_mut((place + 1, 0), (rest, rest));
        let mut product = product.rows_mut(0, rest);
        product.hegemv(2.0, &below, &mirror, 0.0);
        let share = mirror.dot(&product);
        product.axpy(-share, &mirror, 1.0);
        below.hegerc(-1.0, &mirror, &product, 1.0);
        below.hegerc(-1.0, &product, &mirror, 1.0);
    }
    let diagonal: Vec<f64> = (0..size).map(|place| matrix[(place, place)]).collect();
    let near = |place: usize| beside.get(place).map_or(0.0, |value| value.abs());
    let reach = |place: usize| diagonal[place].abs() + near(place) + if place > 0 { near(place - 1) } else { 0.0 };
    let bound = (0..size).map(reach).fold(0.0, f64::max);
    let reflections = matrix.columns(0, beside.len()).into_owned();
    Ok((Tridiagonal { diagonal, beside, bound }, reflections))
}

impl Tridiagonal {
    /// Magnitude that is negligible beside the eigenvalues.
    fn nothing(&self) -> f64 {
        (self.bound * f64::EPSILON).max(f64::MIN_POSITIVE)
    }

    /// Number of eigenvalues that are larger (Sturm's sequence).
    fn larger(&self, than: f64) -> usize {
        let mut count = 0;
        let mut pivot = 1.0;
        for (place, diagonal) in self.diagonal.iter().enumerate() {
            let beside = if place > 0 { self.beside[place - 1] } else { 0.0 };
            pivot = diagonal - than - beside * beside / pivot;
            if pivot.abs() < self.nothing() {
                pivot = -self.nothing();
            }
            count += usize::from(pivot > 0.0);
        }
        count
    }

    /// The eigenvalue with this index, counted from the largest.
    fn eigenvalue(&self, place: usize) -> f64 {
        let (mut low, mut high) = (-self.bound, self.bound);
        while high - low > 2.0 * self.nothing() {
            let middle = low + (high - low) / 2.0;
            if middle <= low || middle >= high {
                break;
            }
            if self.larger(middle) > place { low = middle } else { high = middle }
        }
        low + (high - low) / 2.0
    }

    /// A unit vector for an eigenvalue, orthogonal to the previous ones; `None` where inverse iteration does not find one.
    fn eigenvector(&self, value: f64, before: &DMatrix<f64>) -> Option<DVector<f64>> {
        const TRIES: usize = 6;
        let size = self.diagonal.len();
        let limit = 1e2 * (size as f64).sqrt() * self.nothing();
        // A pseudo-random start: no vector of a weight looks like it.
        let mut state = before.ncols() as u64 + 1;
        let mut vector = DVector::from_fn(size, |_, _| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64 - 0.5
        });
        for _ in 0..TRIES {
            self.solve(value, &mut vector);
            for _ in 0..2 {
                let share = before.tr_mul(&vector);
                vector.gemv(-1.0, before, &share, 1.0);
            }
            let length = vector.norm();
            if !(length.is_finite() && length > 0.0) {
                return None;
            }
            vector.unscale_mut(length);
            if self.error(value, &vector) <= limit {
                return Some(vector);
            }
        }
        None
    }

    /// The norm of `T x − value x`.
    fn error(&self, value: f64, vector: &DVector<f64>) -> f64 {
        let at = |place: usize| {
            let left = if place > 0 { self.beside[place - 1] * vector[place - 1] } else { 0.0 };
            let right = self.beside.get(place).map_or(0.0, |beside| beside * vector[place + 1]);
            left + (self.diagonal[place] - value) * vector[place] + right
        };
        (0..vector.len()).map(|place| at(place).powi(2)).sum::<f64>().sqrt()
    }

    /// Solves `(T − value) x = b` in place, by elimination with row exchanges.
    fn solve(&self, value: f64, vector: &mut DVector<f64>) {
        let size = self.diagonal.len();
        // For each row, the diagonal element and the two after it.
        let mut rows: Vec<[f64; 3]> = Vec::with_capacity(size);
        let beside = |place: usize| self.beside.get(place).copied().unwrap_or(0.0);
        let mut row = [self.diagonal[0] - value, beside(0), 0.0];
        for place in 1..size {
            let mut next = [beside(place - 1), self.diagonal[place] - value, beside(place)];
            if next[0].abs() > row[0].abs() {
                (row, next) = (next, row);
                vector.swap_rows(place - 1, place);
            }
            let pivot = self.pivot(row[0]);
            let factor = next[0] / pivot;
            vector[place] -= factor * vector[place - 1];
            rows.push([pivot, row[1], row[2]]);
            row = [next[1] - factor * row[1], next[2] - factor * row[2], 0.0];
        }
        rows.push([self.pivot(row[0]), 0.0, 0.0]);
        for place in (0..size).rev() {
            let [pivot, first, second] = rows[place];
            let behind = |by: usize| vector.get(place + by).copied().unwrap_or(0.0);
            vector[place] = (vector[place] - first * behind(1) - second * behind(2)) / pivot;
        }
    }

    fn pivot(&self, value: f64) -> f64 {
        if value.abs() < self.nothing() { self.nothing() } else { value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    fn noise(rows: usize, columns: usize, seed: u64) -> DMatrix<f64> {
        let mut state = seed;
        DMatrix::from_fn(rows, columns, |_, _| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64 - 0.5
        })
    }

    /// A symmetric matrix with these eigenvalues.
    fn with_values(values: &[f64], seed: u64) -> DMatrix<f64> {
        let basis = noise(values.len(), values.len(), seed).qr().q();
        &basis * DMatrix::from_diagonal(&DVector::from_row_slice(values)) * basis.transpose()
    }

    fn agrees_with_the_plain_way(matrix: DMatrix<f64>, count: usize) {
        let (found, plain) = (leading(matrix.clone(), count, &Silent).unwrap(), all(matrix.clone(), count));
        let size = matrix.norm();
        for (one, other) in found.values.iter().zip(&plain.values) {
            assert!((one - other).abs() <= 1e-13 * size, "{one} {other}");
        }
        assert_eq!(found.values.len(), count + 1);
        let identity = DMatrix::identity(count, count);
        assert!((found.vectors.tr_mul(&found.vectors) - identity).norm() < 1e-12);
        let gap = plain.values[count - 1] - plain.values[count];
        let projection = |vectors: &DMatrix<f64>| vectors * vectors.transpose();
        let difference = (projection(&found.vectors) - projection(&plain.vectors)).norm();
        assert!(difference * gap <= 1e-12 * size, "{difference:e} at a gap of {gap:e}");
    }

    #[test]
    fn the_leading_vectors_are_those_of_a_full_decomposition() {
        for seed in 1..12 {
            let size = 3 + 4 * seed as usize;
            let weight = noise(size, size + 5, seed);
            for count in [1, 2, size / 2, size - 1] {
                agrees_with_the_plain_way(&weight * weight.transpose(), count);
            }
        }
        // Close together, equal, zero, and of very different magnitudes.
        let values: Vec<f64> = (0..30).map(|i| 1.0 - f64::from(i) * 1e-7).collect();
        agrees_with_the_plain_way(with_values(&values, 1), 7);
        let values: Vec<f64> = (0..30).map(|i| f64::from(3 - i / 10)).collect();
        for count in [10, 20] {
            agrees_with_the_plain_way(with_values(&values, 2), count);
        }
        let values: Vec<f64> = (0..30).map(|i| 0.1f64.powi(i)).collect();
        agrees_with_the_plain_way(with_values(&values, 3), 6);
        agrees_with_the_plain_way(DMatrix::from_diagonal(&DVector::from_fn(20, |i, _| i as f64)), 4);
        let rank_one = DVector::from_fn(20, |i, _| i as f64 + 1.0);
        agrees_with_the_plain_way(&rank_one * rank_one.transpose(), 1);
        let none = leading(DMatrix::zeros(5, 5), 2, &Silent).unwrap();
        assert!(none.values.iter().all(|value| value.abs() < 1e-300), "{:?}", none.values);
    }
}
