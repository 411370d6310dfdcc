//! The steps of the program: activations, plan, training, merging, evaluation, and a whole run with its journal; and the
//! tools beside them: inspecting an export, exposing hidden states in a copy, and checking the installation.
//!
//! Every step is a function of a [`Session`] (libraries, devices, threads, observer). Steps check their inputs before they
//! compute, record the provenance of what they write, and lock their outputs.

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
pub(crate) use doctor::examine_without_libtorch;
pub use doctor::{DeviceTrial, Diagnosis, LibtorchFacts, OnnxRuntimeFacts, ProcessorFacts, examine};
pub use error::{WorkflowError, in_one_line};
pub use evaluate::{EvaluationFacts, EvaluationSettings, evaluate_model};
pub use export::{Export, Weights};
pub use expose::{ExposeError, ExposeSettings, Exposed, WantedStates, expose};
pub use extract::extract_activations;
pub use inspect::{
    BlockFacts, CheckpointFacts, HeadFacts, InspectSettings, Inspection, StateFacts, ValueFacts, WeightFacts, inspect,
};
pub use merge::{MergedParts, merge_adapter, merge_adapters};
pub use outputs::Input;
pub use plan::{PlanFiles, make_plan, plan_file};
#[cfg(feature = "train")]
pub use run::{BeforeAfter, Evaluations, Finished, run};
pub use session::Session;
#[cfg(feature = "train")]
pub use train::{Training, TrainingFacts, train_at_plan};
