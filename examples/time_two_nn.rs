//! Times TwoNN on a `.npy` file of float32 `[points, columns]`, for `scripts/bench/twonn.py`: reads commands from standard
//! input (`two_nn` or `search K ENGINE`) and answers each with one line of JSON, so that repetitions can alternate with other
//! programs in one run.

use std::io::{BufRead, stdin};
use std::time::Instant;

use gelora::dimension::TwoNn;
use gelora::neighbours::nearest;
use gelora::progress::Silent;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // RUST_LOG=gelora=debug shows the time of each stage.
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let file = std::env::args().nth(1).ok_or("give a .npy file of float32 [points, columns]")?;
    let points: ndarray::Array2<f32> = ndarray_npy::read_npy(file)?;
    for line in stdin().lock().lines() {
        let line = line?;
        let start = Instant::now();
        let answer = match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["two_nn"] => TwoNn::default().estimate(points.view(), &Silent)?.dimension().unwrap_or(f64::NAN),
            ["search", k, engine] => nearest(points.view(), k.parse()?, engine.parse()?, &Silent)?.distances[[0, 0]],
            _ => return Err(format!("unknown command {line:?}; send two_nn or search K ENGINE").into()),
        };
        println!("{{\"seconds\": {}, \"answer\": {answer}}}", start.elapsed().as_secs_f64());
    }
    Ok(())
}
