//! The files that hold the weights of a model outside its `.onnx` file.

use std::path::{Component, Path, PathBuf};

use memmap2::Mmap;

use super::OnnxError;
use crate::files::{FileError, refuse_pointer};

/// A file that holds tensors outside the `.onnx` file.
#[derive(Debug)]
pub struct ExternalFile {
    /// File name as the model gives it, relative to the folder of the `.onnx` file.
    pub location: String,
    /// Path at which it was found.
    pub path: PathBuf,
    map: Mmap,
}

impl ExternalFile {
    /// The bytes of the whole file.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }
}

/// Maps the files that tensors refer to and checks that they are long enough.
pub(super) fn open_externals(
    model: &Path,
    locations: Vec<String>,
    needed: &[(usize, usize, String)],
) -> Result<Vec<ExternalFile>, OnnxError> {
    let folder = model.parent().unwrap_or(Path::new("."));
    let mut files = Vec::with_capacity(locations.len());
    for location in locations {
        let relative = Path::new(&location);
        let inside = relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        if location.is_empty() || !inside {
            return Err(OnnxError::Malformed {
                path: model.into(),
                reason: format!("external data location `{}` leads out of the model's folder", location.escape_debug()),
            });
        }
        let path = folder.join(relative);
        let map = map_file(&path).map_err(|error| match error {
            OnnxError::Open { path, source } => OnnxError::ExternalMissing { model: model.into(), path, source },
            other => other,
        })?;
        files.push(ExternalFile { location, path, map });
    }
    for (file, end, tensor) in needed {
        let external = &files[*file];
        if *end > external.bytes().len() {
            return Err(OnnxError::ExternalTooShort {
                path: external.path.clone(),
                tensor: tensor.clone(),
                needed: *end,
                found: external.bytes().len(),
            });
        }
    }
    Ok(files)
}

/// Maps a path that must be a regular file and not a Git LFS pointer.
pub(super) fn map_file(path: &Path) -> Result<Mmap, OnnxError> {
    let open = |source| OnnxError::Open { path: path.into(), source };
    let file = crate::files::open(path).map_err(open)?;
    // SAFETY: the map is read-only; gelora cannot guard against another process that truncates the file meanwhile.
    let map = unsafe { Mmap::map(&file) }.map_err(open)?;
    refuse_pointer(&map).map_err(FileError::new("read", path))?;
    Ok(map)
}
