//! Where a command writes: checked before it works, and locked while it does.

use std::path::{Path, PathBuf};

use anyhow::{bail, ensure};

use crate::adapter::{PROVENANCE_FILE, TENSOR_FILE};
use crate::files::OutputLock;

use super::context::Context;

/// What must not be written over, by what it is.
pub(crate) type Input<'a> = (&'static str, &'a Path);

impl Context {
    /// Takes a folder to write to, for as long as the program runs: no other gelora writes there, it can be written, and it is
    /// none of the folders that the command reads (a file stands for the folder that it lies in).
    pub(crate) fn take_folder(&self, out: &Path, inputs: &[Input<'_>]) -> anyhow::Result<()> {
        ensure!(!out.is_file(), "{} is a file, and a folder is written; name another", out.display());
        for (what, input) in inputs {
            let folder = if input.is_dir() { input } else { parent(input) };
            ensure!(
                !same(out, folder),
                "{} is the folder of the {what}, whose files would be mixed up with what is written; name another",
                out.display()
            );
        }
        ensure!(!out.is_dir() || can_write(out), "{} cannot be written; check its permissions", out.display());
        self.lock(out)
    }

    /// Takes a file to write to, which is none of those that the command reads.
    pub(crate) fn take_file(&self, out: &Path, inputs: &[Input<'_>]) -> anyhow::Result<()> {
        ensure!(!out.is_dir(), "{} is a folder, and a file is written; name one", out.display());
        for (what, input) in inputs {
            ensure!(!same(out, input), "{} is the {what} and would be overwritten; name another file", out.display());
        }
        let folder = parent(out);
        ensure!(!folder.is_dir() || can_write(folder), "{} cannot be written; check its permissions", folder.display());
        self.lock(out)
    }

    /// Locks an output until the program ends.
    pub(crate) fn lock(&self, out: &Path) -> anyhow::Result<()> {
        let command: Vec<_> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
        let lock = OutputLock::take(out, &format!("gelora {}", command.join(" ")))?;
        if let Some(reason) = lock.lacks() {
            self.warn_once_of_locks(&format!(
                "the file system of {} has no locks ({reason}): see to it that no other gelora writes there meanwhile",
                out.display()
            ));
        }
        self.keep(lock);
        Ok(())
    }
}

/// A plan's adapter_config.json would take the place of that of a trained adapter.
pub(crate) fn refuse_adapter_folder(out: &Path) -> anyhow::Result<()> {
    if let Some(file) = [PROVENANCE_FILE, TENSOR_FILE].into_iter().find(|file| out.join(file).exists()) {
        bail!(
            "{} holds a trained adapter ({file}), whose adapter_config.json a plan would overwrite; name another folder",
            out.display()
        );
    }
    Ok(())
}

/// The working folder must be there: paths are read from it.
pub(crate) fn check_working_folder() -> anyhow::Result<()> {
    match std::env::current_dir() {
        Ok(_) => Ok(()),
        Err(error) => {
            bail!("the current folder cannot be used ({error}); change to one that exists and run this again")
        }
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn same(one: &Path, other: &Path) -> bool {
    let whole = |path: &Path| path.canonicalize().unwrap_or_else(|_| PathBuf::from(path));
    one.exists() && whole(one) == whole(other)
}

#[cfg(unix)]
fn can_write(folder: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let Ok(path) = std::ffi::CString::new(folder.as_os_str().as_bytes()) else { return false };
    // SAFETY: a string that ends with NUL, which the call only reads.
    unsafe { libc::access(path.as_ptr(), libc::W_OK | libc::X_OK) == 0 }
}

#[cfg(not(unix))]
fn can_write(folder: &Path) -> bool {
    folder.metadata().is_ok_and(|metadata| !metadata.permissions().readonly())
}
