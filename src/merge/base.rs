//! Checks whether this is the model that the adapter was trained on.

use std::path::Path;

use super::MergeError;
use crate::adapter::Provenance;
use crate::checkpoint::ModelFolder;
use crate::files::{sha256, sha256_file};
use crate::onnx::Model;
use crate::progress::Observer;

/// The files of the base that differ from those the adapter was trained with: export, external data and checkpoint. An adapter
/// fits the weights it was trained beside; where weights other than the adapted ones changed, its result changes too.
pub(super) fn changed_files(
    base: &ModelFolder,
    model: &Model,
    provenance: &Provenance,
    observer: &dyn Observer,
) -> Result<Vec<String>, MergeError> {
    let mut changed = Vec::new();
    if sha256(model.file_bytes()) != provenance.onnx_sha256 {
        changed.push(base.onnx.display().to_string());
    }
    let known = |name: &str| provenance.files.iter().find(|known| file_name(Path::new(&known.name)) == name);
    let external = model.external_files().iter().map(|file| file.path.clone());
    let checkpoint = base.checkpoint.iter().flat_map(|checkpoint| checkpoint.files()).map(|file| file.path.clone());
    for path in external.chain(checkpoint) {
        observer.check()?;
        let same = match known(&file_name(&path)) {
            Some(known) => sha256_file(&path)? == known.sha256,
            None => false,
        };
        if !same {
            changed.push(path.display().to_string());
        }
    }
    Ok(changed)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
