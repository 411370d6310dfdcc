//! The `gelora` command.

#[cfg(all(feature = "train", target_os = "linux", target_env = "gnu"))]
mod early;

use std::process::ExitCode;

#[global_allocator]
static MEMORY: gelora::cli::memory::Memory = gelora::cli::memory::Memory;

fn main() -> ExitCode {
    gelora::cli::main()
}
