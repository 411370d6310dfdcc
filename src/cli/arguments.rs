//! Options that several commands share.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use serde::de::DeserializeOwned;

use crate::dataset::{Format, ObjectiveKind, PRESETS, SPAN_TASKS, missing_task, preset, span_task};
use crate::dimension::{Frame, Metric, Scale};
use crate::runtime::Device;

use super::config;

/// Options of every command.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalArguments {
    /// Print the result as JSON, and nothing else, on the standard output
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// No progress and no notes; warnings and errors stay
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,

    /// Log what happens to the standard error (-vv, -vvv: more)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,

    /// The ONNX Runtime library [default: $ORT_DYLIB_PATH, beside the program, or .venv]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) ort_lib: Option<PathBuf>,

    /// Where to compute: auto, cpu, cuda or cuda:N; cuda fails where there is none [default: auto]
    #[arg(long, global = true, value_name = "DEVICE")]
    pub(crate) device: Option<Device>,

    /// Threads to compute with [default: one per core]
    #[arg(long, global = true, value_name = "N", value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    pub(crate) threads: Option<usize>,
}

/// How to read a data file.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Data")]
pub(crate) struct DataArguments {
    /// The rows: .tsv, .csv, .jsonl or .parquet; for language models .txt too, with empty lines between the texts; for span
    /// answers the JSON of SQuAD
    #[arg(long, value_name = "FILE")]
    pub(crate) data: PathBuf,

    #[command(flatten)]
    pub(crate) columns: ColumnArguments,
}

/// Which columns of a table are what.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Data")]
pub(crate) struct ColumnArguments {
    /// Preset for columns, objective and metric: cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte, anli; squad (v1.1) and
    /// squad2 (v2.0) for span answers; causal-lm (texts) and instruct (instructions with an output) for language models
    #[arg(long, value_name = "NAME", value_parser = known_task)]
    pub(crate) task: Option<String>,

    /// Column of the text, as the header line names it
    #[arg(long, value_name = "COLUMN")]
    pub(crate) text: Option<String>,

    /// Column of the second text of a pair
    #[arg(long, value_name = "COLUMN")]
    pub(crate) pair: Option<String>,

    /// Column of the label
    #[arg(long, value_name = "COLUMN")]
    pub(crate) label: Option<String>,

    /// The labels in the order of the model's classes, separated by commas
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub(crate) labels: Option<Vec<String>>,

    /// What the labels are: classification or regression [default: by the labels]
    #[arg(long, value_name = "KIND", value_parser = word::<ObjectiveKind>)]
    pub(crate) objective: Option<ObjectiveKind>,

    /// tsv, csv, jsonl, parquet or txt [default: by the name of the file]
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<Format>,

    /// Whether quotes enclose fields: true or false [default: by the format and the task]
    #[arg(long, value_name = "BOOL")]
    pub(crate) quoting: Option<bool>,

    #[command(flatten)]
    pub(crate) language: LanguageArguments,

    /// Longest text in tokens; more is cut off [default: 128; 384 for span answers, which are cut into windows]
    #[arg(long, value_name = "TOKENS")]
    pub(crate) max_length: Option<usize>,

    /// Only the first so many rows, or questions [default: all]
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    pub(crate) limit: Option<usize>,

    #[command(flatten)]
    pub(crate) spans: SpanArguments,
}

/// How contexts are cut and answers chosen.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Span answers")]
pub(crate) struct SpanArguments {
    /// Tokens of the context that a window repeats of the one before [default: 128]
    #[arg(long, value_name = "TOKENS")]
    pub(crate) stride: Option<usize>,

    /// Longest answer in tokens [default: 30]
    #[arg(long, value_name = "TOKENS", value_parser = at_least_one())]
    pub(crate) max_answer_length: Option<usize>,

    /// How many of the best starts and ends of a window are combined [default: 20]
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    pub(crate) n_best: Option<usize>,

    /// squad2: no answer is given where its score exceeds that of the best answer by more than this [default: 0]
    #[arg(long, value_name = "SCORE")]
    pub(crate) null_threshold: Option<f32>,
}

pub(crate) fn above_zero(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value.is_finite() => Ok(value),
        _ => Err("give a number above 0".into()),
    }
}

/// Subsamples take time, and a thousand tell as much as a million.
pub(crate) fn subsamples() -> clap::builder::RangedU64ValueParser<usize> {
    clap::builder::RangedU64ValueParser::new().range(..=10_000)
}

fn at_least_one() -> clap::builder::RangedU64ValueParser<usize> {
    clap::builder::RangedU64ValueParser::new().range(1..)
}

/// How texts become what a language model learns.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Data")]
pub(crate) struct LanguageArguments {
    /// With --task instruct: file with the text around {instruction}, {input} and {output} [default: Alpaca's]
    #[arg(long, value_name = "FILE", value_parser = template)]
    pub(crate) template: Option<String>,

    /// The same for rows without input [default: Alpaca's, or --template]
    #[arg(long, value_name = "FILE", value_parser = template)]
    pub(crate) template_without_input: Option<String>,

    /// For language models: join the texts and cut them into rows of --max-length tokens (training and evaluation)
    #[arg(long)]
    pub(crate) packing: bool,
}

/// The content of a file, without the line end that editors put at its end.
fn template(file: &str) -> Result<String, String> {
    let text = crate::files::read_text(Path::new(file)).map_err(|error| error.to_string())?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

/// How activations are made.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Activations")]
pub(crate) struct ExtractionArguments {
    /// What stands for a text: mean, first, last (one vector per text) or tokens (a sample of its token vectors)
    #[arg(long, value_name = "POOLING", default_value = "mean", value_parser = word::<config::Pooling>)]
    pub(crate) pooling: config::Pooling,

    /// With --pooling tokens: vectors per text
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub(crate) tokens_per_text: usize,

    /// Tokens per batch, padding included [default: what suits the device and the model]
    #[arg(long, value_name = "TOKENS")]
    pub(crate) batch_tokens: Option<usize>,

    /// At most so many rows, drawn with --seed [default: all]
    #[arg(long, visible_alias = "rows", value_name = "N")]
    pub(crate) sample: Option<usize>,

    /// With --sample: in proportion to the labels
    #[arg(long, requires = "sample")]
    pub(crate) stratified: bool,

    /// Draw rows until no 95 % interval of a dimension is wider than this; the extraction stops there
    #[arg(long, value_name = "WIDTH", value_parser = above_zero)]
    pub(crate) until: Option<f64>,

    /// Seed of everything random
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    pub(crate) seed: u64,
}

/// How the intrinsic dimension is estimated.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Dimension")]
pub(crate) struct DimensionArguments {
    /// What is done to vectors first: nothing (raw), centred (which matters for the cosine only), or whitened: unit variance
    /// in every direction
    #[arg(long, value_name = "HOW", default_value_t = Frame::Raw)]
    pub(crate) representation: Frame,

    /// Distances: euclidean, or cosine: Euclidean between vectors of unit length
    #[arg(long, value_name = "METRIC", default_value_t = Metric::Euclidean)]
    pub(crate) metric: Metric,

    /// TwoNN by linear fit (linear), maximum likelihood (mle) or censored maximum likelihood (censored-mle)
    #[arg(long, value_name = "METHOD", default_value = "linear", value_parser = word::<config::Method>)]
    pub(crate) method: config::Method,

    /// Share of the largest ratios that linear and censored-mle leave out
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    pub(crate) discard: f64,

    /// At which neighbours the dimension is read: 1 (the nearest and the second nearest: TwoNN), 2, 4, 8 or 16 (that one and
    /// the one of twice the number: GRIDE), or auto: the smallest from which on it stays level, the same in all layers
    #[arg(long, value_name = "N", default_value = "auto")]
    pub(crate) scale: ScaleArgument,

    /// How to find neighbours: exact, ball-tree, kd-tree, or auto: exact, or what is fastest in a short trial where a tree may
    /// be; the answers are the same
    #[arg(long, value_name = "ENGINE", default_value = "auto", value_parser = word::<config::Neighbours>)]
    pub(crate) neighbours: config::Neighbours,
}

/// `auto`, or a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ScaleArgument(pub(crate) Option<Scale>);

impl ScaleArgument {
    /// The nearer of the neighbours, where a scale was asked for.
    pub(crate) fn near(self) -> Option<usize> {
        self.0.map(Scale::near)
    }
}

impl FromStr for ScaleArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self(None));
        }
        text.parse().map(|scale| Self(Some(scale))).map_err(|cure: String| format!("{cure}, or auto"))
    }
}

impl fmt::Display for ScaleArgument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(scale) => write!(f, "{}", scale.near()),
            None => f.write_str("auto"),
        }
    }
}

/// The rule that makes ranks of dimensions.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Ranks")]
pub(crate) struct RankArguments {
    /// How a difference of dimensions becomes whole: ceil, round or floor
    #[arg(long, value_name = "HOW", default_value = "ceil", value_parser = word::<config::Rounding>)]
    pub(crate) rounding: config::Rounding,

    /// Added to every rank
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) offset: usize,

    /// Smallest rank
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) minimum_rank: usize,

    /// Largest rank
    #[arg(long, value_name = "N")]
    pub(crate) maximum_rank: Option<usize>,

    /// Most parameters the adapter may have in all
    #[arg(long, value_name = "PARAMETERS")]
    pub(crate) budget: Option<u64>,

    /// How probable it must be that the dimension rises, e.g. 0.9: where it is less, the layer gets the smallest rank
    #[arg(long, value_name = "SHARE")]
    pub(crate) confidence: Option<f64>,

    /// alpha / rank, the same for every layer
    #[arg(long, value_name = "C", default_value_t = 8.0)]
    pub(crate) scaling: f64,

    /// Weights to adapt: query, key, value, output, feed-forward, or all
    #[arg(long, value_name = "ROLES", value_delimiter = ',', default_value = "query,key,value,output", value_parser = projection)]
    pub(crate) projections: Vec<config::Projection>,

    /// Subsamples of the rows that tell how certain a rank is; 0 for none
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = subsamples())]
    pub(crate) subsamples: usize,
}

/// How training goes. The defaults are those of `[train]` in a configuration.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Training")]
pub(crate) struct TrainingArguments {
    /// Passes over the rows
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(crate) epochs: u64,

    /// End after so many steps, should these be fewer
    #[arg(long, value_name = "N")]
    pub(crate) maximum_steps: Option<u64>,

    /// Rows in a batch
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub(crate) batch_size: usize,

    /// Batches in a step
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) accumulation: usize,

    /// Highest learning rate
    #[arg(long, value_name = "RATE", default_value_t = 5e-4)]
    pub(crate) learning_rate: f64,

    /// After the warm-up: linear, cosine or constant
    #[arg(long, value_name = "SCHEDULE", default_value = "linear", value_parser = word::<config::Schedule>)]
    pub(crate) schedule: config::Schedule,

    /// Share of the steps in which the learning rate rises [default: 0.06]
    #[arg(long, value_name = "SHARE", conflicts_with = "warmup_steps")]
    pub(crate) warmup_ratio: Option<f64>,

    /// Steps in which the learning rate rises
    #[arg(long, value_name = "N")]
    pub(crate) warmup_steps: Option<u64>,

    /// AdamW's weight decay
    #[arg(long, value_name = "DECAY", default_value_t = 0.0)]
    pub(crate) weight_decay: f64,

    /// Largest norm of the gradient; 0 for no clipping
    #[arg(long, value_name = "NORM", default_value_t = 1.0)]
    pub(crate) clip_norm: f64,

    /// Share of the adapters' input that is dropped
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub(crate) dropout: f64,

    /// Seed of the initial adapters, the order of rows, and dropout
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    pub(crate) seed: u64,

    /// How rows are put into batches: shuffled, or bucketed (similar lengths together)
    #[arg(long, value_name = "HOW", default_value = "shuffled", value_parser = word::<config::Batching>)]
    pub(crate) batching: config::Batching,

    /// For an export without a head: what the new head reads: first, mean or last
    #[arg(long, value_name = "POOLING", value_parser = word::<config::Head>)]
    pub(crate) head: Option<config::Head>,

    /// Library of the linear layers: auto, torch or onednn
    #[arg(long, value_name = "LIBRARY", default_value = "auto", value_parser = word::<config::Linear>)]
    pub(crate) linear: config::Linear,

    /// End after so many epochs without a better metric
    #[arg(long, value_name = "EPOCHS")]
    pub(crate) patience: Option<u64>,

    /// A line in metrics.jsonl every so many steps
    #[arg(long, value_name = "STEPS", default_value_t = 10)]
    pub(crate) log_every: u64,

    /// Save the state every so many steps
    #[arg(long, value_name = "STEPS", default_value_t = 50)]
    pub(crate) save_every: u64,
}

/// A task that has a preset.
fn known_task(text: &str) -> Result<String, String> {
    let names = || PRESETS.iter().map(|preset| preset.name).chain(SPAN_TASKS).collect::<Vec<_>>().join(", ");
    match preset(text).map(|preset| preset.name).or(span_task(text)) {
        Some(name) => Ok(name.to_owned()),
        None => Err(missing_task(text).map_or_else(
            || format!("there is no preset of that name; use one of {}, or name the columns instead", names()),
            str::to_owned,
        )),
    }
}

/// One of the words that a configuration knows too.
/// As plans write it, too: `feed_forward` is `feed-forward`.
fn projection(text: &str) -> Result<config::Projection, String> {
    word(&text.replace('_', "-"))
}

fn word<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    use serde::de::value::{Error, StrDeserializer};
    T::deserialize(StrDeserializer::<Error>::new(text)).map_err(|error| error.to_string())
}
