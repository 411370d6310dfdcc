//! What the program does, step by step: activations, plan, training, merging, evaluation, and a whole run with its journal; and
//! what it finds out beside: what an export offers, how a copy can show more, and what is installed.
//!
//! Every step is a function of a [`Session`] (libraries, devices, threads, observer). Steps check what they are given before
//! they compute, fill in the provenance of what they write, and lock their outputs.

mod causality;
mod dimension;
mod doctor;
mod error;
mod evaluate;
mod export;
mod expose;
mod extract;
mod head;
mod inspect;
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
mod start;
#[cfg(feature = "train")]
mod train;

pub use dimension::{DimensionRequest, Dimensions, Found, Layer, Origin, measure_dimensions};
pub use doctor::{DeviceTrial, Diagnosis, LibtorchFacts, OnnxRuntimeFacts, ProcessorFacts, examine};
pub use error::{WorkflowError, in_one_line};
pub use evaluate::{EvaluationFacts, EvaluationSettings, evaluate_model};
pub use export::{Export, Weights};
pub use expose::{ExposeError, ExposeSettings, Exposed, WantedStates, expose};
pub use extract::extract_activations;
pub use inspect::{
    BlockFacts, CheckpointFacts, HeadFacts, InspectSettings, Inspection, StateFacts, ValueFacts, WeightFacts, inspect,
};
pub use merge::merge_adapter;
pub use outputs::Input;
pub use plan::{PlanFiles, make_plan, plan_file};
#[cfg(feature = "train")]
pub use run::{BeforeAfter, Evaluations, Finished, run};
pub use session::Session;
#[cfg(feature = "train")]
pub use train::{Training, TrainingFacts, train_at_plan};
