//! The configuration of `gelora run`: a TOML file, checked before anything starts.
//!
//! Every key has a type, a range and a default; an unknown key is an error that names the nearest one. Paths are relative
//! to the file. `examples/` has a commented configuration per task.

mod check;
mod error;
mod misfits;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use error::ConfigError;

use crate::dataset::{
    AnswerSettings, Format, LoadSettings, Metric, Objective, ObjectiveKind, Preset, Template, preset, span_task,
};
use crate::dimension::{self, Frame};
use crate::files::read_text;
use crate::runtime::Device;

/// A whole configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The model.
    pub model: ModelSection,
    /// The rows.
    pub data: DataSection,
    /// Activations, dimensions and ranks.
    #[serde(default)]
    pub plan: PlanSection,
    /// Training.
    #[serde(default)]
    pub train: TrainSection,
    /// What is written, and where.
    pub output: OutputSection,
    /// Where to compute.
    #[serde(default)]
    pub device: DeviceSection,
}

/// `[model]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSection {
    /// A model folder, or an `.onnx` file.
    pub path: PathBuf,
}

/// `[data]`. Without `task`, the columns are `text` and `label` unless named here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSection {
    /// Preset for columns, objective and metrics: `cola`, `sst2`, `mrpc`, `qqp`, `stsb`, `mnli`, `qnli`, `rte`, `anli`;
    /// `squad`, `squad2` for span answers; `causal-lm`, `instruct` for language models.
    pub task: Option<String>,
    /// Rows to plan and train with.
    pub train: PathBuf,
    /// Rows to evaluate on after every epoch, and to choose the best state with.
    pub dev: Option<PathBuf>,
    /// Labelled rows that nothing is chosen with; evaluated at the end.
    pub test: Option<PathBuf>,
    /// Column of the text, or of the first text of a pair.
    pub text: Option<String>,
    /// Column of the second text of a pair.
    pub pair: Option<String>,
    /// Column of the label.
    pub label: Option<String>,
    /// Names of the classes in their order.
    pub labels: Option<Vec<String>>,
    /// How an instruction, its input and the output become one text (`{instruction}`, `{input}`, `{output}`).
    pub template: Option<String>,
    /// The same for rows without input.
    pub template_without_input: Option<String>,
    /// For language models: whether texts are joined and cut into rows of `max_length` tokens.
    #[serde(default)]
    pub packing: bool,
    /// `classification` or `regression`; by the labels where it is not given.
    pub objective: Option<ObjectiveKind>,
    /// `tsv`, `csv`, `jsonl`, `parquet` or `txt`; by the names of the files where it is not given.
    pub format: Option<Format>,
    /// Whether `"` quotes fields; no in TSV and yes in CSV where it is not given.
    pub quoting: Option<bool>,
    /// Longest row in tokens; more is cut off.
    /// 128 where it is not given; 384 for span answers, whose contexts are cut into windows of this length.
    pub max_length: Option<usize>,
    /// Only the first so many training rows, or questions.
    pub limit: Option<usize>,
    /// Span answers: tokens that a window repeats of the one before; 128 where it is not given.
    pub stride: Option<usize>,
    /// Span answers: longest answer in tokens; 30 where it is not given.
    pub max_answer_length: Option<usize>,
    /// Span answers: how many of the best starts and ends of a window are combined; 20 where it is not given.
    pub n_best: Option<usize>,
    /// `squad2`: how much the score of no answer must exceed that of the best answer; 0 where it is not given.
    pub null_threshold: Option<f32>,
    /// `accuracy`, `f1`, `matthews`, `pearson`, `spearman`, `perplexity`; the first decides which state is the best.
    pub metrics: Option<Vec<Metric>>,
}

/// How span answers are read and given.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct SpanSettings {
    /// Whether there may be no answer.
    pub null_answers: bool,
    /// Tokens that a window repeats of the one before.
    pub stride: usize,
    /// Longest answer in tokens.
    pub max_answer_length: usize,
    /// How many of the best starts and ends of a window are combined.
    pub n_best: usize,
    /// How much the score of no answer must exceed that of the best answer.
    pub null_threshold: f32,
}

impl SpanSettings {
    /// Which spans can be answers.
    pub fn answers(&self) -> AnswerSettings {
        AnswerSettings {
            maximum_tokens: self.max_answer_length,
            candidates: self.n_best,
            null_threshold: self.null_threshold,
        }
    }
}

impl DataSection {
    /// The preset that `task` names.
    pub fn preset(&self) -> Option<Preset> {
        self.task.as_deref().and_then(preset)
    }

    /// Longest row, or window, in tokens.
    pub fn max_length(&self) -> usize {
        self.max_length.unwrap_or(if self.spans().is_some() { 384 } else { 128 })
    }

    /// How span answers are read and given, if that is the task.
    pub fn spans(&self) -> Option<SpanSettings> {
        let task = self.task.as_deref().and_then(span_task)?;
        let usual = AnswerSettings::default();
        Some(SpanSettings {
            null_answers: task == "squad2",
            stride: self.stride.unwrap_or(128),
            max_answer_length: self.max_answer_length.unwrap_or(usual.maximum_tokens),
            n_best: self.n_best.unwrap_or(usual.candidates),
            null_threshold: self.null_threshold.unwrap_or(usual.null_threshold),
        })
    }

    /// How to read the training file.
    pub fn load_settings(&self) -> LoadSettings {
        let base = self.preset().map(|preset| preset.settings()).unwrap_or_default();
        LoadSettings {
            text: self.text.clone().unwrap_or(base.text),
            pair: self.pair.clone().or(base.pair),
            label: self.label.clone().or(base.label),
            objective: self.objective.or(base.objective),
            accept_class_numbers: base.accept_class_numbers && self.labels.is_none(),
            labels: self.labels.clone().or(base.labels),
            format: self.format,
            quoting: self.quoting,
            template: base.template.map(|usual| self.template(usual)),
            limit: self.limit,
        }
    }

    /// Whether anything says what the labels are.
    pub fn names_labels(&self) -> bool {
        self.label.is_some() || self.labels.is_some() || self.objective.is_some() || self.task.is_some()
    }

    /// The template of this section, or the usual one.
    fn template(&self, usual: Template) -> Template {
        match &self.template {
            Some(text) => Template { text: text.clone(), without_input: self.template_without_input.clone() },
            None => Template { without_input: self.template_without_input.clone().or(usual.without_input), ..usual },
        }
    }

    /// How to read the development or test file: with the classes of the training file, and whole.
    pub fn held_out_settings(&self, objective: &Objective) -> LoadSettings {
        LoadSettings { limit: None, ..self.load_settings().with_objective(objective) }
    }

    /// What to measure; the first decides.
    pub fn metrics(&self, objective: &Objective) -> Vec<Metric> {
        match (&self.metrics, self.preset()) {
            (Some(metrics), _) => metrics.clone(),
            (None, Some(preset)) if preset.objective == objective.kind() => preset.metrics.to_vec(),
            _ => Metric::usual(objective).to_vec(),
        }
    }
}

/// `[plan]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlanSection {
    /// What stands for a row: one vector, or a sample of its token vectors.
    pub pooling: Pooling,
    /// With `pooling = "tokens"`: vectors per row.
    pub tokens_per_text: usize,
    /// At most so many rows, drawn with `seed`; all where it is not given.
    pub rows: Option<usize>,
    /// Whether these are drawn in proportion to their labels.
    pub stratified: bool,
    /// Rows are drawn until no 95 % interval of a dimension is wider than this.
    pub until: Option<f64>,
    /// Dimensions are averages over mini-batches of so many rows, and no activations are kept.
    pub mini_batch: Option<usize>,
    /// Tokens per batch of the extraction, padding included; what suits the device and the model where it is not given.
    pub batch_tokens: Option<usize>,
    /// How vectors are centred and scaled: `raw`, `centred` or `whitened`.
    pub representation: Frame,
    /// What a distance is: `euclidean`, or `cosine` for vectors of unit length.
    pub metric: dimension::Metric,
    /// How neighbours are found; the answers are the same.
    pub neighbours: Neighbours,
    /// The estimator of the dimension.
    pub method: Method,
    /// Share of the largest ratios that `linear` and `censored-mle` leave out.
    pub discard: f64,
    /// At which neighbours dimensions are read: 1, 2, 4, 8 or 16, compared with twice as many; where the dimension is level
    /// if it is not given.
    pub scale: Option<usize>,
    /// How a difference of dimensions becomes whole.
    pub rounding: Rounding,
    /// Added to every difference.
    pub offset: usize,
    /// Smallest rank.
    pub minimum_rank: usize,
    /// Largest rank.
    pub maximum_rank: Option<usize>,
    /// Most parameters the adapter may have in all.
    pub budget: Option<u64>,
    /// How probable a rise of the dimension must be; below that a layer gets the smallest rank. Nothing is asked where it is
    /// not given.
    pub confidence: Option<f64>,
    /// `alpha / rank`, the same for every layer.
    pub scaling: f64,
    /// Which weights get adapters.
    pub projections: Vec<Projection>,
    /// Subsamples of the rows that tell how certain a rank is; 0 for none.
    pub subsamples: usize,
    /// Seed of everything random in the plan.
    pub seed: u64,
}

impl Default for PlanSection {
    fn default() -> Self {
        use Projection::{Key, Output, Query, Value};
        PlanSection {
            pooling: Pooling::Mean,
            tokens_per_text: 4,
            rows: None,
            stratified: false,
            until: None,
            mini_batch: None,
            batch_tokens: None,
            representation: Frame::Raw,
            metric: dimension::Metric::Euclidean,
            neighbours: Neighbours::Auto,
            method: Method::Linear,
            discard: 0.1,
            scale: None,
            rounding: Rounding::Ceil,
            offset: 1,
            minimum_rank: 1,
            maximum_rank: None,
            budget: None,
            confidence: None,
            scaling: 8.0,
            projections: vec![Query, Key, Value, Output],
            subsamples: 100,
            seed: 0,
        }
    }
}

/// `[train]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainSection {
    /// Passes over the training rows.
    pub epochs: u64,
    /// Ends after so many optimizer steps, should these be fewer; the schedule then ends there too.
    pub maximum_steps: Option<u64>,
    /// Rows in a batch.
    pub batch_size: usize,
    /// Batches in an optimizer step.
    pub accumulation: usize,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// How the learning rate goes on after the warm-up.
    pub schedule: Schedule,
    /// Share of all steps in which the learning rate rises; 0.06 where neither this nor `warmup_steps` is given.
    pub warmup_ratio: Option<f64>,
    /// Steps in which the learning rate rises.
    pub warmup_steps: Option<u64>,
    /// AdamW's weight decay.
    pub weight_decay: f64,
    /// Largest norm of the gradient; 0 for no clipping.
    pub clip_norm: f64,
    /// Share of the adapters' input that is dropped.
    pub dropout: f64,
    /// Decides the initial adapters, the order of rows and dropout.
    pub seed: u64,
    /// How rows are put into batches.
    pub batching: Batching,
    /// For an export without a head: which vector of the last hidden state the new head reads.
    pub head: Option<Head>,
    /// Which library computes the linear layers; `auto` tries them at the start.
    pub linear: Linear,
    /// Tokens per batch of the evaluation, padding included.
    pub evaluation_tokens: usize,
    /// Evaluates before the first step too.
    pub evaluate_before: bool,
    /// Ends after so many epochs without a better metric.
    pub patience: Option<u64>,
    /// A line in `metrics.jsonl` every so many steps.
    pub log_every: u64,
    /// Saves the state every so many steps, and after every epoch.
    pub save_every: u64,
}

impl Default for TrainSection {
    fn default() -> Self {
        TrainSection {
            epochs: 3,
            maximum_steps: None,
            batch_size: 32,
            accumulation: 1,
            learning_rate: 5e-4,
            schedule: Schedule::Linear,
            warmup_ratio: None,
            warmup_steps: None,
            weight_decay: 0.0,
            clip_norm: 1.0,
            dropout: 0.0,
            seed: 0,
            batching: Batching::Shuffled,
            head: None,
            linear: Linear::Auto,
            evaluation_tokens: 4096,
            evaluate_before: false,
            patience: None,
            log_every: 10,
            save_every: 50,
        }
    }
}

/// `[output]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputSection {
    /// Folder of everything that is written.
    pub folder: PathBuf,
    /// Ranks in the adapter folder.
    #[serde(default)]
    pub flavour: Flavour,
}

/// `[device]`. The options `--device`, `--threads` and `--ort-lib` go before it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeviceSection {
    /// Where ONNX Runtime runs the model.
    #[serde(deserialize_with = "device", serialize_with = "device_name")]
    pub inference: Device,
    /// Where libtorch trains it.
    #[serde(deserialize_with = "device", serialize_with = "device_name")]
    pub training: Device,
    /// CPU threads; one per core where it is not given.
    pub threads: Option<usize>,
    /// The ONNX Runtime library.
    pub ort_lib: Option<PathBuf>,
}

fn device<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Device, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

fn device_name<S: Serializer>(device: &Device, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(device)
}

impl Config {
    /// Reads and checks a file; makes its paths relative to the current folder, and sees whether the inputs are there.
    ///
    /// # Errors
    /// One line that names the file, the line, the key, what was found and the cure.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = read_text(path)?;
        let mut config = Config::parse(path, &text)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for name in config.paths() {
            *name = joined(folder, name);
        }
        check::files(path, &text, &config)?;
        Ok(config)
    }

    /// Reads and checks a configuration; its paths stay as they are, and no other file is looked at. `path` is for errors.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let config: Config = toml::from_str(text).map_err(|error| error::explain(path, text, &error))?;
        check::values(path, text, &config)?;
        Ok(config)
    }

    fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let always = [&mut self.model.path, &mut self.data.train, &mut self.output.folder];
        let perhaps = [&mut self.data.dev, &mut self.data.test, &mut self.device.ort_lib];
        always.into_iter().chain(perhaps.into_iter().flatten())
    }
}

/// A path relative to a folder, without `folder/..` in it unless the folder is a link.
fn joined(folder: &Path, name: &Path) -> PathBuf {
    let mut path = folder.to_owned();
    for part in name.components() {
        let returns = part == Component::ParentDir
            && matches!(path.components().next_back(), Some(Component::Normal(_)))
            && std::fs::symlink_metadata(&path).is_ok_and(|last| last.is_dir());
        if returns {
            path.pop();
        } else {
            path.push(part);
        }
    }
    path
}

/// A setting that is one of a few words.
macro_rules! choice {
    ($(#[$about:meta])* $name:ident { $($(#[$variant_about:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$variant_about])* #[serde(rename = $word)] $variant,)*
        }

        impl $name {
            /// The word that stands for it in the configuration and on the command line.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(self.as_str())
            }
        }
    };
}

choice! {
    /// What stands for a row.
    Pooling {
        /// The mean over its tokens.
        #[default]
        Mean = "mean",
        /// Its first token.
        First = "first",
        /// Its last token.
        Last = "last",
        /// Several of its tokens, drawn at random.
        Tokens = "tokens",
    }
}

choice! {
    /// How neighbours are found.
    Neighbours {
        /// Whichever is faster.
        #[default]
        Auto = "auto",
        /// By a ball tree.
        BallTree = "ball-tree",
        /// By a kd-tree.
        KdTree = "kd-tree",
        /// By codes of 8 bits, all pairs.
        Exact = "exact",
    }
}

choice! {
    /// How TwoNN makes a dimension of the ratios.
    Method {
        /// By linear fit.
        #[default]
        Linear = "linear",
        /// By maximum likelihood.
        MaximumLikelihood = "mle",
        /// By maximum likelihood, the largest ratios left out.
        CensoredMaximumLikelihood = "censored-mle",
    }
}

choice! {
    /// How a difference of dimensions becomes whole.
    Rounding {
        /// Up.
        #[default]
        Ceil = "ceil",
        /// To the nearest.
        Round = "round",
        /// Down.
        Floor = "floor",
    }
}

choice! {
    /// Which weights of a block.
    Projection {
        /// The query projection.
        #[default]
        Query = "query",
        /// The key projection.
        Key = "key",
        /// The value projection.
        Value = "value",
        /// Queries, keys and values made by one weight; the three words together choose it too.
        QueryKeyValue = "query-key-value",
        /// The output projection of the attention.
        Output = "output",
        /// The feed-forward layers.
        FeedForward = "feed-forward",
        /// Every linear layer.
        All = "all",
    }
}

choice! {
    /// How the learning rate goes on after the warm-up.
    Schedule {
        /// Straight down to zero.
        #[default]
        Linear = "linear",
        /// Half a cosine down to zero.
        Cosine = "cosine",
        /// Stays as it is.
        Constant = "constant",
    }
}

choice! {
    /// How rows are put into batches.
    Batching {
        /// At random.
        #[default]
        Shuffled = "shuffled",
        /// At random, rows of similar length together.
        Bucketed = "bucketed",
    }
}

choice! {
    /// Which vector of the last hidden state a new head reads.
    Head {
        /// The first token.
        #[default]
        First = "first",
        /// The mean over the tokens.
        Mean = "mean",
        /// The last token.
        Last = "last",
    }
}

choice! {
    /// Which library computes the linear layers.
    Linear {
        /// Whichever is faster here.
        #[default]
        Auto = "auto",
        /// libtorch's usual one.
        Torch = "torch",
        /// oneDNN.
        OneDnn = "onednn",
    }
}

choice! {
    /// Ranks in the adapter folder.
    Flavour {
        /// Every layer its own rank.
        #[default]
        Native = "native",
        /// Filled up with zeros to the largest rank.
        Uniform = "uniform",
    }
}
