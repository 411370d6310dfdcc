//! Files written whole or not at all, their hashes, and outputs that one process at a time writes.

mod lock;
mod matrix;

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

pub use lock::{Holder, LOCK_INSIDE, LockError, OutputLock, is_closed};
pub use matrix::Matrix;

/// A file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}{}", path.display(), cure(source))]
pub struct FileError {
    /// The action that failed: `read`, `write`, `create` …
    pub action: &'static str,
    /// Path of the file.
    pub path: PathBuf,
    /// The underlying I/O error.
    pub source: io::Error,
}

fn cure(error: &io::Error) -> &'static str {
    match kind_of_cause(error) {
        io::ErrorKind::NotFound => "; check the path",
        io::ErrorKind::NotADirectory => "; a part of the path is a file: name another",
        io::ErrorKind::ReadOnlyFilesystem => "; name a place that can be written",
        io::ErrorKind::PermissionDenied => "; check its permissions",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free some space and run the same command again: what was finished is kept"
        }
        io::ErrorKind::FileTooLarge => {
            "; raise the limit on the size of a file (`ulimit -f unlimited`), or name a place whose file system takes larger \
             ones, and run the same command again: what was finished is kept"
        }
        _ => "",
    }
}

/// The error kind from the system, even where a library that writes has wrapped it in an error of its own.
fn kind_of_cause(error: &io::Error) -> io::ErrorKind {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut kind = io::ErrorKind::Other;
    while let (io::ErrorKind::Other, Some(next)) = (kind, cause) {
        cause = match next.downcast_ref::<io::Error>() {
            Some(error) => {
                kind = error.kind();
                // `source` would skip the wrapped error itself.
                error.get_ref().map(|inner| inner as _)
            }
            None => next.source(),
        };
    }
    kind
}

impl FileError {
    /// For use in `map_err`.
    pub fn new(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> FileError {
        let path = path.into();
        move |source| FileError { action, path, source }
    }
}

/// Opens a file for reading. Folders, named pipes, sockets and devices are refused: reading one might never end.
///
/// # Errors
/// Those of the system, or that the path is not a regular file.
pub fn open(path: &Path) -> io::Result<File> {
    // Opening a named pipe would wait for its writer, so the type is checked first.
    must_be_file(&fs::metadata(path)?)?;
    File::open(path)
}

/// The bytes of a regular file: see [`open`].
///
/// # Errors
/// As those of [`open`].
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.read_to_end(&mut bytes)?;
    refuse_pointer(&bytes)?;
    Ok(bytes)
}

/// [`open`] with the path in its errors; Git LFS pointers are refused.
pub fn open_file(path: &Path) -> Result<File, FileError> {
    let checked = || {
        let mut file = open(path)?;
        let mut start = [0; LFS_POINTER.len()];
        let read = file.read(&mut start)?;
        refuse_pointer(&start[..read])?;
        file.rewind()?;
        Ok(file)
    };
    checked().map_err(FileError::new("read", path))
}

/// [`read`], with the path in its errors.
pub fn read_file(path: &Path) -> Result<Vec<u8>, FileError> {
    read(path).map_err(FileError::new("read", path))
}

/// The bytes of a text without a leading byte order mark, which some editors add.
pub fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes)
}

/// The text of a UTF-8 file, with or without a byte order mark.
///
/// # Errors
/// As those of [`open_file`], or that the file is not UTF-8.
pub fn read_text(path: &Path) -> Result<String, FileError> {
    let bytes = read_file(path)?;
    let wrong = match &bytes[..] {
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => "it is UTF-16; save it as UTF-8",
        _ => "it is not UTF-8; save it as UTF-8",
    };
    let text = std::str::from_utf8(without_mark(&bytes)).map(str::to_owned);
    text.map_err(|_| FileError::new("read", path)(io::Error::other(wrong)))
}

fn must_be_file(metadata: &fs::Metadata) -> io::Result<()> {
    if metadata.is_file() {
        return Ok(());
    }
    let kind = kind_of(metadata.file_type());
    Err(io::Error::other(format!("it is {kind}, not a file; name a file")))
}

#[cfg(unix)]
fn kind_of(kind: fs::FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    match () {
        () if kind.is_dir() => "a folder",
        () if kind.is_fifo() => "a named pipe (FIFO)",
        () if kind.is_socket() => "a socket",
        () => "a device",
    }
}

#[cfg(not(unix))]
fn kind_of(kind: fs::FileType) -> &'static str {
    if kind.is_dir() { "a folder" } else { "a device" }
}

/// How a Git LFS pointer begins: what a clone without `git lfs` has in the place of a large file.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Refuses file contents that are a Git LFS pointer.
///
/// # Errors
/// When the contents are a Git LFS pointer.
pub fn refuse_pointer(bytes: &[u8]) -> io::Result<()> {
    match bytes.starts_with(LFS_POINTER) {
        true => Err(io::Error::other(
            "it is a Git LFS pointer, and the file itself was never fetched; run `git lfs pull` in its folder",
        )),
        false => Ok(()),
    }
}

/// The header of a `.npy` file (format 1.0) of values of this type, e.g. `<f4`, in row-major order; the values follow.
pub fn npy_header(descriptor: &str, shape: &[usize]) -> Vec<u8> {
    let shape: String = shape.iter().map(|length| format!("{length}, ")).collect();
    let words = format!("{{'descr': '{descriptor}', 'fortran_order': False, 'shape': ({}), }}", shape.trim_end());
    // The whole header is a multiple of 64 bytes and ends in a line feed.
    let length = (10 + words.len() + 1).next_multiple_of(64) - 10;
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend((length as u16).to_le_bytes());
    header.extend(format!("{words:<width$}\n", width = length - 1).into_bytes());
    header
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
    // A killed process leaves its temporary file behind: it is recognised by the name of its target file.
    let prefix = format!(".{}.", path.file_name().unwrap_or_default().to_string_lossy());
    let result = || -> io::Result<()> {
        remove_leftovers(folder, &prefix)?;
        let mut builder = tempfile::Builder::new();
        let temporary = as_any_file(builder.prefix(&prefix).suffix(TEMPORARY)).tempfile_in(folder)?;
        let mut writer = BufWriter::with_capacity(1 << 20, temporary.reopen()?);
        write(&mut writer)?;
        writer.flush()?;
        writer.get_ref().sync_all()?;
        temporary.persist(path).map_err(|error| error.error)?;
        Ok(())
    }();
    result.map_err(FileError::new("write", path))
}

const TEMPORARY: &str = ".tmp";

fn remove_leftovers(folder: &Path, prefix: &str) -> io::Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        // Six random characters lie between prefix and suffix.
        if name.len() == prefix.len() + 6 + TEMPORARY.len() && name.starts_with(prefix) && name.ends_with(TEMPORARY) {
            // A leftover file only costs space.
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

/// `tempfile` creates files that only their owner may read; a result is as readable as any other file, as the umask says,
/// even where it replaces an earlier one.
#[cfg(unix)]
fn as_any_file<'a, 'p, 's>(builder: &'a mut tempfile::Builder<'p, 's>) -> &'a mut tempfile::Builder<'p, 's> {
    use std::os::unix::fs::PermissionsExt;
    builder.permissions(fs::Permissions::from_mode(0o666))
}

#[cfg(not(unix))]
fn as_any_file<'a, 'p, 's>(builder: &'a mut tempfile::Builder<'p, 's>) -> &'a mut tempfile::Builder<'p, 's> {
    builder
}

/// Writes a value as indented JSON, atomically, with a final newline.
pub fn write_json<T: serde::Serialize>(path: &Path, value: &T) -> Result<(), FileError> {
    write_atomically(path, |writer| {
        serde_json::to_writer_pretty(&mut *writer, value)?;
        writer.write_all(b"\n")
    })
}

/// Asks the system to begin writing a range of a file to the disk, where it can be asked; nothing waits for it.
pub fn start_writeback(file: &File, range: Range<u64>) {
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd;
        let (start, length) = (range.start as libc::off64_t, (range.end - range.start) as libc::off64_t);
        // SAFETY: the descriptor is that of an open file; the call changes no memory.
        let answer = unsafe { libc::sync_file_range(file.as_raw_fd(), start, length, libc::SYNC_FILE_RANGE_WRITE) };
        if answer != 0 {
            tracing::debug!(error = %io::Error::last_os_error(), "writing to the disk was not begun");
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (file, range);
}

/// SHA-256 of a file in hexadecimal, as `sha256sum` prints it.
pub fn sha256_file(path: &Path) -> Result<String, FileError> {
    let mut file = open_file(path)?;
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

/// SHA-256 of bytes in hexadecimal, computed in parts; before each part `next` receives the number of bytes done.
///
/// # Errors
/// Those of `next`, which stop the computation.
pub fn sha256_in_parts<E>(bytes: &[u8], mut next: impl FnMut(u64) -> Result<(), E>) -> Result<String, E> {
    const PART: usize = 1 << 24;
    let mut hasher = Sha256::new();
    for (number, part) in bytes.chunks(PART).enumerate() {
        next((number * PART) as u64)?;
        hasher.update(part);
    }
    Ok(hexadecimal(&hasher.finalize()))
}

/// Tells the system that a range of a mapped file is not needed again: its pages may go from memory, where nobody else uses them.
pub fn was_read(map: &memmap2::Mmap, path: &Path, range: Range<usize>) {
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd;
        // SAFETY: the map is a read-only one of a file; a page that is read again comes from the file again.
        let unmapped =
            unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) };
        let dropped = unmapped.and_then(|()| File::open(path)).and_then(|file| {
            // SAFETY: the descriptor is that of an open file; the call changes no memory.
            let answer = unsafe {
                let (start, length) = (range.start as libc::off_t, range.len() as libc::off_t);
                libc::posix_fadvise(file.as_raw_fd(), start, length, libc::POSIX_FADV_DONTNEED)
            };
            if answer == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(answer)) }
        });
        if let Err(error) = dropped {
            tracing::debug!(%error, "advice about a mapped file was not taken");
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (map, path, range);
}

/// Advises the system that a mapped file is read at random from now on: readahead around each access is not needed, and
/// would evict useful pages where memory is short.
pub fn read_here_and_there(map: &memmap2::Mmap) {
    #[cfg(unix)]
    if let Err(error) = map.advise(memmap2::Advice::Random) {
        tracing::debug!(%error, "advice about a mapped file was not taken");
    }
    #[cfg(not(unix))]
    let _ = map;
}

/// SHA-256 of bytes in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

/// Bytes in hexadecimal, as `sha256sum` prints them.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_a_killed_writer_left_goes_with_the_next_write() {
        let folder = tempfile::tempdir().unwrap();
        let others = [".other.json.AbCd12.tmp", ".result.json.bak.tmp", "result.json.AbCd12.tmp"];
        for name in others.iter().chain(&[".result.json.AbCd12.tmp"]) {
            fs::write(folder.path().join(name), "half").unwrap();
        }
        write_json(&folder.path().join("result.json"), &1).unwrap();
        let mut expected = others.to_vec();
        expected.push("result.json");
        expected.sort();
        assert_eq!(names(folder.path()), expected);
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("result.json");
        write_json(&path, &1).unwrap();
        let error = write_atomically(&path, |writer| {
            writer.write_all(b"half")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        assert!(error.unwrap_err().to_string().contains("free some space"));
        let error = write_atomically(&path, |_| Err(io::ErrorKind::FileTooLarge.into()));
        assert!(
            error.unwrap_err().to_string().contains("; raise the limit on the size of a file (`ulimit -f unlimited`)")
        );
        let wrapped = io::Error::other(io::Error::other(io::Error::from(io::ErrorKind::StorageFull)));
        assert!(write_atomically(&path, |_| Err(wrapped)).unwrap_err().to_string().contains("free some space"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
        assert_eq!(names(folder.path()), ["result.json"]);
    }
}
