//! The `gelora` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    gelora::cli::main()
}
