//! The folder of a merged model, which is replaced at once or not at all.
//!
//! Everything is written to a folder beside it (`.NAME.merging.PID`), which takes its place at the end: by a rename if there
//! was none, else by exchanging the two (`renameat2` with `RENAME_EXCHANGE`). Where the file system cannot exchange, the old
//! folder is renamed to `.NAME.before` first; a kill between the two renames leaves the whole old folder under that name, and
//! the next merge restores it. The next merge also removes what a killed one left.
//!
//! Files that no merge wrote are kept, also those that appear while a merge is in progress: what exists before the exchange is
//! linked into the new folder, and what is in the old one afterwards is moved over before that one is removed.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::journal::Journal;
use super::{Base, MergeError, MergeReport, REPORT_FILE};
use crate::adapter::CONFIG_FILE;
use crate::files::{FileError, LOCK_INSIDE, is_closed};

/// A folder that is being written. Dropping it removes it.
#[derive(Debug)]
pub(super) struct NewFolder {
    /// Path of the folder that it becomes.
    out: PathBuf,
    /// Path that it is written to until then.
    temporary: PathBuf,
}

impl NewFolder {
    /// Checks that the result may be written to `out`, and creates the temporary folder.
    ///
    /// # Errors
    /// If `out` is the folder of the base or the adapter or contains one of them, holds files but no merged model, or cannot be
    /// replaced.
    pub fn new(base: Base<'_>, adapters: &[&Path], out: &Path, inputs: &str) -> Result<Self, MergeError> {
        // A link stays a link: its target is replaced.
        let out = out.canonicalize().unwrap_or_else(|_| out.to_owned());
        refuse_others(base, adapters, &out)?;
        let (parent, name) = place(&out)?;
        put_back(&parent, &name, &out)?;
        foreign_files(&out)?;
        fs::create_dir_all(&parent).map_err(FileError::new("create", &parent))?;
        let temporary = parent.join(format!(".{name}{MERGING}{}", std::process::id()));
        if take_up_leftovers(&parent, &name, inputs, &temporary) {
            return Ok(NewFolder { out, temporary });
        }
        fs::create_dir(&temporary).map_err(|error| match is_closed(&error) && out.is_dir() {
            true => MergeError::NotReplaceable {
                out: out.clone(),
                reason: "the folder above cannot be written, and a merged model takes its place as a whole; name a folder inside it"
                    .into(),
            },
            false => FileError::new("create", &temporary)(error).into(),
        })?;
        Ok(NewFolder { out, temporary })
    }

    /// Path to write to.
    pub fn path(&self) -> &Path {
        &self.temporary
    }

    /// Takes over the files that no merge wrote, and puts the folder in its place. Returns how many were taken over.
    ///
    /// # Errors
    /// If something other than a merged model has appeared there meanwhile, or a file cannot be written. After the exchange,
    /// files that cannot be moved stay in `.NAME.before`, and the next merge moves them.
    pub fn finish(self) -> Result<usize, MergeError> {
        // Checked again: a merge takes its time, and others may have written there.
        for file in foreign_files(&self.out)? {
            take_over(&self.out.join(&file), &self.temporary.join(&file))?;
        }
        let (parent, name) = place(&self.out)?;
        sync(&self.temporary);
        let before = parent.join(format!(".{name}{BEFORE}"));
        let replaced = exchange(&self.temporary, &self.out, &before).map_err(FileError::new("replace", &self.out))?;
        if replaced {
            carry_over(&before, &self.out)?;
        }
        sync(&parent);
        Ok(foreign_files(&self.out)?.len())
    }
}

impl Drop for NewFolder {
    /// Removes the temporary folder if it was not put in place.
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.temporary)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::debug!(%error, folder = %self.temporary.display(), "a temporary folder stays");
        }
    }
}

const MERGING: &str = ".merging.";
const BEFORE: &str = ".before";

fn place(out: &Path) -> Result<(PathBuf, String), MergeError> {
    let name = out.file_name().ok_or_else(|| MergeError::NotReplaceable {
        out: out.into(),
        reason: "it has no name; name the folder from outside of it".into(),
    })?;
    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    Ok((parent, name.to_string_lossy().into_owned()))
}

/// A merged model never replaces its base or its adapter: merging again would be impossible, and transformers applies an adapter
/// that lies beside a checkpoint a second time.
fn refuse_others(base: Base<'_>, adapters: &[&Path], out: &Path) -> Result<(), MergeError> {
    let whole = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    // A folder `onnx` of the base may be a link to another folder.
    let export = base.onnx.and_then(Path::parent).filter(|folder| !folder.as_os_str().is_empty());
    let mut folders =
        vec![(whole(base.folder), "the base model"), (whole(export.unwrap_or(base.folder)), "the base model's export")];
    folders.extend(adapters.iter().map(|adapter| (whole(adapter), "the adapter")));
    for (folder, what) in &folders {
        if folder == out {
            return Err(MergeError::SameFolder { out: out.into(), what });
        }
        if folder.starts_with(out) {
            let reason = format!("it holds the folder of {what}, which would be replaced with it; name another folder");
            return Err(MergeError::NotReplaceable { out: out.into(), reason });
        }
    }
    // Exports are looked for in the subfolder `onnx/` of a model folder.
    if out.parent() == Some(&folders[0].0) && out.file_name().is_some_and(|name| name == "onnx") {
        return Err(MergeError::SameFolder { out: out.into(), what: "the base model" });
    }
    Ok(())
}

/// The files in `out` that no merge wrote. A folder with files and without a merged model is never replaced.
fn foreign_files(out: &Path) -> Result<Vec<PathBuf>, MergeError> {
    let refused = |reason: String| MergeError::NotReplaceable { out: out.into(), reason };
    if !out.exists() {
        return Ok(Vec::new());
    }
    if !out.is_dir() {
        return Err(refused("it is a file; name a folder".into()));
    }
    if is_mount_point(out) {
        return Err(refused("a file system is mounted there; name a folder inside it".into()));
    }
    let mut files = Vec::new();
    list(out, Path::new(""), &mut files)?;
    if files.is_empty() {
        return Ok(files);
    }
    if out.join(CONFIG_FILE).exists() {
        return Err(refused(format!(
            "it holds an {CONFIG_FILE}, and transformers would apply that adapter to the merged model once more; name another folder"
        )));
    }
    let Some(written) = written_files(out)? else {
        let first = files[0].display();
        return Err(refused(format!("it holds files ({first} …) and no merged model; name a new or an empty folder")));
    };
    files.retain(|file| !written.contains(file));
    Ok(files)
}

/// The files that a merge wrote to a folder; `None` where there is no merged model.
fn written_files(folder: &Path) -> Result<Option<HashSet<PathBuf>>, MergeError> {
    let Ok(bytes) = fs::read(folder.join(REPORT_FILE)) else { return Ok(None) };
    let report: MergeReport = serde_json::from_slice(&bytes).map_err(|error| MergeError::NotReplaceable {
        out: folder.into(),
        reason: format!("{REPORT_FILE} in it cannot be read ({error}); name a new folder"),
    })?;
    let files = report.files.into_iter().chain([REPORT_FILE.to_owned()]);
    Ok(Some(files.map(PathBuf::from).collect()))
}

/// Lists everything in a folder except folders, relative to it.
fn list(folder: &Path, inside: &Path, files: &mut Vec<PathBuf>) -> Result<(), MergeError> {
    let here = folder.join(inside);
    for entry in fs::read_dir(&here).map_err(FileError::new("read", &here))? {
        let entry = entry.map_err(FileError::new("read", &here))?;
        let path = inside.join(entry.file_name());
        match entry.file_type().map_err(FileError::new("read", entry.path()))?.is_dir() {
            true => list(folder, &path, files)?,
            // Our own lock is not a user's file.
            false if path == Path::new(LOCK_INSIDE) => {}
            false => files.push(path),
        }
    }
    files.sort();
    Ok(())
}

/// Links or copies a file into the new folder unchanged, unless the merge wrote one of that name.
fn take_over(from: &Path, to: &Path) -> Result<(), MergeError> {
    match to.symlink_metadata() {
        Ok(data) if data.is_dir() => {
            let reason = "the merged model has a folder in its place; move it away".into();
            return Err(MergeError::NotReplaceable { out: from.into(), reason });
        }
        Ok(_) => return Ok(()),
        Err(_) => {}
    }
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).map_err(FileError::new("create", parent))?;
    }
    #[cfg(unix)]
    if from.is_symlink() {
        let target = fs::read_link(from).map_err(FileError::new("read", from))?;
        std::os::unix::fs::symlink(target, to).map_err(FileError::new("write", to))?;
        return Ok(());
    }
    if fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    match fs::copy(from, to) {
        // Whoever created it has removed it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        copied => copied.map(|_| ()).map_err(|error| FileError::new("write", to)(error).into()),
    }
}

/// Rounds in which files that still appear in a replaced folder are moved over, before the rest is left to the next merge.
const ROUNDS: usize = 100;

/// Removes the replaced folder, after moving the files that no merge wrote to the new one: those that were written, or
/// overwritten, while the new one was being made.
fn carry_over(before: &Path, out: &Path) -> Result<(), MergeError> {
    let old = written_files(before)?.unwrap_or_default();
    let new = written_files(out)?.unwrap_or_default();
    for _ in 0..ROUNDS {
        let mut files = Vec::new();
        list(before, Path::new(""), &mut files)?;
        for file in files {
            let (from, to) = (before.join(&file), out.join(&file));
            if old.contains(&file) || new.contains(&file) {
                fs::remove_file(&from).map_err(FileError::new("remove", &from))?;
                continue;
            }
            if let Some(parent) = to.parent() {
                fs::create_dir_all(parent).map_err(FileError::new("create", parent))?;
            }
            // Linked before the exchange, or written again under the same path since: the later one counts.
            if is_later(&from, &to) {
                fs::rename(&from, &to).map_err(FileError::new("move", &from))?;
            } else {
                fs::remove_file(&from).map_err(FileError::new("remove", &from))?;
            }
        }
        let _ = fs::remove_file(before.join(LOCK_INSIDE));
        match remove_empty(before) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            removed => return removed.map_err(|error| FileError::new("remove", before)(error).into()),
        }
    }
    Err(MergeError::NotReplaceable {
        out: out.into(),
        reason: format!(
            "something goes on writing to the folder that was there, which is {} now; end it and merge again",
            before.display()
        ),
    })
}

/// Whether `to` does not exist, or was written earlier than `from`.
fn is_later(from: &Path, to: &Path) -> bool {
    let written = |path: &Path| path.symlink_metadata().and_then(|data| data.modified()).ok();
    to.symlink_metadata().is_err() || written(from) > written(to)
}

/// Removes a folder that contains nothing but folders.
fn remove_empty(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_empty(&entry.path())?;
        }
    }
    fs::remove_dir(folder)
}

#[cfg(unix)]
fn is_mount_point(folder: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| fs::metadata(path).map(|data| data.dev()).ok();
    device(folder) != device(&folder.join(".."))
}

#[cfg(not(unix))]
fn is_mount_point(_: &Path) -> bool {
    false
}

/// Repairs what a kill left: before the replaced folder was removed, or between the two renames where exchanging is not possible.
fn put_back(parent: &Path, name: &str, out: &Path) -> Result<(), MergeError> {
    let before = parent.join(format!(".{name}{BEFORE}"));
    if !before.is_dir() {
        return Ok(());
    }
    if out.join(REPORT_FILE).exists() {
        return carry_over(&before, out);
    }
    if !out.exists() || fs::remove_dir(out).is_ok() {
        fs::rename(&before, out).map_err(FileError::new("put back", out))?;
    }
    Ok(())
}

/// Renames the folder that a killed merge of the same inputs left to `temporary`, and removes what other killed merges left; the
/// folder of a running one is kept. Returns whether there was one to go on with.
fn take_up_leftovers(parent: &Path, name: &str, inputs: &str, temporary: &Path) -> bool {
    let prefix = format!(".{name}{MERGING}");
    let mut taken = false;
    let Ok(entries) = fs::read_dir(parent) else { return false };
    for entry in entries.flatten() {
        let found = entry.file_name();
        let Some(process) = found.to_string_lossy().strip_prefix(&prefix).and_then(|rest| rest.parse::<u32>().ok())
        else {
            continue;
        };
        if process == std::process::id() || !is_running(process) {
            if !taken && Journal::is_of(&entry.path(), inputs) {
                taken = entry.path() == temporary || fs::rename(entry.path(), temporary).is_ok();
                continue;
            }
            // A folder that cannot be removed costs only space.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    taken
}

#[cfg(unix)]
fn is_running(process: u32) -> bool {
    let Ok(process) = i32::try_from(process) else { return false };
    // SAFETY: signal 0 is not sent; the call only asks whether the process exists.
    let answer = unsafe { libc::kill(process, 0) };
    answer == 0 || io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
}

#[cfg(not(unix))]
fn is_running(_: u32) -> bool {
    true
}

/// Puts `new` in the place of `old`. Returns whether there was an `old`, which is at `before` then.
fn exchange(new: &Path, old: &Path, before: &Path) -> io::Result<bool> {
    if !old.exists() {
        return fs::rename(new, old).map(|()| false);
    }
    match swap(new, old) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
        Err(error) => return Err(error),
        Ok(()) => {
            if let Err(error) = fs::rename(new, before) {
                swap(new, old)?;
                return Err(error);
            }
            return Ok(true);
        }
    }
    fs::rename(old, before)?;
    if let Err(error) = fs::rename(new, old) {
        fs::rename(before, old)?;
        return Err(error);
    }
    Ok(true)
}

/// Exchanges two folders atomically; `Unsupported` where the system or the file system cannot.
#[cfg(target_os = "linux")]
fn swap(one: &Path, other: &Path) -> io::Result<()> {
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;
    let text = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other);
    let (one, other) = (text(one)?, text(other)?);
    // SAFETY: both are NUL-terminated strings that outlive the call.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            libc::AT_FDCWD,
            one.as_ptr(),
            libc::AT_FDCWD,
            other.as_ptr(),
            libc::RENAME_EXCHANGE,
        )
    };
    if answer == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENOSYS | libc::EINVAL | libc::EOPNOTSUPP) => Err(io::ErrorKind::Unsupported.into()),
        _ => Err(error),
    }
}

#[cfg(not(target_os = "linux"))]
fn swap(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Asks for a folder's entries to be written to disk; a file system that cannot do that is no reason to fail.
fn sync(folder: &Path) {
    if let Err(error) = fs::File::open(folder).and_then(|folder| folder.sync_all()) {
        tracing::debug!(%error, folder = %folder.display(), "a folder was not synced");
    }
}
