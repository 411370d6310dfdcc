//! `gelora completions`: what a shell needs to complete commands and options.

use clap_complete::Shell;
use serde::Serialize;

use super::context::Context;

const EXAMPLE: &str = "\
Examples:
  gelora completions bash > ~/.local/share/bash-completion/completions/gelora
  gelora completions zsh > ~/.zfunc/_gelora          with `fpath+=~/.zfunc` before `compinit` in ~/.zshrc
  gelora completions fish > ~/.config/fish/completions/gelora.fish";

/// Print the completions of commands and options for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Arguments {
    /// The shell
    shell: Shell,
}

#[derive(Debug, Serialize)]
struct Completions {
    shell: String,
    script: String,
}

pub(crate) fn run(context: &Context, arguments: Arguments) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut super::command(), super::NAME, &mut script);
    let completions = Completions { shell: arguments.shell.to_string(), script: String::from_utf8(script)? };
    context.print(&completions, || completions.script.clone())
}
