//! `gelora evaluate`: the metric of a task, through ONNX Runtime.

use std::path::{Path, PathBuf};

use anyhow::bail;

use crate::checkpoint::ModelFolder;
use crate::dataset::{Dataset, DatasetError, LoadSettings, Metric, Objective, ObjectiveKind, Tokenizer};
use crate::evaluate::{
    EvaluateSettings, check_label_order, check_outputs, check_span_outputs, class_count, label_names, write_answers,
    write_predictions,
};
use crate::onnx::Model;
use crate::runtime::saturating_products;

use super::arguments::DataArguments;
use super::causality::refuse_foresight;
use super::config::DataSection;
use super::context::Context;
use super::evaluating::{EvaluationData, evaluate, evaluate_spans, padding_is_safe};
use super::opened::{load, tokenizer as tokenizer_of, told};
use super::rows::{Purpose, SpanRows, refuse_misfits};
use crate::progress::{Event, Observer as _};

const EXAMPLE: &str = "\
Examples:
  gelora evaluate out/merged --data dev.tsv --task cola
  gelora evaluate out/merged --data dev.tsv --task stsb --json
  gelora evaluate out/merged --data dev-v1.1.json --task squad --predictions answers.json
  gelora evaluate out/merged --data dev.jsonl --task causal-lm --max-length 512
  gelora evaluate out/merged --data test.tsv --text sentence --predictions predictions.csv";

/// Evaluate an export on labelled rows
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Arguments {
    /// A model folder, or an .onnx file, with an output `logits` (for span answers `start_logits` and `end_logits`)
    model: PathBuf,

    #[command(flatten)]
    data: DataArguments,

    /// What to measure: accuracy, f1, matthews, pearson, spearman, perplexity [default: by the task]
    #[arg(long, value_name = "METRICS", value_delimiter = ',', help_heading = "Data")]
    metrics: Option<Vec<Metric>>,

    /// Write the prediction of every row: .csv, .tsv or .jsonl; for span answers .json: question id → answer
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    predictions: Option<PathBuf>,

    /// Tokens per batch, padding included
    #[arg(long, value_name = "TOKENS", default_value_t = 4096, help_heading = "Data")]
    batch_tokens: usize,
}

/// Rows whose labels count as the model's classes do: by its names, where it has them and the data use them, or by number. Some
/// of the classes may be missing in the rows.
fn load_as_named(
    context: &Context,
    section: &DataSection,
    config: Option<&serde_json::Value>,
) -> anyhow::Result<Dataset> {
    let settings = section.load_settings();
    if section.labels.is_some() || section.task.is_some() || section.objective == Some(ObjectiveKind::Regression) {
        return load(context, &section.train, &settings);
    }
    let names = config.and_then(label_names);
    let numbers = config.and_then(class_count).map(|count| (0..count).map(|class| class.to_string()).collect());
    let mut unknown = None;
    for labels in [names, numbers].into_iter().flatten() {
        let named = LoadSettings { labels: Some(labels), ..settings.clone() };
        match Dataset::load(&section.train, &named) {
            Err(error @ DatasetError::UnknownLabel { .. }) => unknown = unknown.or(Some(error)),
            other => return Ok(told(context, other?)),
        }
    }
    let dataset = load(context, &section.train, &settings)?;
    let is_named = config.and_then(label_names).is_some();
    match unknown.filter(|_| is_named && dataset.objective != Some(Objective::Regression)) {
        Some(unknown) => Err(unknown.into()),
        None => Ok(dataset),
    }
}

/// Whether a table lacks nothing but the usual column of labels, which nobody asked for by name.
fn lacks_only_labels(error: &anyhow::Error, section: &DataSection) -> bool {
    let usual = section.load_settings().label;
    section.label.is_none()
        && error.chain().any(|cause| {
            matches!(cause.downcast_ref(), Some(DatasetError::MissingColumn { column, .. }) if Some(column) == usual.as_ref())
        })
}

pub(crate) fn run(context: &Context, arguments: Arguments) -> anyhow::Result<()> {
    if let Some(predictions) = &arguments.predictions {
        let (data, model) = (&arguments.data.data, &arguments.model);
        let beside = ["tokenizer.json", "config.json"].map(|name| model.join(name));
        let [tokenizer, config] = beside.each_ref().map(PathBuf::as_path);
        context.take_file(
            predictions,
            &[("model", model), ("data", data), ("model's tokenizer", tokenizer), ("model's configuration", config)],
        )?;
    }
    let folder = ModelFolder::open(&arguments.model)?;
    let model = Model::open(&folder.onnx)?;
    let mut section = arguments.data.section();
    section.metrics = arguments.metrics;
    refuse_misfits(&section)?;
    match section.spans() {
        Some(_) => check_span_outputs(&model)?,
        None => check_outputs(&model)?,
    }
    if let Some(text) = saturating_products(&model) {
        context.observer().observe(Event::Warning(&text));
    }
    let Some(tokenizer) = &folder.tokenizer else {
        bail!("there is no tokenizer.json in {}; copy it from the model's folder", folder.folder.display());
    };
    let tokenizer = tokenizer_of(context, tokenizer, &model, section.max_length())?;
    if section.spans().is_some() {
        let settings = (arguments.batch_tokens, arguments.predictions.as_deref());
        return answer(context, &section, &folder, &model, &tokenizer, settings);
    }
    let names = folder.config.as_ref().and_then(label_names);
    let dataset = match load_as_named(context, &section, folder.config.as_ref()) {
        Err(error) if arguments.predictions.is_some() && lacks_only_labels(&error, &section) => {
            let settings = section.load_settings().without_labels();
            context.observer().observe(Event::Notice("there is no column of labels: predictions only, no metrics"));
            load(context, &section.train, &settings)?
        }
        loaded => loaded?,
    };
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
    if *objective == Objective::CausalLm {
        refuse_foresight(context, &model, &encodings, &tokenizer)?;
    }
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

/// Span answers.
fn answer(
    context: &Context,
    section: &DataSection,
    folder: &ModelFolder,
    model: &Model,
    tokenizer: &Tokenizer,
    (batch_tokens, predictions): (usize, Option<&Path>),
) -> anyhow::Result<()> {
    if let Some(path) = predictions.filter(|path| path.extension().is_none_or(|ending| ending != "json")) {
        bail!("{}: span answers are written as one JSON object; give the ending .json", path.display());
    }
    let spans = SpanRows::load(context, section, &section.train, section.limit, tokenizer, Purpose::Evaluate)?;
    if predictions.is_none() && !spans.file.has_answers() {
        bail!("{} holds no answers to compare with; ask for --predictions alone", spans.file.path.display());
    }
    let settings = EvaluateSettings {
        batch_tokens,
        equal_lengths: !padding_is_safe(context, model, &spans.encodings, tokenizer)?,
        padding: tokenizer.padding(),
    };
    let (facts, answers) = evaluate_spans(context, &folder.onnx, &spans, &settings)?;
    if let Some(path) = predictions {
        write_answers(path, &spans.file, &answers)?;
    }
    context.print(&facts, || facts.describe())
}
