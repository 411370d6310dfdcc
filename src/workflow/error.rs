//! Errors of a step, beyond those of the modules that it calls.

use std::borrow::Cow;
use std::error::Error;
use std::path::PathBuf;

use crate::activations::ActivationsError;
use crate::adapter::AdapterError;
use crate::checkpoint::CheckpointError;
use crate::dataset::DatasetError;
use crate::dataset::metric::MetricError;
use crate::dimension::DimensionError;
use crate::evaluate::EvaluateError;
use crate::files::{FileError, LockError};
use crate::hint::Hint;
use crate::merge::MergeError;
use crate::onnx::OnnxError;
use crate::progress::Cancelled;
use crate::rank::RankError;
use crate::report::ReportError;
use crate::runtime::RuntimeError;
use crate::settings::SettingError;
use crate::task::TaskError;
#[cfg(feature = "train")]
use crate::train::TrainError;

use super::expose::ExposeError;

/// Why a step failed: one line that ends with what to do.
#[derive(Debug, thiserror::Error)]
pub enum WorkflowError {
    /// Dropout was left on while the model was exported.
    #[error(
        "{} has {nodes} active Dropout nodes, so every run gives other values; write a copy without them: {}",
        onnx.display(), Hint::CopyWithoutDropout.with(model.display())
    )]
    ActiveDropout {
        /// Path of the `.onnx` file.
        onnx: PathBuf,
        /// The model as it was given.
        model: PathBuf,
        /// Number of active Dropout nodes.
        nodes: usize,
    },
    /// Graph, checkpoint and configuration do not agree.
    #[error("{}: {obstacle}", onnx.display())]
    Structure {
        /// Path of the `.onnx` file.
        onnx: PathBuf,
        /// What is wrong, with how to fix it.
        obstacle: String,
    },
    /// The checkpoint cannot be compared with the export.
    #[error("cannot match the checkpoint: {0}")]
    Matching(#[source] CheckpointError),
    /// No weight of the export matches the checkpoint.
    #[error("{0}")]
    OtherCheckpoint(String),
    /// The blocks have no weights to adapt.
    #[error("{} cannot be planned for: {reason}", onnx.display())]
    NothingToAdapt {
        /// Path of the `.onnx` file.
        onnx: PathBuf,
        /// Why not, with how to fix it.
        reason: String,
    },
    /// The head does not fit the task, or its number of classes.
    #[error("{}: {reason}", onnx.display())]
    Head {
        /// Path of the `.onnx` file.
        onnx: PathBuf,
        /// Why not, with how to fix it.
        reason: String,
    },
    /// The model has no tokenizer.
    #[error("there is no tokenizer.json in {}; copy it there from {place}", folder.display())]
    NoTokenizer {
        /// The model folder without a tokenizer.
        folder: PathBuf,
        /// Where a tokenizer can be copied from.
        place: String,
    },
    /// The fixed length of the export is too short for any text.
    #[error(
        "{} takes exactly {length} tokens a row, and a text needs {least} with its special tokens; export it with a free or longer sequence axis",
        onnx.display()
    )]
    FixedLength {
        /// Path of the `.onnx` file.
        onnx: PathBuf,
        /// Length that the export accepts, in tokens.
        length: usize,
        /// Shortest length of a text, in tokens.
        least: usize,
    },
    /// The tokens of a language model depend on later tokens.
    #[error(
        "{} is no causal language model: when the last token changes, the predictions before it change by {change:.1e} of their size, so its tokens see the future (a fill-mask model?); take a decoder, or another task",
        onnx.display()
    )]
    Foresight {
        /// Path of the `.onnx` file.
        onnx: PathBuf,
        /// The change of the predictions, relative to their size.
        change: f64,
    },
    /// Fewer rows were requested than an estimate needs.
    #[error(
        "a sample of {rows} rows is asked for, but an estimate of dimension needs {needed} distinct ones; take more"
    )]
    SmallSample {
        /// Number of rows requested.
        rows: usize,
        /// Number of rows needed.
        needed: usize,
    },
    /// The file has too few rows.
    #[error("{} has {rows} rows, but an estimate of dimension needs {needed} distinct ones; use more data", path.display())]
    FewRows {
        /// Path of the data file.
        path: PathBuf,
        /// Number of rows in the file.
        rows: usize,
        /// Number of distinct rows needed.
        needed: usize,
    },
    /// The rows give too few mini-batches.
    #[error(
        "{rows} rows make {batches} mini-batches of {batch_rows}, but {needed} are needed to tell how certain their average is; give smaller ones (100 rows at least), more rows, or leave {} out",
        Hint::MiniBatch
    )]
    FewMiniBatches {
        /// Number of rows.
        rows: usize,
        /// Number of mini-batches that they give.
        batches: usize,
        /// Number of rows in a mini-batch.
        batch_rows: usize,
        /// Number of mini-batches needed.
        needed: usize,
    },
    /// An interval width was requested without subsamples, from which intervals are estimated.
    #[error("{} needs {}: they tell how wide an interval is", Hint::Until, Hint::Subsamples)]
    UntilWithoutSubsamples,
    /// A stratified sample was requested without labels.
    #[error("{} needs labels, and {what}", Hint::Stratified)]
    NoStrata {
        /// What has no labels, with how to fix it.
        what: String,
    },
    /// Rows for training have no labels.
    #[error("{} was read without labels; name their column with {}", path.display(), Hint::Label)]
    NoLabels {
        /// Path of the data file.
        path: PathBuf,
    },
    /// Rows for evaluation have no labels.
    #[error("{} {what}, or ask for {} alone", path.display(), Hint::Predictions)]
    NothingToCompare {
        /// Path of the data file.
        path: PathBuf,
        /// What is missing, with how to fix it.
        what: Cow<'static, str>,
    },
    /// Predictions need class names.
    #[error(
        "{} names no classes for predictions without labels; name them with {}, or give {}",
        folder.display(), Hint::Labels, Hint::Objective.with("regression")
    )]
    NoClasses {
        /// The model folder without class names.
        folder: PathBuf,
    },
    /// An output path that cannot be used.
    #[error("{0}")]
    Output(String),
    /// A folder that should hold a plan does not.
    #[error("{0} holds no plan.json; make one with {1}, or name the folder that holds it", folder.display(), Hint::MakePlan.with(folder.display()))]
    NoPlan {
        /// The folder without a plan.
        folder: PathBuf,
    },
    /// A plan was edited by hand and would be overwritten.
    #[error(
        "{0} was edited, and a run would make it anew; train with it by {1}, or remove it",
        plan.display(), Hint::TrainAtPlan.with(plan.display())
    )]
    EditedPlan {
        /// Path of the edited plan.
        plan: PathBuf,
    },
    /// The adapter to start from does not fit.
    #[error("{0}")]
    Start(String),
    /// The file is not the journal of a run.
    #[error("{0}")]
    Journal(String),
    /// An invalid setting.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// An output could not be locked.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The model file could not be read.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// The checkpoint could not be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The rows could not be read.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// Points that cannot be read, or not measured as requested.
    #[error("{0}")]
    Points(String),
    /// A layer has no dimension.
    #[error("layer {layer}")]
    Layer {
        /// Name of the layer.
        layer: String,
        /// The underlying error.
        #[source]
        source: DimensionError,
    },
    /// Rows, labels or predictions do not fit the task.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// A metric that does not fit the task.
    #[error(transparent)]
    Metric(#[from] MetricError),
    /// ONNX Runtime failed.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The activations could not be extracted or read.
    #[error(transparent)]
    Activations(#[from] ActivationsError),
    /// The plan could not be made, read or written.
    #[error(transparent)]
    Rank(#[from] RankError),
    /// The report could not be written.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// The adapter could not be read or written.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// Training failed.
    #[cfg(feature = "train")]
    #[error(transparent)]
    Train(#[from] TrainError),
    /// Merging failed.
    #[error(transparent)]
    Merge(#[from] MergeError),
    /// The evaluation failed.
    #[error(transparent)]
    Evaluate(#[from] EvaluateError),
    /// The copy of an export could not be written.
    #[error(transparent)]
    Expose(#[from] ExposeError),
    /// The user asked to stop.
    #[error("{0}")]
    Cancelled(#[from] Cancelled),
}

/// An error with its causes, omitting a cause already quoted in the message above it.
pub fn in_one_line(error: &(dyn Error + 'static)) -> String {
    let mut line = String::new();
    for cause in std::iter::successors(Some(error), |&error| error.source()) {
        let text = cause.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        if line.is_empty() {
            line = text;
        } else if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
    }
    line
}
