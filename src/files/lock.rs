//! One process at a time writes an output. The lock is the kernel's (`flock`), so it ends with its process, however that
//! ends; the locked file lies beside the output, so that replacing the output folder does not remove it.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::FileError;

/// The right to write an output, until it is dropped.
///
/// The output `out/adapter` is locked by the file `out/.adapter.lock`, or by `out/adapter/.gelora.lock` where the folder
/// above is not writable. The file is removed when the lock is released. One left by a killed process blocks nobody.
///
/// Some file systems have no locks. Nothing then keeps another process away, and [`OutputLock::lacks`] returns the reason.
#[derive(Debug)]
pub struct OutputLock {
    file: File,
    path: PathBuf,
    /// Why the file is not locked.
    lacks: Option<io::Error>,
    /// Folders that were created for the lock file, the innermost first.
    made: Vec<PathBuf>,
}

/// The lock file inside an output folder, where it cannot be beside it.
pub const LOCK_INSIDE: &str = ".gelora.lock";

/// The process that holds a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Process id.
    pub process: u32,
    /// Name of the machine that the process runs on.
    pub host: String,
    /// Command line of the process.
    pub command: String,
    /// When it acquired the lock, in seconds since 1970.
    pub since: u64,
}

/// An output cannot be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process writes to the output.
    #[error(
        "{} is being written by another process{}; wait until it is done, or name another output",
        path.display(), holder.as_ref().map(|holder| format!(": {holder}")).unwrap_or_default()
    )]
    Held {
        /// Path of the output.
        path: PathBuf,
        /// The process that holds the lock, if it has recorded itself.
        holder: Option<Holder>,
    },
    /// The lock file cannot be created.
    #[error(transparent)]
    File(#[from] FileError),
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { process, host, command, since } = self;
        write!(f, "`{command}` (process {process} on {host}, since {} UTC)", date_and_time(*since))
    }
}

impl OutputLock {
    /// Locks an output, a file or a folder that need not exist yet, for a process with the command line `command`.
    ///
    /// # Errors
    /// When another process holds the lock, or the location is not writable.
    pub fn take(output: &Path, command: &str) -> Result<Self, LockError> {
        let (above, name, made) = place(output)?;
        let mut lock_name = OsString::from(".");
        lock_name.push(&name);
        lock_name.push(".lock");
        let (beside, within) = (above.join(lock_name), above.join(&name).join(LOCK_INSIDE));
        let opened = match open_and_lock(&beside, output) {
            Err(LockError::File(error)) if is_closed(&error.source) && above.join(&name).is_dir() => {
                open_and_lock(&within, output).map(|opened| (opened, within))
            }
            other => other.map(|opened| (opened, beside)),
        };
        let ((file, lacks), path) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                remove_empty(&made);
                return Err(error);
            }
        };
        let mut lock = Self { file, path, lacks, made };
        lock.sign(command);
        Ok(lock)
    }

    /// The reason why there is no lock, on file systems without locks.
    pub fn lacks(&self) -> Option<&io::Error> {
        self.lacks.as_ref()
    }

    /// Records the holder in the lock file. Failing to do so is no reason not to hold the lock.
    fn sign(&mut self, command: &str) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let holder = Holder { process: std::process::id(), host: host(), command: command.to_owned(), since };
        let text = serde_json::to_vec(&holder).unwrap_or_default();
        let written = self.file.set_len(0).and_then(|()| self.file.rewind()).and_then(|()| self.file.write_all(&text));
        if let Err(error) = written {
            tracing::debug!(%error, "the holder of {} is not named", self.path.display());
        }
    }
}

impl Drop for OutputLock {
    fn drop(&mut self) {
        // Removed while locked: whoever has opened this file meanwhile finds that its name is gone, and opens it again.
        let _ = fs::remove_file(&self.path);
        let _ = self.file.unlock();
        remove_empty(&self.made);
    }
}

/// The folder above an output, its name, and the folders that had to be created for it, the innermost first.
fn place(output: &Path) -> Result<(PathBuf, OsString, Vec<PathBuf>), FileError> {
    let output = if output.as_os_str().is_empty() { Path::new(".") } else { output };
    let mut made = Vec::new();
    let whole = match output.canonicalize() {
        Ok(whole) => whole,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let above = match output.parent() {
                Some(above) if !above.as_os_str().is_empty() => above,
                _ => Path::new("."),
            };
            let absent = above.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists());
            made.extend(absent.map(Path::to_path_buf));
            let missing = FileError::new("create", above);
            let above = fs::create_dir_all(above).and_then(|()| above.canonicalize()).map_err(missing)?;
            // A dangling link is reported when something is written through it.
            above.join(output.file_name().unwrap_or_default())
        }
        Err(error) => return Err(FileError::new("write", output)(error)),
    };
    let name = whole.file_name().unwrap_or_default().to_owned();
    let above = whole.parent().unwrap_or(&whole).to_path_buf();
    Ok((above, name, made))
}

/// Opens and locks the lock file; the error says why it is not locked where the file system has no locks.
fn open_and_lock(path: &Path, output: &Path) -> Result<(File, Option<io::Error>), LockError> {
    loop {
        let mut options = OpenOptions::new();
        let opened = options.read(true).write(true).create(true).truncate(false).open(path);
        let mut file = match opened {
            // The file belongs to another user: it can be locked all the same.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && path.exists() => File::open(path),
            other => other,
        }
        .map_err(|error| refused("write", path, output, error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let _ = file.read_to_string(&mut text);
                return Err(LockError::Held { path: output.to_owned(), holder: serde_json::from_str(&text).ok() });
            }
            Err(TryLockError::Error(error)) if has_no_locks(&error) => return Ok((file, Some(error))),
            Err(TryLockError::Error(error)) => return Err(refused("lock", path, output, error).into()),
        }
        if is_still(&file, path) {
            return Ok((file, None));
        }
    }
}

/// An error of the lock file, reported in terms the user knows: the output, or the folder that it would be in.
fn refused(action: &'static str, lock: &Path, output: &Path, error: io::Error) -> FileError {
    match lock.parent().filter(|_| !output.exists()) {
        Some(above) if action == "write" => FileError::new("write to", above)(error),
        Some(above) => FileError::new(action, above)(error),
        None => FileError::new(action, output)(error),
    }
}

/// Whether this error comes from a file system without locks: Lustre without `-o flock`, NFS without its lock service, some
/// of FUSE.
fn has_no_locks(error: &io::Error) -> bool {
    #[cfg(unix)]
    if error.raw_os_error() == Some(libc::ENOLCK) {
        return true;
    }
    // ENOSYS and EOPNOTSUPP.
    error.kind() == io::ErrorKind::Unsupported
}

/// Whether the name still refers to this file: the previous holder of the lock may just have removed it.
#[cfg(unix)]
fn is_still(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |metadata: io::Result<fs::Metadata>| metadata.map(|found| (found.dev(), found.ino())).ok();
    identity(file.metadata()) == identity(fs::metadata(path))
}

#[cfg(not(unix))]
fn is_still(_: &File, path: &Path) -> bool {
    path.exists()
}

/// Whether the error means that the location is not writable.
pub fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

/// Removes the folders that were created, unless they contain something by now.
fn remove_empty(made: &[PathBuf]) {
    for folder in made {
        let _ = fs::remove_dir(folder);
    }
}

fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "this machine".into() } else { name.trim().to_owned() }
}

/// `2026-03-01 14:05:09`, from seconds since 1970.
fn date_and_time(seconds: u64) -> String {
    // Days since the first of March of the year 0 of a calendar whose years end in February (Howard Hinnant, civil_from_days).
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = 400 * era + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_is_locked_once_by_whatever_name() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("made/out");
        let lock = OutputLock::take(&out, "gelora plan").unwrap();
        let error = OutputLock::take(&folder.path().join("made/../made/out/"), "gelora train").unwrap_err().to_string();
        assert!(error.contains("`gelora plan` (process ") && error.contains("since 20"), "{error}");
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        OutputLock::take(&folder.path().join("made/other"), "gelora plan").unwrap();
        // A folder that replaces another is locked just the same.
        fs::create_dir(&out).unwrap();
        fs::rename(&out, folder.path().join("away")).unwrap();
        assert!(matches!(OutputLock::take(&out, "").unwrap_err(), LockError::Held { .. }));
        #[cfg(unix)]
        {
            fs::create_dir(&out).unwrap();
            std::os::unix::fs::symlink(&out, folder.path().join("link")).unwrap();
            assert!(matches!(OutputLock::take(&folder.path().join("link"), "").unwrap_err(), LockError::Held { .. }));
        }
        drop(lock);
        OutputLock::take(&out, "gelora train").unwrap();
        let left: Vec<_> =
            fs::read_dir(folder.path().join("made")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["out"]);
    }

    #[test]
    fn what_was_made_for_a_lock_goes_with_it_and_a_killed_holder_binds_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("a/b/out");
        drop(OutputLock::take(&out, "gelora plan").unwrap());
        assert!(!folder.path().join("a").exists());
        fs::write(folder.path().join(".out.lock"), "{\"process\": 1}").unwrap();
        drop(OutputLock::take(&folder.path().join("out"), "gelora plan").unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn nothing_is_locked_under_a_file() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        let error = OutputLock::take(&folder.path().join("file/out"), "").unwrap_err().to_string();
        assert!(error.contains("a part of the path is a file"), "{error}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_place_that_cannot_be_written_is_named_and_not_its_lock_file() {
        // Nobody can create files there, whatever their permissions.
        let error = OutputLock::take(Path::new("/proc/gelora-out"), "").unwrap_err().to_string();
        assert!(error.starts_with("cannot write to /proc: ") && !error.contains(".lock"), "{error}");
        let error = OutputLock::take(Path::new("/proc/self/fdinfo"), "").unwrap_err().to_string();
        assert!(error.starts_with("cannot write /proc/self/fdinfo: ") && !error.contains(".lock"), "{error}");
    }

    #[test]
    fn seconds_become_dates() {
        assert_eq!(date_and_time(0), "1970-01-01 00:00:00");
        assert_eq!(date_and_time(951_827_696), "2000-02-29 12:34:56");
        assert_eq!(date_and_time(1_798_761_599), "2026-12-31 23:59:59");
    }
}
