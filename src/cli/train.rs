//! `gelora train`: training, with LoRA at the ranks of a plan.

use std::path::PathBuf;

use crate::adapter::Flavour;
use crate::dataset::Metric;

#[cfg(feature = "train")]
use super::context::Context;
use crate::settings::{DataSettings, TrainSettings};

const EXAMPLE: &str = "\
Examples:
  gelora train my-model --plan out/plan.json --data train.tsv --validation dev.tsv --task cola -o out/adapter
  gelora train my-decoder --plan out/plan.json --data train.jsonl --validation dev.jsonl --task causal-lm -o out/adapter
  gelora train my-qa-model --plan out --data train-v1.1.json --validation dev-v1.1.json --task squad -o out/adapter
  gelora train my-model --method bitfit --data train.tsv --task cola -o out/biases

The folder is a PEFT adapter; with --method bitfit or full it holds the trained tensors. `gelora merge` takes both.
Running it again resumes from the last state that was saved.";

const ROWS: &str = "Rows to train on: .tsv, .csv, .jsonl or .parquet; for language models .txt too, with empty lines between the texts; \
    for span answers the JSON of SQuAD; for entities CoNLL";

/// Train LoRA adapters at the ranks of a plan; or all biases, or all parameters
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE, mut_arg("train", |rows| rows.help(ROWS)))]
#[cfg_attr(not(feature = "train"), allow(dead_code, reason = "the options exist to be explained"))]
pub(crate) struct Arguments {
    /// The model folder, or .onnx file, that the plan was made for
    model: PathBuf,

    /// The plan of `gelora plan`: its plan.json, or the folder that holds it; for --method lora
    #[arg(long, value_name = "PLAN")]
    plan: Option<PathBuf>,

    /// Folder of the adapter
    #[arg(short, long, value_name = "FOLDER")]
    out: PathBuf,

    /// Ranks in the adapter folder: native, or uniform (filled up with zeros to the largest)
    #[arg(long, value_name = "FLAVOUR", default_value = "native")]
    flavour: Flavour,

    /// Adapter folder to start from, of the same plan; by default A is random and B zero
    #[arg(long, value_name = "FOLDER")]
    start: Option<PathBuf>,

    /// Use these batches: JSON, [epoch][batch][row], rows counted from 0
    #[arg(long, value_name = "FILE", conflicts_with_all = ["epochs", "batch_size", "batching"])]
    batches: Option<PathBuf>,

    /// Ignore any saved state and start from scratch
    #[arg(long)]
    restart: bool,

    #[command(flatten)]
    data: DataSettings,

    /// Rows to choose the best epoch with
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    validation: Option<PathBuf>,

    /// What to measure on them: accuracy, f1, matthews, pearson, spearman, perplexity; the first decides [default: by the task]
    #[arg(long, value_name = "METRICS", value_delimiter = ',', help_heading = "Data")]
    metrics: Option<Vec<Metric>>,

    #[command(flatten)]
    training: TrainSettings,
}

#[cfg(feature = "train")]
pub(crate) fn run(context: &Context, arguments: Arguments) -> anyhow::Result<()> {
    use crate::settings::Batching;
    use crate::workflow::{Training, WorkflowError, train_at_plan};

    let Arguments { model, plan, flavour, out, start, restart, batches, data, validation, metrics, training } =
        arguments;
    let data = DataSettings { metrics, dev: validation, ..data };
    let mut settings = TrainSettings { restart, ..training };
    if let Some(path) = &batches {
        let json = crate::files::read_file(path)?;
        settings.batching = Batching::from_json(&json, path).map_err(WorkflowError::from)?;
    }
    let (model, plan, start, out) = (&model, plan.as_deref(), start.as_deref(), &out);
    let facts = train_at_plan(&context.session(), &Training { model, plan, data, settings, flavour, start, out })?;
    context.print(&facts, || describe(&facts))
}

/// The result as text.
#[cfg(feature = "train")]
fn describe(facts: &crate::workflow::TrainingFacts) -> String {
    let metrics = facts.validation.iter().map(|(name, value)| match value {
        Some(value) => format!("{name} {value:.4}"),
        None => format!("{name} undefined"),
    });
    let metrics = metrics.collect::<Vec<_>>().join(", ");
    let what = if facts.method.takes_plan() { "adapter" } else { "tensors" };
    let mut lines = vec![(what, facts.adapter.clone())];
    if let Some(best) = facts.best_step {
        lines.push(("best", format!("{metrics} (after {best} of {} steps)", facts.steps)));
    } else {
        lines.push(("steps", facts.steps.to_string()));
    }
    lines.push((
        "trained",
        format!("{} parameters on {} ({} threads)", facts.trained_parameters, facts.device, facts.threads),
    ));
    lines.push(("speed", format!("{:.1} rows/s", facts.examples_per_second)));
    if let Some(head) = &facts.added_head {
        lines.push(("head", format!("added, reads the {head} token vector of the last hidden state")));
    }
    if facts.stopped_early {
        lines.push(("ended", "early: the metric no longer got better".to_owned()));
    }
    crate::report::facts(&lines)
}
