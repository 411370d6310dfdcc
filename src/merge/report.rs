//! The report of a merge, as data.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::targets::{Change, Targets};

/// Version of the format of `gelora_merge.json`.
pub(super) const FORMAT_VERSION: u32 = 1;

/// The report of a merge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MergeReport {
    /// Version of the format.
    pub format_version: u32,
    /// Version of gelora that merged.
    pub gelora_version: String,
    /// Path of the base model's folder.
    pub base: String,
    /// Path of the adapter's folder; of several, with their weights, as one text.
    pub adapter: String,
    /// The adapters with their weights, where there are several or a weight is not 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adapters: Vec<WeightedAdapter>,
    /// Pooling of a head that was added to an export without one.
    pub added_head: Option<String>,
    /// Paths of the files written, relative to the result.
    pub files: Vec<String>,
    /// SHA-256 of the files of the checkpoint, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sha256: BTreeMap<String, String>,
    /// The tensors that differ from the base.
    pub tensors: Vec<MergedTensor>,
    /// Warnings for the user.
    pub warnings: Vec<String>,
}

impl MergeReport {
    /// The largest share of a tensor's change that was lost by rounding, in checkpoint or export: their types may differ.
    pub fn lost_by_rounding(&self) -> f64 {
        let changes = self.tensors.iter().flat_map(|tensor| tensor.checkpoint.into_iter().chain(tensor.export));
        changes.map(|change| change.lost_by_rounding).fold(0.0, f64::max)
    }
}

/// One of several adapters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WeightedAdapter {
    /// Path of the adapter's folder.
    pub path: String,
    /// The factor by which its change was multiplied.
    pub weight: f64,
}

/// One tensor that differs from the base.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MergedTensor {
    /// Name of the tensor in the checkpoint (without a checkpoint, of the module).
    pub name: String,
    /// Rank of the factors; `None` for a tensor that was trained as a whole.
    pub rank: Option<usize>,
    /// Names of the initializers of the export that hold it.
    pub initializers: Vec<String>,
    /// The change in the checkpoint.
    pub checkpoint: Option<TensorChange>,
    /// The change in the export, that of the first initializer if there are several.
    pub export: Option<TensorChange>,
}

/// How much a tensor changed, as Frobenius norms, and how much of that was lost by rounding to the stored type.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TensorChange {
    /// Norm of the base weight.
    pub weight_norm: f64,
    /// Norm of the change.
    pub change_norm: f64,
    /// Norm of the rounding error relative to that of the change: 0 means no loss, 1 as much as the change itself.
    pub lost_by_rounding: f64,
    /// Share of the elements that should have changed and are unchanged after rounding.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_of_a_float16_export_beside_a_float32_checkpoint_is_told() {
        let change = |lost_by_rounding| {
            Some(TensorChange { weight_norm: 1.0, change_norm: 0.1, lost_by_rounding, unchanged_by_rounding: 0.0 })
        };
        let tensor = |checkpoint, export| MergedTensor {
            name: "query.weight".into(),
            rank: Some(1),
            initializers: vec!["query".into()],
            checkpoint,
            export,
        };
        let report = |tensors| MergeReport {
            format_version: FORMAT_VERSION,
            gelora_version: String::new(),
            base: String::new(),
            adapter: String::new(),
            adapters: Vec::new(),
            added_head: None,
            files: Vec::new(),
            sha256: BTreeMap::new(),
            tensors,
            warnings: Vec::new(),
        };
        assert_eq!(
            report(vec![tensor(change(0.0), change(0.01)), tensor(change(0.002), None)]).lost_by_rounding(),
            0.01
        );
        assert_eq!(
            report(vec![tensor(None, change(0.01)), tensor(change(0.02), change(0.0))]).lost_by_rounding(),
            0.02
        );
        assert_eq!(report(Vec::new()).lost_by_rounding(), 0.0);
    }
}
