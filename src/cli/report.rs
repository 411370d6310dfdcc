//! `gelora report`: draws the page of a plan again, or several plans side by side.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure};
use serde::Serialize;

use crate::rank::Plan;
use crate::report::{self, Named};
use crate::workflow::plan_file;

use super::context::Context;

const EXAMPLE: &str = "\
Examples:
  gelora report out/plan.json -o report.html
  gelora report --compare cola/plan.json mrpc/plan.json rte/plan.json -o compare.html
  gelora report --compare first/plan.json mean/plan.json --names first,mean -o pooling.html";

/// Draw the report of a plan, or lay plans side by side
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Arguments {
    /// The plan, or with --compare several of them; or the folders they are in
    #[arg(value_name = "PLAN", required = true)]
    plans: Vec<PathBuf>,

    /// Lay the plans side by side: tasks, checkpoints or poolings; differences are those to the first
    #[arg(long)]
    compare: bool,

    /// What to call the plans, separated by commas [default: their tasks, or the names of their folders]
    #[arg(long, value_name = "A,B", value_delimiter = ',', requires = "compare")]
    names: Vec<String>,

    /// The page to write
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Debug, Serialize)]
struct Drawn {
    file: String,
    plans: Vec<Summary>,
}

#[derive(Debug, Serialize)]
struct Summary {
    name: String,
    dimensions: Vec<Option<f64>>,
    ranks: Vec<usize>,
    adapter_parameters: u64,
}

pub(crate) fn run(context: &Context, arguments: Arguments) -> anyhow::Result<()> {
    let out = &arguments.out;
    let written = out.display().to_string();
    let paths = arguments.plans.iter().map(|path| plan_file(path)).collect::<Result<Vec<_>, _>>()?;
    let inputs: Vec<_> = paths.iter().map(|path| ("plan", path.as_path())).collect();
    let session = context.session();
    session.take_file(out, &inputs)?;
    let plans = paths.iter().map(|path| Plan::read(path)).collect::<Result<Vec<_>, _>>()?;
    if !arguments.compare {
        let [plan] = &plans[..] else {
            bail!("{} plans are given; lay them side by side with --compare, or give one", plans.len());
        };
        report::write_report(out, plan)?;
        let name = name_of(&paths[0], plan);
        let drawn = Drawn { file: written.clone(), plans: vec![Summary::new(name, plan)] };
        return context.print(&drawn, || format!("{}\n\nwritten: {written}", report::plan_table(plan)));
    }
    ensure!(plans.len() > 1, "one plan is given; --compare needs at least two");
    let names = match arguments.names.len() {
        0 => names(&paths, &plans),
        given => {
            ensure!(given == plans.len(), "--names gives {given} names for {} plans; give one for each", plans.len());
            ensure!(are_distinct(&arguments.names), "--names gives the same name twice; give one for each");
            arguments.names
        }
    };
    let named: Vec<Named<'_>> = names.iter().zip(&plans).map(|(name, plan)| Named { name, plan }).collect();
    report::write_comparison(out, &named)?;
    let summaries = names.iter().zip(&plans).map(|(name, plan)| Summary::new(name.clone(), plan));
    let drawn = Drawn { file: written.clone(), plans: summaries.collect() };
    context.print(&drawn, || format!("{}\n\nwritten: {written}", report::compare_table(&named)))
}

fn are_distinct(names: &[String]) -> bool {
    names.iter().collect::<BTreeSet<_>>().len() == names.len()
}

/// Names of plans: their tasks where these differ, else their folders, else numbers.
fn names(paths: &[PathBuf], plans: &[Plan]) -> Vec<String> {
    let tasks: Option<Vec<String>> = plans.iter().map(|plan| plan.data.task.clone()).collect();
    if let Some(tasks) = tasks.filter(|tasks| are_distinct(tasks)) {
        return tasks;
    }
    let folders: Vec<String> = paths.iter().zip(plans).map(|(path, plan)| name_of(path, plan)).collect();
    if are_distinct(&folders) {
        return folders;
    }
    (1..=plans.len()).map(|number| format!("plan {number}")).collect()
}

/// `out/mrpc/plan.json` is named `mrpc`, any other file by its own name.
fn name_of(path: &Path, plan: &Plan) -> String {
    let stem = path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let folder = path.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    match (stem.as_str(), folder) {
        ("plan", Some(folder)) => folder,
        ("plan" | "", None) => plan.data.task.clone().unwrap_or(stem),
        _ => stem,
    }
}

impl Summary {
    fn new(name: String, plan: &Plan) -> Self {
        Self {
            name,
            dimensions: plan.hidden_states.iter().map(|state| state.dimension).collect(),
            ranks: plan.blocks.iter().map(|block| block.rank).collect(),
            adapter_parameters: plan.adapter_parameters,
        }
    }
}
