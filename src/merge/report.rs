//! What merging did, as data.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::targets::{Change, Targets};

/// Version of the format of `gelora_merge.json`.
pub(super) const FORMAT_VERSION: u32 = 1;

/// What merging did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MergeReport {
    /// Version of this format.
    pub format_version: u32,
    /// Version of gelora.
    pub gelora_version: String,
    /// Folder of the base model.
    pub base: String,
    /// Folder of the adapter.
    pub adapter: String,
    /// Pooling of a head that was added to an export without one.
    pub added_head: Option<String>,
    /// Files written, relative to the result.
    pub files: Vec<String>,
    /// The tensors that differ from the base.
    pub tensors: Vec<MergedTensor>,
    /// What the user should look at.
    pub warnings: Vec<String>,
}

/// One tensor that differs from the base.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MergedTensor {
    /// Its name in the checkpoint (without a checkpoint: the module's).
    pub name: String,
    /// Rank of the factors; `None` for a tensor that was trained whole.
    pub rank: Option<usize>,
    /// The initializers of the export that hold it.
    pub initializers: Vec<String>,
    /// The change in the checkpoint.
    pub checkpoint: Option<TensorChange>,
    /// The change in the export, the first initializer if there are several.
    pub export: Option<TensorChange>,
}

/// How much a tensor changed, as Frobenius norms, and what rounding to the stored type took from the change.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TensorChange {
    /// Norm of the base weight.
    pub weight_norm: f64,
    /// Norm of the change.
    pub change_norm: f64,
    /// Norm of the rounding error over the norm of the change: 0 is nothing, 1 as much as the change itself.
    pub lost_by_rounding: f64,
    /// Share of the elements that should have changed and are the same after rounding.
    pub unchanged_by_rounding: f64,
}

/// Changes by name of the tensor.
pub(super) type Changes = BTreeMap<String, TensorChange>;

/// One entry per change, in the order of the adapter.
pub(super) fn tensors(targets: &Targets, in_checkpoint: Changes, in_export: Changes) -> Vec<MergedTensor> {
    let entry = |target: &super::targets::Target| MergedTensor {
        name: target.place(),
        rank: match &target.change {
            Change::Factors(factors) => Some(factors.rank()),
            Change::Values(_) => None,
        },
        initializers: target.places.iter().map(|place| place.initializer.clone()).collect(),
        checkpoint: in_checkpoint.get(&target.place()).copied(),
        export: target.places.first().and_then(|place| in_export.get(&place.initializer)).copied(),
    };
    targets.list.iter().map(entry).collect()
}
