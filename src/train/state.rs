//! The state of a run on disk: one safetensors file, written atomically, from which a run resumes as if it had never stopped.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors, View};
use serde::{Deserialize, Serialize};

use super::error::TrainError;
use super::optimizer::AdamWState;
use super::outcome::{Best, Evaluation};
use super::parameters::ParameterEntry;
use super::program::{LinearChoice, Precision};
use crate::files::{FileError, write_atomically};

/// Version of the file format.
const FORMAT_VERSION: u32 = 1;
/// Key in the header of everything that is not a tensor.
const KEY: &str = "gelora_training_state";
/// Name of the state file in its folder.
const FILE: &str = "training.safetensors";

/// The progress of a run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Position {
    /// Optimizer steps taken.
    pub step: u64,
    /// Epochs finished.
    pub epoch: u64,
    /// Batches of the current epoch that are finished.
    pub batch: u64,
    /// Sum of the loss since the last line in the journal.
    pub loss_sum: f64,
    /// Denominator of the mean of that loss: the number of rows, or of their tokens that count.
    #[serde(default)]
    pub loss_weight: f64,
    /// Rows since the last line in the journal.
    pub loss_rows: u64,
    /// Seconds since the last line in the journal.
    pub loss_seconds: f64,
    /// Rows trained on in total.
    pub rows: u64,
    /// Seconds spent on these rows.
    pub seconds: f64,
    /// The evaluations so far.
    pub evaluations: Vec<Evaluation>,
    /// The best evaluation so far.
    pub best: Option<Best>,
    /// Epochs since the best evaluation.
    pub epochs_without_gain: u64,
    /// Length of `metrics.jsonl` in bytes.
    pub journal_bytes: u64,
    /// Whether the run is finished.
    pub finished: bool,
    /// Whether it finished early, because the metric no longer improved.
    pub stopped_early: bool,
}

/// What must be equal for a run to be resumed: (name, value), in terms that users know.
pub type Fingerprint = Vec<(String, String)>;

/// Everything that a run needs to be resumed, except the tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the file format.
    pub format_version: u32,
    /// Version of gelora that wrote it.
    pub gelora_version: String,
    /// Entries for settings, model, plan and data.
    pub fingerprint: Fingerprint,
    /// The device that the run used (`cpu`, `cuda:0`).
    pub device: String,
    /// Number of CPU threads.
    pub threads: i32,
    /// Which kernels compute the linear layers.
    pub linear: Vec<LinearChoice>,
    /// Type of the products with frozen weights, where a trial chose it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision: Option<Precision>,
    /// Names and shapes of the parameters, in the order of the flat tensors.
    pub parameters: Vec<ParameterEntry>,
    /// How far the run has come.
    pub position: Position,
}

/// A complete state.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// Everything except the tensors.
    pub header: Header,
    /// The parameters, as one flat vector.
    pub values: Vec<f32>,
    /// The state of the optimizer.
    pub optimizer: AdamWState,
    /// The parameters of the best evaluation, as one flat vector.
    pub best: Option<Vec<f32>>,
}

impl Header {
    /// A header of this version of gelora.
    pub fn new(fingerprint: Fingerprint, device: String, threads: i32) -> Self {
        Header {
            format_version: FORMAT_VERSION,
            gelora_version: env!("CARGO_PKG_VERSION").to_owned(),
            fingerprint,
            device,
            threads,
            linear: Vec::new(),
            precision: None,
            parameters: Vec::new(),
            position: Position::default(),
        }
    }

    /// Returns an error that names the first difference if the state belongs to another run.
    pub fn check(&self, path: &Path, wanted: &Fingerprint) -> Result<(), TrainError> {
        fn value<'f>(all: &'f Fingerprint, name: &str) -> &'f str {
            all.iter().find(|(known, _)| known == name).map_or("nothing", |(_, value)| value.as_str())
        }
        // An entry that only one of the two has differs as well.
        for (name, _) in wanted.iter().chain(&self.fingerprint) {
            let (saved, now) = (value(&self.fingerprint, name), value(wanted, name));
            if saved != now {
                return Err(TrainError::OtherRun {
                    path: path.to_owned(),
                    name: name.clone(),
                    saved: saved.to_owned(),
                    now: now.to_owned(),
                });
            }
        }
        Ok(())
    }
}

/// Path of the state file in a folder.
pub fn path(folder: &Path) -> PathBuf {
    folder.join(FILE)
}

/// Removes the state in a folder: what is written from now on belongs to another run.
pub fn remove(folder: &Path) -> Result<(), TrainError> {
    let path = path(folder);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(FileError::new("remove", path)(error).into()),
        _ => Ok(()),
    }
}

impl State {
    /// Writes the state atomically: a reader sees the old one or the new one.
    pub fn write(&self, folder: &Path) -> Result<(), TrainError> {
        let path = path(folder);
        let failed = |source: std::io::Error| FileError { action: "write", path: path.clone(), source };
        let header = serde_json::to_string(&self.header).map_err(|error| failed(error.into()))?;
        let mut tensors = vec![
            ("parameters", Flat::new(&self.values)),
            ("first_moment", Flat::new(&self.optimizer.first)),
            ("second_moment", Flat::new(&self.optimizer.second)),
        ];
        if let Some(best) = &self.best {
            tensors.push(("best_parameters", Flat::new(best)));
        }
        let bytes = safetensors::serialize(tensors, Some(HashMap::from([(KEY.to_owned(), header)])))
            .map_err(|error| failed(std::io::Error::other(error)))?;
        write_atomically(&path, |writer| std::io::Write::write_all(writer, &bytes))?;
        Ok(())
    }

    /// Reads the state in a folder; `None` if there is none.
    pub fn read(folder: &Path) -> Result<Option<Self>, TrainError> {
        let path = path(folder);
        let bytes = match crate::files::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(FileError::new("read", path)(error).into()),
        };
        parse(&bytes).map(Some).map_err(|reason| TrainError::BadState { path, reason })
    }
}

fn parse(bytes: &[u8]) -> Result<State, String> {
    let text = |error: safetensors::SafeTensorError| error.to_string();
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(text)?;
    let header = metadata.metadata().as_ref().and_then(|map| map.get(KEY)).ok_or("its header is not gelora's")?;
    let header: Header = serde_json::from_str(header).map_err(|error| error.to_string())?;
    if header.format_version != FORMAT_VERSION {
        return Err(format!("it has format version {}, this gelora reads {FORMAT_VERSION}", header.format_version));
    }
    let tensors = SafeTensors::deserialize(bytes).map_err(text)?;
    let length: i64 = header.parameters.iter().map(|entry| entry.shape.iter().product::<i64>()).sum();
    let flat = |name: &str| -> Result<Vec<f32>, String> {
        let tensor = tensors.tensor(name).map_err(text)?;
        if tensor.dtype() != Dtype::F32 || tensor.shape() != [length as usize] {
            return Err(format!("its tensor `{name}` is not {length} float32 numbers"));
        }
        Ok(tensor.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    };
    Ok(State {
        values: flat("parameters")?,
        optimizer: AdamWState {
            steps: header.position.step,
            first: flat("first_moment")?,
            second: flat("second_moment")?,
        },
        best: if tensors.names().contains(&"best_parameters") { Some(flat("best_parameters")?) } else { None },
        header,
    })
}

/// A flat float tensor for the safetensors writer.
struct Flat<'a> {
    values: &'a [f32],
    shape: [usize; 1],
}

impl<'a> Flat<'a> {
    fn new(values: &'a [f32]) -> Self {
        Flat { values, shape: [values.len()] }
    }
}

impl View for Flat<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(bytemuck::cast_slice(self.values))
    }

    fn data_len(&self) -> usize {
        size_of_val(self.values)
    }
}
