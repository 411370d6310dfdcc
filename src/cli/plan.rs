//! `gelora plan`: extraction, dimensions and ranks; writes the plan and its report.

use std::path::PathBuf;

use crate::progress::{Event, Observer};
use crate::rank::Plan;
use crate::report;

use super::arguments::{DataArguments, DimensionArguments, ExtractionArguments, RankArguments};
use super::config::PlanSection;
use super::context::Context;
use super::opened::Opened;
use super::outputs::refuse_adapter_folder;
use super::planning::{PlanData, PlanFiles, plan};
use super::rows::{Purpose, Rows};

const EXAMPLE: &str = "\
Examples:
  gelora plan my-model --data train.tsv --task cola -o out
  gelora plan my-qa-model --data train-v1.1.json --task squad --limit 3000 -o out
  gelora plan my-model --data rows.csv --text body --projections all --maximum-rank 16 -o out

Writes plan.json, adapter_config.json (for PEFT), dimensions.csv, report.html and the store of activations.
Running it again resumes, and takes the store as it is where model, data and settings are the same.";

/// Give every layer the LoRA rank its data asks for
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Arguments {
    /// A model folder, or an .onnx file
    model: PathBuf,

    /// Folder for everything that is written
    #[arg(short, long, value_name = "FOLDER")]
    out: PathBuf,

    #[command(flatten)]
    data: DataArguments,

    #[command(flatten)]
    extraction: ExtractionArguments,

    /// Average the dimensions over mini-batches of so many rows as they come out of the model, and keep no activations
    #[arg(long, value_name = "ROWS", help_heading = "Activations",
        value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(100..))]
    mini_batch: Option<usize>,

    #[command(flatten)]
    dimension: DimensionArguments,

    #[command(flatten)]
    rank: RankArguments,
}

pub(crate) fn run(context: &Context, arguments: Arguments) -> anyhow::Result<()> {
    let settings = arguments.rank.enter(arguments.extraction.enter(arguments.dimension.section()));
    let settings = PlanSection { mini_batch: arguments.mini_batch, ..settings };
    let data = arguments.data.section();
    let files = PlanFiles::in_folder(&arguments.out);
    refuse_adapter_folder(&arguments.out)?;
    context.take_folder(&arguments.out, &[("model", &arguments.model)])?;
    context.lock(&files.store)?;
    let model = Opened::new(&arguments.model)?;
    model.tell_origin(context);
    let tokenizer = model.tokenizer(context, data.max_length())?;
    let rows = Rows::load(context, &data, &tokenizer, Purpose::planning(settings.stratified))?;
    let data = PlanData { section: &data, rows: &rows, tokenizer: &tokenizer };
    let plan = plan(context, &model, &data, &settings, &files)?;
    tell_warnings(context, &plan);
    // The plan is on disk as JSON; printing the same again is what --json is for.
    context.print(&plan, || describe(&plan, &files))
}

/// What to know about a plan before it is trusted.
pub(crate) fn tell_warnings(context: &Context, plan: &Plan) {
    for warning in &plan.warnings {
        context.observer().observe(Event::Warning(warning));
    }
}

/// The table, and where everything lies.
pub(crate) fn describe(plan: &Plan, files: &PlanFiles) -> String {
    let text = report::plan_table(plan);
    let written = files.written().map(|path| path.display().to_string()).join(", ");
    text + &format!("\n\n{} parameters to train; written: {written}", plan.adapter_parameters)
}
