//! `gelora plan`: extraction, dimensions and ranks; writes the plan and its report.

use std::path::PathBuf;

use crate::progress::{Event, Observer};
use crate::rank::Plan;
use crate::report;

use super::context::Context;
use crate::settings::{DataSettings, DimensionOptions, ExtractionOptions, MiniBatchOptions, RankOptions};
use crate::workflow::{PlanFiles, make_plan};

const EXAMPLE: &str = "\
Examples:
  gelora plan my-model --data train.tsv --task cola -o out
  gelora plan my-qa-model --data train-v1.1.json --task squad --limit 3000 -o out
  gelora plan my-model --data rows.csv --text body --projections all --maximum-rank 16 -o out

Writes plan.json, adapter_config.json (for PEFT), dimensions.csv, report.html and the store of activations.
Running it again resumes, and reuses the store where model, data and settings are the same.";

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
    data: DataSettings,

    #[command(flatten)]
    extraction: ExtractionOptions,

    #[command(flatten)]
    mini_batch: MiniBatchOptions,

    #[command(flatten)]
    dimension: DimensionOptions,

    #[command(flatten)]
    rank: RankOptions,
}

pub(crate) fn run(context: &Context, arguments: Arguments) -> anyhow::Result<()> {
    let mut settings = arguments.extraction.section();
    arguments.mini_batch.enter(&mut settings);
    arguments.dimension.enter(&mut settings);
    arguments.rank.enter(&mut settings);
    let data = arguments.data;
    let plan = make_plan(&context.session(), &arguments.model, &data, &settings, &arguments.out)?;
    for warning in &plan.warnings {
        context.observer().observe(Event::Warning(warning));
    }
    // The plan is on disk as JSON already; it is printed as well only with --json.
    context.print(&plan, || describe(&plan, &PlanFiles::in_folder(&arguments.out)))
}

/// The table, and the paths of the files written.
fn describe(plan: &Plan, files: &PlanFiles) -> String {
    let text = report::plan_table(plan);
    let written = files.written().map(|path| path.display().to_string()).join(", ");
    text + &format!("\n\n{} parameters to train; written: {written}", plan.adapter_parameters)
}
