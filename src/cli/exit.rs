//! How a command ends: one line on stderr and an exit code.

use std::any::Any;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;

use crate::progress::Cancelled;
use crate::settings::SettingError;
#[cfg(feature = "train")]
use crate::train::TrainError;
use crate::workflow::{WorkflowError, in_one_line};

use super::context::Context;
use super::exit_code::{BUG, FAILED, PARTIAL};
use super::memory::too_little;
use super::plain::plain_line;
use super::style::{Style, paint, wants_colour};

const ISSUES: &str = concat!(env!("CARGO_PKG_REPOSITORY"), "/issues");

/// Message of the last panic, kept by the hook until [`guard`] reports it.
static PANIC: Mutex<Option<String>> = Mutex::new(None);

/// Ends the program on invalid arguments, or after `--help` and `--version`. `command` is the command that was called, like
/// `gelora plan`.
pub(crate) fn usage(error: &clap::Error, command: &str) -> ExitCode {
    use clap::error::ErrorKind;
    if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        // A reader that closed the pipe (`gelora --help | head -1`) is not an error.
        let _ = error.print();
        return if error.use_stderr() { ExitCode::from(FAILED) } else { ExitCode::SUCCESS };
    }
    say_error(&one_line(&error.render().to_string(), command));
    ExitCode::from(FAILED)
}

/// Beginnings of lines of clap that are replaced, or useless here: no value of gelora looks like an option.
const UNHELPFUL: [&str; 2] = ["For more information", "tip: to pass "];

/// The standard library's messages about text that is not a number, and what to write instead.
const NUMBERS: [(&str, &str); 5] = [
    ("cannot parse integer from empty string", "give a whole number"),
    ("invalid digit found in string", "give a whole number, not below 0"),
    ("number too large to fit in target type", "give a smaller number"),
    ("cannot parse float from empty string", "give a number"),
    ("invalid float literal", "give a number, like 0.5 or 1e-4"),
];

/// clap's message as one line: the error, its tips, and where to find help.
fn one_line(rendered: &str, command: &str) -> String {
    let message = rendered.strip_prefix("error: ").unwrap_or(rendered);
    let mut parts = Vec::new();
    let mut help = format!("try `{command} --help`");
    for paragraph in message.split("\n\n") {
        let text = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
        if let Some(usage) = text.strip_prefix("Usage: ") {
            let names: Vec<&str> = usage.split(' ').take_while(|word| !word.starts_with(['[', '<', '-'])).collect();
            help = format!("try `{} --help`", names.join(" "));
        } else if !UNHELPFUL.iter().any(|start| text.starts_with(start)) && !text.is_empty() {
            parts.push(text);
        }
    }
    let said = parts.join("; ");
    let cure = NUMBERS.iter().find_map(|(found, cure)| Some(format!("{}{cure}", said.strip_suffix(found)?)));
    format!("{}; {help}", cure.unwrap_or(said))
}

/// Keeps the message of a panic and its location for [`guard`]; prints nothing, because a library may catch its own panic,
/// which is then not a bug to report. `RUST_BACKTRACE` shows the stack.
pub(crate) fn remember_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(|place| format!(" at {}:{}", place.file(), place.line())).unwrap_or_default();
        if std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0") {
            let _ = writeln!(std::io::stderr(), "{}", std::backtrace::Backtrace::force_capture());
        }
        if let Ok(mut last) = PANIC.lock() {
            last.get_or_insert(format!("{}{place}", words(panic.payload())));
        }
    }));
}

fn words(payload: &dyn Any) -> String {
    let text = match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text.as_str(),
        _ => "no message",
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Runs a command and turns its result, or its panic, into an exit code.
pub(crate) fn guard(context: &Context, command: impl FnOnce() -> anyhow::Result<()>) -> ExitCode {
    let result = catch_unwind(AssertUnwindSafe(command));
    context.observer().finish();
    ExitCode::from(match result {
        Ok(Ok(())) => 0,
        Ok(Err(error)) if was_cancelled(context, &error) => {
            let _ = writeln!(std::io::stderr(), "{}", plain_line(&in_one_line(error.as_ref())));
            PARTIAL
        }
        Ok(Err(error)) => {
            let line = setting_in_words(&error).unwrap_or_else(|| in_one_line(error.as_ref()));
            say_error(&too_little(&line).unwrap_or(line));
            FAILED
        }
        Err(payload) => {
            let remembered = PANIC.lock().ok().and_then(|mut last| last.take());
            let panic = remembered.unwrap_or_else(|| words(payload.as_ref()));
            if let Some(line) = too_little(&panic) {
                say_error(&line);
                return ExitCode::from(FAILED);
            }
            say_error(&format!(
                "this is a bug in gelora {}: {panic}; please report it with the command you ran at {ISSUES}",
                env!("CARGO_PKG_VERSION")
            ));
            BUG
        }
    })
}

/// The rooms pass [`Cancelled`] on as the source of their own errors: never inside an `io::Error`, whose chain skips the inner
/// error, and never below a `transparent` one.
fn was_cancelled(context: &Context, error: &anyhow::Error) -> bool {
    context.observer().cancel_flag().is_raised() && error.chain().any(<dyn std::error::Error>::is::<Cancelled>)
}

/// An invalid setting, named as its option on the command line. (An error in a configuration is of another kind,
/// with file and line.)
fn setting_in_words(error: &anyhow::Error) -> Option<String> {
    let refused = match error.downcast_ref()? {
        WorkflowError::Setting(refused) => refused,
        #[cfg(feature = "train")]
        WorkflowError::Train(TrainError::Setting(refused)) => refused,
        _ => return None,
    };
    let SettingError { key, found, cure } = refused;
    Some(format!("--{} {found}; {cure}", key.replace('_', "-")))
}

fn say_error(text: &str) {
    let mut stderr = std::io::stderr();
    let label = paint("error:", Style::Error, wants_colour(&stderr));
    // If stderr is closed, nobody is left to tell.
    let _ = writeln!(stderr, "{label} {}", plain_line(text));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activations::ActivationsError;
    use crate::dataset::DatasetError;
    use crate::dimension::DimensionError;
    use crate::evaluate::EvaluateError;
    use crate::merge::MergeError;
    use crate::neighbours::NeighbourError;
    use crate::rank::RankError;
    use anyhow::Context as _;

    #[test]
    fn a_usage_error_becomes_one_line_with_the_tip_and_the_help() {
        let rendered = "error: unexpected argument '--dat' found\n\n  tip: a similar argument exists: '--data'\n\n\
                        Usage: gelora plan --data <FILE> <MODEL>\n\nFor more information, try '--help'.\n";
        assert_eq!(
            one_line(rendered, "gelora"),
            "unexpected argument '--dat' found; tip: a similar argument exists: '--data'; try `gelora plan --help`"
        );
    }

    #[test]
    fn a_value_that_is_refused_names_the_help_of_its_command() {
        let rendered =
            "error: invalid value '3' for '--scale <N>': take 1 or 2\n\nFor more information, try '--help'.\n";
        let expected = "invalid value '3' for '--scale <N>': take 1 or 2; try `gelora dimension --help`";
        assert_eq!(one_line(rendered, "gelora dimension"), expected);
    }

    #[test]
    fn what_is_no_number_is_told_what_is() {
        let failed = [
            "".parse::<usize>().unwrap_err().to_string(),
            "-3".parse::<usize>().unwrap_err().to_string(),
            "300".parse::<u8>().unwrap_err().to_string(),
            "".parse::<f64>().unwrap_err().to_string(),
            "one".parse::<f64>().unwrap_err().to_string(),
        ];
        for (said, (known, cure)) in failed.iter().zip(NUMBERS) {
            assert_eq!(said, known);
            let rendered =
                format!("error: invalid value '?' for '--points <N>': {said}\n\nFor more information, try '--help'.\n");
            let line = one_line(&rendered, "gelora manifold");
            assert_eq!(line, format!("invalid value '?' for '--points <N>': {cure}; try `gelora manifold --help`"));
        }
    }

    #[test]
    fn causes_follow_their_error_once() {
        let error = anyhow::anyhow!("no such file").context("cannot read a.tsv: no such file");
        assert_eq!(in_one_line(error.as_ref()), "cannot read a.tsv: no such file");
        let error = Err::<(), _>(anyhow::anyhow!("line 3\nis short")).context("cannot read a.tsv").unwrap_err();
        assert_eq!(in_one_line(error.as_ref()), "cannot read a.tsv: line 3 is short");
    }

    #[test]
    fn ends_are_told_apart() {
        let context = Context::for_tests();
        let code = |command: fn() -> anyhow::Result<()>| format!("{:?}", guard(&context, command));
        let expected = |code: u8| format!("{:?}", ExitCode::from(code));
        assert_eq!(code(|| Ok(())), expected(0));
        assert_eq!(code(|| Err(anyhow::anyhow!("wrong"))), expected(FAILED));
        assert_eq!(code(|| panic!("impossible")), expected(BUG));
        assert_eq!(code(|| Err(Cancelled.into())), expected(FAILED), "nobody asked to stop");
        context.observer().cancel_flag().raise();
        assert_eq!(code(|| Err(Cancelled.into())), expected(PARTIAL));
        assert_eq!(
            code(|| Err(anyhow::anyhow!("{Cancelled}"))),
            expected(FAILED),
            "known by its type, not by its words"
        );
        // As every room passes [`Cancelled`] on.
        assert_eq!(code(|| Err(NeighbourError::from(Cancelled).into())), expected(PARTIAL));
        assert_eq!(code(|| Err(DimensionError::from(NeighbourError::from(Cancelled)).into())), expected(PARTIAL));
        assert_eq!(code(|| Err(RankError::from(Cancelled).into())), expected(PARTIAL));
        assert_eq!(code(|| Err(DatasetError::from(Cancelled).into())), expected(PARTIAL));
        assert_eq!(code(|| Err(ActivationsError::from(Cancelled).into())), expected(PARTIAL));
        assert_eq!(code(|| Err(EvaluateError::from(Cancelled).into())), expected(PARTIAL));
        assert_eq!(code(|| Err(MergeError::from(Cancelled).into())), expected(PARTIAL));
        assert_eq!(code(|| Err(WorkflowError::from(Cancelled).into())), expected(PARTIAL));
        assert_eq!(code(|| Err(WorkflowError::from(MergeError::from(Cancelled)).into())), expected(PARTIAL));
        #[cfg(feature = "train")]
        assert_eq!(code(|| Err(WorkflowError::from(TrainError::from(Cancelled)).into())), expected(PARTIAL));
        assert_eq!(code(|| Err(anyhow::Error::from(RankError::from(Cancelled)).context("plan"))), expected(PARTIAL));
    }
}
