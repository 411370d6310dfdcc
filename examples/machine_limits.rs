//! The limits that the processor sets to the exact search: products of 8-bit codes in registers, and reading memory.
//! `cargo run --release --example machine_limits`; the figures are in `docs/measurements/neighbours.md`.

use std::hint::black_box;
use std::time::Instant;

use rayon::prelude::*;

const ROUNDS: usize = 20_000_000;
const FLOATS: usize = 1 << 28;

fn main() {
    let threads = rayon::current_num_threads();
    match products() {
        Some(rate) => {
            println!("products of 8-bit codes: {:.0} billion per second and core, {threads} cores at once", rate / 1e9)
        }
        None => println!("products of 8-bit codes: this processor has no AVX-512 VNNI"),
    }
    let values = vec![1.0f32; FLOATS];
    let best = (0..3).map(|_| read(&values)).fold(0.0, f64::max);
    println!("memory: {:.1} GB/s, all cores together", best / 1e9);
}

/// Bytes read per second.
fn read(values: &[f32]) -> f64 {
    let start = Instant::now();
    let sum: f32 = values.par_chunks(1 << 20).map(|part| part.iter().sum::<f32>()).sum();
    black_box(sum);
    (4 * values.len()) as f64 / start.elapsed().as_secs_f64()
}

#[cfg(target_arch = "x86_64")]
fn products() -> Option<f64> {
    if !is_x86_feature_detected!("avx512vnni") || !is_x86_feature_detected!("avx512f") {
        return None;
    }
    let threads = rayon::current_num_threads();
    let rates: Vec<f64> = (0..threads)
        .into_par_iter()
        .with_max_len(1)
        .map(|_| {
            let start = Instant::now();
            // SAFETY: the processor was just checked for these instructions.
            black_box(unsafe { in_registers() });
            // 12 instructions of 64 products each.
            (ROUNDS * 12 * 64) as f64 / start.elapsed().as_secs_f64()
        })
        .collect();
    Some(rates.iter().sum::<f64>() / threads as f64)
}

#[cfg(not(target_arch = "x86_64"))]
fn products() -> Option<f64> {
    None
}

/// Twelve independent sums, so that none waits for another.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vnni")]
fn in_registers() -> i32 {
    use std::arch::x86_64::{_mm512_add_epi32, _mm512_dpbusd_epi32, _mm512_reduce_add_epi32, _mm512_set1_epi8};
    let (a, b) = (black_box(_mm512_set1_epi8(3)), black_box(_mm512_set1_epi8(-2)));
    let mut sums = [black_box(_mm512_set1_epi8(0)); 12];
    for _ in 0..ROUNDS {
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, a, b);
        }
    }
    let total = sums.into_iter().reduce(|a, b| _mm512_add_epi32(a, b)).expect("twelve");
    _mm512_reduce_add_epi32(total)
}
