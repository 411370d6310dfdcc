//! Reading what was extracted.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use ndarray::{Array1, Array2, s};
use ndarray_npy::{ReadNpyError, ReadNpyExt};

use super::shard::{POSITIONS_FILE, ROWS_FILE, folder, state_file};
use super::{ActivationsError, Manifest};
use crate::files::FileError;

/// Activations on disk: a folder with `manifest.json` and a folder per shard, which holds `hidden_state.N.npy`
/// (float32 `[points, width]`), `rows.npy` and, where tokens were taken, `positions.npy` (int64 `[points]`).
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
        Ok(Self { path: path.into(), manifest })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it holds and of what it was made.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Number of hidden states, L + 1.
    pub fn hidden_states(&self) -> usize {
        self.manifest.hidden_states.len()
    }

    /// Vectors per hidden state.
    pub fn rows(&self) -> usize {
        self.manifest.points
    }

    /// Width of a hidden state; 0 where there is none of this number.
    pub fn width(&self, state: usize) -> usize {
        self.manifest.widths.get(state).copied().unwrap_or(0)
    }

    /// Hidden state `state` of all rows, `[rows, width]`.
    pub fn layer(&self, state: usize) -> Result<Array2<f32>, ActivationsError> {
        if state >= self.hidden_states() {
            return Err(ActivationsError::NoHiddenState {
                wanted: state,
                last: self.hidden_states().saturating_sub(1),
            });
        }
        let mut all = Array2::zeros((self.rows(), self.width(state)));
        let mut from = 0;
        for shard in &self.manifest.shards {
            let path = folder(&self.path, shard.index).join(state_file(state));
            let part: Array2<f32> = read(&path)?;
            let expected = (shard.points, self.width(state));
            if part.dim() != expected {
                let reason = format!("its shape is {:?}, the manifest says {expected:?}", part.dim());
                return Err(ActivationsError::Damaged { path, reason });
            }
            all.slice_mut(s![from..from + shard.points, ..]).assign(&part);
            from += shard.points;
        }
        Ok(all)
    }

    /// Which row of the data each vector belongs to, counted from 0, ascending.
    pub fn source_rows(&self) -> Result<Vec<usize>, ActivationsError> {
        self.numbers(ROWS_FILE)
    }

    /// Which token of its row each vector is; `None` where rows were pooled.
    pub fn positions(&self) -> Result<Option<Vec<usize>>, ActivationsError> {
        if !self.manifest.pooling.is_tokens() {
            return Ok(None);
        }
        self.numbers(POSITIONS_FILE).map(Some)
    }

    fn numbers(&self, name: &str) -> Result<Vec<usize>, ActivationsError> {
        let mut all = Vec::with_capacity(self.rows());
        for shard in self.manifest.shards.iter().filter(|shard| shard.points > 0) {
            let path = folder(&self.path, shard.index).join(name);
            let part: Array1<i64> = read(&path)?;
            if part.len() != shard.points {
                let reason = format!("it has {} entries, the manifest says {}", part.len(), shard.points);
                return Err(ActivationsError::Damaged { path, reason });
            }
            all.extend(part.iter().map(|value| usize::try_from(*value).unwrap_or(0)));
        }
        Ok(all)
    }
}

fn read<A: ReadNpyExt>(path: &Path) -> Result<A, ActivationsError> {
    let file = File::open(path).map_err(FileError::new("read", path))?;
    A::read_npy(BufReader::with_capacity(1 << 20, file)).map_err(|error| match error {
        ReadNpyError::Io(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => {
            FileError::new("read", path)(error).into()
        }
        other => ActivationsError::Damaged { path: path.into(), reason: other.to_string() },
    })
}
