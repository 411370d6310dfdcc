//! `plan.json`: dimension and rank of every layer, the modules to adapt, and where the numbers come from.

use serde::{Deserialize, Serialize};

/// The plan file. Field names are its format; see `docs/plan.md`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Version of this format.
    pub format_version: u32,
    /// Version of gelora that made it.
    pub gelora_version: String,
    /// The model it was made for.
    pub model: ModelProvenance,
    /// The data it was made from.
    pub data: DataProvenance,
    /// How the activations were made.
    pub extraction: ExtractionProvenance,
    /// Settings of neighbours, estimator and rule, as given and as resolved.
    pub settings: serde_json::Value,
    /// One entry per hidden state, 0 (embeddings) to L.
    pub hidden_states: Vec<HiddenStateDimension>,
    /// One entry per block, 1 to L.
    pub blocks: Vec<BlockRank>,
    /// Parameters that the planned adapter trains (without the head).
    pub adapter_parameters: u64,
    /// What a reader should know before trusting the numbers.
    pub warnings: Vec<String>,
}

/// Which model a plan belongs to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelProvenance {
    /// The `.onnx` file as given.
    pub onnx: String,
    /// SHA-256 of the `.onnx` file.
    pub onnx_sha256: String,
    /// SHA-256 of each external data file and checkpoint file: (name, hash).
    pub other_files: Vec<(String, String)>,
    /// Exporter and version.
    pub producer: String,
    /// Version of the default operator set.
    pub opset: i64,
    /// Whether the last hidden state is taken after the final norm; `None` where it cannot be told.
    pub last_state_after_final_norm: Option<bool>,
}

/// Which data a plan was made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataProvenance {
    /// The file as given.
    pub file: String,
    /// SHA-256 of the file.
    pub sha256: String,
    /// SHA-256 of `tokenizer.json`.
    pub tokenizer_sha256: String,
    /// Task preset, if one was used.
    pub task: Option<String>,
    /// Text columns.
    pub columns: Vec<String>,
    /// Rows of the file.
    pub rows: u64,
    /// Rows with distinct token ids: those that were used.
    pub distinct_rows: u64,
    /// Maximum length in tokens.
    pub maximum_length: usize,
}

/// How activations were made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExtractionProvenance {
    /// `mean`, `first`, `last` or `tokens`.
    pub pooling: String,
    /// Version of ONNX Runtime.
    pub onnxruntime: String,
    /// Execution provider that ran the matrix products.
    pub provider: String,
}

/// The intrinsic dimension of one hidden state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HiddenStateDimension {
    /// 0 is the embedding layer.
    pub index: usize,
    /// The tensor in the graph.
    pub tensor: String,
    /// Width of the hidden state.
    pub width: usize,
    /// The estimate; `None` where the layer is degenerate.
    pub dimension: Option<f64>,
    /// 95 % interval from joint subsampling of rows.
    pub interval: Option<(f64, f64)>,
    /// Standard error from joint subsampling.
    pub standard_error: Option<f64>,
    /// Points used, after duplicates, near-duplicates and non-finite rows were left out.
    pub points: u64,
    /// Rows left out because their nearest neighbour is at distance zero (or within float noise).
    pub duplicates: u64,
    /// Rows left out because they hold NaN or infinity.
    pub non_finite: u64,
    /// Why there is no dimension.
    pub degenerate: Option<String>,
    /// (points, dimension) at N, N/2, N/4 …; may be empty.
    pub scale: Vec<(u64, f64)>,
}

/// The rank of one block.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BlockRank {
    /// 1 to L.
    pub block: usize,
    /// `d_i − d_{i−1}`; `None` where one of them is undefined.
    pub difference: Option<f64>,
    /// 95 % interval of the difference.
    pub difference_interval: Option<(f64, f64)>,
    /// The rank; 0 leaves the block out.
    pub rank: usize,
    /// `alpha / rank` is the same for all blocks.
    pub alpha: f64,
    /// How often each rank came out under joint subsampling; sums to 1, most probable first.
    pub rank_probabilities: Vec<RankProbability>,
    /// How the rank came about, in plain words.
    pub reason: String,
    /// The weights that get this rank.
    pub modules: Vec<PlannedModule>,
}

/// A rank and how probable it is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RankProbability {
    /// The rank.
    pub rank: usize,
    /// Share of the subsamples.
    pub probability: f64,
}

/// A weight that gets an adapter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedModule {
    /// Module path as PEFT and the checkpoint know it, e.g. `bert.encoder.layer.0.attention.self.query`.
    pub module: String,
    /// Tensor in the checkpoint, e.g. `bert.encoder.layer.0.attention.self.query.weight`; `None` without a checkpoint.
    pub checkpoint_tensor: Option<String>,
    /// Node of the matrix product in the graph (its name, or its first output where it has none).
    pub node: String,
    /// The constant that holds the weight in the graph.
    pub weight: String,
    /// Further constants that hold the same weight, where the export stores it several times.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<String>,
    /// `query`, `key`, `value`, `output`, `feed_forward` or `other`.
    pub role: String,
    /// Input width.
    pub in_features: usize,
    /// Output width.
    pub out_features: usize,
    /// Rank of this module.
    pub rank: usize,
    /// Alpha of this module.
    pub alpha: f64,
}
