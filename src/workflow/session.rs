//! What every step needs: the libraries, the device, and the observer of its progress.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::WorkflowError;
use crate::files::OutputLock;
use crate::progress::{Event, Observer, Silent};
use crate::runtime::{Library, SessionSettings};
use crate::settings::{DeviceSettings, TrainSettings};

/// Libraries, devices, threads and the observer of one or more steps, and the outputs that they write.
///
/// An output is locked from the first step that writes it until the session is dropped: no other process can write it meanwhile.
pub struct Session<'a> {
    observer: &'a dyn Observer,
    device: DeviceSettings,
    command: String,
    loaded: fn(),
    outputs: Mutex<Vec<(PathBuf, OutputLock)>>,
}

impl Default for Session<'_> {
    fn default() -> Self {
        Self::new(&Silent, DeviceSettings::default())
    }
}

impl<'a> Session<'a> {
    /// A session that reports to `observer` and computes on the given device.
    pub fn new(observer: &'a dyn Observer, device: DeviceSettings) -> Self {
        Self { observer, device, command: String::new(), loaded: || (), outputs: Mutex::default() }
    }

    /// Sets what another process is told when it finds an output locked, for instance the command line.
    #[must_use]
    pub fn called(self, command: String) -> Self {
        Self { command, ..self }
    }

    /// Sets a function that is called after ONNX Runtime is loaded.
    #[must_use]
    pub fn after_loading(self, loaded: fn()) -> Self {
        Self { loaded, ..self }
    }

    /// The observer that long computations report to.
    pub fn observer(&self) -> &'a dyn Observer {
        self.observer
    }

    /// Path of the ONNX Runtime library, if one was given.
    pub(super) fn ort_lib(&self) -> Option<&Path> {
        self.device.ort_lib.as_deref()
    }

    /// Loads ONNX Runtime.
    ///
    /// # Errors
    /// Returns an error if it is not found or cannot be loaded.
    pub fn library(&self) -> Result<&'static Library, WorkflowError> {
        let library = Library::load(self.ort_lib())?;
        (self.loaded)();
        tracing::info!("ONNX Runtime {} from {}", library.version(), library.path().display());
        Ok(library)
    }

    /// Device and threads of ONNX Runtime.
    pub fn inference(&self) -> SessionSettings {
        SessionSettings { device: self.device.inference, threads: self.device.threads, ..SessionSettings::default() }
    }

    /// The training settings with the device and threads of libtorch.
    pub fn on_device(&self, settings: TrainSettings) -> TrainSettings {
        let DeviceSettings { training, threads, .. } = self.device;
        TrainSettings { device: training, threads, ..settings }
    }

    /// Locks an output until the session is dropped. A session may lock the same output again.
    ///
    /// # Errors
    /// Returns an error if another process writes it, or if it is not writable.
    pub fn lock(&self, out: &Path) -> Result<(), WorkflowError> {
        let mut outputs = self.outputs.lock().unwrap_or_else(PoisonError::into_inner);
        if outputs.iter().any(|(held, _)| held == out) {
            return Ok(());
        }
        let lock = OutputLock::take(out, &self.command)?;
        if let Some(reason) = lock.lacks()
            && outputs.iter().all(|(_, held)| held.lacks().is_none())
        {
            self.observer.observe(Event::Warning(&format!(
                "the file system of {} has no locks ({reason}): see to it that no other gelora writes there meanwhile",
                out.display()
            )));
        }
        outputs.push((out.to_owned(), lock));
        Ok(())
    }
}
