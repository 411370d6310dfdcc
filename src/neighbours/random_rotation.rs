//! An orthogonal transform that spreads every coordinate over many: random signs, a random permutation, and Hadamard
//! transforms of pieces whose lengths are powers of two. Codes with one step size per row lose least when the coordinates of
//! the row are of similar size.

use rand::seq::SliceRandom;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::simd::multiversion::for_widest_vectors;

pub(super) struct RandomRotation {
    rounds: [Round; 2],
}

struct Round {
    /// `[width]`: source index of each coordinate.
    order: Vec<u32>,
    /// `[width]`: sign of each coordinate, 1 or −1.
    signs: Vec<f32>,
}

impl RandomRotation {
    /// The transform for vectors of `width` coordinates; the same for every call.
    pub fn new(width: usize) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(width as u64);
        let mut round = || {
            let mut order: Vec<u32> = (0..width as u32).collect();
            order.shuffle(&mut random);
            let signs = (0..width).map(|_| if random.random() { 1.0 } else { -1.0 }).collect();
            Round { order, signs }
        };
        Self { rounds: [round(), round()] }
    }

    /// Transforms a vector in place. The error is at most [`RandomRotation::relative_error`] of its length.
    pub fn apply(&self, values: &mut [f32], space: &mut Vec<f32>) {
        for round in &self.rounds {
            space.clear();
            space.extend(round.order.iter().zip(&round.signs).map(|(&from, sign)| sign * values[from as usize]));
            values.copy_from_slice(space);
            let mut rest = &mut values[..];
            while !rest.is_empty() {
                let length = 1 << rest.len().ilog2();
                let (piece, after) = rest.split_at_mut(length);
                hadamard(piece);
                rest = after;
            }
        }
    }

    /// Bound on the relative error: every stage rounds each coordinate once, and so does the scaling, whose factor is
    /// rounded too.
    pub fn relative_error(width: usize) -> f64 {
        let stages = f64::from(width.max(1).ilog2());
        2.0 * (stages + 3.0) * f64::from(f32::EPSILON)
    }
}

/// Values of the last three stages.
const EIGHT: usize = 8;

#[inline(always)]
fn last_stages(values: &mut [f32; EIGHT]) {
    let [a, b, c, d, e, f, g, h] = *values;
    let [a, b, c, d, e, f, g, h] = [a + e, b + f, c + g, d + h, a - e, b - f, c - g, d - h];
    let [a, b, c, d, e, f, g, h] = [a + c, b + d, a - c, b - d, e + g, f + h, e - g, f - h];
    *values = [a + b, a - b, c + d, c - d, e + f, e - f, g + h, g - h];
}

for_widest_vectors! {
    /// The orthogonal Hadamard transform of a vector whose length is a power of two.
    fn hadamard(values: &mut [f32]) {
        let mut half = values.len() / 2;
        while half > EIGHT / 2 || (half > 0 && values.len() < EIGHT) {
            for pair in values.chunks_exact_mut(2 * half) {
                let (low, high) = pair.split_at_mut(half);
                for (a, b) in low.iter_mut().zip(high) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            half /= 2;
        }
        // The last stages at once: the compiler does not put short loops into vectors.
        values.as_chunks_mut().0.iter_mut().for_each(last_stages);
        let scale = (values.len() as f32).sqrt().recip();
        values.iter_mut().for_each(|value| *value *= scale);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_stay_and_one_coordinate_is_spread() {
        for width in [1, 2, 3, 47, 48, 384, 385] {
            let rotation = RandomRotation::new(width);
            let mut values = vec![0.0; width];
            values[width / 2] = 3.0;
            rotation.apply(&mut values, &mut Vec::new());
            let length = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
            assert!((length - 3.0).abs() <= 3.0 * RandomRotation::relative_error(width), "{width}: {length}");
            let largest = values.iter().fold(0.0, |l: f32, v| l.max(v.abs()));
            assert!(width < 48 || largest < 1.5, "{width}: {largest}");
        }
    }
}
