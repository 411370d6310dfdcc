//! The commands that need libtorch: linked into this program, or handed over to the program beside it.
//!
//! A program that is linked against libtorch does not start without it, not even for `--help`. So a package has two: `gelora`,
//! built without training, and `gelora-train`, the same program built with it, which takes its place when training begins.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use super::context::Context;
use super::no_training::{NoTraining, PROGRAM};
use super::{doctor, run, train};

/// Asks that program whether it starts.
const PROBE: &str = "__starts";

/// The commands that need libtorch, in a program that is linked against it.
#[derive(Debug, Clone, Copy)]
pub struct Training {
    pub(super) train: fn(&Context, train::Arguments) -> anyhow::Result<()>,
    pub(super) run: fn(&Context, run::Arguments) -> anyhow::Result<()>,
    pub(super) doctor: fn(&Context, doctor::Arguments) -> anyhow::Result<()>,
}

#[cfg(feature = "train")]
impl Training {
    /// The commands of this library. Naming it links the program against libtorch.
    pub const LINKED: Training = Training { train: train::run, run: run::run, doctor: doctor::run };
}

/// The program that trains, if it starts.
pub(crate) fn program() -> Result<PathBuf, NoTraining> {
    let own = std::env::current_exe().and_then(|own| own.canonicalize());
    let program = own.as_ref().ok().and_then(|own| Some(own.parent()?.join(PROGRAM)));
    let shown = |path: Option<&Path>| path.map_or_else(|| "gelora".to_owned(), |path| path.display().to_string());
    let Some(program) = program.filter(|program| program.is_file()) else {
        return Err(NoTraining::NotThere { program: shown(own.ok().as_deref()) });
    };
    let fails = |reason: String| NoTraining::DoesNotStart { program: shown(Some(&program)), reason };
    // The loader says what it misses before the program's own code runs, where nobody else could say what to do.
    let output = Command::new(&program).arg(PROBE).stdin(Stdio::null()).output();
    let output = output.map_err(|error| fails(error.to_string()))?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    match err.lines().find_map(|line| line.strip_prefix("error: ")) {
        Some(line) => Err(NoTraining::Refuses { line: line.to_owned() }),
        None if !output.status.success() => Err(fails(reason(&err, &output.status.to_string()))),
        None if out.trim() != env!("CARGO_PKG_VERSION") => {
            Err(NoTraining::OtherVersion { program: shown(Some(&program)), found: out.trim().to_owned() })
        }
        None => Ok(program),
    }
}

/// What the loader said, without the name of the program and the words that all such lines share.
fn reason(said: &str, status: &str) -> String {
    let line = said.lines().find(|line| !line.trim().is_empty()).unwrap_or(status);
    let line = line.rsplit_once("error while loading shared libraries: ").map_or(line, |(_, reason)| reason);
    line.trim().to_owned()
}

/// Replaces this program by the one that trains, with the same arguments.
///
/// # Errors
/// [`NoTraining`] if that does not start; otherwise it does not return.
pub(super) fn hand_over() -> anyhow::Result<()> {
    let program = program()?;
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    Err(replaced_by(Command::new(&program).args(arguments), &program))
}

#[cfg(unix)]
fn replaced_by(command: &mut Command, program: &Path) -> anyhow::Error {
    use std::os::unix::process::CommandExt;
    let reason = command.exec().to_string();
    NoTraining::DoesNotStart { program: program.display().to_string(), reason }.into()
}

#[cfg(not(unix))]
fn replaced_by(command: &mut Command, program: &Path) -> anyhow::Error {
    match command.status() {
        Ok(status) => std::process::exit(status.code().unwrap_or(1)),
        Err(error) => {
            NoTraining::DoesNotStart { program: program.display().to_string(), reason: error.to_string() }.into()
        }
    }
}

/// Answers, with the version, where the program was only asked whether it starts.
pub(super) fn answer() -> Option<ExitCode> {
    let is_asked = std::env::args_os().nth(1).is_some_and(|argument| argument == PROBE);
    is_asked.then(|| {
        println!("{}", env!("CARGO_PKG_VERSION"));
        ExitCode::SUCCESS
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_of_the_loader_is_kept() {
        let said = "/opt/gelora/gelora-train: error while loading shared libraries: libtorch_cpu.so: cannot open shared object file: \
                    No such file or directory\n";
        let expected = "libtorch_cpu.so: cannot open shared object file: No such file or directory";
        assert_eq!(reason(said, "exit status: 127"), expected);
        assert_eq!(reason("", "signal: 11 (SIGSEGV)"), "signal: 11 (SIGSEGV)");
    }
}
