//! `plan.json`: dimension and rank of every layer, the modules to adapt, and where the numbers come from.

use serde::{Deserialize, Serialize};

use crate::dimension::ScaleEstimate;

/// The contents of `plan.json`. The field names are the file format; see `docs/plan.md`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Format version of the file.
    pub format_version: u32,
    /// Version of gelora that made the plan.
    pub gelora_version: String,
    /// The model that the plan was made for.
    pub model: ModelProvenance,
    /// The data that the plan was made from.
    pub data: DataProvenance,
    /// How the activations were extracted.
    pub extraction: ExtractionProvenance,
    /// Settings of neighbours, estimator and rule, as given and as resolved.
    pub settings: serde_json::Value,
    /// The scale at which all dimensions were read; the nearest neighbours in plans without this field.
    #[serde(default)]
    pub scale: PlanScale,
    /// One entry per hidden state, 0 (embeddings) to L.
    pub hidden_states: Vec<HiddenStateDimension>,
    /// One entry per block, 1 to L.
    pub blocks: Vec<BlockRank>,
    /// Parameters that the planned adapter trains (without the head).
    pub adapter_parameters: u64,
    /// What a reader should know before trusting the numbers.
    pub warnings: Vec<String>,
}

/// The scale of a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlanScale {
    /// The neighbours whose distances are compared: (1, 2) is TwoNN, others are GRIDE.
    pub neighbours: (usize, usize),
    /// Why this scale was chosen.
    pub chosen: ScaleChoice,
    /// Median relative change of the dimension from this scale to twice the neighbours; `None` if unknown.
    pub change: Option<f64>,
}

impl Default for PlanScale {
    fn default() -> Self {
        Self { neighbours: (1, 2), chosen: ScaleChoice::Given, change: None }
    }
}

/// How the scale of a plan was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScaleChoice {
    /// The smallest from which the dimension stays level.
    Plateau,
    /// The dimension is level nowhere; it changes least at this scale.
    LeastChange,
    /// The scale was set by the user.
    Given,
}

/// Which model a plan belongs to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelProvenance {
    /// The `.onnx` file as given.
    pub onnx: String,
    /// SHA-256 of the `.onnx` file, in hex.
    pub onnx_sha256: String,
    /// SHA-256 of each external data file and checkpoint file: (name, hash).
    pub other_files: Vec<(String, String)>,
    /// Exporter and version.
    pub producer: String,
    /// Version of the default operator set.
    pub opset: i64,
    /// Whether the last hidden state is taken after the final norm; `None` if unknown.
    pub last_state_after_final_norm: Option<bool>,
}

/// Which data a plan was made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataProvenance {
    /// The data file as given.
    pub file: String,
    /// SHA-256 of the data file, in hex.
    pub sha256: String,
    /// SHA-256 of `tokenizer.json`, in hex.
    pub tokenizer_sha256: String,
    /// Task preset, if one was used.
    pub task: Option<String>,
    /// Names of the text columns.
    pub columns: Vec<String>,
    /// Number of rows in the file.
    pub rows: u64,
    /// Number of rows with distinct token ids: those that were used.
    pub distinct_rows: u64,
    /// Maximum length in tokens.
    pub maximum_length: usize,
    /// Which of the rows were used; `None` if all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampling: Option<Sampling>,
}

/// Which rows a plan was made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Number of rows run through the model.
    pub rows: u64,
    /// Whether they were drawn in proportion to their labels.
    pub stratified: bool,
    /// The requested interval width, where rows were drawn until it was reached.
    pub until: Option<f64>,
    /// The widest 95 % interval of a dimension with these rows, where rows were drawn until a width was reached.
    pub width: Option<f64>,
    /// Rows per mini-batch, where the dimensions are averages over mini-batches.
    pub mini_batch: Option<u64>,
    /// Number of mini-batches.
    pub mini_batches: Option<u64>,
    /// The largest relative change of the dimension over the layers, at the scale of the plan, from one mini-batch to two
    /// together.
    pub change_with_size: Option<f64>,
}

/// How activations were extracted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExtractionProvenance {
    /// `mean`, `first`, `last` or `tokens`.
    pub pooling: String,
    /// Version of ONNX Runtime.
    pub onnxruntime: String,
    /// Execution provider that ran the matrix products.
    pub provider: String,
    /// Whether only rows of equal length were batched together, because the export ignores its mask.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub equal_lengths: bool,
}

/// The intrinsic dimension of one hidden state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HiddenStateDimension {
    /// Index of the hidden state; 0 is the embedding layer.
    pub index: usize,
    /// Name of the tensor in the graph.
    pub tensor: String,
    /// Width of the hidden state.
    pub width: usize,
    /// The estimate at the scale of the plan; `None` where the layer is degenerate.
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
    /// Why the layer has no dimension.
    pub degenerate: Option<String>,
    /// (points, dimension) of TwoNN at N, N/2, N/4 … points; may be empty. Format 1 called it `scale`.
    #[serde(alias = "scale")]
    pub decimation: Vec<(u64, f64)>,
    /// Standard deviation over disjoint parts for each of `decimation`. Format 1 called it `scale_spread`.
    #[serde(default, alias = "scale_spread")]
    pub decimation_spread: Vec<Option<f64>>,
    /// The dimension at every scale: TwoNN at the neighbours (1, 2), then GRIDE at (2, 4) … (32, 64). Format 1 called it
    /// `neighbour_scale`.
    #[serde(default, alias = "neighbour_scale")]
    pub dimension_by_scale: Vec<ScaleEstimate>,
    /// Rows that are nearer to each other than their surroundings explain; `None` if not determined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub near_duplicates: Option<NearDuplicateRows>,
    /// A selection of the points (ln μ, −ln(1 − i/N)) of TwoNN's straight line.
    #[serde(default)]
    pub fit: Vec<(f64, f64)>,
}

/// The effect of near-duplicates on a layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NearDuplicateRows {
    /// Number of rows whose nearest neighbour is nearer than happens by chance once in a thousand.
    pub rows: u64,
    /// Number expected by chance.
    pub expected: f64,
    /// TwoNN at the nearest neighbours, with all rows.
    pub dimension_with: f64,
    /// TwoNN without the later row of each pair; `None` where too few rows are left.
    pub dimension_without: Option<f64>,
    /// A selection of the pairs, in order from the least probable.
    pub examples: Vec<NearDuplicateExample>,
}

/// Two nearly identical rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NearDuplicateExample {
    /// Row indices in the activations, from 0.
    pub rows: (u64, u64),
    /// Distance between the two rows.
    pub distance: f64,
    /// Their texts, where the data are available.
    pub texts: Option<(String, String)>,
}

/// The rank of one block.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BlockRank {
    /// Index of the block, 1 to L.
    pub block: usize,
    /// `d_i − d_{i−1}`; `None` if either is undefined.
    pub difference: Option<f64>,
    /// 95 % interval of the difference.
    pub difference_interval: Option<(f64, f64)>,
    /// Probability that the dimension rises at all; `None` without subsamples.
    #[serde(default)]
    pub growth_probability: Option<f64>,
    /// Rank of the block; 0 leaves it out.
    pub rank: usize,
    /// Alpha of the block; `alpha / rank` is the same for all blocks.
    pub alpha: f64,
    /// How often each rank occurred under joint subsampling; sums to 1, most probable first.
    pub rank_probabilities: Vec<RankProbability>,
    /// How the rank was determined, as text.
    pub reason: String,
    /// The weights that get this rank.
    pub modules: Vec<PlannedModule>,
}

/// A rank and its probability.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RankProbability {
    /// The rank that may result.
    pub rank: usize,
    /// Share of the subsamples with this rank.
    pub probability: f64,
}

/// A weight that gets an adapter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedModule {
    /// Module path in PEFT and in the checkpoint, e.g. `bert.encoder.layer.0.attention.self.query`.
    pub module: String,
    /// Tensor in the checkpoint, e.g. `bert.encoder.layer.0.attention.self.query.weight`; `None` without a checkpoint.
    pub checkpoint_tensor: Option<String>,
    /// Node of the matrix product in the graph (its name, or its first output where it has none).
    pub node: String,
    /// The initializer that holds the weight in the graph.
    pub weight: String,
    /// Further initializers that hold the same weight, where the export stores it several times.
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
