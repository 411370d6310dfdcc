//! Times the neighbour search on a `.npy` file `[points, columns]` of float32 (for `scripts/bench/twonn.py`):
//! `time_two_nn FILE K REPETITIONS` prints one JSON line per repetition.

use std::time::Instant;

use gelora::neighbours::{Engine, nearest};
use gelora::progress::Silent;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let points: ndarray::Array2<f32> = ndarray_npy::read_npy(&arguments[1])?;
    let k = arguments[2].parse()?;
    for _ in 0..arguments[3].parse()? {
        let start = Instant::now();
        let found = nearest(points.view(), k, Engine::Exact, &Silent)?;
        let seconds = start.elapsed().as_secs_f64();
        println!("{{\"seconds\":{seconds},\"directly\":{}}}", found.searched_directly);
    }
    Ok(())
}
