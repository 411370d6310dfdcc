//! `gelora evaluate`: the metric of a task, through ONNX Runtime.

use std::path::PathBuf;

use crate::dataset::Metric;
use crate::report;
use crate::settings::DataSettings;
use crate::workflow::{EvaluationFacts, EvaluationSettings, evaluate_model};

use super::context::Context;

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
    data: DataSettings,

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

pub(crate) fn run(context: &Context, arguments: Arguments) -> anyhow::Result<()> {
    let data = DataSettings { metrics: arguments.metrics, ..arguments.data };
    let settings =
        EvaluationSettings { batch_tokens: arguments.batch_tokens, predictions: arguments.predictions.as_deref() };
    let facts = evaluate_model(&context.session(), &arguments.model, &data, &settings)?;
    context.print(&facts, || describe(&facts))
}

/// The result as text.
fn describe(facts: &EvaluationFacts) -> String {
    let rows: Vec<Vec<String>> = facts
        .metrics
        .iter()
        .map(|metric| vec![metric.name.clone(), metric.show(), metric.note.clone().unwrap_or_default()])
        .collect();
    let table = match facts.metrics.is_empty() {
        true => String::new(),
        false => report::table(&["metric", "value", ""], &[1], &rows) + "\n\n",
    };
    let tokens = facts.tokens.map_or_else(String::new, |tokens| format!("{tokens} tokens in "));
    let unit = facts.objective.unit();
    let windows = facts.windows.map_or_else(String::new, |windows| format!(" in {windows} windows"));
    format!(
        "{table}{tokens}{} {unit} of {}{windows}, {} ({}, {:.0} {unit}/s)",
        facts.rows, facts.data, facts.model, facts.matrix_products, facts.rows_per_second
    )
}
