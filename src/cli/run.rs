//! `gelora run`: plan, train, merge and evaluate from one configuration; what is done is not done again.

use std::path::PathBuf;

use super::context::Context;

const EXAMPLE: &str = "\
Examples:
  gelora run examples/quickstart.toml
  gelora run config.toml -o out-2

Writes plan.json, dimensions.csv, report.html, adapter_config.json, adapter/, merged/, evaluation.json and run.json.
Running it again resumes: a stage whose result is there, made from the same inputs, is not done again.";

/// Plan, train, merge and evaluate, as a configuration says
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
#[cfg_attr(not(feature = "train"), allow(dead_code, reason = "the options exist to be explained"))]
pub(crate) struct Arguments {
    /// The configuration (TOML)
    config: PathBuf,

    /// Folder for everything that is written, instead of the configuration's
    #[arg(short, long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

#[cfg(not(feature = "train"))]
pub(crate) fn run(_context: &Context, arguments: Arguments) -> anyhow::Result<()> {
    // What is wrong with a configuration is said by every build.
    super::config::Config::read(&arguments.config)?;
    anyhow::bail!(super::train::WITHOUT_TRAINING)
}

#[cfg(feature = "train")]
pub(crate) fn run(context: &Context, arguments: Arguments) -> anyhow::Result<()> {
    if arguments.config.is_dir() {
        anyhow::bail!("{} is a folder; name the configuration, a .toml file", arguments.config.display());
    }
    let mut config = super::config::Config::read(&arguments.config)?;
    if let Some(out) = arguments.out {
        config.output.folder = out;
    }
    let context = context.under(&config.device);
    let finished = super::pipeline::Pipeline::open(&context, &config)?.run()?;
    context.print(&finished, || finished.describe())
}
