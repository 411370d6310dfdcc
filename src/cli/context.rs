//! What every command receives: the global options, the progress display, and the way to print a result.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Serialize;

use crate::runtime::Device;
use crate::settings::DeviceSettings;
use crate::workflow::Session;

use super::arguments::GlobalArguments;
use super::memory::watch_libraries;
use super::plain::{plain_json, plain_text};
use super::progress::Terminal;

/// The checked global options and the terminal.
pub(crate) struct Context {
    json: bool,
    /// The device, if the command line names one.
    device: Option<Device>,
    threads: Option<usize>,
    ort_lib: Option<PathBuf>,
    terminal: Terminal,
}

/// A signal so soon after the first is the same one: Slurm and a closing terminal send several.
const ONE_SIGNAL: Duration = Duration::from_millis(500);

impl Context {
    /// Sets up logging, progress, and what Ctrl-C does: SIGTERM (Slurm, `docker stop`, systemd) and SIGHUP do the same.
    pub(crate) fn new(global: GlobalArguments) -> Self {
        start_logging(global.verbose);
        watch_libraries();
        let context = Self::with_terminal(&global, Terminal::new(global.quiet, global.verbose > 0));
        let flag = context.terminal.cancel_flag().clone();
        let mut stopped: Option<Instant> = None;
        let handler = move || {
            if let Some(first) = stopped {
                if first.elapsed() < ONE_SIGNAL {
                    return;
                }
                // SAFETY: no precondition. Unlike `exit` it runs no destructors, which would unload libtorch's kernels while
                // threads are still running them.
                unsafe { libc::_exit(super::exit_code::PARTIAL.into()) };
            }
            stopped = Some(Instant::now());
            flag.raise();
            let _ = writeln!(io::stderr(), "\nstopping after the current step (Ctrl-C again ends at once)");
        };
        let hangups_are_ignored = hangups_are_ignored();
        if let Err(error) = ctrlc::set_handler(handler) {
            tracing::warn!("Ctrl-C will end the program at once: {error}");
        }
        if hangups_are_ignored {
            ignore_hangups();
        }
        context
    }

    fn with_terminal(global: &GlobalArguments, terminal: Terminal) -> Self {
        Self {
            json: global.json,
            device: global.device,
            threads: global.threads,
            ort_lib: global.ort_lib.clone(),
            terminal,
        }
    }

    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        Self::with_terminal(&GlobalArguments::default(), Terminal::new(true, false))
    }

    /// The session that the steps of a command run in.
    pub(crate) fn session(&self) -> Session<'_> {
        self.session_under(&DeviceSettings::default())
    }

    /// The session with the `[device]` section of a configuration: options of the command line take precedence.
    pub(crate) fn session_under(&self, section: &DeviceSettings) -> Session<'_> {
        let device = DeviceSettings {
            inference: self.device.unwrap_or(section.inference),
            training: self.device.unwrap_or(section.training),
            threads: self.threads.or(section.threads),
            ort_lib: self.ort_lib.clone().or_else(|| section.ort_lib.clone()),
        };
        let words: Vec<_> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
        Session::new(self.observer(), device)
            .called(format!("gelora {}", words.join(" ")))
            .after_loading(watch_libraries)
    }

    /// The observer that long computations report to.
    pub(crate) fn observer(&self) -> &Terminal {
        &self.terminal
    }

    /// Prints the result of a command: for people, or as JSON with `--json`.
    pub(crate) fn print(&self, machine: &impl Serialize, human: impl FnOnce() -> String) -> anyhow::Result<()> {
        self.terminal.finish();
        let mut text = if self.json {
            let text = serde_json::to_string_pretty(machine).context("cannot write the result as JSON")?;
            plain_json(&text).into_owned()
        } else {
            plain_text(&human()).into_owned()
        };
        if !text.ends_with('\n') {
            text.push('\n');
        }
        let mut stdout = io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            // A reader that stops early (`gelora inspect model | head`) is not an error.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other.context("cannot write to the standard output"),
        }
    }
}

/// Whether `nohup` or the like started the program: then a hangup of the terminal is to be ignored.
#[cfg(unix)]
fn hangups_are_ignored() -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action the call only writes the current one to a variable of sufficient size.
    let action = unsafe {
        if libc::sigaction(libc::SIGHUP, std::ptr::null(), action.as_mut_ptr()) != 0 {
            return false;
        }
        action.assume_init()
    };
    action.sa_sigaction == libc::SIG_IGN
}

/// Turns a file that grows beyond the limit of the process (`ulimit -f`) into a write error; the default is to end silently.
#[cfg(unix)]
pub(super) fn let_writes_fail() {
    // SAFETY: SIG_IGN is valid for every signal but two (SIGKILL and SIGSTOP).
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

#[cfg(not(unix))]
pub(super) fn let_writes_fail() {}

#[cfg(unix)]
fn ignore_hangups() {
    // SAFETY: SIG_IGN is valid for every signal but two (SIGKILL and SIGSTOP).
    unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
}

#[cfg(not(unix))]
fn hangups_are_ignored() -> bool {
    false
}

#[cfg(not(unix))]
fn ignore_hangups() {}

/// Log lines go to stderr: warnings by default, more with `-v`; `GELORA_LOG` overrides.
fn start_logging(verbose: u8) {
    use tracing_subscriber::EnvFilter;
    let default = match verbose {
        0 => "error",
        1 => "gelora=info,warn",
        2 => "gelora=debug,info",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env("GELORA_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(super::style::wants_colour(&io::stderr()))
        .without_time()
        .try_init();
}
