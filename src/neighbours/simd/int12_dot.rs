//! Scalar products of two rows of 12-bit codes, with the same instructions as for 8-bit codes in blocks.

use crate::neighbours::simd::isa::Isa;

/// Rows of 12-bit codes are padded with zeros to a multiple of this.
pub(in crate::neighbours) const INT12_GROUP: usize = 128;

/// A row of whole numbers `16 byte + half`, `0 ≤ half < 16`.
#[derive(Clone, Copy)]
pub(in crate::neighbours) struct Int12Row<'a> {
    /// `[width]`: the bytes.
    pub bytes: &'a [i8],
    /// `[width / 2]`: the half bytes; the second half of every [`INT12_GROUP`] is in the upper bits.
    pub halves: &'a [u8],
    /// The sum of the bytes.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "other processors multiply signed bytes"))]
    pub sum: i32,
}

/// The scalar product of two rows of at most 65,536 whole numbers.
#[inline]
pub(in crate::neighbours) fn int12_dot(isa: Isa, a: Int12Row<'_>, b: Int12Row<'_>) -> i64 {
    let width = a.bytes.len();
    assert!(width == b.bytes.len() && width.is_multiple_of(INT12_GROUP));
    assert!(2 * a.halves.len() == width && 2 * b.halves.len() == width);
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: this instruction set is chosen only where AVX-512 VNNI was found; lengths were checked.
        Isa::Avx512 => unsafe { avx512::int12_dot(a, b) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: these instruction sets are chosen only where AVX2 was found; lengths were checked.
        Isa::AvxVnni | Isa::Avx2 => unsafe { avx2::int12_dot(a, b) },
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => int12_dot_scalar(a, b),
        Isa::Scalar => int12_dot_scalar(a, b),
    }
}

#[inline(always)]
fn int12_dot_scalar(a: Int12Row<'_>, b: Int12Row<'_>) -> i64 {
    const HALF: usize = INT12_GROUP / 2;
    let number = |byte: i8, half: u8| 16 * i32::from(byte) + i32::from(half);
    let mut product = 0;
    for group in 0..a.bytes.len() / INT12_GROUP {
        let (bytes, halves) = (group * INT12_GROUP..(group + 1) * INT12_GROUP, group * HALF..(group + 1) * HALF);
        let (bytes_a, bytes_b) = (&a.bytes[bytes.clone()], &b.bytes[bytes]);
        let (halves_a, halves_b) = (&a.halves[halves.clone()], &b.halves[halves]);
        // The sum of so few products does not overflow.
        let mut sum = 0;
        for at in 0..HALF {
            sum += number(bytes_a[at], halves_a[at] & 15) * number(bytes_b[at], halves_b[at] & 15);
            sum += number(bytes_a[at + HALF], halves_a[at] >> 4) * number(bytes_b[at + HALF], halves_b[at] >> 4);
        }
        product += i64::from(sum);
    }
    product
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    //! Products of bytes in pairs, summed in 16 bits as long as that cannot overflow.

    use std::arch::x86_64::*;

    use super::{INT12_GROUP, Int12Row};

    /// Bytes per vector.
    const VECTOR: usize = 32;
    /// Vectors per half of a group.
    const PARTS: usize = INT12_GROUP / 2 / VECTOR;

    /// # Safety
    /// The processor has AVX2; both rows have the same length, a multiple of `INT12_GROUP` and at most 65,536.
    #[target_feature(enable = "avx2")]
    pub unsafe fn int12_dot(a: Int12Row<'_>, b: Int12Row<'_>) -> i64 {
        let (low, ones) = (_mm256_set1_epi8(15), _mm256_set1_epi16(1));
        let zero = _mm256_setzero_si256();
        // Sums of byte × byte, byte × half and half × half products.
        let (mut whole, mut mixed, mut fine) = (zero, zero, zero);
        for group in 0..a.bytes.len() / INT12_GROUP {
            // A pair of products of a byte and a half is at most 3,810, and eight of them fit; those of halves are smaller.
            let (mut mixed_pairs, mut fine_pairs) = ([zero; 2], zero);
            for part in 0..PARTS {
                // SAFETY: groups stay inside the rows.
                unsafe {
                    let halves = |codes: &Int12Row<'_>| {
                        let at = group * INT12_GROUP / 2 + part * VECTOR;
                        let both = _mm256_loadu_si256(codes.halves.as_ptr().add(at).cast());
                        [_mm256_and_si256(both, low), _mm256_and_si256(_mm256_srli_epi16::<4>(both), low)]
                    };
                    let (halves_a, halves_b) = (halves(&a), halves(&b));
                    for upper in 0..2 {
                        let at = group * INT12_GROUP + (upper * PARTS + part) * VECTOR;
                        let bytes_a = _mm256_loadu_si256(a.bytes.as_ptr().add(at).cast());
                        let bytes_b = _mm256_loadu_si256(b.bytes.as_ptr().add(at).cast());
                        // The instruction wants an unsigned factor: the signs of one go to the other. A pair is at most 32,258.
                        let signed = _mm256_sign_epi8(bytes_b, bytes_a);
                        let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(bytes_a), signed);
                        whole = _mm256_add_epi32(whole, _mm256_madd_epi16(pairs, ones));
                        let products = _mm256_maddubs_epi16(halves_a[upper], bytes_b);
                        mixed_pairs[0] = _mm256_add_epi16(mixed_pairs[0], products);
                        let products = _mm256_maddubs_epi16(halves_b[upper], bytes_a);
                        mixed_pairs[1] = _mm256_add_epi16(mixed_pairs[1], products);
                        let products = _mm256_maddubs_epi16(halves_a[upper], halves_b[upper]);
                        fine_pairs = _mm256_add_epi16(fine_pairs, products);
                    }
                }
            }
            let both =
                _mm256_add_epi32(_mm256_madd_epi16(mixed_pairs[0], ones), _mm256_madd_epi16(mixed_pairs[1], ones));
            mixed = _mm256_add_epi32(mixed, both);
            fine = _mm256_add_epi32(fine, _mm256_madd_epi16(fine_pairs, ones));
        }
        256 * total(whole) + 16 * total(mixed) + total(fine)
    }

    /// The sum of the lanes, which fits 32 bits for rows of at most 65,536 columns.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn total(sums: __m256i) -> i64 {
        let four = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
        let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b1110>(four));
        i64::from(_mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<1>(two))))
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::{INT12_GROUP, Int12Row};

    /// Bytes per vector.
    const VECTOR: usize = 64;

    /// # Safety
    /// The processor has AVX-512 VNNI; both rows have the same length, a multiple of `INT12_GROUP` and at most 65,536.
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub unsafe fn int12_dot(a: Int12Row<'_>, b: Int12Row<'_>) -> i64 {
        let (flip, low) = (_mm512_set1_epi8(i8::MIN), _mm512_set1_epi8(15));
        let zero = _mm512_setzero_si512();
        // Sums of byte × byte, byte × half and half × half products.
        let (mut whole, mut mixed, mut fine) = ([zero; 2], [zero; 2], [zero; 2]);
        for group in 0..a.bytes.len() / INT12_GROUP {
            // SAFETY: groups stay inside the rows.
            unsafe {
                let load = |codes: &Int12Row<'_>, part: usize| {
                    _mm512_loadu_si512(codes.bytes.as_ptr().add(group * INT12_GROUP + part * VECTOR).cast())
                };
                let halves = |codes: &Int12Row<'_>| {
                    let both = _mm512_loadu_si512(codes.halves.as_ptr().add(group * VECTOR).cast());
                    [_mm512_and_si512(both, low), _mm512_and_si512(_mm512_srli_epi32::<4>(both), low)]
                };
                let (halves_a, halves_b) = (halves(&a), halves(&b));
                for part in 0..2 {
                    let (bytes_a, bytes_b) = (load(&a, part), load(&b, part));
                    whole[part] = _mm512_dpbusd_epi32(whole[part], _mm512_xor_si512(bytes_a, flip), bytes_b);
                    mixed[0] = _mm512_dpbusd_epi32(mixed[0], halves_a[part], bytes_b);
                    mixed[1] = _mm512_dpbusd_epi32(mixed[1], halves_b[part], bytes_a);
                    fine[part] = _mm512_dpbusd_epi32(fine[part], halves_a[part], halves_b[part]);
                }
            }
        }
        let sum = |[one, other]: [__m512i; 2]| i64::from(_mm512_reduce_add_epi32(_mm512_add_epi32(one, other)));
        256 * (sum(whole) - 128 * i64::from(b.sum)) + 16 * sum(mixed) + sum(fine)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_instruction_set_gives_the_same_12_bit_products(
            numbers in proptest::collection::vec((-2032i16..=2032, -2032i16..=2032), 1..1000),
            extreme in any::<bool>(),
        ) {
            let width = numbers.len().next_multiple_of(INT12_GROUP);
            let code = |values: Vec<i16>| {
                let at = |place: usize| values.get(place).copied().unwrap_or(0);
                let bytes: Vec<i8> = (0..width).map(|place| (at(place) >> 4) as i8).collect();
                let half = |place: usize| (at(place) & 15) as u8;
                let first = |place: usize| place / (INT12_GROUP / 2) * INT12_GROUP + place % (INT12_GROUP / 2);
                let both = |place: usize| half(first(place)) | half(first(place) + INT12_GROUP / 2) << 4;
                let halves: Vec<u8> = (0..width / 2).map(both).collect();
                let sum = bytes.iter().map(|&byte| i32::from(byte)).sum();
                (bytes, halves, sum)
            };
            let value = |value: i16| if extreme { value.signum() * 2032 } else { value };
            let (a, b): (Vec<i16>, Vec<i16>) = numbers.iter().map(|&(a, b)| (value(a), value(b))).unzip();
            let expected: i64 = a.iter().zip(&b).map(|(&a, &b)| i64::from(a) * i64::from(b)).sum();
            let ((bytes_a, halves_a, sum_a), (bytes_b, halves_b, sum_b)) = (code(a), code(b));
            let a = Int12Row { bytes: &bytes_a, halves: &halves_a, sum: sum_a };
            let b = Int12Row { bytes: &bytes_b, halves: &halves_b, sum: sum_b };
            for isa in Isa::all() {
                prop_assert_eq!(int12_dot(isa, a, b), expected, "{:?}", isa);
            }
        }
    }
}
