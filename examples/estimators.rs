//! Every estimator on manifolds of known dimension: its bias and its spread over independent samples.
//! `cargo run --release --example estimators [SAMPLES]`; the table is in `docs/measurements/estimators.md`.

use gelora::dimension::{
    GRIDE_NEIGHBOURS, Manifold, Method, PersistentHomology, Prepared, Shape, TwoNn, gride, levina_bickel, prepare,
};
use gelora::progress::Silent;

const ESTIMATORS: [&str; 7] =
    ["TwoNN linear", "TwoNN mle", "TwoNN censored", "GRIDE 4:8", "GRIDE 32:64", "MLE k=20", "PH α=1"];

/// Shape, dimension, columns, noise.
const MANIFOLDS: [(Shape, usize, Option<usize>, f64); 13] = [
    (Shape::Cube, 2, None, 0.0),
    (Shape::Cube, 5, None, 0.0),
    (Shape::Cube, 10, None, 0.0),
    (Shape::Cube, 20, None, 0.0),
    (Shape::Ball, 10, None, 0.0),
    (Shape::Sphere, 10, None, 0.0),
    (Shape::Gaussian, 10, None, 0.0),
    (Shape::Affine, 10, Some(100), 0.0),
    (Shape::SwissRoll, 2, None, 0.0),
    (Shape::Moebius, 2, None, 0.0),
    (Shape::Nonlinear, 6, Some(384), 0.0),
    (Shape::Nonlinear, 6, Some(384), 0.005),
    (Shape::SwissRoll, 2, None, 0.05),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let samples: u64 = std::env::args().nth(1).map_or(Ok(20), |text| text.parse())?;
    println!("| manifold | d | columns | noise | points | {} |", ESTIMATORS.join(" | "));
    println!("|{}", "---|".repeat(5 + ESTIMATORS.len()));
    for (shape, dimension, columns, noise) in MANIFOLDS {
        for points in [500, 2000, 8000] {
            let mut found: [Vec<f64>; ESTIMATORS.len()] = Default::default();
            let mut width = 0;
            for seed in 0..samples {
                let manifold = Manifold::new(shape, dimension, columns, noise, seed)?;
                width = manifold.columns();
                for (all, one) in found.iter_mut().zip(estimates(&manifold, points)?) {
                    all.extend(one);
                }
            }
            let cells = found.map(|all| cell(&all, dimension as f64));
            println!("| {shape} | {dimension} | {width} | {noise} | {points} | {} |", cells.join(" | "));
        }
    }
    Ok(())
}

fn estimates(
    manifold: &Manifold,
    points: usize,
) -> Result<[Option<f64>; ESTIMATORS.len()], Box<dyn std::error::Error>> {
    // Activations are float32, so these points are too.
    let points = manifold.points(points).mapv(|value| value as f32);
    let Prepared::Cloud(cloud) = prepare(points.view(), GRIDE_NEIGHBOURS, &TwoNn::default(), &Silent)? else {
        return Err("a manifold is degenerate".into());
    };
    let two_nn = |method| TwoNn { method, ..TwoNn::default() }.estimate_cloud(&cloud);
    Ok([
        two_nn(Method::default())?.dimension(),
        two_nn(Method::MaximumLikelihood)?.dimension(),
        two_nn(Method::CensoredMaximumLikelihood { discard: 0.1 })?.dimension(),
        Some(gride(&cloud.neighbours, 4, 8).dimension),
        Some(gride(&cloud.neighbours, 32, 64).dimension),
        Some(levina_bickel(&cloud.neighbours, 20).dimension),
        PersistentHomology::default().estimate_in_rows(cloud.points, &cloud.rows, &Silent)?.dimension,
    ])
}

/// Bias and spread, in per cent of the true dimension.
fn cell(found: &[f64], truth: f64) -> String {
    let count = found.len() as f64;
    let mean = found.iter().sum::<f64>() / count;
    let spread = (found.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / (count - 1.0)).sqrt();
    format!("{:+.1} ± {:.1}", 100.0 * (mean / truth - 1.0), 100.0 * spread / truth)
}
