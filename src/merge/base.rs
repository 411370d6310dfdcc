//! Is this the model that the adapter was trained on?

use std::path::Path;

use super::MergeError;
use crate::adapter::Provenance;
use crate::checkpoint::ModelFolder;
use crate::files::sha256_file;
use crate::progress::Observer;

/// Compares hashes. The checkpoint decides where there is one: the same weights may have been exported again.
pub(super) fn check(base: &ModelFolder, provenance: &Provenance, observer: &dyn Observer) -> Result<(), MergeError> {
    let mut compared = false;
    for file in base.checkpoint.iter().flat_map(|checkpoint| checkpoint.files()) {
        let name = file_name(&file.path);
        if let Some(known) = provenance.files.iter().find(|known| file_name(Path::new(&known.name)) == name) {
            observer.check()?;
            compare(&file.path, &known.sha256)?;
            compared = true;
        }
    }
    if !compared {
        compare(&base.onnx, &provenance.onnx_sha256)?;
    }
    Ok(())
}

fn compare(path: &Path, expected: &str) -> Result<(), MergeError> {
    let found = sha256_file(path)?;
    if found == expected {
        return Ok(());
    }
    let short = |hash: &str| hash.chars().take(12).collect::<String>();
    Err(MergeError::OtherBase { file: path.display().to_string(), expected: short(expected), found: short(&found) })
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// A merged model never replaces its base.
pub(super) fn refuse_same_folder(base: &ModelFolder, out: &Path) -> Result<(), MergeError> {
    match (base.folder.canonicalize(), out.canonicalize()) {
        (Ok(a), Ok(b)) if a == b => Err(MergeError::SameFolder { out: out.into() }),
        _ => Ok(()),
    }
}
