//! Base weights without the part that some initializations move into the factors.
//!
//! PEFT takes that part out of the base when it makes the adapter, and again when it loads it: the merged weight is
//! `W − part(W) + scaling · B · A`, where `part` depends on `W`, the rank and the scaling alone.

use nalgebra::DMatrix;
use ndarray::{Array2, ArrayView2};

use super::leading::{Leading, leading};
use crate::adapter::Initialization;
use crate::progress::{Cancelled, Observer};

/// Relative distance of two singular values below which float32 does not distinguish them.
const SAME: f64 = 1e-6;

/// Why there is no part.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(super) enum NoPart {
    /// It cannot be determined; the reason as a sentence.
    #[error("{0}")]
    Undetermined(String),
    /// The user asked to stop.
    #[error("{0}")]
    Cancelled(#[from] Cancelled),
}

/// The part that is taken out of a weight, as two thin matrices: `left · right`, `[out, rank] · [rank, in]`.
#[derive(Debug)]
pub(super) struct Part {
    left: DMatrix<f64>,
    right: DMatrix<f64>,
}

impl Part {
    /// The part of a weight `[out, in]`, computed in float64; `None` where nothing is taken out.
    ///
    /// # Errors
    /// If it cannot be determined, or the user asks to stop: large matrices take minutes.
    pub fn of(
        weight: ArrayView2<f32>,
        (rank, scaling): (usize, f64),
        initialization: Initialization,
        observer: &dyn Observer,
    ) -> Result<Option<Self>, NoPart> {
        let (rows, columns) = weight.dim();
        let full = || DMatrix::from_fn(rows, columns, |i, j| f64::from(weight[(i, j)]));
        match initialization {
            // LoRA-GA: PEFT loads the factors over the unchanged base.
            Initialization::Plain | Initialization::LoraGa => Ok(None),
            Initialization::Pissa => largest_singular(full(), rank, observer).map(Some),
            // Unlike PiSSA's factors, PEFT's are not divided by the scaling first.
            Initialization::Olora => first_columns(full(), rank, observer)
                .map(|part| Some(Part { left: part.left * scaling, right: part.right })),
        }
    }

    /// The weight without this part, rounded once. It is the weight that the part was computed from, or that weight in a coarser
    /// type: what was rounded off is not restored.
    pub fn taken_out_of(&self, weight: ArrayView2<f32>) -> Array2<f32> {
        let part = &self.left * &self.right;
        Array2::from_shape_fn(weight.dim(), |(i, j)| (f64::from(weight[(i, j)]) - part[(i, j)]) as f32)
    }
}

/// PiSSA (Meng, Wang, Zhang 2024): `U_r Σ_r V_rᵀ`, the `rank` largest singular values.
fn largest_singular(full: DMatrix<f64>, rank: usize, observer: &dyn Observer) -> Result<Part, NoPart> {
    let (rows, columns) = full.shape();
    let wide = rows <= columns;
    if rank >= rows.min(columns) {
        return Ok(match wide {
            true => Part { left: DMatrix::identity(rows, rows), right: full },
            false => Part { left: full, right: DMatrix::identity(columns, columns) },
        });
    }
    let gram = if wide { &full * full.transpose() } else { full.transpose() * &full };
    let Leading { values, vectors } = leading(gram, rank, observer)?;
    let singular = |place: usize| values[place].max(0.0).sqrt();
    if singular(rank - 1) - singular(rank) <= SAME * singular(0) {
        return Err(NoPart::Undetermined(format!(
            "has equal singular values at place {rank}: which of them PiSSA took out of it is not determined; save the adapter \
             with `path_initial_model_for_weight_conversion`"
        )));
    }
    Ok(match wide {
        true => Part { right: vectors.transpose() * &full, left: vectors },
        false => Part { left: &full * &vectors, right: vectors.transpose() },
    })
}

/// OLoRA (Büyükakyüz 2024): `Q_r R_r` of the QR decomposition, which is the projection onto the first `rank` columns.
fn first_columns(full: DMatrix<f64>, rank: usize, observer: &dyn Observer) -> Result<Part, NoPart> {
    let (rows, columns) = full.shape();
    let rank = rank.min(rows).min(columns);
    let mut basis = full.columns(0, rank).into_owned();
    for place in 0..rank {
        observer.check()?;
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
            return Err(NoPart::Undetermined(format!(
                "has linearly dependent columns among its first {rank}: what OLoRA took out of it is not determined; save the \
                 adapter with `path_initial_model_for_weight_conversion`"
            )));
        }
        basis.column_mut(place).unscale_mut(rest);
    }
    Ok(Part { right: basis.transpose() * &full, left: basis })
}
