//! Base weights without the part that some initializations move into the factors.
//!
//! PEFT takes that part out of the base when it makes the adapter, and again when it loads it: the merged weight is
//! `W − part(W) + scaling · B · A`, where `part` depends on `W`, the rank and the scaling alone.

use nalgebra::DMatrix;
use ndarray::{Array2, ArrayView2};

use crate::adapter::Initialization;

/// Relative distance of two singular values below which float32 does not tell them apart.
const SAME: f64 = 1e-6;

/// The weight `[out, in]` without its part, computed in float64; `None` where all of it stays.
///
/// # Errors
/// When the part cannot be told, as a sentence.
pub(super) fn without_initial(
    weight: ArrayView2<f32>,
    (rank, scaling): (usize, f64),
    initialization: Initialization,
) -> Result<Option<Array2<f32>>, String> {
    let part = match initialization {
        // LoRA-GA: PEFT loads the factors over the base as it is.
        Initialization::Plain | Initialization::LoraGa => return Ok(None),
        Initialization::Pissa => largest_singular(weight, rank)?,
        // Unlike PiSSA's factors, PEFT's are not divided by the scaling first.
        Initialization::Olora => first_columns(weight, rank)? * scaling,
    };
    let (rows, columns) = weight.dim();
    Ok(Some(Array2::from_shape_fn((rows, columns), |(i, j)| (f64::from(weight[(i, j)]) - part[(i, j)]) as f32)))
}

/// PiSSA (Meng, Wang, Zhang 2024): `U_r Σ_r V_rᵀ`, the `rank` largest singular values.
fn largest_singular(weight: ArrayView2<f32>, rank: usize) -> Result<DMatrix<f64>, String> {
    let (rows, columns) = weight.dim();
    let full = DMatrix::from_fn(rows, columns, |i, j| f64::from(weight[(i, j)]));
    if rank >= rows.min(columns) {
        return Ok(full);
    }
    let wide = rows <= columns;
    let gram = if wide { &full * full.transpose() } else { full.transpose() * &full };
    let decomposed = gram.symmetric_eigen();
    let mut order: Vec<usize> = (0..decomposed.eigenvalues.len()).collect();
    order.sort_by(|&a, &b| decomposed.eigenvalues[b].total_cmp(&decomposed.eigenvalues[a]));
    let singular = |place: usize| decomposed.eigenvalues[order[place]].max(0.0).sqrt();
    if singular(rank - 1) - singular(rank) <= SAME * singular(0) {
        return Err(format!(
            "has equal singular values at place {rank}: which of them PiSSA took out of it is not determined; save the adapter \
             with `path_initial_model_for_weight_conversion`"
        ));
    }
    let vectors = DMatrix::from_fn(order.len(), rank, |i, j| decomposed.eigenvectors[(i, order[j])]);
    Ok(match wide {
        true => &vectors * (vectors.transpose() * &full),
        false => (&full * &vectors) * vectors.transpose(),
    })
}

/// OLoRA (Büyükakyüz 2024): `Q_r R_r` of the QR decomposition, which is the projection onto the first `rank` columns.
fn first_columns(weight: ArrayView2<f32>, rank: usize) -> Result<DMatrix<f64>, String> {
    let (rows, columns) = weight.dim();
    let full = DMatrix::from_fn(rows, columns, |i, j| f64::from(weight[(i, j)]));
    let rank = rank.min(rows).min(columns);
    let mut basis = full.columns(0, rank).into_owned();
    for place in 0..rank {
        let length = basis.column(place).norm();
        // Twice is enough (Kahan and Parlett).
        for _ in 0..2 {
            for before in 0..place {
                let share = basis.column(before).dot(&basis.column(place));
                let known = basis.column(before).into_owned();
                basis.column_mut(place).axpy(-share, &known, 1.0);
            }
        }
        let rest = basis.column(place).norm();
        if rest <= SAME * length || length == 0.0 {
            return Err(format!(
                "has linearly dependent columns among its first {rank}: what OLoRA took out of it is not determined; save the \
                 adapter with `path_initial_model_for_weight_conversion`"
            ));
        }
        basis.column_mut(place).unscale_mut(rest);
    }
    Ok(&basis * (basis.transpose() * &full))
}
