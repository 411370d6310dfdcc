//! Dropout whose random numbers belong to one piece of a batch: libtorch's generator is shared by all threads, so that what a
//! piece drew would depend on what the others do.

use std::cell::RefCell;

use rand::rand_core::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, TchError, Tensor};

/// The random numbers of one pass through the program.
#[derive(Debug)]
pub(crate) struct Dropout {
    random: RefCell<ChaCha8Rng>,
}

impl Dropout {
    /// The same seed gives the same masks, on the CPU whatever the number of threads.
    pub fn new(seed: i64, device: Device) -> Self {
        if device != Device::Cpu {
            tch::manual_seed(seed);
        }
        Dropout { random: RefCell::new(ChaCha8Rng::seed_from_u64(seed.cast_unsigned())) }
    }

    /// Sets each element to zero with probability `share` (to 1/65536), and divides the others by `1 − share`.
    pub fn apply(&self, x: &Tensor, share: f64) -> Result<Tensor, TchError> {
        if x.device() != Device::Cpu {
            return x.f_dropout(share, true);
        }
        let mut drawn = vec![0u8; 2 * x.numel()];
        self.random.borrow_mut().fill_bytes(&mut drawn);
        let (limit, kept) = ((share * 65536.0).round() as u32, (1.0 / (1.0 - share)) as f32);
        let value = |two: &[u8]| if u32::from(u16::from_le_bytes([two[0], two[1]])) < limit { 0.0 } else { kept };
        let mask: Vec<f32> = drawn.chunks_exact(2).map(value).collect();
        x.f_mul(&Tensor::f_from_slice(&mask)?.f_reshape(x.size())?.f_to_kind(x.kind())?)
    }
}

/// A different seed for every piece of every step, derived from its position in the run alone: a resumed run needs it for the same
/// dropout.
/// Mixed as in SplitMix64 (Steele, Lea and Flood 2014).
pub(super) fn seed(seed: u64, step: u64, part: u64) -> i64 {
    let mut mixed = 0u64;
    for value in [seed, step, part] {
        mixed = (mixed ^ value).wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
    }
    (mixed >> 1) as i64
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;

    #[test]
    fn a_share_is_dropped_and_the_mean_stays() {
        let ones = Tensor::ones([200, 300], (Kind::Float, Device::Cpu));
        let dropped = Dropout::new(7, Device::Cpu).apply(&ones, 0.25).unwrap();
        let zeros = f64::try_from(dropped.eq(0.0).sum(Kind::Double)).unwrap() / 60_000.0;
        // Five standard deviations of a share of 60,000 draws.
        assert!((zeros - 0.25).abs() < 5.0 * (0.25f64 * 0.75 / 60_000.0).sqrt(), "{zeros}");
        let kept = f64::try_from(dropped.max()).unwrap();
        assert!((kept - 4.0 / 3.0).abs() < 1e-6, "{kept}");
    }

    #[test]
    fn a_seed_gives_the_same_masks_and_every_mask_is_another() {
        let ones = Tensor::ones([40, 50], (Kind::Float, Device::Cpu));
        let masks = |seed: i64| {
            let dropout = Dropout::new(seed, Device::Cpu);
            [dropout.apply(&ones, 0.5).unwrap(), dropout.apply(&ones, 0.5).unwrap()]
        };
        let ([first, second], [again, _], [other, _]) = (masks(1), masks(1), masks(2));
        assert_eq!(first, again);
        assert_ne!(first, second);
        assert_ne!(first, other);
    }
}
