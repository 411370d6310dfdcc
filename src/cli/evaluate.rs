//! `gelora evaluate`: the metric of a task, through ONNX Runtime.

use std::path::PathBuf;

use anyhow::{Context as _, bail};

use crate::checkpoint::ModelFolder;
use crate::dataset::{Metric, Tokenizer};
use crate::evaluate::{check_label_order, label_names, write_predictions};
use crate::onnx::Model;

use super::arguments::DataArguments;
use super::context::Context;
use super::evaluating::{EvaluationData, evaluate, padding_is_safe};
use super::opened::load;

const EXAMPLE: &str = "\
Examples:
  gelora evaluate out/merged --data dev.tsv --task cola
  gelora evaluate out/merged --data dev.tsv --task stsb --json
  gelora evaluate out/merged --data test.tsv --text sentence --predictions predictions.csv";

/// Evaluate an export on labelled rows
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Arguments {
    /// A model folder, or an .onnx file, with an output `logits`
    model: PathBuf,

    #[command(flatten)]
    data: DataArguments,

    /// What to measure: accuracy, f1, matthews, pearson, spearman [default: by the task]
    #[arg(long, value_name = "METRICS", value_delimiter = ',')]
    metrics: Option<Vec<Metric>>,

    /// Write the prediction of every row: .csv, .tsv or .jsonl
    #[arg(long, value_name = "FILE")]
    predictions: Option<PathBuf>,

    /// Tokens per batch, padding included
    #[arg(long, value_name = "TOKENS", default_value_t = 4096)]
    batch_tokens: usize,
}

pub(crate) fn run(context: &Context, arguments: Arguments) -> anyhow::Result<()> {
    let folder = ModelFolder::open(&arguments.model)?;
    let model = Model::open(&folder.onnx)?;
    let mut section = arguments.data.section();
    section.metrics = arguments.metrics;
    let Some(tokenizer) = &folder.tokenizer else {
        bail!("there is no tokenizer.json in {}; copy it from the model's folder", folder.folder.display());
    };
    let tokenizer = Tokenizer::open(tokenizer, section.max_length)?;
    let dataset = load(context, &section.train, &section.load_settings())?;
    let objective = dataset.objective.as_ref().with_context(|| {
        format!("{} was read without labels; name their column with --label", dataset.path.display())
    })?;
    if let Some(names) = folder.config.as_ref().and_then(label_names) {
        check_label_order(&names, objective)?;
    }
    let encodings = tokenizer.encode(&dataset.examples, context.observer())?;
    let data = EvaluationData {
        objective,
        encodings: &encodings,
        tokenizer: &tokenizer,
        metrics: &section.metrics(objective),
        batch_tokens: arguments.batch_tokens,
        padding_is_safe: padding_is_safe(context, &model, &encodings, &tokenizer)?,
        dataset: &dataset,
    };
    let (facts, evaluation) = evaluate(context, &folder.onnx, &data)?;
    if let Some(path) = &arguments.predictions {
        write_predictions(path, &dataset, objective, &evaluation)?;
    }
    context.print(&facts, || facts.describe())
}
