//! Distances by direct difference in float64: the reference that the engines must agree with.

use super::Scalar;
use super::rows::RowView;
use super::simd::fetch::fetch;
use super::simd::multiversion::for_widest_vectors;

/// The points as given, and the power of two by which differences are multiplied to stay in range.
pub(super) struct Points<'a, T> {
    pub rows: RowView<'a, T>,
    pub scale: f64,
}

/// Sums run in this many lanes, everywhere in the same order: equal pairs have equal distances to the last bit, whatever the
/// vector width of the processor.
const LANES: usize = 32;
/// Columns between two checks of the limit.
const STEP: usize = 4 * LANES;

impl<T: Scalar> Points<'_, T> {
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    pub fn columns(&self) -> usize {
        self.rows.columns()
    }

    pub fn row(&self, index: usize) -> &[T] {
        self.rows.row(index)
    }

    /// Has a row fetched from memory that will be measured soon.
    pub fn fetch(&self, index: usize) {
        fetch(self.row(index));
    }

    /// Squared distance in scaled units. Stops early, with some value above `limit`, once the sum exceeds it.
    pub fn squared_distance(&self, a: usize, b: usize, limit: f64) -> f64 {
        squared_distance(self.row(a), self.row(b), self.scale, limit)
    }

    /// Squared distance in scaled units; `None` where the distance exceeds `radius`, which is also in scaled units.
    pub fn squared_distance_within(&self, a: usize, b: usize, radius: f64) -> Option<f64> {
        let (a, b) = (self.row(a), self.row(b));
        if let (Some(a), Some(b)) = (T::as_single(a), T::as_single(b))
            && single::fits(self.scale)
            && single::farther(a, b, radius / self.scale)
        {
            return None;
        }
        let limit = radius * radius;
        let squared = squared_distance(a, b, self.scale, limit);
        (squared <= limit).then_some(squared)
    }
}

for_widest_vectors! {
    fn squared_distance<T: Scalar>(a: &[T], b: &[T], scale: f64, limit: f64) -> f64 {
        let mut sums = [0.0; LANES];
        for (a, b) in a.chunks(STEP).zip(b.chunks(STEP)) {
            let (whole_a, rest_a) = a.as_chunks::<LANES>();
            let (whole_b, rest_b) = b.as_chunks::<LANES>();
            for (a, b) in whole_a.iter().zip(whole_b) {
                for lane in 0..LANES {
                    let difference = a[lane].scaled_difference(b[lane], scale);
                    sums[lane] += difference * difference;
                }
            }
            for (lane, (a, b)) in rest_a.iter().zip(rest_b).enumerate() {
                let difference = a.scaled_difference(*b, scale);
                sums[lane] += difference * difference;
            }
            let sum = total(&sums);
            if sum > limit {
                return sum;
            }
        }
        total(&sums)
    }
}

/// Adds up the lanes by repeated halving.
#[inline(always)]
fn total(sums: &[f64; LANES]) -> f64 {
    let mut sums = *sums;
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            sums[lane] += sums[lane + half];
        }
        half /= 2;
    }
    sums[0]
}

mod single {
    //! A first pass in float32, which can only exclude.
    //!
    //! A difference of two float32 values is rounded once, by a share of itself, and so are its square and the sums: for
    //! `n` roundings in a row the result is off by at most a share of `n·u / (1 − n·u)`. Underflow only makes it smaller.

    use super::for_widest_vectors;

    const LANES: usize = 32;
    /// Columns between two checks of the limit.
    const STEP: usize = 4 * LANES;

    /// Whether differences of points whose differences times `scale` are at most about 2 are well within the range of float32.
    #[inline]
    pub fn fits(scale: f64) -> bool {
        (1e-12..=1e12).contains(&scale)
    }

    /// Whether two rows are surely farther apart than `radius`.
    #[inline]
    pub fn farther(a: &[f32], b: &[f32], radius: f64) -> bool {
        exceeds(a, b, limit(a.len(), radius))
    }

    /// A bound that a float32 squared distance exceeds only where the distance surely exceeds `radius`.
    #[inline]
    fn limit(columns: usize, radius: f64) -> f32 {
        // Not below the range where underflow only makes results smaller; rounded up.
        ((radius * radius * (1.0 + 2.0 * roundings(columns))) as f32).next_up()
    }

    /// Twice the largest relative error of a sum.
    fn roundings(columns: usize) -> f64 {
        (columns / LANES + 16) as f64 * f64::from(f32::EPSILON) / 2.0
    }

    for_widest_vectors! {
        fn exceeds(a: &[f32], b: &[f32], limit: f32) -> bool {
            let mut sums = [0.0f32; LANES];
            for (a, b) in a.chunks(STEP).zip(b.chunks(STEP)) {
                let (whole_a, rest_a) = a.as_chunks::<LANES>();
                let (whole_b, rest_b) = b.as_chunks::<LANES>();
                for (a, b) in whole_a.iter().zip(whole_b) {
                    for lane in 0..LANES {
                        let difference = a[lane] - b[lane];
                        sums[lane] += difference * difference;
                    }
                }
                for (lane, (a, b)) in rest_a.iter().zip(rest_b).enumerate() {
                    let difference = a - b;
                    sums[lane] += difference * difference;
                }
                if total(&sums) > limit {
                    return true;
                }
            }
            false
        }
    }

    #[inline(always)]
    fn total(sums: &[f32; LANES]) -> f32 {
        let mut sums = *sums;
        let mut half = LANES / 2;
        while half > 0 {
            for lane in 0..half {
                sums[lane] += sums[lane + half];
            }
            half /= 2;
        }
        sums[0]
    }
}

/// The `k` smallest (squared distance, row number) seen so far, in order.
pub(super) struct Best {
    k: usize,
    sorted: Vec<(f64, u32)>,
}

impl Best {
    pub fn new(k: usize) -> Self {
        Self { k, sorted: Vec::with_capacity(k + 1) }
    }

    /// The k-th smallest squared distance; infinite while there are fewer.
    pub fn limit(&self) -> f64 {
        if self.sorted.len() < self.k { f64::INFINITY } else { self.sorted[self.k - 1].0 }
    }

    pub fn offer(&mut self, squared: f64, index: u32) {
        if squared > self.limit() {
            return;
        }
        let place = self.sorted.partition_point(|&other| other < (squared, index));
        self.sorted.insert(place, (squared, index));
        self.sorted.truncate(self.k);
    }

    pub fn into_sorted(self) -> Vec<(f64, u32)> {
        self.sorted
    }
}
