//! How good the standard errors of a plan are: on many independent samples of a cube, the spread of the estimates beside
//! the standard error that the halves of each sample give, and how often the 95 % interval holds the mean estimate.
//! `cargo run --release --example subsampling_coverage`; the table stands in `docs/dimension.md`.

use gelora::dimension::{Method, TwoNn};
use gelora::progress::Silent;
use gelora::rank::{RankSettings, measure, standard_error};
use ndarray::Array2;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

const SAMPLES: u64 = 200;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let settings = RankSettings { subsamples: 50, ..RankSettings::default() };
    println!(
        "| method | points | dimension | mean | spread | standard error | ratio | coverage |\n|---|---|---|---|---|---|---|---|"
    );
    for method in [Method::default(), Method::MaximumLikelihood] {
        let estimator = TwoNn { method, ..TwoNn::default() };
        for (points, dimension) in [(500, 2), (500, 10), (2000, 2), (2000, 5), (2000, 10), (2000, 20)] {
            let mut found = Vec::new();
            for sample in 0..SAMPLES {
                let mut random = ChaCha8Rng::seed_from_u64(sample);
                let cube = Array2::from_shape_simple_fn((points, dimension), || random.random::<f32>());
                let measured = measure(cube.view(), &estimator, &settings, &Silent)?;
                found.extend(measured.dimension.dimension().zip(standard_error(&measured.deviations)));
            }
            let count = found.len() as f64;
            let mean = found.iter().map(|(dimension, _)| dimension).sum::<f64>() / count;
            let spread = (found.iter().map(|(d, _)| (d - mean).powi(2)).sum::<f64>() / (count - 1.0)).sqrt();
            let error = found.iter().map(|(_, error)| error).sum::<f64>() / count;
            let covered = found.iter().filter(|(d, error)| (d - mean).abs() <= 1.96 * error).count() as f64 / count;
            let ratio = error / spread;
            println!(
                "| {method} | {points} | {dimension} | {mean:.2} | {spread:.3} | {error:.3} | {ratio:.2} | {covered:.3} |"
            );
        }
    }
    Ok(())
}
