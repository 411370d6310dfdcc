//! The options that every command accepts.

use std::path::PathBuf;

use clap::Args;

use crate::runtime::Device;

/// Options of every command.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalArguments {
    /// Print the result as JSON, and nothing else, on the standard output
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// No progress and no notes; warnings and errors stay
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,

    /// Log what happens to the standard error (-vv, -vvv: more)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,

    /// The ONNX Runtime library [default: $ORT_DYLIB_PATH, beside the program, or .venv]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) ort_lib: Option<PathBuf>,

    /// Where to compute: auto, cpu, cuda or cuda:N; cuda fails where there is none [default: auto]
    #[arg(long, global = true, value_name = "DEVICE")]
    pub(crate) device: Option<Device>,

    /// Threads to compute with [default: one per core]
    #[arg(long, global = true, value_name = "N", value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    pub(crate) threads: Option<usize>,
}
