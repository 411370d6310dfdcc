//! `metrics.jsonl`: one JSON object per line, in the order in which things happened.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::error::TrainError;
use crate::files::FileError;

/// A line about some optimizer steps.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepLine {
    /// Optimizer steps taken.
    pub step: u64,
    /// Epochs, with the share of the current one.
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
    /// Optimizer steps taken.
    pub step: u64,
    /// Epochs, with the share of the current one.
    pub epoch: f64,
    /// Mean loss per row of the validation data.
    pub validation_loss: f64,
    /// The task's metrics by name, the one that decides first.
    pub metrics: serde_json::Map<String, serde_json::Value>,
    /// Whether it is the best so far.
    pub best: bool,
}

/// The last line of a finished run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SummaryLine {
    /// Optimizer steps taken.
    pub steps: u64,
    /// Rows trained on.
    pub rows: u64,
    /// Seconds this took, evaluation and saving left out.
    pub seconds: f64,
    /// Rows per second.
    pub examples_per_second: f64,
    /// Step of the state that was kept.
    pub kept_step: u64,
    /// Whether training ended for want of a better metric.
    pub stopped_early: bool,
}

/// The file, open at its end.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// Opens the file and cuts it back to `length` bytes, the length it had when the state was saved: what an
    /// interrupted run wrote behind that will be written again. A file that has become shorter keeps what it has.
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

    /// Makes sure that all lines are on disk and says how long the file is.
    pub fn sync(&mut self) -> Result<u64, TrainError> {
        self.file.sync_data().map_err(FileError::new("write", &self.path))?;
        Ok(self.file.stream_position().map_err(FileError::new("read", &self.path))?)
    }
}
