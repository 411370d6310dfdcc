//! What every command is given: the global options, the progress display, and the way to print a result.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use serde::Serialize;

use crate::runtime::{Device, Library, SessionSettings};

use super::arguments::GlobalArguments;
#[cfg(feature = "train")]
use super::config::DeviceSection;
use super::progress::Terminal;

/// The checked global options and the terminal.
pub(crate) struct Context {
    json: bool,
    inference: Device,
    /// As the command line says, if it does.
    #[cfg(feature = "train")]
    device: Option<Device>,
    #[cfg(feature = "train")]
    training: Device,
    threads: Option<usize>,
    ort_lib: Option<PathBuf>,
    terminal: Arc<Terminal>,
}

impl Context {
    /// Sets up logging, progress and Ctrl-C.
    pub(crate) fn new(global: GlobalArguments) -> Self {
        start_logging(global.verbose);
        let context = Self::with_terminal(&global, Terminal::new(global.quiet, global.verbose > 0));
        let flag = context.terminal.cancel_flag().clone();
        let handler = move || {
            if flag.is_raised() {
                // SAFETY: no condition. Unlike `exit` it runs no destructors, which would take libtorch's kernels away from
                // under the threads that are still in them.
                unsafe { libc::_exit(super::exit::PARTIAL.into()) };
            }
            flag.raise();
            let _ = writeln!(io::stderr(), "\nstopping after the current step (Ctrl-C again ends at once)");
        };
        if let Err(error) = ctrlc::set_handler(handler) {
            tracing::warn!("Ctrl-C will end the program at once: {error}");
        }
        context
    }

    fn with_terminal(global: &GlobalArguments, terminal: Terminal) -> Self {
        Self {
            json: global.json,
            inference: global.device.unwrap_or_default(),
            #[cfg(feature = "train")]
            device: global.device,
            #[cfg(feature = "train")]
            training: global.device.unwrap_or_default(),
            threads: global.threads,
            ort_lib: global.ort_lib.clone(),
            terminal: Arc::new(terminal),
        }
    }

    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        Self::with_terminal(&GlobalArguments::default(), Terminal::new(true, false))
    }

    /// The same under `[device]` of a configuration: options of the command line go before it.
    #[cfg(feature = "train")]
    pub(crate) fn under(&self, section: &DeviceSection) -> Self {
        Self {
            json: self.json,
            device: self.device,
            inference: self.device.unwrap_or(section.inference),
            training: self.device.unwrap_or(section.training),
            threads: self.threads.or(section.threads),
            ort_lib: self.ort_lib.clone().or_else(|| section.ort_lib.clone()),
            terminal: Arc::clone(&self.terminal),
        }
    }

    /// The library that was named, if one was.
    pub(crate) fn ort_lib(&self) -> Option<&Path> {
        self.ort_lib.as_deref()
    }

    /// ONNX Runtime.
    pub(crate) fn library(&self) -> anyhow::Result<&'static Library> {
        let library = Library::load(self.ort_lib())?;
        tracing::info!("ONNX Runtime {} from {}", library.version(), library.path().display());
        Ok(library)
    }

    /// Device and threads of a session of ONNX Runtime.
    pub(crate) fn session_settings(&self) -> SessionSettings {
        SessionSettings { device: self.inference, threads: self.threads, ..SessionSettings::default() }
    }

    /// Device and threads of libtorch.
    #[cfg(feature = "train")]
    pub(crate) fn training(&self) -> (Device, Option<usize>) {
        (self.training, self.threads)
    }

    /// Where long computations report to.
    pub(crate) fn observer(&self) -> &Terminal {
        &self.terminal
    }

    /// Prints the result of a command: for people, or with `--json` for machines.
    pub(crate) fn print(&self, machine: &impl Serialize, human: impl FnOnce() -> String) -> anyhow::Result<()> {
        self.terminal.finish();
        let mut text = if self.json {
            serde_json::to_string_pretty(machine).context("cannot write the result as JSON")?
        } else {
            human()
        };
        if !text.ends_with('\n') {
            text.push('\n');
        }
        let mut stdout = io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            // A reader that has seen enough (`gelora inspect model | head`) is not an error.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other.context("cannot write to the standard output"),
        }
    }
}

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
        .with_ansi(super::paint::wants_colour(&io::stderr()))
        .without_time()
        .try_init();
}
