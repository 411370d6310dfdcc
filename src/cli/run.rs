//! `gelora run`: plan, train, merge and evaluate from one configuration; what is done is not done again.

use std::path::PathBuf;

use super::context::Context;

const EXAMPLE: &str = "\
Examples:
  gelora run examples/quickstart.toml
  gelora run config.toml -o out-2

Running it again resumes: a stage whose result is there, made from the same inputs, is not done again.";

/// Plan, train, merge and evaluate, as a configuration says
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Arguments {
    /// The configuration (TOML)
    config: PathBuf,

    /// Folder for everything that is written, instead of the configuration's
    #[arg(short, long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

pub(crate) fn run(_context: &Context, _arguments: Arguments) -> anyhow::Result<()> {
    anyhow::bail!("not yet here")
}
