//! `plan.json`: dimension and rank of every layer, the modules to adapt, and where the numbers come from.

use serde::{Deserialize, Serialize};

use crate::dimension::ScaleEstimate;

/// The plan file. Field names are its format; see `docs/plan.md`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Version of the format that the file has.
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
    /// The scale at which all dimensions were read; the nearest neighbours in plans that do not say.
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
    /// Why this one.
    pub chosen: ScaleChoice,
    /// Median change of the dimension from there to twice the neighbours, relative; `None` where it is not known.
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
    /// The dimension is level nowhere; it changes least there.
    LeastChange,
    /// It was asked for.
    Given,
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
    /// Which of the rows were used, where not simply all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampling: Option<Sampling>,
}

/// Which rows a plan was made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Rows that the model saw.
    pub rows: u64,
    /// Whether they were drawn in proportion to their labels.
    pub stratified: bool,
    /// The width of interval that rows were drawn for.
    pub until: Option<f64>,
    /// The widest 95 % interval of a dimension with these rows, where rows were drawn for a width.
    pub width: Option<f64>,
    /// Rows of a mini-batch, where the dimensions are averages over mini-batches.
    pub mini_batch: Option<u64>,
    /// How many mini-batches there were.
    pub mini_batches: Option<u64>,
    /// The largest relative change of the dimension over the layers, at the scale of the plan, from one mini-batch to two
    /// together.
    pub change_with_size: Option<f64>,
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
    /// Whether only rows of equal length were put together, because the export ignores its mask.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub equal_lengths: bool,
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
    /// Why there is no dimension.
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
    /// Rows that are nearer to each other than their surroundings explain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub near_duplicates: Option<NearDuplicateRows>,
    /// Some of the points (ln μ, −ln(1 − i/N)) of TwoNN's straight line.
    #[serde(default)]
    pub fit: Vec<(f64, f64)>,
}

/// What near-duplicates do to a layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NearDuplicateRows {
    /// Rows whose nearest neighbour is nearer than chance explains once in a thousand.
    pub rows: u64,
    /// As many as chance explains.
    pub expected: f64,
    /// TwoNN at the nearest neighbours with and without the later row of each pair.
    pub dimension_with: f64,
    /// `None` where too few rows are left.
    pub dimension_without: Option<f64>,
    /// Some of the pairs, from the least probable on.
    pub examples: Vec<NearDuplicateExample>,
}

/// Two rows that are nearly the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NearDuplicateExample {
    /// Numbers of the activations, from 0.
    pub rows: (u64, u64),
    /// Their distance.
    pub distance: f64,
    /// What they are, where the data are at hand.
    pub texts: Option<(String, String)>,
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
    /// How probable it is that the dimension rises at all; `None` without subsamples.
    #[serde(default)]
    pub growth_probability: Option<f64>,
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
