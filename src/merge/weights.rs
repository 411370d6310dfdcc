//! The arithmetic of merging: `W + alpha / rank · B · A` in float32, rounded once, in blocks of rows.

use std::ops::Range;
use std::sync::Arc;

use ndarray::{Array2, ArrayView1, ArrayView2, Axis, s};
use rayon::prelude::*;

use super::report::TensorChange;
use super::residual::{NoPart, Part};
use crate::adapter::LoraFactors;
use crate::checkpoint::{ElementType, from_f32, to_f32};

/// Why a change cannot be applied to a tensor.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(super) enum Refusal {
    /// The tensor is not floating-point, or of another size.
    #[error("is not floating-point, or of another size than the change")]
    Type,
    /// A value is not finite; see [`NotFinite`].
    #[error(transparent)]
    NotFinite(#[from] NotFinite),
    /// The part that PEFT takes out of the base cannot be determined.
    #[error(transparent)]
    Part(#[from] NoPart),
}

/// A value that is infinite or NaN.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum NotFinite {
    /// A value of the base.
    #[error("of the base holds {0}: the file was damaged, or its training diverged; take another copy of the base")]
    Base(f32),
    /// A value after the change.
    #[error(
        "would become infinite: {value:e} is more than {element_type} can hold; take the base in a type of a larger range (bfloat16 or float32)"
    )]
    Overflow {
        /// The value before rounding.
        value: f32,
        /// Name of the stored type.
        element_type: &'static str,
    },
}

/// Elements of a block: enough for the matrix product, and few enough for the cache of a core.
const BLOCK: usize = 1 << 17;

/// Rows of a stored tensor, and what becomes of them.
pub(super) struct Rows<'a> {
    stored: &'a [u8],
    from: &'a ElementType,
    to: &'a ElementType,
    /// Elements per row.
    width: usize,
    change: RowChange<'a>,
}

/// What becomes of the elements.
enum RowChange<'a> {
    /// They are only stored in another type.
    None,
    /// A product of factors is added.
    Sum {
        factors: &'a LoraFactors,
        /// Whether the matrix is stored as `[in, out]`.
        in_out: bool,
        /// The base weight, as stored, without the part that the initialization takes out of it.
        remainder: Option<Array2<f32>>,
        /// DoRA: the factors that give the rows of a weight stored as `[in, out]`, its columns, their lengths.
        columns: Option<Vec<f32>>,
    },
    /// These values replace them.
    Values(&'a [f32]),
}

impl<'a> Rows<'a> {
    /// Elements that keep their values and are stored as `to`.
    pub fn converted(stored: &'a [u8], from: &'a ElementType, to: &'a ElementType) -> Self {
        Rows { stored, from, to, width: 1, change: RowChange::None }
    }

    /// Stored elements `[out, in]`, or `[in, out]`, to which a product of factors is added; `part` gives what the initialization
    /// takes out of the weight `[out, in]`.
    ///
    /// # Errors
    /// If the tensor is not floating-point or of another size, or the part cannot be determined.
    pub fn sum(
        stored: &'a [u8],
        (from, to): (&'a ElementType, &'a ElementType),
        factors: &'a LoraFactors,
        in_out: bool,
        has_part: bool,
        part: impl FnOnce(ArrayView2<f32>) -> Result<Option<Arc<Part>>, NoPart>,
    ) -> Result<Self, Refusal> {
        let (outputs, inputs) = (factors.b.nrows(), factors.a.ncols());
        let size = from.size().ok_or(Refusal::Type)?;
        if stored.len() != outputs * inputs * size {
            return Err(Refusal::Type);
        }
        let remainder = match has_part {
            false => None,
            true => {
                let base = to_f32(stored, from).ok_or(Refusal::Type)?;
                refuse_base(&base)?;
                let shape = if in_out { (inputs, outputs) } else { (outputs, inputs) };
                let weight = ArrayView2::from_shape(shape, &base).map_err(|_| Refusal::Type)?;
                let weight = if in_out { weight.reversed_axes() } else { weight };
                let remainder = part(weight)?.map(|part| part.taken_out_of(weight));
                remainder.map(|remainder| if in_out { remainder.reversed_axes() } else { remainder })
            }
        };
        let width = if in_out { outputs } else { inputs };
        let sum = |columns| RowChange::Sum { factors, in_out, remainder, columns };
        let mut rows = Rows { stored, from, to, width, change: sum(None) };
        if let Some(magnitude) = factors.magnitude.as_ref().filter(|_| in_out) {
            // The length of a column is known only when all rows were seen.
            let lengths = rows.column_lengths()?;
            let scale = magnitude.iter().zip(lengths).map(|(wanted, found)| wanted / found);
            if let RowChange::Sum { columns, .. } = &mut rows.change {
                *columns = Some(scale.collect());
            }
        }
        Ok(rows)
    }

    /// The Euclidean length of every column of the sum.
    fn column_lengths(&self) -> Result<Vec<f32>, Refusal> {
        let of_block = |rows: Range<usize>| -> Result<Vec<f64>, Refusal> {
            let (_, sum) = self.exact(rows)?;
            let squares = sum.map(|value| f64::from(*value).powi(2));
            Ok(squares.sum_axis(Axis(0)).to_vec())
        };
        let blocks: Vec<_> = self.blocks().into_par_iter().map(of_block).collect();
        let mut squares = vec![0.0; self.width];
        for block in blocks {
            squares.iter_mut().zip(block?).for_each(|(sum, square)| *sum += square);
        }
        Ok(squares.into_iter().map(|square| square.sqrt() as f32).collect())
    }

    /// Stored elements that new values replace.
    ///
    /// # Errors
    /// If the tensor is not floating-point or of another size.
    pub fn replaced(
        stored: &'a [u8],
        (from, to): (&'a ElementType, &'a ElementType),
        values: &'a [f32],
    ) -> Result<Self, Refusal> {
        match from.size().is_some_and(|size| stored.len() == values.len() * size) {
            true => Ok(Rows { stored, from, to, width: 1, change: RowChange::Values(values) }),
            false => Err(Refusal::Type),
        }
    }

    /// The ranges of rows that are computed at once, in order.
    pub fn blocks(&self) -> Vec<Range<usize>> {
        let bytes = self.width * self.from.size().unwrap_or(1);
        let rows = self.stored.len().checked_div(bytes).unwrap_or(0);
        let step = BLOCK.checked_div(self.width).unwrap_or(1).max(1);
        (0..rows).step_by(step).map(|start| start..rows.min(start + step)).collect()
    }

    /// The values of a range of rows before and after the change, before rounding.
    fn exact(&self, rows: Range<usize>) -> Result<(Vec<f32>, Array2<f32>), Refusal> {
        let bytes = self.width * self.from.size().ok_or(Refusal::Type)?;
        let base = to_f32(&self.stored[rows.start * bytes..rows.end * bytes], self.from).ok_or(Refusal::Type)?;
        let shape = (rows.len(), self.width);
        let as_stored = |values: Vec<f32>| Array2::from_shape_vec(shape, values).map_err(|_| Refusal::Type);
        let exact = match &self.change {
            RowChange::None => as_stored(base.clone())?,
            RowChange::Values(values) => as_stored(values[rows].to_vec())?,
            RowChange::Sum { factors, in_out, remainder, columns } => {
                let mut sum = product(factors, *in_out, rows.clone());
                match remainder {
                    None => {
                        let base = ArrayView2::from_shape(shape, &base).map_err(|_| Refusal::Type)?;
                        sum.zip_mut_with(&base, |sum, base| *sum += base);
                    }
                    Some(remainder) => sum += &remainder.slice(s![rows.clone(), ..]),
                }
                match (&factors.magnitude, columns) {
                    (_, Some(columns)) => sum *= &ArrayView1::from(columns),
                    (Some(magnitude), None) if !in_out => {
                        for (mut row, wanted) in sum.rows_mut().into_iter().zip(magnitude.slice(s![rows])) {
                            let length = row.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt() as f32;
                            row *= *wanted / length;
                        }
                    }
                    _ => {}
                }
                sum
            }
        };
        Ok((base, exact))
    }

    /// The new bytes of a range of rows, and how much changed.
    ///
    /// # Errors
    /// If a value of the base is not finite, or a new one would not be.
    pub fn block(&self, rows: Range<usize>) -> Result<(Vec<u8>, Sums), Refusal> {
        let (base, exact) = self.exact(rows)?;
        let exact = exact.into_raw_vec_and_offset().0;
        let bytes = from_f32(&exact, self.to).ok_or(Refusal::Type)?;
        let rounded = to_f32(&bytes, self.to).ok_or(Refusal::Type)?;
        if let RowChange::None = self.change {
            // What was not finite before may stay so: nothing is computed from it.
            refuse_overflow(&exact, &rounded, self.to, |exact| exact.is_finite())?;
            return Ok((bytes, Sums::default()));
        }
        refuse_base(&base)?;
        refuse_overflow(&exact, &rounded, self.to, |_| true)?;
        Ok((bytes, Sums::of(&base, &exact, &rounded)))
    }

    /// The new bytes of all rows, and how much changed.
    ///
    /// # Errors
    /// As for [`Rows::block`], that of the first block.
    pub fn whole(&self) -> Result<(Vec<u8>, TensorChange), Refusal> {
        let blocks: Vec<_> = self.blocks().into_par_iter().map(|rows| self.block(rows)).collect();
        let (mut bytes, mut sums) = (Vec::with_capacity(self.stored.len()), Sums::default());
        for block in blocks {
            let (part, change) = block?;
            bytes.extend(part);
            sums.add(&change);
        }
        Ok((bytes, sums.change()))
    }
}

/// Rows of `alpha / rank · B · A`, as PEFT computes it: those of the matrix as stored, `[out, in]` or `[in, out]`.
fn product(factors: &LoraFactors, in_out: bool, rows: Range<usize>) -> Array2<f32> {
    let mut product = match in_out {
        true => factors.a.slice(s![.., rows]).t().dot(&factors.b.t()),
        false => factors.b.slice(s![rows, ..]).dot(&factors.a),
    };
    let scaling = factors.scaling() as f32;
    product.mapv_inplace(|value| value * scaling);
    match product.is_standard_layout() {
        true => product,
        false => product.as_standard_layout().into_owned(),
    }
}

/// Whether all values are finite: without an early end, which would keep the compiler from vector code.
fn all_finite(values: &[f32]) -> bool {
    values.iter().fold(true, |finite, value| finite & value.is_finite())
}

fn refuse_base(base: &[f32]) -> Result<(), NotFinite> {
    if all_finite(base) {
        return Ok(());
    }
    match base.iter().find(|value| !value.is_finite()) {
        Some(value) => Err(NotFinite::Base(*value)),
        None => Ok(()),
    }
}

/// Refuses values that are not finite after rounding; `counts` says for which values before rounding.
fn refuse_overflow(
    exact: &[f32],
    rounded: &[f32],
    to: &ElementType,
    counts: impl Fn(f32) -> bool,
) -> Result<(), NotFinite> {
    if all_finite(rounded) {
        return Ok(());
    }
    match exact.iter().zip(rounded).find(|(exact, rounded)| !rounded.is_finite() && counts(**exact)) {
        None => Ok(()),
        Some((value, _)) => {
            let element_type = match to {
                ElementType::F16 => "float16",
                ElementType::Bf16 => "bfloat16",
                _ => "float32",
            };
            Err(NotFinite::Overflow { value: *value, element_type })
        }
    }
}

/// Elements whose squares are summed in float32 before the sum goes on in float64: 32 to a lane, so that at most 2e-6 of the sum is
/// lost.
const RUN: usize = 512;

/// How much changed, as sums over elements.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sums {
    weight: f64,
    change: f64,
    lost: f64,
    wanted: u64,
    unchanged: u64,
}

impl Sums {
    /// Sums over `base`, the exact new values, and those after rounding.
    fn of(base: &[f32], exact: &[f32], rounded: &[f32]) -> Self {
        let mut sums = Sums::default();
        for ((base, exact), rounded) in base.chunks(RUN).zip(exact.chunks(RUN)).zip(rounded.chunks(RUN)) {
            let fast = Sums::of_run(base, exact, rounded);
            // Squares of very large or small values leave the range of float32. What rounding loses of values within it does not.
            let weight = (1e-12..1e30).contains(&fast.weight);
            let change = (1e-30..1e30).contains(&fast.change) || fast.wanted == 0;
            match weight && change && fast.lost < 1e30 {
                true => sums.add(&fast),
                false => sums.add(&Sums::of_few(base, exact, rounded)),
            }
        }
        sums
    }

    /// Sums over at most [`RUN`] elements, each in several sums of float32 side by side.
    fn of_run(base: &[f32], exact: &[f32], rounded: &[f32]) -> Self {
        const LANES: usize = 16;
        let (mut weight, mut change, mut lost) = ([0f32; LANES], [0f32; LANES], [0f32; LANES]);
        let (mut wanted, mut unchanged) = ([0u32; LANES], [0u32; LANES]);
        let ((bases, base), (exacts, exact), (roundeds, rounded)) =
            (base.as_chunks::<LANES>(), exact.as_chunks::<LANES>(), rounded.as_chunks::<LANES>());
        for ((base, exact), rounded) in bases.iter().zip(exacts).zip(roundeds) {
            for lane in 0..LANES {
                let (base, exact, rounded) = (base[lane], exact[lane], rounded[lane]);
                weight[lane] += base * base;
                change[lane] += (exact - base) * (exact - base);
                lost[lane] += (rounded - exact) * (rounded - exact);
                wanted[lane] += u32::from(exact != base);
                unchanged[lane] += u32::from((exact != base) & (rounded == base));
            }
        }
        let sum = |lanes: [f32; LANES]| lanes.iter().copied().map(f64::from).sum();
        let count = |lanes: [u32; LANES]| lanes.iter().copied().map(u64::from).sum();
        let mut sums = Sums {
            weight: sum(weight),
            change: sum(change),
            lost: sum(lost),
            wanted: count(wanted),
            unchanged: count(unchanged),
        };
        sums.add(&Sums::of_few(base, exact, rounded));
        sums
    }

    /// Sums in float64.
    fn of_few(base: &[f32], exact: &[f32], rounded: &[f32]) -> Self {
        let mut sums = Sums::default();
        for ((&base, &exact), &rounded) in base.iter().zip(exact).zip(rounded) {
            sums.weight += f64::from(base).powi(2);
            sums.change += (f64::from(exact) - f64::from(base)).powi(2);
            sums.lost += (f64::from(rounded) - f64::from(exact)).powi(2);
            sums.wanted += u64::from(exact != base);
            sums.unchanged += u64::from(exact != base && rounded == base);
        }
        sums
    }

    pub fn add(&mut self, other: &Sums) {
        self.weight += other.weight;
        self.change += other.change;
        self.lost += other.lost;
        self.wanted += other.wanted;
        self.unchanged += other.unchanged;
    }

    pub fn change(&self) -> TensorChange {
        TensorChange {
            weight_norm: self.weight.sqrt(),
            change_norm: self.change.sqrt(),
            lost_by_rounding: if self.change > 0.0 { (self.lost / self.change).sqrt() } else { 0.0 },
            unchanged_by_rounding: if self.wanted > 0 { self.unchanged as f64 / self.wanted as f64 } else { 0.0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_float64_whatever_the_size_of_the_values() {
        for scale in [1e-25f32, 1e-3, 1.0, 1e25] {
            let base: Vec<f32> = (0..1900).map(|i| (i as f32 * 0.37).sin() * scale).collect();
            let exact: Vec<f32> =
                base.iter().enumerate().map(|(i, v)| if i % 3 == 0 { *v } else { v * 1.001 }).collect();
            let rounded = to_f32(&from_f32(&exact, &ElementType::Bf16).unwrap(), &ElementType::Bf16).unwrap();
            let (fast, slow) = (Sums::of(&base, &exact, &rounded), Sums::of_few(&base, &exact, &rounded));
            for (fast, slow) in [(fast.weight, slow.weight), (fast.change, slow.change), (fast.lost, slow.lost)] {
                assert!((fast - slow).abs() <= 4e-6 * slow, "{scale}: {fast} {slow}");
            }
            assert_eq!((fast.wanted, fast.unchanged), (slow.wanted, slow.unchanged));
            assert!(fast.wanted > 1000 && fast.change > 0.0);
        }
    }
}
