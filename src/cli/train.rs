//! `gelora train`: LoRA training at the ranks of a plan.

use std::path::PathBuf;

use crate::adapter::Flavour;
use crate::dataset::Metric;

use super::arguments::{ColumnArguments, TrainingArguments};
use super::context::Context;

const EXAMPLE: &str = "\
Examples:
  gelora train my-model --plan out/plan.json --data train.tsv --validation dev.tsv --task cola -o out/adapter
  gelora train my-decoder --plan out/plan.json --data train.jsonl --validation dev.jsonl --task causal-lm -o out/adapter
  gelora train my-qa-model --plan out --data train-v1.1.json --validation dev-v1.1.json --task squad -o out/adapter

The folder is a PEFT adapter. Running it again resumes from the last state that was saved.";

/// Train LoRA adapters at the ranks of a plan
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
#[cfg_attr(not(feature = "train"), allow(dead_code, reason = "the options exist to be explained"))]
pub(crate) struct Arguments {
    /// The model folder, or .onnx file, that the plan was made for
    model: PathBuf,

    /// The plan of `gelora plan`
    #[arg(long, value_name = "FILE")]
    plan: PathBuf,

    /// Folder of the adapter
    #[arg(short, long, value_name = "FOLDER")]
    out: PathBuf,

    /// Ranks in the adapter folder: native, or uniform (filled up with zeros to the largest)
    #[arg(long, value_name = "FLAVOUR", default_value = "native")]
    flavour: Flavour,

    /// Adapter folder to start from, of the same plan; by default A is random and B zero
    #[arg(long, value_name = "FOLDER")]
    start: Option<PathBuf>,

    /// Take these batches: JSON, [epoch][batch][row], rows counted from 0
    #[arg(long, value_name = "FILE", conflicts_with_all = ["epochs", "batch_size", "batching"])]
    batches: Option<PathBuf>,

    /// Ignore a saved state and start anew
    #[arg(long)]
    restart: bool,

    /// Rows to train on: .tsv, .csv, .jsonl or .parquet; for language models .txt too, with empty lines between the texts;
    /// for span answers the JSON of SQuAD
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    data: PathBuf,

    /// Rows to choose the best epoch with
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    validation: Option<PathBuf>,

    #[command(flatten)]
    columns: ColumnArguments,

    /// What to measure on them: accuracy, f1, matthews, pearson, spearman, perplexity; the first decides [default: by the task]
    #[arg(long, value_name = "METRICS", value_delimiter = ',', help_heading = "Data")]
    metrics: Option<Vec<Metric>>,

    #[command(flatten)]
    training: TrainingArguments,
}

/// What a gelora without libtorch says.
#[cfg(not(feature = "train"))]
pub(crate) const WITHOUT_TRAINING: &str = "this gelora only plans: it was built without libtorch; \
    build one that trains with `cargo build --release` (the feature `train` is on by default)";

#[cfg(not(feature = "train"))]
pub(crate) fn run(_context: &Context, _arguments: Arguments) -> anyhow::Result<()> {
    anyhow::bail!(WITHOUT_TRAINING)
}

#[cfg(feature = "train")]
pub(crate) fn run(context: &Context, arguments: Arguments) -> anyhow::Result<()> {
    use super::evaluating::padding_is_safe;
    use super::opened::Opened;
    use super::rows::{Purpose, Rows};
    use super::training::{TrainingData, objective_of, train_adapter};
    use crate::adapter::read_named;
    use crate::progress::{Event, Observer};
    use crate::train::{HEAD_BIAS, HEAD_WEIGHT};

    let mut section = arguments.columns.section(arguments.data);
    section.metrics = arguments.metrics;
    // The folder of a plan says as much as the file.
    let plan_file = match arguments.plan.is_dir() {
        true => arguments.plan.join("plan.json"),
        false => arguments.plan,
    };
    let mut inputs = vec![("model", arguments.model.as_path()), ("plan", plan_file.as_path())];
    inputs.extend(arguments.start.as_deref().map(|start| ("adapter to start from", start)));
    context.take_folder(&arguments.out, &inputs)?;
    let plan = crate::rank::Plan::read(&plan_file)?;
    let model = Opened::new(&arguments.model)?;
    model.tell_origin(context);
    crate::train::check_plan(&plan, &model.model, &crate::files::sha256(model.model.file_bytes()))?;
    check_edited_plan(context, &model, &plan, &plan_file)?;
    let tokenizer = model.tokenizer(context, section.max_length())?;
    let train = Rows::load(context, &section, &tokenizer, Purpose::Train)?;
    let objective = &objective_of(&train)?;
    if plan.data.sha256 != train.sha256() {
        context.observer().observe(Event::Warning(&format!(
            "the plan was made for the rows of {}, not for those of {}: its ranks are theirs",
            plan.data.file,
            train.path().display()
        )));
    }
    let held_out = |path: PathBuf| Rows::load_held_out(context, &section, &path, &tokenizer, objective);
    let validation = arguments.validation.map(held_out).transpose()?;
    let sample = train.first(64, &tokenizer)?;
    let head = model.head_names()?.unwrap_or_else(|| [HEAD_WEIGHT, HEAD_BIAS].map(str::to_owned).into());
    let modules = plan.blocks.iter().flat_map(|block| &block.modules).map(|module| module.module.as_str());
    let known: Vec<&str> = modules.chain(head.iter().map(String::as_str)).collect();
    if let Some(start) = arguments.start.as_deref() {
        check_start(start, &plan, arguments.training.head.map(|head| head.as_str()))?;
    }
    let initial = arguments.start.as_deref().map(|folder| read_named(folder, known)).transpose()?;
    let data = TrainingData {
        initial: initial.as_ref(),
        validation: validation.as_ref(),
        tokenizer: &tokenizer,
        metrics: &section.metrics(objective),
        packing: section.packing,
        padding_is_safe: padding_is_safe(context, &model.model, &sample, &tokenizer)?,
        train: &train,
    };
    let mut settings = arguments.training.section().settings(context, arguments.restart);
    if let Some(path) = &arguments.batches {
        settings.batching = crate::train::Batching::read(path)?;
    }
    let facts = train_adapter(context, &model, &plan, &data, &settings, arguments.flavour, &arguments.out)?;
    context.print(&facts, || facts.describe())
}

/// Refuses a plan that was edited into something the export has not, and warns of a configuration beside it that was.
#[cfg(feature = "train")]
fn check_edited_plan(
    context: &Context,
    model: &super::opened::Opened,
    plan: &crate::rank::Plan,
    file: &std::path::Path,
) -> anyhow::Result<()> {
    use crate::adapter::{CONFIG_FILE, adapter_config};
    use crate::progress::{Event, Observer};
    let (blocks, _) = super::planning::blocks_to_adapt(context, model)?;
    plan.check_export(&model.states.values, &blocks, model.folder.checkpoint.is_some())
        .map_err(|fault| crate::rank::RankError::in_plan(file, fault))?;
    let beside = file.with_file_name(CONFIG_FILE);
    let Ok(found) = crate::files::read(&beside) else { return Ok(()) };
    let found: serde_json::Value = serde_json::from_slice(&found).unwrap_or_default();
    let planned = adapter_config(plan, &super::planning::config_settings(model)?)?;
    let decisive = ["r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules"];
    if let Some(key) = decisive.into_iter().find(|key| found.get(*key) != planned.get(*key)) {
        context.observer().observe(Event::Warning(&format!(
            "{} has another {key} than {}: what is trained is what the plan says",
            beside.display(),
            file.display()
        )));
    }
    Ok(())
}

/// Refuses an adapter to start from that belongs to another export, or whose head reads another vector: its values would be
/// taken for something else. One that PEFT wrote says nothing of either.
#[cfg(feature = "train")]
fn check_start(folder: &std::path::Path, plan: &crate::rank::Plan, head: Option<&str>) -> anyhow::Result<()> {
    let Some(known) = crate::adapter::Provenance::read(folder)? else { return Ok(()) };
    anyhow::ensure!(
        known.onnx_sha256 == plan.model.onnx_sha256,
        "the adapter in {} was trained on another export than {}; start from one of this export, or leave --start out",
        folder.display(),
        plan.model.onnx
    );
    let in_words =
        |head: Option<&str>| head.map_or("the export's own".to_owned(), |head| format!("one that reads the {head}"));
    anyhow::ensure!(
        known.added_head.as_deref() == head,
        "the head of the adapter in {} is {}, and {} is wanted; give the same --head, or leave --start out",
        folder.display(),
        in_words(known.added_head.as_deref()),
        in_words(head)
    );
    Ok(())
}
