//! What a merge has finished: after a kill, the next merge of the same inputs goes on from there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::report::Changes;
use super::settings::MergeSettings;
use super::{Base, MergeError};
use crate::adapter::{AdapterFolder, CONFIG_FILE};
use crate::files::{FileError, read_file, sha256, write_json};

/// Name of the journal in the folder that is being written.
const JOURNAL_FILE: &str = ".gelora_merging.json";

/// The finished files of a checkpoint.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    content: Content,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Content {
    /// Hash of everything that the files depend on.
    inputs: String,
    files: BTreeMap<String, Finished>,
}

/// A file that was written whole.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Finished {
    /// Checksum of its bytes (CRC-32).
    pub crc32: u32,
    pub sha256: String,
    /// The changes of the tensors in it.
    pub changes: Changes,
}

impl Journal {
    /// The journal in a folder, empty if it has none of the same inputs.
    pub fn open(folder: &Path, inputs: &str) -> Self {
        let content = read(folder).filter(|content| content.inputs == inputs);
        let content = content.unwrap_or_else(|| Content { inputs: inputs.to_owned(), ..Content::default() });
        Journal { path: folder.join(JOURNAL_FILE), content }
    }

    /// Whether a folder was left by a merge of these inputs that had finished files.
    pub fn is_of(folder: &Path, inputs: &str) -> bool {
        read(folder).is_some_and(|content| content.inputs == inputs && !content.files.is_empty())
    }

    /// Number of files that are finished.
    pub fn len(&self) -> usize {
        self.content.files.len()
    }

    /// What was finished earlier under this name.
    pub fn finished(&self, name: &str) -> Option<&Finished> {
        self.content.files.get(name)
    }

    /// Records a finished file.
    pub fn finish(&mut self, name: &str, finished: &Finished) -> Result<(), FileError> {
        self.content.files.insert(name.to_owned(), finished.clone());
        write_json(&self.path, &self.content)
    }

    /// Removes the journal: the merge is whole.
    pub fn close(self) -> Result<(), FileError> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(FileError::new("remove", &self.path)(error))
            }
            _ => Ok(()),
        }
    }
}

fn read(folder: &Path) -> Option<Content> {
    serde_json::from_slice(&std::fs::read(folder.join(JOURNAL_FILE)).ok()?).ok()
}

/// Hash of everything that the files of a merged checkpoint depend on. The files of the base count by length and time of the last
/// change: hashing them would take as long as merging.
pub(super) fn inputs(
    base: Base<'_>,
    adapters: &[(&Path, &AdapterFolder)],
    settings: &MergeSettings,
) -> Result<String, MergeError> {
    let file = |path: &Path| {
        let data = path.metadata().map_err(FileError::new("read", path))?;
        let modified = data.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Ok::<_, MergeError>(json!([path, data.len(), modified.map(|time| time.as_nanos().to_string())]))
    };
    let files = base.checkpoint.iter().flat_map(|checkpoint| checkpoint.files());
    let files = files.map(|known| file(&known.path)).collect::<Result<Vec<_>, _>>()?;
    let adapters = adapters.iter().map(|(path, folder)| {
        let config = Some(path.join(CONFIG_FILE)).filter(|path| path.is_file());
        let config = config.map(|path| read_file(&path)).transpose()?.map(|bytes| sha256(&bytes));
        Ok(json!([folder.adapter.sha256(), config, folder.head_apart, folder.provenance]))
    });
    let all = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "files": files,
        "onnx": base.onnx.map(file).transpose()?,
        "config": base.config,
        "adapters": adapters.collect::<Result<Vec<_>, MergeError>>()?,
        "settings": settings,
    });
    Ok(sha256(all.to_string().as_bytes()))
}
