//! The `gelora` command.

#[cfg(all(feature = "train", target_os = "linux", target_env = "gnu"))]
mod early;

use std::process::ExitCode;

#[global_allocator]
static MEMORY: gelora::cli::memory::Memory = gelora::cli::memory::Memory;

#[cfg(feature = "train")]
fn main() -> ExitCode {
    gelora::cli::main(Some(gelora::cli::Training::LINKED))
}

/// Without libtorch: training is handed over to a program that has it.
#[cfg(not(feature = "train"))]
fn main() -> ExitCode {
    gelora::cli::main(None)
}
