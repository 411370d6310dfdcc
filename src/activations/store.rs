//! Reading extracted activations.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ndarray::{Array1, Array2, ArrayViewMut2, s};
use ndarray_npy::ReadNpyExt;

use super::shard::{POSITIONS_FILE, ROWS_FILE, folder, state_file};
use super::{ActivationsError, Manifest, ShardEntry};
use crate::files::{self, FileError, Matrix};

/// From this many bytes on, a hidden state is not kept in memory.
const FROM_BYTES: usize = 1 << 26;

/// Activations on disk: a folder with `manifest.json` and one folder per shard, which holds `hidden_state.N.npy` (float32
/// `[points, width]`), `rows.npy` and, where tokens were sampled, `positions.npy` (int64 `[points]`).
#[derive(Debug, Clone)]
pub struct Store {
    path: PathBuf,
    manifest: Manifest,
}

impl Store {
    /// Opens a complete store.
    pub fn open(path: &Path) -> Result<Self, ActivationsError> {
        let manifest = Manifest::read(path)?.ok_or_else(|| ActivationsError::NoStore { path: path.into() })?;
        if !manifest.complete {
            let (done, total) = (manifest.rows_done(), manifest.source_rows);
            return Err(ActivationsError::Incomplete { path: path.into(), done, total });
        }
        // Only what can be checked without reading everything: checksums are verified when the files are read.
        for shard in &manifest.shards {
            check_lengths(path, &manifest, shard)?;
        }
        Ok(Self { path: path.into(), manifest })
    }

    /// Folder of the store.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The manifest: what the store holds and what it was made from.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Number of hidden states, L + 1.
    pub fn hidden_states(&self) -> usize {
        self.manifest.hidden_states.len()
    }

    /// Number of vectors per hidden state.
    pub fn rows(&self) -> usize {
        self.manifest.points
    }

    /// Width of a hidden state; 0 where there is none of this number.
    pub fn width(&self, state: usize) -> usize {
        self.manifest.widths.get(state).copied().unwrap_or(0)
    }

    /// Hidden state `state` of all rows in memory, `[rows, width]`.
    pub fn layer(&self, state: usize) -> Result<Array2<f32>, ActivationsError> {
        self.check_state(state)?;
        let mut layer = Array2::zeros((self.rows(), self.width(state)));
        self.fill(state, layer.view_mut())?;
        Ok(layer)
    }

    /// Hidden state `state` of all rows. A large one is not in memory as a whole: it is put together in a file without a name in the
    /// folder of the store (see [`Matrix::zeros_in_file`]).
    pub fn mapped_layer(&self, state: usize) -> Result<Matrix, ActivationsError> {
        self.check_state(state)?;
        let (rows, width) = (self.rows(), self.width(state));
        if 4 * rows * width < FROM_BYTES {
            return self.layer(state).map(Matrix::from);
        }
        let mut layer = Matrix::zeros_in_file(&self.path, rows, width)?;
        self.fill(state, layer.view_mut())?;
        Ok(layer)
    }

    fn check_state(&self, state: usize) -> Result<(), ActivationsError> {
        let last = self.hidden_states().saturating_sub(1);
        match state < self.hidden_states() {
            true => Ok(()),
            false => Err(ActivationsError::NoHiddenState { wanted: state, last }),
        }
    }

    /// Reads a hidden state, shard by shard.
    fn fill(&self, state: usize, mut all: ArrayViewMut2<'_, f32>) -> Result<(), ActivationsError> {
        let mut from = 0;
        for shard in &self.manifest.shards {
            let part: Array2<f32> = read_layer(&self.path, &self.manifest, shard, state)?;
            all.slice_mut(s![from..from + shard.points, ..]).assign(&part);
            from += shard.points;
        }
        Ok(())
    }

    /// Which row of the data each vector belongs to, counted from 0, ascending.
    pub fn source_rows(&self) -> Result<Vec<usize>, ActivationsError> {
        self.numbers(ROWS_FILE)
    }

    /// Position of each vector's token in its row; `None` where rows were pooled.
    pub fn positions(&self) -> Result<Option<Vec<usize>>, ActivationsError> {
        if !self.manifest.pooling.is_tokens() {
            return Ok(None);
        }
        self.numbers(POSITIONS_FILE).map(Some)
    }

    fn numbers(&self, name: &str) -> Result<Vec<usize>, ActivationsError> {
        let mut all = Vec::with_capacity(self.rows());
        for shard in self.manifest.shards.iter().filter(|shard| shard.points > 0) {
            all.extend(read_numbers(&self.path, shard, name)?);
        }
        Ok(all)
    }
}

/// Whether all files of a shard are intact. Stores of format 1 have no checksums: there only shapes are compared.
pub(super) fn check_shard(store: &Path, manifest: &Manifest, shard: &ShardEntry) -> Result<(), ActivationsError> {
    if !shard.files.is_empty() {
        return shard.files.iter().try_for_each(|file| read(store, shard, &file.name).map(|_| ()));
    }
    for state in 0..manifest.widths.len() {
        read_layer(store, manifest, shard, state)?;
    }
    if shard.points > 0 {
        read_numbers(store, shard, ROWS_FILE)?;
        if manifest.pooling.is_tokens() {
            read_numbers(store, shard, POSITIONS_FILE)?;
        }
    }
    Ok(())
}

/// Whether the files of a shard exist, with the right lengths where these are known.
fn check_lengths(store: &Path, manifest: &Manifest, shard: &ShardEntry) -> Result<(), ActivationsError> {
    let folder = folder(store, shard.index);
    let length = |name: &str| match fs::metadata(folder.join(name)) {
        Ok(found) => Ok(found.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(damaged(folder.join(name), "it is not there".into()))
        }
        Err(error) => Err(FileError::new("read", folder.join(name))(error).into()),
    };
    for file in &shard.files {
        let found = length(&file.name)?;
        if found != file.bytes {
            let reason = format!("it has {found} bytes, {} were written", file.bytes);
            return Err(damaged(folder.join(&file.name), reason));
        }
    }
    for (state, width) in manifest.widths.iter().enumerate() {
        let (found, needed) = (length(&state_file(state))?, 4 * shard.points as u128 * *width as u128);
        if u128::from(found) < needed {
            let reason =
                format!("it has {found} bytes, and its {} vectors of {width} values need {needed}", shard.points);
            return Err(damaged(folder.join(state_file(state)), reason));
        }
    }
    Ok(())
}

fn read_layer(
    store: &Path,
    manifest: &Manifest,
    shard: &ShardEntry,
    state: usize,
) -> Result<Array2<f32>, ActivationsError> {
    let (path, bytes) = read(store, shard, &state_file(state))?;
    let part: Array2<f32> = parse(&path, &bytes)?;
    let expected = (shard.points, manifest.widths.get(state).copied().unwrap_or(0));
    if part.dim() != expected {
        return Err(damaged(path, format!("its shape is {:?}, the manifest says {expected:?}", part.dim())));
    }
    Ok(part)
}

fn read_numbers(store: &Path, shard: &ShardEntry, name: &str) -> Result<Vec<usize>, ActivationsError> {
    let (path, bytes) = read(store, shard, name)?;
    let part: Array1<i64> = parse(&path, &bytes)?;
    if part.len() != shard.points {
        return Err(damaged(path, format!("it has {} entries, the manifest says {}", part.len(), shard.points)));
    }
    let number = |value: &i64| usize::try_from(*value).map_err(|_| damaged(path.clone(), format!("it holds {value}")));
    part.iter().map(number).collect()
}

/// The bytes of a file of a shard, if they match what was written.
fn read(store: &Path, shard: &ShardEntry, name: &str) -> Result<(PathBuf, Vec<u8>), ActivationsError> {
    let path = folder(store, shard.index).join(name);
    let bytes = match files::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(damaged(path, "it is not there".into())),
        Err(error) => return Err(FileError::new("read", path)(error).into()),
    };
    match shard.files.iter().find(|file| file.name == name) {
        Some(known) if known.bytes != bytes.len() as u64 => {
            let reason = format!("it has {} bytes, {} were written", bytes.len(), known.bytes);
            Err(damaged(path, reason))
        }
        Some(known) if known.crc32 != crc32fast::hash(&bytes) => {
            Err(damaged(path, "its checksum is not that of what was written".into()))
        }
        None if !shard.files.is_empty() => Err(damaged(path, "the manifest does not know it".into())),
        _ => Ok((path, bytes)),
    }
}

fn parse<A: ReadNpyExt>(path: &Path, bytes: &[u8]) -> Result<A, ActivationsError> {
    A::read_npy(bytes).map_err(|error| damaged(path.to_owned(), error.to_string()))
}

fn damaged(path: PathBuf, reason: String) -> ActivationsError {
    ActivationsError::DamagedShard { path, reason }
}
