//! The GeLoRA rule, how certain its ranks are, and the plan file.
//!
//! Ed-dib, Datbayev, Aboussalah, *GeLoRA: Geometric Adaptive Ranks For Efficient LoRA Fine-tuning* (arXiv 2412.09250): with
//! estimates, and their noise is of the size of the ranks; so every plan reports how often another sample of the rows would
//! have given another rank. See `docs/ranks.md`.

mod budget;
mod check;
mod error;
mod file;
mod make;
mod modules;
mod plan;
mod rule;
mod settings;
mod warnings;

#[cfg(test)]
mod tests;

pub use check::{PlanFault, SCALING};
pub use error::RankError;
pub use file::{FORMAT_VERSION, OLDEST_FORMAT};
pub use make::{
    LoadLayer, PlanRequest, RowText, check_blocks, choose_scale, make_plan, measure_hidden_states, plan_of,
};
pub use modules::{BlockToAdapt, Layers, ModuleToAdapt};
pub use plan::{
    BlockRank, DataProvenance, ExtractionProvenance, HiddenStateDimension, ModelProvenance, NearDuplicateExample,
    NearDuplicateRows, Plan, PlanScale, PlannedModule, RankProbability, Sampling, ScaleChoice,
};
pub use settings::{RankSettings, Rounding};
pub(crate) use warnings::told_apart;
