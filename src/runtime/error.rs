use std::path::PathBuf;

use super::library::{Found, Looked};
use crate::hint::Hint;

/// What can go wrong with ONNX Runtime, its sessions and their inputs.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// No ONNX Runtime library was found.
    #[error(
        "ONNX Runtime was not found (looked in {}); run ./scripts/setup.sh, or name the library with {} or ORT_DYLIB_PATH",
        Looked(looked),
        Hint::OrtLib
    )]
    LibraryMissing {
        /// Paths that were searched, in order.
        looked: Vec<PathBuf>,
    },
    /// A library that the user named does not exist.
    #[error("{} (from {how}) does not exist; name the file libonnxruntime.so.X.Y.Z, or the folder that holds it", path.display())]
    NamedLibraryMissing {
        /// The path as named.
        path: PathBuf,
        /// How it was named.
        how: Found,
    },
    /// The file is not a shared library, or one that this machine cannot load.
    #[error(
        "{} cannot be loaded as a library ({reason}); name a libonnxruntime.so of this machine's architecture with {}",
        path.display(), Hint::OrtLib
    )]
    NotALibrary {
        /// The file that cannot be loaded.
        path: PathBuf,
        /// Message of the loader.
        reason: String,
    },
    /// The file is a library, but not ONNX Runtime.
    #[error("{} is a library but not ONNX Runtime (it has no usable `OrtGetApiBase`); name libonnxruntime.so with {}", path.display(), Hint::OrtLib)]
    NotOnnxRuntime {
        /// Path of the library.
        path: PathBuf,
    },
    /// The library is older than the interface gelora was built for.
    #[error("{} is ONNX Runtime {found}, gelora needs 1.{needed} or newer; install onnxruntime=={recommended}", path.display(), recommended = super::library::RECOMMENDED)]
    LibraryTooOld {
        /// Path of the library.
        path: PathBuf,
        /// Version of the library.
        found: String,
        /// The oldest minor version that is supported.
        needed: u32,
    },
    /// A process can load only one ONNX Runtime.
    #[error("ONNX Runtime {} is already loaded in this process, {} cannot be loaded beside it; start gelora anew", loaded.display(), wanted.display())]
    AlreadyLoaded {
        /// The library already loaded.
        loaded: PathBuf,
        /// The library requested now.
        wanted: PathBuf,
    },
    /// A word that does not name a device.
    #[error("`{0}` is not a device; use auto, cpu, cuda or cuda:N")]
    UnknownDevice(String),
    /// CUDA was requested, and the library was built without it.
    #[error(
        "ONNX Runtime {version} at {} has no CUDA provider; install onnxruntime-gpu=={} and name its libonnxruntime.so with {}, or use {}",
        path.display(), super::library::RECOMMENDED, Hint::OrtLib, Hint::Device.with("cpu")
    )]
    CudaMissing {
        /// Path of the library.
        path: PathBuf,
        /// Version of the library.
        version: String,
    },
    /// CUDA was requested and does not start.
    #[error(
        "CUDA device {device} cannot be used: {reason}; check `gelora doctor` and the driver (nvidia-smi), or use {}",
        Hint::Device.with("cpu")
    )]
    CudaUnusable {
        /// Number of the device.
        device: u32,
        /// Message of ONNX Runtime, in one line.
        reason: String,
    },
    /// The session cannot be created.
    #[error("ONNX Runtime cannot load {model}: {reason}; {cure}")]
    Load {
        /// The model that cannot be loaded.
        model: String,
        /// Message of ONNX Runtime, in one line.
        reason: String,
        /// How to fix it.
        cure: &'static str,
    },
    /// The model has an input that gelora cannot fill.
    #[error(
        "the model wants an input `{name}` ({data_type}) that gelora does not know how to fill; export it with input_ids, attention_mask and token_type_ids only"
    )]
    UnknownInput {
        /// Name of the input.
        name: String,
        /// Element type of the input.
        data_type: String,
    },
    /// The shape of an input does not fix what gelora must know.
    #[error(
        "input `{name}` of the model has shape {shape}, where gelora expects {expected}; export the model again with dynamic batch and sequence axes"
    )]
    InputShape {
        /// Name of the input.
        name: String,
        /// Shape as declared.
        shape: String,
        /// Shape as required.
        expected: &'static str,
    },
    /// A token id lies outside the embedding table.
    #[error(
        "token id {id} is outside the model's vocabulary of {vocabulary}: tokenizer and model do not fit; use the tokenizer.json that belongs to this model"
    )]
    TokenOutOfRange {
        /// The largest token id of the batch.
        id: i64,
        /// Rows of the embedding table.
        vocabulary: i64,
    },
    /// A text has more tokens than the model has positions.
    #[error(
        "a text of {length} tokens needs more than the model's {positions} positions; set {} to {} or less",
        Hint::MaximumLength, longest(*length, *positions)
    )]
    TooLong {
        /// Tokens of the longest row.
        length: usize,
        /// Positions of the model.
        positions: i64,
    },
    /// The export accepts only rows of one length, and a row is longer.
    #[error("a row has {length} tokens, and the export takes exactly {fixed}; set {}", Hint::MaximumLength.with(fixed))]
    FixedLength {
        /// Tokens of the row.
        length: usize,
        /// Tokens per row that the export accepts.
        fixed: usize,
    },
    /// Memory ran out during a run.
    #[error(
        "ONNX Runtime ran out of memory ({reason}); use a smaller {} or fewer {}",
        Hint::BatchTokens,
        Hint::Threads
    )]
    OutOfMemory {
        /// Message of ONNX Runtime, in one line.
        reason: String,
    },
    /// A requested output does not exist or cannot be read.
    #[error("output `{name}` of the model is {found}, not a tensor of floating-point numbers; export it as float32")]
    Output {
        /// Name of the output.
        name: String,
        /// What the model has under that name.
        found: String,
    },
    /// A hidden state has its axes in another order, or no token axis.
    #[error(
        "hidden state `{name}` has shape {found:?} for {rows} rows of {length} tokens, where gelora expects [batch, sequence, width]; export the model batch first, with hidden states of whole rows"
    )]
    HiddenStateShape {
        /// Name of the hidden state.
        name: String,
        /// Its shape as computed.
        found: Vec<usize>,
        /// Rows of the batch.
        rows: usize,
        /// Tokens of every row, padding included.
        length: usize,
    },
    /// Any other failure during a run.
    #[error("ONNX Runtime failed: {reason}; check that the model runs by itself with `gelora inspect`")]
    Run {
        /// Message of ONNX Runtime, in one line.
        reason: String,
    },
    /// The model itself is wrong.
    #[error(transparent)]
    Onnx(#[from] crate::onnx::OnnxError),
}

impl RuntimeError {
    /// A failure during a run, from ONNX Runtime's message. `tokens` is the largest token id and the length of the rows,
    /// where they are known: with them an index outside a table can be explained.
    pub(super) fn from_run(message: &str, tokens: Option<(i64, usize)>) -> Self {
        let reason = one_line(message);
        if let (Some((index, limit)), Some((id, length))) = (out_of_range(message), tokens) {
            // Positions count up, so the first position out of range is the limit itself; models like RoBERTa count from 2.
            if index == limit && length as i64 + 2 > limit {
                return Self::TooLong { length, positions: limit };
            }
            if id >= limit {
                return Self::TokenOutOfRange { id, vocabulary: limit };
            }
        }
        // A table of positions that is added as a whole does not broadcast to longer rows.
        if let (Some((positions, length)), Some((_, longest))) = (broadcast(message), tokens)
            && length == longest as i64
            && positions < length
        {
            return Self::TooLong { length: longest, positions };
        }
        let lower = message.to_ascii_lowercase();
        let signs = ["failed to allocate memory", "out of memory", "bad_alloc", "the resource allocation failed"];
        if signs.iter().any(|sign| lower.contains(sign)) {
            return Self::OutOfMemory { reason };
        }
        Self::Run { reason }
    }

    /// A failure while loading a model.
    pub(super) fn from_load(model: &str, message: &str) -> Self {
        let lower = message.to_ascii_lowercase();
        let cure = if lower.contains("protobuf") || lower.contains("failed to load model") {
            "is the file truncated? export or copy it again"
        } else if lower.contains("opset") || lower.contains("ir_version") || lower.contains("ir version") {
            "it was made by a newer exporter than this ONNX Runtime knows; export with an older opset or update onnxruntime"
        } else if lower.contains("external") {
            "copy its external data files beside it"
        } else if lower.contains("is not a registered function/op") || lower.contains("fatal error") {
            "it uses an operator this ONNX Runtime does not have; export it without custom operators"
        } else {
            "export it again and check it with onnx.checker"
        };
        Self::Load { model: model.into(), reason: one_line(message), cure }
    }
}

/// `indices element out of data bounds, idx=40000 must be within the inclusive range [-30522,30521]` → (40000, 30522).
fn out_of_range(message: &str) -> Option<(i64, i64)> {
    let (before, range) = message.split_once(" must be within the inclusive range [")?;
    let index = before.rsplit_once("idx=")?.1.trim().parse().ok()?;
    let upper = range.split(']').next()?.split(',').nth(1)?;
    upper.trim().parse::<i64>().ok().map(|last| (index, last.saturating_add(1)))
}

/// The two lengths of a failed broadcast: `… dimension other than 1. 512 by 702`.
fn broadcast(message: &str) -> Option<(i64, i64)> {
    let (_, rest) = message.split_once("Attempting to broadcast an axis by a dimension other than 1.")?;
    let mut words = rest.split_whitespace();
    let (first, by, second) = (words.next()?.parse().ok()?, words.next()?, words.next()?);
    let second = second.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().ok()?;
    (by == "by").then_some((first, second))
}

/// The text of a message, without the source locations that ONNX Runtime puts around it.
pub(super) fn one_line(message: &str) -> String {
    let text = message.split_once("Status Message: ").map_or(message, |(_, rest)| rest);
    let text = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    let text = failure_of_cuda(&text).unwrap_or_else(|| without_place(&text));
    let mut text = text.trim_end_matches(['.', ' ']).to_string();
    if text.chars().count() > 300 {
        text = text.chars().take(300).collect::<String>() + "…";
    }
    text
}

/// `… CUBLAS failure 3: the resource allocation failed ; GPU=0 ; hostname=… ; file=… ; line=79 ; expr=…` → the failure.
fn failure_of_cuda(text: &str) -> Option<&str> {
    let (before, after) = text.split_once(" failure ")?;
    let library = before.rsplit(' ').next().filter(|name| name.starts_with("CU"))?;
    let (reason, _) = after.split_once(" ; GPU=")?;
    let start = before.len() - library.len();
    Some(text[start..before.len() + " failure ".len() + reason.len()].trim())
}

/// `/onnxruntime_src/…/file.cc:123 void f(int) explanation` → `explanation`, which may contain brackets too.
fn without_place(text: &str) -> &str {
    let place = text.rfind("/onnxruntime_src/").map_or("", |start| &text[start..]);
    let ends = |rest: &&str| !rest.is_empty() && !rest.starts_with(['[', ':']) && !rest.starts_with("const");
    place
        .split_once(") ")
        .map(|(_, rest)| rest)
        .filter(ends)
        .or_else(|| Some(place.rsplit_once(") ")?.1))
        .unwrap_or(text)
}

/// The maximum number of tokens: models like RoBERTa count their positions from 2, and fail on texts that seem to fit.
fn longest(length: usize, positions: i64) -> i64 {
    if i64::try_from(length).is_ok_and(|length| length > positions) { positions } else { positions - 2 }
}
