//! Distances by direct difference in float64: the truth that the engines are held to, and the way out where single
//! precision cannot decide.

use ndarray::{ArrayView1, ArrayView2};

use super::Real;

/// The points as given, row-major, and the power of two by which differences are multiplied to stay in range.
pub(super) struct Points<'a, T> {
    pub values: &'a [T],
    pub columns: usize,
    pub scale: f64,
}

/// Sums run in this many lanes, everywhere in the same order: equal pairs have equal distances to the last bit.
const LANES: usize = 8;
/// Columns between two looks at the limit.
const STEP: usize = 8 * LANES;

impl<T: Real> Points<'_, T> {
    pub fn rows(&self) -> usize {
        self.values.len() / self.columns
    }

    pub fn view(&self) -> ArrayView2<'_, T> {
        ArrayView2::from_shape((self.rows(), self.columns), self.values).expect("whole rows")
    }

    pub fn row(&self, index: usize) -> &[T] {
        &self.values[index * self.columns..(index + 1) * self.columns]
    }

    /// Squared distance in scaled units. Stops early with some value above `limit` once the sum exceeds it.
    pub fn squared_distance(&self, a: usize, b: usize, limit: f64) -> f64 {
        squared_distance(self.row(a), self.row(b), self.scale, limit)
    }
}

#[inline]
fn squared_distance<T: Real>(a: &[T], b: &[T], scale: f64, limit: f64) -> f64 {
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

fn total(sums: &[f64; LANES]) -> f64 {
    let [a, b, c, d, e, f, g, h] = *sums;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

/// Squared distance of two rows of any layout, unscaled.
pub(super) fn squared_distance_of_views<T: Real>(a: ArrayView1<'_, T>, b: ArrayView1<'_, T>) -> f64 {
    match (a.as_slice(), b.as_slice()) {
        (Some(a), Some(b)) => squared_distance(a, b, 1.0, f64::INFINITY),
        _ => squared_distance(&a.to_vec(), &b.to_vec(), 1.0, f64::INFINITY),
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
        self.offer_within(squared, index, self.limit());
    }

    /// The same for a caller who knows a lower limit.
    pub fn offer_within(&mut self, squared: f64, index: u32, limit: f64) {
        if squared > limit {
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

/// Norms of centred rows, known with some error: they exclude pairs by the triangle inequality.
pub(super) struct Norms {
    pub norms: Vec<f64>,
    pub relative_error: f64,
    pub absolute_error: f64,
}

impl Norms {
    /// A lower bound of the squared distance of two rows.
    fn lower_bound(&self, a: usize, b: usize) -> f64 {
        let (a, b) = (self.norms[a], self.norms[b]);
        let gap = (a - b).abs() - self.relative_error * (a + b) - self.absolute_error;
        if gap > 0.0 { gap * gap } else { 0.0 }
    }
}

/// The `k` nearest neighbours of one row by looking at every other row; `limit` is a squared distance that none of them
/// exceeds.
pub(super) fn search_row<T: Real>(points: &Points<'_, T>, row: usize, k: usize, limit: f64, norms: &Norms) -> Best {
    let mut best = Best::new(k);
    for other in (0..points.rows()).filter(|&other| other != row) {
        let limit = best.limit().min(limit);
        if norms.lower_bound(row, other) <= limit {
            best.offer_within(points.squared_distance(row, other, limit), other as u32, limit);
        }
    }
    best
}
