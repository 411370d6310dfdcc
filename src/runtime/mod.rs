//! ONNX Runtime: finding the library, sessions, the inputs a model requires, and the record of where its operations run.
//!
//! No code outside this module uses `ort`.

mod causality;
mod comparison;
mod device;
mod error;
mod feed;
mod invariance;
mod library;
mod placement;
mod saturation;
mod self_check;
mod session;
mod sizes;
#[cfg(test)]
mod tests;

pub use causality::{Causality, causality};
pub use comparison::{Comparison, compare_outputs};
pub use device::Device;
pub use error::RuntimeError;
pub use feed::{Feed, Feeder, Tokens, feed};
pub use library::{Found, Library, RECOMMENDED, disable_telemetry};
pub use placement::Placement;
pub use saturation::saturating_products;
pub use self_check::{Difference, SelfCheck, self_check};
pub(crate) use self_check::{RowStates, check_rows, padded};
pub use session::{InferenceSession, InputTensor, SessionSettings};
pub use sizes::{FixedSizes, filled_batch, part_of, widened};
