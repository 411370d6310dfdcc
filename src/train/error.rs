use std::path::PathBuf;

use tch::TchError;

use crate::checkpoint::{CheckpointError, FoldedProduct};
use crate::dataset::metric::MetricError;
use crate::files::FileError;
use crate::hint::Hint;
use crate::onnx::OnnxError;
use crate::progress::Cancelled;
use crate::rank::PlanFault;
use crate::runtime::RuntimeError;
use crate::settings::SettingError;
use crate::task::TaskError;

/// What can go wrong while a graph is turned into a program, run, or trained.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The graph uses an operator that the training program does not know.
    #[error("node `{node}` uses the operator {operator}, which cannot be trained here; {cure}")]
    UnsupportedOperator {
        /// Domain and name, for instance `com.microsoft.Attention`.
        operator: String,
        /// The node's name.
        node: String,
        /// What to export instead.
        cure: String,
    },
    /// An operator could not be executed.
    #[error("node `{node}` ({operator}) cannot be executed: {reason}; {cure}")]
    Operator {
        /// Domain and name.
        operator: String,
        /// The node's name.
        node: String,
        /// What was found.
        reason: String,
        /// What to do about it.
        cure: &'static str,
    },
    /// A value was asked for that the graph does not make.
    #[error("the graph has no value `{name}`; its outputs are {known}")]
    UnknownValue {
        /// The name asked for.
        name: String,
        /// The graph's outputs.
        known: String,
    },
    /// An input of the graph was not given.
    #[error("the graph needs its input `{name}` and got {given}; give it")]
    MissingInput {
        /// The input.
        name: String,
        /// The names that were given.
        given: String,
    },
    /// The plan does not agree with itself or with the export.
    #[error("the plan cannot be trained: {0}")]
    Plan(#[from] PlanFault),
    /// The export holds a planned weight in a form that an adapter cannot reach.
    #[error("cannot train {}: {found}", onnx.display())]
    Folded {
        /// The `.onnx` file.
        onnx: PathBuf,
        /// What was found.
        found: FoldedProduct,
    },
    /// A weight cannot be adapted or trained.
    #[error("cannot train the weight `{weight}`: {reason}")]
    Weight {
        /// The initializer.
        weight: String,
        /// Why not, and the cure.
        reason: String,
    },
    /// A value of the graph has another shape than a classifier or encoder gives it.
    #[error(
        "the value `{value}` has shape {found:?}, training needs {expected}; export a model with the head that its task needs"
    )]
    Shape {
        /// The value.
        value: String,
        /// Its shape.
        found: Vec<i64>,
        /// What is needed.
        expected: &'static str,
    },
    /// What the task makes of logits and labels.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// A setting that makes no sense.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// CUDA was asked for and is not there.
    #[error(
        "cannot train on CUDA: {reason}; take {}, or install a driver and a CUDA build of libtorch 2.11 (`gelora doctor` shows what is found)",
        Hint::Device.with("cpu")
    )]
    NoCuda {
        /// What was found.
        reason: String,
    },
    /// A head that would be added gives lines of numbers for something else than the task needs.
    #[error(
        "the task cannot be learnt with a new head that reads {head}; add one that reads {fitting} ({})",
        Hint::Head
    )]
    NewHeadOfOtherTask {
        /// The head that was asked for.
        head: &'static str,
        /// Those that fit.
        fitting: &'static str,
    },
    /// LoRA without ranks.
    #[error(
        "LoRA trains at the ranks of a plan, and none was given; make one with `gelora plan`, and name it with {}",
        Hint::Plan
    )]
    NoPlan,
    /// The export holds none of the tensors that the method trains.
    #[error(
        "{} holds no tensor that this method trains, by the names and values of the checkpoint; train with {}",
        model.display(),
        Hint::Method.with("lora")
    )]
    NoTensors {
        /// The export.
        model: PathBuf,
    },
    /// The plan belongs to another export.
    #[error("the plan was made for another model ({planned}) than {}; run `gelora plan` for this model, or give the model of the plan", model.display())]
    PlanOfOtherModel {
        /// The export.
        model: PathBuf,
        /// The export of the plan.
        planned: String,
    },
    /// Tokens to predict that do not fit the rows.
    #[error("row {row} of the {what} data {found}; make the rows with the tokenizer's `encode_texts`")]
    Tokens {
        /// `training` or `validation`.
        what: &'static str,
        /// The row, from 0.
        row: usize,
        /// What is wrong with it.
        found: String,
    },
    /// The export does not predict tokens.
    #[error("{} {found}; export it with its language-model head (scripts/export_onnx.py --head lm)", model.display())]
    NoLanguageHead {
        /// The export.
        model: PathBuf,
        /// What it has instead.
        found: String,
    },
    /// Nothing to train on, or to evaluate with.
    #[error("the {what} data has no rows; check the file and its columns")]
    NoRows {
        /// `training` or `validation`.
        what: &'static str,
    },
    /// Tokenizer and model do not fit.
    #[error(
        "token id {id} in row {row} is outside the model's vocabulary of {vocabulary}: tokenizer and model do not fit; use the tokenizer.json that belongs to this model"
    )]
    TokenOutOfRange {
        /// The row, from 0.
        row: usize,
        /// The token.
        id: u32,
        /// Rows of the embedding table.
        vocabulary: usize,
    },
    /// Rows and labels differ in number.
    #[error("the {what} data has {rows} rows and {labels} labels; give every row a label")]
    Labels {
        /// `training` or `validation`.
        what: &'static str,
        /// Rows.
        rows: usize,
        /// Labels.
        labels: usize,
    },
    /// A label that the objective does not know.
    #[error("row {row} of the {what} data has {found} where {expected} is needed; check the label column")]
    LabelDoesNotFit {
        /// `training` or `validation`.
        what: &'static str,
        /// The row, from 0.
        row: usize,
        /// The label.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// Given batches name a row that is not there.
    #[error("the given batches name row {row}, and the training data has {rows} rows; make the batches for this data")]
    BatchRow {
        /// The row.
        row: usize,
        /// Rows there are.
        rows: usize,
    },
    /// The plan has no rank above zero and there is no head to train.
    #[error("there is nothing to train: no weight of the plan has a rank; make a plan with ranks of at least 1")]
    NothingToTrain,
    /// The export makes no logits.
    #[error("{} makes no logits; add a head with {}, or export the model with its head", model.display(), Hint::Head.one_of(&["first", "mean", "last"]))]
    NoHead {
        /// The export.
        model: PathBuf,
    },
    /// The export has a head and another was asked for.
    #[error("{} has a head of its own (`{output}`), which is trained; leave out {}", model.display(), Hint::Head)]
    HasHead {
        /// The export.
        model: PathBuf,
        /// What its head makes.
        output: String,
    },
    /// A head for answers in a text.
    #[error(
        "the export makes {outputs}, and training takes one output of logits; for span answers add {}, otherwise export a \
         sequence classifier",
        Hint::Task.with("squad")
    )]
    SeveralOutputs {
        /// Its outputs.
        outputs: String,
    },
    /// Span answers need a head of their own kind.
    #[error(
        "span answers need the outputs `start_logits` and `end_logits`, and the export makes {found}; export the model with a \
         head for question answering (scripts/export_onnx.py --head qa)"
    )]
    NoSpanHead {
        /// The outputs of its head.
        found: String,
    },
    /// The head does not fit the labels.
    #[error(
        "the head of the export gives {found} number(s) a row, the data needs {expected}; export the model with {expected} label(s)"
    )]
    HeadWidth {
        /// Width of the head.
        found: usize,
        /// Classes, or 1.
        expected: usize,
    },
    /// The adapter to start from lacks a tensor.
    #[error("the adapter to start from has no `{tensor}`; take one that was made with the same plan")]
    AdapterLacks {
        /// The tensor.
        tensor: String,
    },
    /// The adapter to start from has a tensor of another shape.
    #[error(
        "`{tensor}` of the adapter to start from has shape {found:?}, the plan asks for {expected:?}; take one that was made with the same plan"
    )]
    AdapterShape {
        /// The tensor.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
        /// The planned shape.
        expected: Vec<usize>,
    },
    /// The loss is NaN or infinite.
    #[error(
        "the loss became {loss} at step {step}; take a lower learning rate (now {learning_rate:e}) or a longer warm-up, and start anew with {}",
        Hint::Restart
    )]
    NotFinite {
        /// The optimizer step, from 1.
        step: u64,
        /// The loss.
        loss: f64,
        /// Learning rate of the step.
        learning_rate: f64,
    },
    /// The saved state belongs to a run with other settings.
    #[error("{} was saved with another {name} ({saved}; now {now}); take the earlier one to go on, or start anew with {}", path.display(), Hint::Restart)]
    OtherRun {
        /// The state.
        path: PathBuf,
        /// What differs.
        name: String,
        /// As saved.
        saved: String,
        /// As given now.
        now: String,
    },
    /// The saved state cannot be read.
    #[error("{} is not a state to go on from: {reason}; start anew with {}", path.display(), Hint::Restart)]
    BadState {
        /// The state.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A metric.
    #[error(transparent)]
    Metric(#[from] MetricError),
    /// The inputs of the export.
    #[error(transparent)]
    Inputs(#[from] RuntimeError),
    /// The checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The model file.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// libtorch refused something.
    #[error("libtorch: {reason}")]
    Torch {
        /// What libtorch said, in one line.
        reason: String,
    },
    /// Memory ran out, that of the machine or that of the GPU.
    #[error(
        "libtorch ran out of memory ({reason}); use a smaller {} or {}, or free memory of the device",
        Hint::BatchSize,
        Hint::MaximumLength
    )]
    OutOfMemory {
        /// What libtorch said, in one line.
        reason: String,
    },
    /// The user asked to stop.
    #[error("{0}")]
    Cancelled(#[from] Cancelled),
}

// Not `#[from]`: as a source, the error would be printed once more, with its C++ stack trace.
impl From<TchError> for TrainError {
    fn from(error: TchError) -> Self {
        let reason = first_line(&error);
        match out_of_memory(&reason) {
            Some(reason) => Self::OutOfMemory { reason },
            None => Self::Torch { reason },
        }
    }
}

/// What was wanted and what was there, where this is the message of an allocator.
pub(crate) fn out_of_memory(text: &str) -> Option<String> {
    let (_, reason) =
        ["CUDA out of memory. ", "DefaultCPUAllocator: "].iter().find_map(|start| text.split_once(start))?;
    // Two sentences have the numbers; what follows is about PyTorch's own settings.
    let mut sentences = reason.split(". ");
    let told: Vec<&str> = sentences.by_ref().take(2).collect();
    Some(told.join(". ").trim_end_matches('.').to_owned())
}

/// The first line of libtorch's message: the rest is a C++ stack trace.
pub(crate) fn first_line(error: &TchError) -> String {
    let text = match error {
        TchError::Torch(text) => text.clone(),
        other => other.to_string(),
    };
    text.lines().next().unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_ran_out_is_one_line_without_a_stack_trace() {
        let text = "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 139.80 GiB of which 15.56 MiB is free. \
                    Process 2584 has 138.86 GiB memory in use. See documentation (https://docs)\nException raised from malloc at \
                    /pytorch/c10/cuda/CUDACachingAllocator.cpp:1574 (most recent call first):\nframe #0: c10::Error::Error() + 0x9d\n";
        let error = TrainError::from(TchError::Torch(text.into()));
        assert!(matches!(error, TrainError::OutOfMemory { .. }), "{error:?}");
        assert_eq!(
            error.to_string(),
            "libtorch ran out of memory (Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 139.80 GiB of which 15.56 MiB is \
             free); use a smaller `batch_size` or `max_length`, or free memory of the device"
        );
        assert!(std::error::Error::source(&error).is_none());
        let cpu = "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes. \
                   Error code 12 (Cannot allocate memory)\nframe #0: x";
        let error = TrainError::from(TchError::Torch(cpu.into()));
        assert!(
            error
                .to_string()
                .starts_with("libtorch ran out of memory (can't allocate memory: you tried to allocate 64"),
            "{error}"
        );
        let other = TrainError::from(TchError::Torch("index 7 is out of bounds\nframe #0: x".into()));
        assert_eq!(other.to_string(), "libtorch: index 7 is out of bounds");
    }
}
