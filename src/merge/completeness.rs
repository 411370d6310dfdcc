//! Checks that an adapter is complete and was made for its base.

use std::path::Path;

use super::MergeError;
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
