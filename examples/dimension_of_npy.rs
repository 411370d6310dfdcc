//! The intrinsic dimension of a `.npy` file of float32 `[points, columns]`: `cargo run --example dimension_of_npy FILE`.

use gelora::dimension::{LayerDimension, TwoNn};
use gelora::progress::Silent;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::args().nth(1).ok_or("give a .npy file of float32 [points, columns]")?;
    let points: ndarray::Array2<f32> = ndarray_npy::read_npy(file)?;
    match TwoNn::default().estimate(points.view(), &Silent)? {
        LayerDimension::Estimate(e) => println!("{:.3} ± {:.3} ({} points)", e.dimension, e.standard_error, e.points),
        LayerDimension::Degenerate { reason, .. } => println!("no dimension: {reason}"),
    }
    Ok(())
}
