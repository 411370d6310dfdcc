//! `gelora evaluate`: the metric of a task, through ONNX Runtime.

use std::path::PathBuf;

use anyhow::bail;

use crate::checkpoint::ModelFolder;
use crate::dataset::{Dataset, DatasetError, LoadSettings, Metric, Objective, ObjectiveKind, Tokenizer};
use crate::evaluate::{check_label_order, check_outputs, label_names, write_predictions};
use crate::onnx::Model;

use super::arguments::DataArguments;
use super::config::DataSection;
use super::context::Context;
use super::evaluating::{EvaluationData, evaluate, padding_is_safe};
use super::opened::{load, told};

const EXAMPLE: &str = "\
Examples:
  gelora evaluate out/merged --data dev.tsv --task cola
  gelora evaluate out/merged --data dev.tsv --task stsb --json
  gelora evaluate out/merged --data test.tsv --text sentence --predictions predictions.csv
  gelora evaluate out/merged --data dev.jsonl --task causal-lm --max-length 512";

/// Evaluate an export on labelled rows
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Arguments {
    /// A model folder, or an .onnx file, with an output `logits`
    model: PathBuf,

    #[command(flatten)]
    data: DataArguments,

    /// What to measure: accuracy, f1, matthews, pearson, spearman, perplexity [default: by the task]
    #[arg(long, value_name = "METRICS", value_delimiter = ',')]
    metrics: Option<Vec<Metric>>,

    /// Write the prediction of every row: .csv, .tsv or .jsonl
    #[arg(long, value_name = "FILE")]
    predictions: Option<PathBuf>,

    /// Tokens per batch, padding included
    #[arg(long, value_name = "TOKENS", default_value_t = 4096)]
    batch_tokens: usize,
}

/// Rows whose labels count as the model's classes do, where it names them and the data use these names. Data that number
/// their classes are taken by number.
fn load_as_named(context: &Context, section: &DataSection, names: Option<&[String]>) -> anyhow::Result<Dataset> {
    let settings = section.load_settings();
    let Some(names) = names.filter(|_| section.labels.is_none() && section.task.is_none()) else {
        return load(context, &section.train, &settings);
    };
    let named = LoadSettings { labels: Some(names.to_vec()), ..settings.clone() };
    match Dataset::load(&section.train, &named) {
        Err(unknown @ DatasetError::UnknownLabel { .. }) => {
            let dataset = load(context, &section.train, &settings)?;
            let numbered = matches!(&dataset.objective, Some(Objective::Classification { labels })
                if labels.len() == names.len() && labels.iter().enumerate().all(|(class, name)| *name == class.to_string()));
            if numbered || dataset.objective == Some(Objective::Regression) { Ok(dataset) } else { Err(unknown.into()) }
        }
        other => Ok(told(context, other?)),
    }
}

pub(crate) fn run(context: &Context, arguments: Arguments) -> anyhow::Result<()> {
    let folder = ModelFolder::open(&arguments.model)?;
    let model = Model::open(&folder.onnx)?;
    check_outputs(&model)?;
    let mut section = arguments.data.section();
    section.metrics = arguments.metrics;
    let Some(tokenizer) = &folder.tokenizer else {
        bail!("there is no tokenizer.json in {}; copy it from the model's folder", folder.folder.display());
    };
    let tokenizer = Tokenizer::open(tokenizer, section.max_length)?;
    let names = folder.config.as_ref().and_then(label_names);
    let dataset = load_as_named(context, &section, names.as_deref())?;
    let objective = match (&dataset.objective, names.or_else(|| section.labels.clone())) {
        (Some(objective), Some(names)) => {
            check_label_order(&names, objective)?;
            objective.clone()
        }
        (Some(objective), None) => objective.clone(),
        (None, Some(labels)) if arguments.predictions.is_some() => Objective::Classification { labels },
        (None, None) if arguments.predictions.is_some() && section.objective == Some(ObjectiveKind::Regression) => {
            Objective::Regression
        }
        (None, _) if arguments.predictions.is_some() => bail!(
            "{} names no classes for predictions without labels; name them with --labels, or give --objective regression",
            folder.folder.display()
        ),
        (None, _) => bail!(
            "{} was read without labels; name their column with --label, or ask for --predictions alone",
            dataset.path.display()
        ),
    };
    let objective = &objective;
    let texts = match objective {
        Objective::CausalLm if arguments.predictions.is_some() => {
            bail!("a language model predicts tokens, not rows; leave out --predictions")
        }
        Objective::CausalLm => Some(tokenizer.encode_texts(&dataset.examples, section.packing, context.observer())?),
        _ => None,
    };
    let encodings = match &texts {
        Some(texts) => texts.encodings.clone(),
        None => tokenizer.encode(&dataset.examples, context.observer())?,
    };
    let data = EvaluationData {
        objective,
        encodings: &encodings,
        texts: texts.as_ref(),
        tokenizer: &tokenizer,
        metrics: &section.metrics(objective),
        batch_tokens: arguments.batch_tokens,
        padding_is_safe: padding_is_safe(context, &model, &encodings, &tokenizer)?,
        dataset: &dataset,
    };
    let (facts, evaluation) = evaluate(context, &folder.onnx, &data)?;
    if let (Some(path), Some(evaluation)) = (&arguments.predictions, &evaluation) {
        write_predictions(path, &dataset, objective, evaluation)?;
    }
    context.print(&facts, || facts.describe())
}
