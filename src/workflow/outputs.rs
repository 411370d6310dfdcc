//! Outputs of a command: checked before it starts work, and locked while it runs.

use std::path::{Path, PathBuf};

use crate::adapter::{PROVENANCE_FILE, TENSOR_FILE, WHOLE_FILE};

use super::{Session, WorkflowError};

/// An input that must not be overwritten: its kind and its path.
pub type Input<'a> = (&'static str, &'a Path);

impl Session<'_> {
    /// Locks a folder for output until the session is dropped: no other gelora writes there, it is writable, and it is none of
    /// the folders that the command reads (a file counts as the folder that contains it).
    pub fn take_folder(&self, out: &Path, inputs: &[Input<'_>]) -> Result<(), WorkflowError> {
        let refuse = |what: String| Err(WorkflowError::Output(format!("{} {what}", out.display())));
        if out.is_file() {
            return refuse("is a file, and a folder is written; name another".into());
        }
        for (what, input) in inputs {
            let folder = if input.is_dir() { input } else { parent(input) };
            if same(out, folder) {
                return refuse(format!(
                    "is the folder of the {what}, whose files would be mixed up with what is written; name another"
                ));
            }
        }
        if out.is_dir() && !can_write(out) {
            return refuse("cannot be written; check its permissions".into());
        }
        self.lock(out)
    }

    /// Locks a file for output; it must be none of those that the command reads.
    pub fn take_file(&self, out: &Path, inputs: &[Input<'_>]) -> Result<(), WorkflowError> {
        let refuse = |path: &Path, what: String| Err(WorkflowError::Output(format!("{} {what}", path.display())));
        if out.is_dir() {
            return refuse(out, "is a folder, and a file is written; name one".into());
        }
        for (what, input) in inputs {
            if same(out, input) {
                return refuse(out, format!("is the {what} and would be overwritten; name another file"));
            }
        }
        let folder = parent(out);
        if folder.is_dir() && !can_write(folder) {
            return refuse(folder, "cannot be written; check its permissions".into());
        }
        self.lock(out)
    }
}

/// Refuses a folder with a trained adapter: a plan's adapter_config.json would overwrite the adapter's.
pub fn refuse_adapter_folder(out: &Path) -> Result<(), WorkflowError> {
    if let Some(file) = [PROVENANCE_FILE, TENSOR_FILE, WHOLE_FILE].into_iter().find(|file| out.join(file).exists()) {
        return Err(WorkflowError::Output(format!(
            "{} holds a trained adapter ({file}), whose adapter_config.json a plan would overwrite; name another folder",
            out.display()
        )));
    }
    Ok(())
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Whether both paths are the same existing file or folder.
pub(super) fn same(one: &Path, other: &Path) -> bool {
    let whole = |path: &Path| path.canonicalize().unwrap_or_else(|_| PathBuf::from(path));
    one.exists() && whole(one) == whole(other)
}

#[cfg(unix)]
fn can_write(folder: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let Ok(path) = std::ffi::CString::new(folder.as_os_str().as_bytes()) else { return false };
    // SAFETY: the string ends with NUL, and the call only reads it.
    unsafe { libc::access(path.as_ptr(), libc::W_OK | libc::X_OK) == 0 }
}

#[cfg(not(unix))]
fn can_write(folder: &Path) -> bool {
    folder.metadata().is_ok_and(|metadata| !metadata.permissions().readonly())
}
