//! `gelora man`: a manual page for every command.

use std::io::{self, Write as _};
use std::path::PathBuf;

use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};
use serde::Serialize;

use crate::files::write_atomically;

use super::context::Context;

const EXAMPLE: &str = "\
Examples:
  gelora man ~/.local/share/man/man1                 then `man gelora-plan`
  gelora man build/man && man -l build/man/gelora-train.1";

/// Write a manual page for every command
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Arguments {
    /// Folder for the pages
    folder: PathBuf,
}

#[derive(Debug, Serialize)]
struct Pages {
    folder: String,
    pages: Vec<String>,
}

pub(crate) fn run(context: &Context, arguments: Arguments) -> anyhow::Result<()> {
    let folder = arguments.folder;
    context.session().take_folder(&folder, &[])?;
    let mut command = super::command().disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    for command in std::iter::once(&command).chain(command.get_subcommands()) {
        let name = format!("{}.1", command.get_display_name().unwrap_or(super::NAME));
        let page = page(command)?;
        write_atomically(&folder.join(&name), |writer| writer.write_all(&page))?;
        pages.push(name);
    }
    let written = Pages { folder: folder.display().to_string(), pages };
    context.print(&written, || format!("written: {} pages in {}", written.pages.len(), written.folder))
}

/// The page in roff. clap_mangen would run the lines of the examples together, so they are appended here.
fn page(command: &clap::Command) -> io::Result<Vec<u8>> {
    let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let mut page = Vec::new();
    Man::new(command.clone().after_help(None))
        .source(format!("{} {}", super::NAME, env!("CARGO_PKG_VERSION")))
        .render(&mut page)?;
    let mut roff = Roff::new();
    roff.control("SH", ["EXAMPLES"]).control("nf", []);
    for line in examples.trim_start_matches("Examples:\n").lines() {
        roff.text([roman(line)]);
    }
    roff.control("fi", []);
    roff.to_writer(&mut page)?;
    Ok(page)
}
