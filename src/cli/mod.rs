//! The command line, one file per command: raw arguments become checked settings, then a call of the library, then output.
//!
//! Everything that draws, colours, prints or decides an exit code is here and nowhere else in the library.

mod arguments;
mod completions;
mod context;
mod dimension;
mod doctor;
mod evaluate;
mod exit;
mod exit_code;
mod expose;
mod extract;
mod hints;
mod inspect;
mod inspection;
mod man;
mod manifold;
pub mod memory;
mod merge;
mod no_training;
mod plain;
mod plan;
mod progress;
mod report;
mod run;
mod style;
mod train;
mod training;
mod working_folder;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use arguments::GlobalArguments;
use context::Context;
pub use training::Training;

const NAME: &str = "gelora";

const ABOUT: &str = "Gives every layer of a transformer the LoRA rank its data asks for";

const LONG_ABOUT: &str = "\
Gives every layer of a transformer the LoRA rank its data asks for.

Takes an ONNX export of a transformer and a data set, measures the intrinsic dimension of the data in every layer, \
turns the differences into LoRA ranks, trains exactly these, and hands back a PEFT adapter and a merged checkpoint.";

const EXAMPLES: &str = "\
Examples:
  gelora doctor                                      is everything there that gelora needs?
  gelora inspect my-model                            what can be done with this export?
  gelora plan my-model --data train.tsv --task cola -o out
                                                     a rank for every layer, and a report
  gelora run config.toml                             plan, train, merge and evaluate

Exit codes: 0 done, 1 an error that you can fix, 2 a bug in gelora, 3 interrupted (the same command resumes).";

#[derive(Debug, Parser)]
#[command(name = NAME, version, about = ABOUT, long_about = LONG_ABOUT, after_help = EXAMPLES)]
#[command(subcommand_required = true, arg_required_else_help = true, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: GlobalArguments,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Arguments),
    Inspect(inspect::Arguments),
    Expose(expose::Arguments),
    Extract(extract::Arguments),
    Dimension(dimension::Arguments),
    Manifold(manifold::Arguments),
    Plan(plan::Arguments),
    Report(report::Arguments),
    Train(train::Arguments),
    Merge(merge::Arguments),
    Evaluate(evaluate::Arguments),
    Doctor(doctor::Arguments),
    Completions(completions::Arguments),
    Man(man::Arguments),
}

/// The whole program: parses the arguments of the process, runs the command, and reports how it ended. Without `training`, the
/// commands that need libtorch are handed over to the program beside this one that is linked against it.
pub fn main(training: Option<Training>) -> ExitCode {
    if let Some(code) = training::answer() {
        return code;
    }
    // SAFETY: the process still has a single thread.
    unsafe { crate::runtime::disable_telemetry() };
    context::let_writes_fail();
    crate::hint::speak(hints::of_commands);
    let mut command = command();
    let parsed =
        command.try_get_matches_from_mut(std::env::args_os()).and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return exit::usage(&error, &called(&command)),
    };
    exit::remember_panics();
    let context = Context::new(cli.global);
    exit::guard(&context, || dispatch(&context, cli.command, training))
}

/// All commands with their options.
fn command() -> clap::Command {
    negative_numbers_are_values(Cli::command())
}

/// Lets negative numbers be values, so that the error is about the number and not about an unknown option.
fn negative_numbers_are_values(command: clap::Command) -> clap::Command {
    let with_values = |argument: clap::Arg| match argument.get_action().takes_values() {
        true => argument.allow_negative_numbers(true),
        false => argument,
    };
    command.mut_args(with_values).mut_subcommands(negative_numbers_are_values)
}

/// Name of the command that was called, like `gelora plan`.
fn called(command: &clap::Command) -> String {
    let is_command = |word: &String| command.get_subcommands().any(|command| command.get_name() == word);
    let name = std::env::args_os().skip(1).filter_map(|word| word.into_string().ok()).find(is_command);
    name.map_or(command.get_name().to_owned(), |name| format!("{} {name}", command.get_name()))
}

fn dispatch(context: &Context, command: Command, training: Option<Training>) -> anyhow::Result<()> {
    working_folder::check_working_folder()?;
    crate::neighbours::check_instruction_set()?;
    match (command, training) {
        (Command::Run(arguments), Some(training)) => (training.run)(context, arguments),
        (Command::Train(arguments), Some(training)) => (training.train)(context, arguments),
        (Command::Doctor(arguments), Some(training)) => (training.doctor)(context, arguments),
        (Command::Run(_) | Command::Train(_), None) => training::hand_over(),
        (Command::Doctor(arguments), None) => match training::program() {
            Ok(_) => training::hand_over(),
            Err(why) => doctor::run_without_training(context, arguments, &why),
        },
        (Command::Inspect(arguments), _) => inspect::run(context, arguments),
        (Command::Expose(arguments), _) => expose::run(context, arguments),
        (Command::Extract(arguments), _) => extract::run(context, arguments),
        (Command::Dimension(arguments), _) => dimension::run(context, arguments),
        (Command::Manifold(arguments), _) => manifold::run(context, arguments),
        (Command::Plan(arguments), _) => plan::run(context, arguments),
        (Command::Report(arguments), _) => report::run(context, arguments),
        (Command::Merge(arguments), _) => merge::run(context, arguments),
        (Command::Evaluate(arguments), _) => evaluate::run(context, arguments),
        (Command::Completions(arguments), _) => completions::run(context, arguments),
        (Command::Man(arguments), _) => man::run(context, arguments),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::{Path, PathBuf};

    use regex::Regex;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        command().debug_assert();
    }

    /// All files in a folder and below it whose names end with `ending`.
    fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries
            .flat_map(|path| match path.is_dir() {
                true => files(&path, ending),
                false => path.extension().filter(|found| *found == ending).map(|_| path.clone()).into_iter().collect(),
            })
            .collect()
    }

    /// Options by command, the global ones included.
    fn options() -> BTreeMap<String, BTreeSet<String>> {
        let mut command = Cli::command();
        command.build();
        let of = |command: &clap::Command| {
            let names = command.get_arguments().filter_map(|argument| Some(format!("--{}", argument.get_long()?)));
            names.chain(["--help".to_owned(), "--version".to_owned()]).collect()
        };
        command.get_subcommands().map(|command| (command.get_name().to_owned(), of(command))).collect()
    }

    /// What an error advises must exist: every option named in a text of the program or its documentation is one of gelora's,
    /// and of the command that it is named with.
    #[test]
    fn every_option_that_is_named_exists() {
        let options = options();
        let all: BTreeSet<&String> = options.values().flatten().collect();
        // Options of cargo, named by a build without training, and of onnxruntime-genai's builder.
        let foreign = ["--release", "--extra_options"];
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let option = Regex::new(r"(?:^|[\s`(\[|])(--[a-z][a-z_-]*[a-z])").unwrap();
        let call = Regex::new(r"gelora ([a-z]+)([^`\n]*)").unwrap();
        let mut wrong = Vec::new();
        let sources = files(&root.join("src"), "rs").into_iter().filter(|path| path.file_name().unwrap() != "tests.rs");
        let documents =
            files(&root.join("docs"), "md").into_iter().chain([root.join("README.md"), root.join("CONTRIBUTING.md")]);
        for path in sources.chain(documents) {
            let text = std::fs::read_to_string(&path).unwrap();
            let is_source = path.extension().unwrap() == "rs";
            // Tests name options that do not exist; other programs have options too.
            let text = if is_source { text.split("#[cfg(test)]").next().unwrap() } else { &text };
            let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            for line in lines {
                let named = option.captures_iter(line).map(|found| found[1].to_owned());
                wrong.extend(
                    named
                        .filter(|name| is_source && !all.contains(name) && !foreign.contains(&name.as_str()))
                        .map(|name| format!("{}: {name}", path.display())),
                );
                for found in call.captures_iter(line) {
                    let Some(known) = options.get(&found[1]) else { continue };
                    // Up to the next command in a pipe.
                    let words = found[2].split(['|', ';', '#']).next().unwrap_or_default();
                    let named = option.captures_iter(words).map(|found| found[1].to_owned());
                    let unknown = named.filter(|name| !known.contains(name));
                    wrong.extend(unknown.map(|name| format!("{}: gelora {} {name}", path.display(), &found[1])));
                }
            }
        }
        assert_eq!(wrong, Vec::<String>::new());
    }

    /// A caller of the library has fields, a configuration keys: below the command line, errors name a [`crate::hint::Hint`].
    #[test]
    fn only_the_command_line_names_its_options() {
        let options = options();
        let all: BTreeSet<&String> = options.values().flatten().collect();
        let foreign = Regex::new(r"export_onnx\.py[^)`]*").unwrap();
        let option = Regex::new(r"--[a-z][a-z-]*").unwrap();
        let call = Regex::new(r"gelora ([a-z]+) [^`]*\s--?[a-z]").unwrap();
        let names_one = |line: &str| {
            let line = foreign.replace_all(line, "");
            option.find_iter(&line).any(|found| all.contains(&found.as_str().to_owned()))
                || call.captures_iter(&line).any(|found| options.contains_key(&found[1]))
        };
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let is_test =
            |path: &Path| path.iter().any(|part| ["tests", "tests.rs", "testing.rs"].iter().any(|name| part == *name));
        let mut wrong = Vec::new();
        for path in files(&root, "rs").iter().filter(|path| !path.starts_with(root.join("cli")) && !is_test(path)) {
            let text = std::fs::read_to_string(path).unwrap();
            // Errors do not show comments, among them the help of options.
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            let lines = code.lines().filter(|line| !line.trim_start().starts_with("//") && names_one(line));
            wrong.extend(lines.map(|line| format!("{}: {}", path.display(), line.trim())));
        }
        assert_eq!(wrong, Vec::<String>::new(), "take the words from crate::hint");
    }

    #[test]
    fn every_command_shows_an_example() {
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains(&format!("gelora {}", command.get_name())), "{} has no example", command.get_name());
        }
    }
}
