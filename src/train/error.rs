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
        /// Name of the node.
        node: String,
        /// What to export instead.
        cure: String,
    },
    /// An operator could not be executed.
    #[error("node `{node}` ({operator}) cannot be executed: {reason}; {cure}")]
    Operator {
        /// Name of the operator, with its domain.
        operator: String,
        /// Name of the node.
        node: String,
        /// Why it cannot be executed.
        reason: String,
        /// What to do about it.
        cure: &'static str,
    },
    /// A requested value does not exist in the graph.
    #[error("the graph has no value `{name}`; its outputs are {known}")]
    UnknownValue {
        /// Name of the requested value.
        name: String,
        /// Names of the graph's outputs.
        known: String,
    },
    /// An input of the graph is missing.
    #[error("the graph needs its input `{name}` and got {given}; give it")]
    MissingInput {
        /// Name of the missing input.
        name: String,
        /// Names of the inputs that were given.
        given: String,
    },
    /// The plan does not agree with itself or with the export.
    #[error("the plan cannot be trained: {0}")]
    Plan(#[from] PlanFault),
    /// The export holds a planned weight in a form that an adapter cannot reach.
    #[error("cannot train {}: {found}", onnx.display())]
    Folded {
        /// Path of the `.onnx` file.
        onnx: PathBuf,
        /// The product that holds the weight.
        found: FoldedProduct,
    },
    /// A weight cannot be adapted or trained.
    #[error("cannot train the weight `{weight}`: {reason}")]
    Weight {
        /// Name of the initializer.
        weight: String,
        /// Why not, and the cure.
        reason: String,
    },
    /// A value of the graph has another shape than a classifier or encoder gives it.
    #[error(
        "the value `{value}` has shape {found:?}, training needs {expected}; export a model with the head that its task needs"
    )]
    Shape {
        /// Name of the value.
        value: String,
        /// Its actual shape.
        found: Vec<i64>,
        /// The shape that training needs.
        expected: &'static str,
    },
    /// Logits and labels do not fit the task.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// An invalid setting.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// CUDA was requested and is not available.
    #[error(
        "cannot train on CUDA: {reason}; take {}, or install a driver and a CUDA build of libtorch 2.11 (`gelora doctor` shows what is found)",
        Hint::Device.with("cpu")
    )]
    NoCuda {
        /// Why CUDA is not available.
        reason: String,
    },
    /// The outputs of the head to be added are not those that the task needs.
    #[error(
        "the task cannot be learnt with a new head that reads {head}; add one that reads {fitting} ({})",
        Hint::Head
    )]
    NewHeadOfOtherTask {
        /// What the requested head reads.
        head: &'static str,
        /// The heads that fit.
        fitting: &'static str,
    },
    /// LoRA was requested without a plan, which gives the ranks.
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
        /// Path of the export.
        model: PathBuf,
    },
    /// The plan was made for another export.
    #[error("the plan was made for another model ({planned}) than {}; run `gelora plan` for this model, or give the model of the plan", model.display())]
    PlanOfOtherModel {
        /// Path of the export.
        model: PathBuf,
        /// The export that the plan was made for.
        planned: String,
    },
    /// The tokens to predict do not match the rows.
    #[error("row {row} of the {what} data {found}; make the rows with the tokenizer's `encode_texts`")]
    Tokens {
        /// The data set, `training` or `validation`.
        what: &'static str,
        /// Index of the row, from 0.
        row: usize,
        /// What is wrong with it.
        found: String,
    },
    /// The export does not predict tokens.
    #[error("{} {found}; export it with its language-model head (scripts/export_onnx.py --head lm)", model.display())]
    NoLanguageHead {
        /// Path of the export.
        model: PathBuf,
        /// What it has instead of token logits.
        found: String,
    },
    /// There are no rows to train on, or to evaluate with.
    #[error("the {what} data has no rows; check the file and its columns")]
    NoRows {
        /// The data set, `training` or `validation`.
        what: &'static str,
    },
    /// A token id is outside the model's vocabulary.
    #[error(
        "token id {id} in row {row} is outside the model's vocabulary of {vocabulary}: tokenizer and model do not fit; use the tokenizer.json that belongs to this model"
    )]
    TokenOutOfRange {
        /// Index of the row, from 0.
        row: usize,
        /// The token id.
        id: u32,
        /// Rows of the embedding table.
        vocabulary: usize,
    },
    /// Rows and labels differ in number.
    #[error("the {what} data has {rows} rows and {labels} labels; give every row a label")]
    Labels {
        /// The data set, `training` or `validation`.
        what: &'static str,
        /// Number of rows.
        rows: usize,
        /// Number of labels.
        labels: usize,
    },
    /// A label that does not fit the objective.
    #[error("row {row} of the {what} data has {found} where {expected} is needed; check the label column")]
    LabelDoesNotFit {
        /// The data set, `training` or `validation`.
        what: &'static str,
        /// Index of the row, from 0.
        row: usize,
        /// The label found.
        found: String,
        /// The labels expected.
        expected: String,
    },
    /// A given batch names a row that does not exist.
    #[error("the given batches name row {row}, and the training data has {rows} rows; make the batches for this data")]
    BatchRow {
        /// Index of the row, from 0.
        row: usize,
        /// Number of rows of the training data.
        rows: usize,
    },
    /// The plan has no rank above zero and there is no head to train.
    #[error("there is nothing to train: no weight of the plan has a rank; make a plan with ranks of at least 1")]
    NothingToTrain,
    /// The export has no logits.
    #[error("{} makes no logits; add a head with {}, or export the model with its head", model.display(), Hint::Head.one_of(&["first", "mean", "last"]))]
    NoHead {
        /// Path of the export.
        model: PathBuf,
    },
    /// The export has a head and another one was requested.
    #[error("{} has a head of its own (`{output}`), which is trained; leave out {}", model.display(), Hint::Head)]
    HasHead {
        /// Path of the export.
        model: PathBuf,
        /// Name of the output of its head.
        output: String,
    },
    /// The head of the export has several outputs, as for span answers, and the task needs a single output of logits.
    #[error(
        "the export makes {outputs}, and training takes one output of logits; for span answers add {}, otherwise export a \
         sequence classifier",
        Hint::Task.with("squad")
    )]
    SeveralOutputs {
        /// Names of the outputs of the head.
        outputs: String,
    },
    /// The export lacks the two outputs that span answers need.
    #[error(
        "span answers need the outputs `start_logits` and `end_logits`, and the export makes {found}; export the model with a \
         head for question answering (scripts/export_onnx.py --head qa)"
    )]
    NoSpanHead {
        /// Names of the outputs of the export's head.
        found: String,
    },
    /// The width of the head does not match the labels.
    #[error(
        "the head of the export gives {found} number(s) a row, the data needs {expected}; export the model with {expected} label(s)"
    )]
    HeadWidth {
        /// Width of the head.
        found: usize,
        /// Number of classes, or 1 for a number.
        expected: usize,
    },
    /// The adapter to start from lacks a tensor.
    #[error("the adapter to start from has no `{tensor}`; take one that was made with the same plan")]
    AdapterLacks {
        /// Name of the tensor.
        tensor: String,
    },
    /// The adapter to start from has a tensor of another shape.
    #[error(
        "`{tensor}` of the adapter to start from has shape {found:?}, the plan asks for {expected:?}; take one that was made with the same plan"
    )]
    AdapterShape {
        /// Name of the tensor.
        tensor: String,
        /// Its shape in the adapter.
        found: Vec<usize>,
        /// Its shape by the plan.
        expected: Vec<usize>,
    },
    /// The loss is NaN or infinite.
    #[error(
        "the loss became {loss} at step {step}; take a lower learning rate (now {learning_rate:e}) or a longer warm-up, and start over with {}",
        Hint::Restart
    )]
    NotFinite {
        /// The optimizer step, from 1.
        step: u64,
        /// The loss, not finite.
        loss: f64,
        /// Learning rate of that step.
        learning_rate: f64,
    },
    /// The saved state belongs to a run with other settings.
    #[error("{} was saved with another {name} ({saved}; now {now}); use the earlier one to resume, or start over with {}", path.display(), Hint::Restart)]
    OtherRun {
        /// Path of the saved state.
        path: PathBuf,
        /// Name of the entry that differs.
        name: String,
        /// Its value in the saved state.
        saved: String,
        /// Its value in this run.
        now: String,
    },
    /// The saved state cannot be read.
    #[error("{} is not a state that can be resumed: {reason}; start over with {}", path.display(), Hint::Restart)]
    BadState {
        /// Path of the saved state.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A metric cannot be computed.
    #[error(transparent)]
    Metric(#[from] MetricError),
    /// The inputs of the export cannot be provided.
    #[error(transparent)]
    Inputs(#[from] RuntimeError),
    /// The checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The model file cannot be read.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// A thread cannot be started.
    #[error("a thread to train with cannot be started: {error}")]
    Thread {
        /// The error of the system.
        error: std::io::Error,
    },
    /// An operation of libtorch failed.
    #[error("libtorch: {reason}")]
    Torch {
        /// The message of libtorch, its first line.
        reason: String,
    },
    /// The machine or the GPU ran out of memory.
    #[error(
        "libtorch ran out of memory ({reason}); use a smaller {} or {}, or free memory of the device",
        Hint::BatchSize,
        Hint::MaximumLength
    )]
    OutOfMemory {
        /// The message of libtorch, in one line.
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

/// The amounts requested and available, where the message is that of an allocator.
pub(crate) fn out_of_memory(text: &str) -> Option<String> {
    let (_, reason) =
        ["CUDA out of memory. ", "DefaultCPUAllocator: "].iter().find_map(|start| text.split_once(start))?;
    // Two sentences have the numbers; the rest is about PyTorch's own settings.
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
