//! Files written whole or not at all, and their hashes.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// A file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}{}", path.display(), cure(source))]
pub struct FileError {
    /// `read`, `write`, `create` …
    pub action: &'static str,
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

fn cure(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "; check the path",
        io::ErrorKind::PermissionDenied => "; check its permissions",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free some space and run the same command again: what was finished is kept"
        }
        _ => "",
    }
}

impl FileError {
    /// For use in `map_err`.
    pub fn new(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> FileError {
        let path = path.into();
        move |source| FileError { action, path, source }
    }
}

/// Writes a file under a temporary name beside it, syncs, and renames it: readers see the old file or the whole new one.
/// On an error the temporary file is removed and the old file is untouched.
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<(), FileError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    fs::create_dir_all(folder).map_err(FileError::new("create", folder))?;
    let result = || -> io::Result<()> {
        let temporary = tempfile::Builder::new().prefix(".").suffix(".tmp").tempfile_in(folder)?;
        let mut writer = BufWriter::with_capacity(1 << 20, temporary.reopen()?);
        write(&mut writer)?;
        writer.flush()?;
        writer.get_ref().sync_all()?;
        set_usual_permissions(temporary.as_file())?;
        temporary.persist(path).map_err(|error| error.error)?;
        Ok(())
    }();
    result.map_err(FileError::new("write", path))
}

/// `tempfile` makes files that only their owner may read; a result is as readable as any other file.
#[cfg(unix)]
fn set_usual_permissions(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn set_usual_permissions(_: &File) -> io::Result<()> {
    Ok(())
}

/// Writes a value as indented JSON, atomically, with a final newline.
pub fn write_json<T: serde::Serialize>(path: &Path, value: &T) -> Result<(), FileError> {
    write_atomically(path, |writer| {
        serde_json::to_writer_pretty(&mut *writer, value)?;
        writer.write_all(b"\n")
    })
}

/// SHA-256 of a file in hexadecimal, as `sha256sum` prints it.
pub fn sha256_file(path: &Path) -> Result<String, FileError> {
    let mut file = File::open(path).map_err(FileError::new("read", path))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer).map_err(FileError::new("read", path))?;
        if read == 0 {
            return Ok(hexadecimal(&hasher.finalize()));
        }
        hasher.update(&buffer[..read]);
    }
}

/// SHA-256 of bytes in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
