//! `gelora doctor`: which libraries, providers and devices are really there.

use super::context::Context;

const EXAMPLE: &str = "\
Examples:
  gelora doctor
  gelora doctor --ort-lib /opt/onnxruntime/lib/libonnxruntime.so --json";

/// Show which libraries and devices are really there, and the cure where one is missing
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Arguments {}

pub(crate) fn run(_context: &Context, _arguments: Arguments) -> anyhow::Result<()> {
    anyhow::bail!("not yet here")
}
