//! A few orthonormal axes along which the points vary most, by one step of subspace iteration (Halko, Martinsson and Tropp
//! 2011, section 4.5) on a sample. They need not be the principal axes: any orthonormal axes give valid bounds, good ones give
//! narrow bounds.

use ndarray::{Array2, ArrayView2, Axis};
use rayon::prelude::*;

pub(super) struct PrincipalAxes {
    /// `[count, columns]`, roughly by decreasing variance. Where the points span fewer dimensions, the rest are zeros.
    pub values: Array2<f32>,
    /// |VVᵀ − 1|, Frobenius norm, of the axes that are not zero: by how much they fail to be orthonormal.
    pub defect: f64,
}

impl PrincipalAxes {
    /// Axes of a sample `[rows, columns]` of centred points; `None` where they cannot be made orthonormal, or where the
    /// sample has fewer than `count` rows.
    pub fn of(sample: ArrayView2<'_, f32>, count: usize) -> Option<PrincipalAxes> {
        let step = sample.nrows() / count;
        if step == 0 {
            return None;
        }
        // Starting from sample rows: they already lie in the space that the axes should span.
        let start = sample.slice(ndarray::s![..step * count; step, ..]);
        let axes = orthonormal(&sample.dot(&start.t()).t().dot(&sample));
        let defect = defect(axes.view());
        (defect < 1e-3).then_some(PrincipalAxes { values: axes, defect })
    }
}

/// Rows that span the same space as the given ones, orthonormal to float32 precision: with VVᵀ = LLᵀ these are L⁻¹V. A row
/// that depends on earlier ones becomes zero.
fn orthonormal(rows: &Array2<f32>) -> Array2<f32> {
    let mut wide = rows.mapv(f64::from);
    // The second pass removes the rounding error that the first leaves.
    for _ in 0..2 {
        let (factor, independent) = cholesky(wide.dot(&wide.t()));
        // Columns are independent of each other.
        let mut columns: Vec<_> = wide.axis_chunks_iter_mut(Axis(1), 64).collect();
        columns.par_iter_mut().for_each(|columns| {
            for row in 0..factor.nrows() {
                let (above, mut below) = columns.view_mut().split_at(Axis(0), row);
                let mut own = below.row_mut(0);
                if !independent[row] {
                    own.fill(0.0);
                    continue;
                }
                for (other, &weight) in above.rows().into_iter().zip(factor.row(row)) {
                    own.scaled_add(-weight, &other);
                }
                own /= factor[[row, row]];
            }
        });
    }
    wide.mapv(|value| value as f32)
}

/// The lower triangular factor, and which rows are independent of earlier ones; the rows and columns of the others are not used.
fn cholesky(mut matrix: Array2<f64>) -> (Array2<f64>, Vec<bool>) {
    let mut independent = vec![true; matrix.nrows()];
    for row in 0..matrix.nrows() {
        let own = matrix[[row, row]];
        for column in 0..row {
            let (left, right) = (matrix.slice(ndarray::s![row, ..column]), matrix.slice(ndarray::s![column, ..column]));
            let rest = matrix[[row, column]] - left.dot(&right);
            matrix[[row, column]] = if independent[column] { rest / matrix[[column, column]] } else { 0.0 };
        }
        let left = matrix.slice(ndarray::s![row, ..row]);
        let rest = own - left.dot(&left);
        independent[row] = rest > 1e-15 * own;
        if independent[row] {
            matrix[[row, row]] = rest.sqrt();
        } else {
            matrix.row_mut(row).fill(0.0);
        }
    }
    (matrix, independent)
}

fn defect(axes: ArrayView2<'_, f32>) -> f64 {
    let wide = axes.mapv(f64::from);
    let products = wide.dot(&wide.t());
    let squares = products.indexed_iter().map(|((row, column), &product)| {
        let off = if row == column && product != 0.0 { product - 1.0 } else { product };
        off * off
    });
    // The rounding of this sum itself is far below this share.
    squares.sum::<f64>().sqrt() * (1.0 + 1e-6) + 1e-12
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_orthonormal_and_hold_most_of_the_variance() {
        let mut state = 7_u64;
        let mut draw = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        // Ten strong directions that are not columns, plus a little of every direction.
        let directions = Array2::from_shape_simple_fn((10, 120), &mut draw);
        let weights = Array2::from_shape_simple_fn((600, 10), &mut draw);
        let sample = weights.dot(&directions) + Array2::from_shape_simple_fn((600, 120), || 0.05 * draw());
        let axes = PrincipalAxes::of(sample.view(), 48).unwrap();
        assert_eq!(axes.values.dim(), (48, 120));
        assert!(axes.defect < 1e-5, "{}", axes.defect);
        let total = sample.iter().map(|v| v * v).sum::<f32>();
        let leading = sample.dot(&axes.values.slice(ndarray::s![..10, ..]).t());
        let held = leading.iter().map(|v| v * v).sum::<f32>() / total;
        assert!(held > 0.97, "{held}");
    }

    #[test]
    fn points_in_fewer_dimensions_have_fewer_axes() {
        let plane = Array2::from_shape_fn((200, 60), |(row, column)| match column {
            0 => row as f32,
            1 => ((row * row) % 83) as f32,
            _ => 0.0,
        });
        let axes = PrincipalAxes::of(plane.view(), 48).unwrap();
        assert!(axes.defect < 1e-5, "{}", axes.defect);
        assert_eq!(axes.values.rows().into_iter().filter(|axis| axis.iter().any(|&v| v != 0.0)).count(), 2);
    }
}
