//! What can go wrong in a step, beyond what goes wrong in the rooms that it calls.

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

/// Why a step failed: one line that ends in what to do.
#[derive(Debug, thiserror::Error)]
pub enum WorkflowError {
    /// Dropout was left on while the model was exported.
    #[error(
        "{} has {nodes} active Dropout nodes, so every run gives other values; write a copy without them: {}",
        onnx.display(), Hint::CopyWithoutDropout.with(model.display())
    )]
    ActiveDropout {
        /// The export.
        onnx: PathBuf,
        /// The model as it was named.
        model: PathBuf,
        /// How many nodes.
        nodes: usize,
    },
    /// Graph, checkpoint and configuration do not agree.
    #[error("{}: {obstacle}", onnx.display())]
    Structure {
        /// The export.
        onnx: PathBuf,
        /// What is in the way, with its cure.
        obstacle: String,
    },
    /// The checkpoint cannot be compared with the export.
    #[error("cannot match the checkpoint: {0}")]
    Matching(#[source] CheckpointError),
    /// No weight of the export is one of the checkpoint.
    #[error("{0}")]
    OtherCheckpoint(String),
    /// The blocks have nothing to adapt.
    #[error("{} cannot be planned for: {reason}", onnx.display())]
    NothingToAdapt {
        /// The export.
        onnx: PathBuf,
        /// Why, with the cure.
        reason: String,
    },
    /// The head is not one for the task, or not for as many classes.
    #[error("{}: {reason}", onnx.display())]
    Head {
        /// The export.
        onnx: PathBuf,
        /// Why not, with the cure.
        reason: String,
    },
    /// The model has no tokenizer.
    #[error("there is no tokenizer.json in {}; copy it there from {place}", folder.display())]
    NoTokenizer {
        /// The model's folder.
        folder: PathBuf,
        /// Where there is one.
        place: String,
    },
    /// The export takes rows that are too short for any text.
    #[error(
        "{} takes exactly {length} tokens a row, and a text needs {least} with its special tokens; export it with a free or longer sequence axis",
        onnx.display()
    )]
    FixedLength {
        /// The export.
        onnx: PathBuf,
        /// The length that it takes.
        length: usize,
        /// The shortest length of a text.
        least: usize,
    },
    /// The tokens of a language model see those after them.
    #[error(
        "{} is no causal language model: when the last token changes, the predictions before it change by {change:.1e} of their size, so its tokens see the future (a fill-mask model?); take a decoder, or another task",
        onnx.display()
    )]
    Foresight {
        /// The export.
        onnx: PathBuf,
        /// The change, relative to the predictions.
        change: f64,
    },
    /// Too few rows are asked for.
    #[error(
        "a sample of {rows} rows is asked for, but an estimate of dimension needs {needed} distinct ones; take more"
    )]
    SmallSample {
        /// Rows asked for.
        rows: usize,
        /// Rows needed.
        needed: usize,
    },
    /// The file has too few rows.
    #[error("{} has {rows} rows, but an estimate of dimension needs {needed} distinct ones; use more data", path.display())]
    FewRows {
        /// The file.
        path: PathBuf,
        /// Its rows.
        rows: usize,
        /// Rows needed.
        needed: usize,
    },
    /// The rows make too few mini-batches.
    #[error(
        "{rows} rows make {batches} mini-batches of {batch_rows}, but {needed} are needed to tell how certain their average is; give smaller ones (100 rows at least), more rows, or leave {} out",
        Hint::MiniBatch
    )]
    FewMiniBatches {
        /// The rows.
        rows: usize,
        /// The mini-batches that they make.
        batches: usize,
        /// Rows in one.
        batch_rows: usize,
        /// Mini-batches needed.
        needed: usize,
    },
    /// Intervals are wanted that nothing tells.
    #[error("{} needs {}: they tell how wide an interval is", Hint::Until, Hint::Subsamples)]
    UntilWithoutSubsamples,
    /// A sample in proportion to labels that there are none of.
    #[error("{} needs labels, and {what}", Hint::Stratified)]
    NoStrata {
        /// What has none, with the cure.
        what: String,
    },
    /// Rows that are to be learnt from have no labels.
    #[error("{} was read without labels; name their column with {}", path.display(), Hint::Label)]
    NoLabels {
        /// The file.
        path: PathBuf,
    },
    /// Rows that are to be evaluated have no labels.
    #[error("{} {what}, or ask for {} alone", path.display(), Hint::Predictions)]
    NothingToCompare {
        /// The file.
        path: PathBuf,
        /// What it lacks, with the cure.
        what: Cow<'static, str>,
    },
    /// Predictions need names of classes.
    #[error(
        "{} names no classes for predictions without labels; name them with {}, or give {}",
        folder.display(), Hint::Labels, Hint::Objective.with("regression")
    )]
    NoClasses {
        /// The model's folder.
        folder: PathBuf,
    },
    /// An output that cannot be taken.
    #[error("{0}")]
    Output(String),
    /// A folder that should hold a plan does not.
    #[error("{0} holds no plan.json; make one with {1}, or name the folder that holds it", folder.display(), Hint::MakePlan.with(folder.display()))]
    NoPlan {
        /// The folder.
        folder: PathBuf,
    },
    /// A plan was edited by hand and would be made anew.
    #[error(
        "{0} was edited, and a run would make it anew; train with it by {1}, or remove it",
        plan.display(), Hint::TrainAtPlan.with(plan.display())
    )]
    EditedPlan {
        /// The plan.
        plan: PathBuf,
    },
    /// The adapter to start from.
    #[error("{0}")]
    Start(String),
    /// The file is not the journal of a run.
    #[error("{0}")]
    Journal(String),
    /// A setting.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A lock.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The model file.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// The checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The rows.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// Points that cannot be read, or not measured so.
    #[error("{0}")]
    Points(String),
    /// A layer has no dimension.
    #[error("layer {layer}")]
    Layer {
        /// Which.
        layer: String,
        /// Why.
        #[source]
        source: DimensionError,
    },
    /// Rows, labels or predictions of a task.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// A metric that does not fit the task.
    #[error(transparent)]
    Metric(#[from] MetricError),
    /// ONNX Runtime.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The activations.
    #[error(transparent)]
    Activations(#[from] ActivationsError),
    /// The ranks.
    #[error(transparent)]
    Rank(#[from] RankError),
    /// The report.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// The adapter.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// Training.
    #[cfg(feature = "train")]
    #[error(transparent)]
    Train(#[from] TrainError),
    /// Merging.
    #[error(transparent)]
    Merge(#[from] MergeError),
    /// The evaluation.
    #[error(transparent)]
    Evaluate(#[from] EvaluateError),
    /// The copy of an export.
    #[error(transparent)]
    Expose(#[from] ExposeError),
    /// Training is asked of a gelora that was built without it.
    #[cfg(not(feature = "train"))]
    #[error(
        "this gelora only plans: it was built without libtorch; build one that trains with `cargo build --release` (the feature `train` is on by default)"
    )]
    WithoutTraining,
    /// The user asked to stop.
    #[error("{0}")]
    Cancelled(#[from] Cancelled),
}

/// An error with its causes, leaving out a cause that its error has already quoted.
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
