//! How good the standard errors of a plan are: on many independent samples of manifolds, the spread of the estimates beside
//! the standard error that the halves of each sample give, and how often the 95 % interval holds the mean estimate.
//! `cargo run --release --example subsampling_coverage [SAMPLES]`; the table is in `docs/measurements/coverage.md`.

use gelora::dimension::{Manifold, MeasureSettings, Method, NORMAL_QUANTILE, Scale, Shape, TwoNn, measure};
use gelora::progress::Silent;

const MANIFOLDS: [(Shape, usize, Option<usize>); 7] = [
    (Shape::Cube, 2, None),
    (Shape::Cube, 10, None),
    (Shape::Cube, 20, None),
    (Shape::Sphere, 10, None),
    (Shape::Gaussian, 10, None),
    (Shape::SwissRoll, 2, None),
    (Shape::Nonlinear, 6, Some(64)),
];

/// The scales shown in the table; all are measured.
const SCALES: [usize; 3] = [1, 4, 16];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let samples: u64 = std::env::args().nth(1).map_or(Ok(200), |text| text.parse())?;
    println!("| manifold | d | points | estimate | mean | spread | standard error | ratio | coverage |");
    println!("|{}", "---|".repeat(9));
    let mut all = Vec::new();
    for (shape, dimension, columns) in MANIFOLDS {
        for points in [500, 2000] {
            // Method and scale; (dimension, standard error) of every sample.
            let mut found: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
            for sample in 0..samples {
                let points = Manifold::new(shape, dimension, columns, 0.0, sample)?.points(points).mapv(|v| v as f32);
                let mut place = 0;
                let mut enter = |name: String, value: (f64, f64)| {
                    if found.len() == place {
                        found.push((name, Vec::new()));
                    }
                    found[place].1.push(value);
                    place += 1;
                };
                for method in [Method::default(), Method::MaximumLikelihood] {
                    let linear = method == Method::default();
                    let settings = MeasureSettings {
                        estimator: TwoNn { method, ..TwoNn::default() },
                        scale: (!linear).then_some(Scale::NEAREST),
                        subsamples: 50,
                        ..MeasureSettings::default()
                    };
                    let measured = measure(points.view(), &settings, &Silent)?;
                    for reading in measured.readings.iter().filter(|at| SCALES.contains(&at.scale.near())) {
                        let name = match reading.scale {
                            Scale::NEAREST => format!("TwoNN {method}"),
                            scale => format!("GRIDE {scale}"),
                        };
                        enter(name, (reading.dimension, reading.standard_error()));
                    }
                }
            }
            for (name, found) in found {
                let count = found.len() as f64;
                let mean = found.iter().map(|(dimension, _)| dimension).sum::<f64>() / count;
                let spread = (found.iter().map(|(d, _)| (d - mean).powi(2)).sum::<f64>() / (count - 1.0)).sqrt();
                let error = found.iter().map(|(_, error)| error).sum::<f64>() / count;
                let holds = |(d, error): &&(f64, f64)| (d - mean).abs() <= NORMAL_QUANTILE * error;
                let covered = found.iter().filter(holds).count() as f64 / count;
                all.push(covered);
                println!(
                    "| {shape} | {dimension} | {points} | {name} | {mean:.2} | {spread:.3} | {error:.3} | {:.2} | {covered:.3} |",
                    error / spread
                );
            }
        }
    }
    let (least, most) = all.iter().fold((1.0_f64, 0.0_f64), |(least, most), &c| (least.min(c), most.max(c)));
    println!("\ncoverage from {least:.3} to {most:.3}");
    Ok(())
}
