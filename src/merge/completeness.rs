//! Checks that an adapter is complete and was made for its base.

use std::path::Path;

use super::{Base, MergeError};
use crate::adapter::{Adapter, AdapterFolder, TENSOR_FILE};
use crate::checkpoint::{Checkpoint, TensorInfo};

/// Checks that a base weight that came with the adapter is that of this base; `is_base_weight` compares it with that of a module.
pub(super) fn refuse_changed(
    base: &Path,
    place: &Path,
    folder: &AdapterFolder,
    adapter: &Adapter,
    is_base_weight: impl Fn(&str, &TensorInfo, &[u8]) -> Result<bool, MergeError>,
) -> Result<(), MergeError> {
    if folder.frozen.is_empty() {
        return Ok(());
    }
    let path = place.join(TENSOR_FILE);
    let file = Checkpoint::open_file(&path)?;
    for frozen in &folder.frozen {
        let pairs = folder.adapter.factors.iter().zip(&adapter.factors);
        let module = pairs.filter(|(peft, _)| peft.module == frozen.module).map(|(_, base)| &base.module).next();
        let (Some(module), Some(tensor)) = (module, file.tensor(&frozen.tensor)) else { continue };
        if !is_base_weight(module, tensor, file.bytes(&frozen.tensor)?)? {
            return Err(MergeError::NotMergeable {
                file: path,
                what: "tensor",
                tensor: frozen.tensor.clone(),
                reason: format!(
                    "is a base weight {:?} that PEFT saved with the adapter, and {} has another one: the adapter was trained over \
                     changed weights (a resized vocabulary?); merge it with PEFT (`merge_and_unload`) and export that model",
                    tensor.shape,
                    base.display()
                ),
            });
        }
    }
    Ok(())
}

/// A warning where biases were trained and the file has none of them: some versions of PEFT did not save them.
pub(super) fn lacking_biases(base: Base<'_>, folder: &AdapterFolder, adapter: &Adapter) -> Option<String> {
    let checkpoint = base.checkpoint.filter(|_| folder.config.trains_biases)?;
    let saved = adapter.saved.iter().any(|saved| saved.name.ends_with(".bias"));
    let biases = adapter.factors.iter().map(|factors| format!("{}.bias", factors.module));
    let mut lacking = biases.filter(|bias| !saved && checkpoint.tensor(bias).is_some());
    lacking.next().map(|bias| {
        format!(
            "the adapter's configuration trained biases (`bias`), and its file has none, not even `{bias}`: this is what PEFT gives when it \
             loads the adapter, and not the model that was trained; save the adapter again with a newer PEFT"
        )
    })
}

/// Whether a tensor is in a module that this name in `modules_to_save` means.
pub(super) fn is_under(tensor: &str, name: &str) -> bool {
    tensor.match_indices('.').any(|(at, _)| tensor[..at].ends_with(name))
}

/// PEFT's names for the modules of the base, inferred from a module of the adapter whose name in the base differs.
pub(super) struct Called {
    without: String,
    within: String,
}

impl Called {
    pub fn new(folder: &AdapterFolder, adapter: &Adapter) -> Self {
        let pairs = folder.adapter.factors.iter().zip(&adapter.factors);
        let differs = pairs.map(|(peft, base)| (&peft.module, &base.module)).find(|(peft, base)| peft != base);
        let (mut without, mut within) = (String::new(), String::new());
        if let Some((peft, base)) = differs {
            within.push_str(peft.strip_suffix(base.as_str()).unwrap_or_default());
            without.push_str(base.strip_suffix(peft.as_str()).unwrap_or_default());
        }
        Called { without, within }
    }

    pub fn by_peft(&self, name: &str) -> String {
        format!("{}{}", self.within, name.strip_prefix(self.without.as_str()).unwrap_or(name))
    }
}
