//! What the program does, step by step: activations, plan, training, merging, evaluation, and a whole run with its journal.
//!
//! Every step is a function of a [`Session`] (libraries, devices, threads, observer). Steps check what they are given before
//! they compute, fill in the provenance of what they write, and lock their outputs.

mod causality;
mod dimension;
mod error;
mod evaluate;
mod export;
mod extract;
mod head;
#[cfg(feature = "train")]
mod journal;
mod measuring;
mod merge;
mod outputs;
mod plan;
mod rows;
#[cfg(feature = "train")]
mod run;
mod sampling;
mod session;
#[cfg(feature = "train")]
mod train;

pub use causality::causality_of;
pub use dimension::{DimensionRequest, Dimensions, Found, Layer, Origin, measure_dimensions};
pub use error::WorkflowError;
pub use evaluate::{EvaluationFacts, EvaluationSettings, evaluate_model};
pub use export::{Export, Weights, fixed_sizes, how_found, place_of_tokenizer, tokenizer};
pub use extract::extract_activations;
pub use merge::merge_adapter;
pub use outputs::Input;
pub use plan::{PlanFiles, make_plan, of_another_model, plan_file};
#[cfg(feature = "train")]
pub use run::{BeforeAfter, Evaluations, Finished, run};
pub use session::Session;
#[cfg(feature = "train")]
pub use train::{Training, TrainingFacts, train_at_plan};
