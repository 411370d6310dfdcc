//! A file that one thread writes while others compute what it gets.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use sha2::{Digest, Sha256};

use crate::files::{hexadecimal, start_writeback};

/// Parts of a file that wait to be written at most.
const WAITING: usize = 128;

/// The disk is asked to begin after this many bytes: at the end little is left to wait for.
const WRITEBACK: u64 = 1 << 26;

/// Where the parts of a file go, in order.
pub(super) struct Output<'b> {
    parts: SyncSender<Cow<'b, [u8]>>,
}

impl<'b> Output<'b> {
    /// Passes on the next part; waits while many are not written yet.
    pub fn write(&self, part: impl Into<Cow<'b, [u8]>>) -> io::Result<()> {
        // The thread that writes has ended with an error, which takes the place of this one.
        self.parts.send(part.into()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// Checksums of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Checksums {
    pub crc32: u32,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
}

/// Writes what `produce` passes on, and returns its result with the checksums of everything.
pub(super) fn write_while<'b, R>(
    writer: &mut BufWriter<File>,
    produce: impl FnOnce(&Output<'b>) -> io::Result<R>,
) -> io::Result<(R, Checksums)> {
    thread::scope(|scope| {
        let (parts, waiting) = sync_channel(WAITING);
        let writing = scope.spawn(move || write_all(writer, waiting));
        let produced = {
            let output = Output { parts };
            produce(&output)
        };
        let checksums = writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok((produced?, checksums))
    })
}

fn write_all(writer: &mut BufWriter<File>, parts: Receiver<Cow<'_, [u8]>>) -> io::Result<Checksums> {
    let (mut crc32, mut sha256) = (crc32fast::Hasher::new(), Sha256::new());
    let (mut length, mut started) = (0, 0);
    for part in parts {
        writer.write_all(&part)?;
        crc32.update(&part);
        sha256.update(&part);
        length += part.len() as u64;
        if length - started >= WRITEBACK {
            start_writeback(writer.get_ref(), started..length);
            started = length;
        }
    }
    Ok(Checksums { crc32: crc32.finalize(), sha256: hexadecimal(&sha256.finalize()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_arrive_in_order_and_errors_of_both_sides_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut writer = BufWriter::new(File::create(&path).unwrap());
        let borrowed = [7u8; 1000];
        let (number, found) = write_while(&mut writer, |output| {
            for number in 0..100u8 {
                output.write(vec![number; 3])?;
                output.write(&borrowed[..10])?;
            }
            Ok(5)
        })
        .unwrap();
        writer.flush().unwrap();
        let expected: Vec<u8> = (0..100u8).flat_map(|n| [&[n; 3][..], &[7; 10]].concat()).collect();
        assert_eq!(std::fs::read(&path).unwrap(), expected);
        let wanted = Checksums { crc32: crc32fast::hash(&expected), sha256: crate::files::sha256(&expected) };
        assert_eq!((number, found), (5, wanted));
        let stops = |_: &Output| Err::<(), _>(io::Error::other("stopped"));
        assert_eq!(write_while(&mut writer, stops).unwrap_err().to_string(), "stopped");
        // A file that cannot be written.
        let mut closed = BufWriter::with_capacity(1, File::open(&path).unwrap());
        let error = write_while(&mut closed, |output| (0..50).try_for_each(|_| output.write(vec![0; 10]))).unwrap_err();
        assert_ne!(error.kind(), io::ErrorKind::BrokenPipe, "{error}");
    }
}
