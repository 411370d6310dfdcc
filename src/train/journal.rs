//! `metrics.jsonl`: one JSON object per line, in chronological order.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::error::TrainError;
use crate::files::FileError;

/// A line about a few optimizer steps.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepLine {
    /// Optimizer steps taken so far.
    pub step: u64,
    /// Epochs so far, with the fraction of the current one.
    pub epoch: f64,
    /// Mean loss per row since the last such line.
    pub loss: f64,
    /// Norm of the gradient at this step, before clipping.
    pub gradient_norm: f64,
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Training rows per second since the last such line.
    pub examples_per_second: f64,
}

/// A line about an evaluation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EvaluationLine {
    /// Optimizer steps taken so far.
    pub step: u64,
    /// Epochs so far, with the fraction of the current one.
    pub epoch: f64,
    /// Mean loss per row of the validation data.
    pub validation_loss: f64,
    /// Metrics by name, the deciding one first.
    pub metrics: serde_json::Map<String, serde_json::Value>,
    /// Whether this is the best evaluation so far.
    pub best: bool,
}

/// The last line of a finished run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SummaryLine {
    /// Optimizer steps of the run.
    pub steps: u64,
    /// Rows trained on.
    pub rows: u64,
    /// Seconds spent on training, without evaluation and saving.
    pub seconds: f64,
    /// Training rows per second.
    pub examples_per_second: f64,
    /// Step of the state that is kept.
    pub kept_step: u64,
    /// Whether training ended early, because the metric no longer improved.
    pub stopped_early: bool,
}

/// The journal file, open at its end.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// Opens the file and truncates it to `length` bytes, the length it had when the state was saved: what an
    /// interrupted run wrote after that will be written again. A file that is already shorter is left unchanged.
    pub fn open(path: &Path, length: u64) -> Result<Self, TrainError> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(FileError::new("create", folder))?;
        }
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(FileError::new("open", path))?;
        let present = file.metadata().map_err(FileError::new("read", path))?.len();
        file.set_len(present.min(length)).map_err(FileError::new("write", path))?;
        file.seek(SeekFrom::End(0)).map_err(FileError::new("write", path))?;
        Ok(Journal { path: path.to_owned(), file })
    }

    /// Appends a line.
    pub fn write(&mut self, line: &impl Serialize) -> Result<(), TrainError> {
        let mut bytes = serde_json::to_vec(line).map_err(|error| FileError {
            action: "write",
            path: self.path.clone(),
            source: error.into(),
        })?;
        bytes.push(b'\n');
        self.file.write_all(&bytes).map_err(FileError::new("write", &self.path))?;
        Ok(())
    }

    /// Flushes all lines to disk and returns the length of the file in bytes.
    pub fn sync(&mut self) -> Result<u64, TrainError> {
        self.file.sync_data().map_err(FileError::new("write", &self.path))?;
        Ok(self.file.stream_position().map_err(FileError::new("read", &self.path))?)
    }
}
