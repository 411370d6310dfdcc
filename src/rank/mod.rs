//! The GeLoRA rule and the plan file.

mod plan;

pub use plan::{
    BlockRank, DataProvenance, ExtractionProvenance, HiddenStateDimension, ModelProvenance, Plan, PlannedModule,
    RankProbability,
};
