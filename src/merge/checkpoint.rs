//! Writes the merged checkpoint: the files of its layout, in which only the bytes of changed tensors are new.
//!
//! Where the checkpoint lacks the head that was trained, its tensors are appended to the last file. The names of the others then
//! change too: transformers finds the head of a class only where the base model is under its prefix (`bert.encoder…`).
//! A head that no transformers class has is written to a file of its own.
//!
//! Tensors pass through in blocks of rows, computed while earlier blocks are written, so that memory does not grow with the
//! model. A file that is written is read again while the next one is made: its checksum must be that of what was written.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::Path;
use std::thread;

use ndarray::ArrayView2;
use rayon::prelude::*;

use super::journal::{Finished, Journal};
use super::layout::{Layout, NewFile, NewTensor, Source};
use super::output::{Checksums, Output, write_while};
use super::report::Changes;
use super::settings::MergeSettings;
use super::targets::{Change, Target, Targets};
use super::weights::{Rows, Sums};
use super::{Base, MergeError, Writing};
use crate::adapter::HEAD_FILE;
use crate::checkpoint::{Checkpoint, ElementType, TensorInfo, from_f32, write_safetensors};
use crate::files::{FileError, write_atomically};
use crate::progress::Observer;

/// Bytes that are copied at once.
const PIECE: usize = 1 << 24;

/// What was written of the checkpoint.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub changes: Changes,
    /// SHA-256 by name of the file.
    pub sha256: BTreeMap<String, String>,
}

/// Writes the checkpoint files and their index.
pub(super) fn write(
    base: Base<'_>,
    targets: &Targets,
    settings: &MergeSettings,
    out: &Path,
    writing: &Writing,
    journal: &mut Journal,
    files: &mut Vec<String>,
) -> Result<Written, MergeError> {
    let Some(checkpoint) = base.checkpoint else { return Ok(Written::default()) };
    let layout = Layout::new(checkpoint, targets, settings)?;
    let mut written = Written::default();
    let observer = writing.observer;
    thread::scope(|scope| {
        // One file is read while the next is written.
        let mut check: Option<thread::ScopedJoinHandle<Result<(), MergeError>>> = None;
        let wait = |check: Option<thread::ScopedJoinHandle<Result<(), MergeError>>>| match check {
            Some(check) => check.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            None => Ok(()),
        };
        for file in &layout.files {
            let path = out.join(&file.name);
            let intact = |finished: &&Finished| read_again(&path, file, finished.crc32, observer).is_ok();
            let finished = match journal.finished(&file.name).filter(intact).cloned() {
                Some(finished) => {
                    for target in steps_of(file, targets) {
                        writing.step(&target.name).map_err(FileError::new("write", &path))?;
                    }
                    finished
                }
                None => {
                    let finished = write_file(checkpoint, file, targets, &path, writing)?;
                    journal.finish(&file.name, &finished)?;
                    let crc32 = finished.crc32;
                    wait(check.take())?;
                    check = Some(scope.spawn(move || read_again(&path, file, crc32, observer)));
                    finished
                }
            };
            written.sha256.insert(file.name.clone(), finished.sha256);
            written.changes.extend(finished.changes);
            files.push(file.name.clone());
        }
        wait(check.take())
    })?;
    if let Some((name, bytes)) = layout.index {
        write_atomically(&out.join(&name), |writer| writer.write_all(&bytes))?;
        files.push(name);
    }
    if targets.head_apart {
        write_head_apart(checkpoint, targets, out, writing, files)?;
    }
    Ok(written)
}

/// The head that no transformers class has, in a file of its own.
fn write_head_apart(
    checkpoint: &Checkpoint,
    targets: &Targets,
    out: &Path,
    writing: &Writing,
    files: &mut Vec<String>,
) -> Result<(), MergeError> {
    let new: Vec<&Target> = targets.list.iter().filter(|target| !target.is_in(checkpoint)).collect();
    if new.is_empty() {
        return Ok(());
    }
    let entry = |target: &&Target| Some((target.name.clone(), ElementType::F32, shape(target)?));
    let layout: Vec<_> = new.iter().filter_map(entry).collect();
    write_safetensors(&out.join(HEAD_FILE), &layout, |index| {
        writing.step(&new[index].name)?;
        new_bytes(new[index], &ElementType::F32)
    })?;
    files.push(HEAD_FILE.into());
    Ok(())
}

fn shape(target: &Target) -> Option<Vec<usize>> {
    match target.change {
        Change::Values(saved) => Some(saved.values.shape().to_vec()),
        Change::Factors(_) => None,
    }
}

fn new_bytes(target: &Target, element_type: &ElementType) -> io::Result<Vec<u8>> {
    let Change::Values(saved) = target.change else {
        return Err(io::Error::other(format!("the checkpoint has no `{}`", target.name)));
    };
    let values: Vec<f32> = saved.values.iter().copied().collect();
    from_f32(&values, element_type).ok_or_else(|| io::Error::other("the type is not floating-point"))
}

/// The changes that are written with a file.
fn steps_of<'t>(file: &'t NewFile, targets: &'t Targets) -> impl Iterator<Item = &'t Target<'t>> {
    file.tensors.iter().flat_map(move |tensor| match tensor.source {
        Source::Base(info) => targets.list.iter().filter(|target| target.changes(info)).collect(),
        Source::Appended(target) => vec![target],
    })
}

fn write_file<'b>(
    checkpoint: &'b Checkpoint,
    file: &'b NewFile<'b>,
    targets: &Targets,
    path: &Path,
    writing: &Writing,
) -> Result<Finished, MergeError> {
    let mut changes = Changes::new();
    let mut checksums = Checksums::default();
    write_atomically(path, |writer| {
        let produced = write_while(writer, |output| {
            output.write(&file.header)?;
            for (place, tensor) in file.tensors.iter().enumerate() {
                // The disk reads the next tensors while this one is computed.
                let ahead = if place == 0 { 0..2 } else { place + 1..place + 2 };
                for next in file.tensors.iter().take(ahead.end).skip(ahead.start) {
                    if let Source::Base(next) = next.source {
                        checkpoint.files()[next.file].will_read(next.range.clone());
                    }
                }
                match tensor.source {
                    Source::Base(info) => {
                        write_tensor(output, checkpoint, tensor, info, targets, writing, &mut changes)?;
                        checkpoint.files()[info.file].was_read(info.range.clone());
                    }
                    Source::Appended(target) => {
                        writing.step(&target.name)?;
                        output.write(new_bytes(target, &tensor.element_type)?)?;
                    }
                }
            }
            Ok(())
        });
        ((), checksums) = produced?;
        Ok(())
    })?;
    Ok(Finished { crc32: checksums.crc32, sha256: checksums.sha256, changes })
}

/// Writes a tensor of the base: its bytes, or the sums and replacements of the rows that change.
fn write_tensor<'b>(
    output: &Output<'b>,
    checkpoint: &'b Checkpoint,
    tensor: &NewTensor,
    info: &TensorInfo,
    targets: &Targets,
    writing: &Writing,
    changes: &mut Changes,
) -> io::Result<()> {
    let file = &checkpoint.files()[info.file];
    let stored = &file.bytes()[info.range.clone()];
    let types = (&info.element_type, &tensor.element_type);
    // Several where the checkpoint stores several matrices as one.
    let mut of_tensor: Vec<&Target> = targets.list.iter().filter(|target| target.changes(info)).collect();
    of_tensor.sort_by_key(|target| target.bytes_of(info).start);
    let refused = |refusal| writing.refuse(&file.path, "tensor", &info.name, refusal);
    let keep = |range: Range<usize>| match types.0 == types.1 {
        true => stored[range].chunks(PIECE).try_for_each(|piece| {
            writing.observer.check().map_err(io::Error::other)?;
            output.write(piece)
        }),
        false => {
            let rows = Rows::converted(&stored[range], types.0, types.1);
            write_rows(output, &rows, writing).map(|_| ()).map_err(|error| error.unwrap_or_refuse(refused))
        }
    };
    let mut position = 0;
    for target in of_tensor {
        let part = target.bytes_of(info);
        keep(position..part.start)?;
        writing.step(&target.name)?;
        let stored = &stored[part.clone()];
        let values: Vec<f32>;
        let rows = match target.change {
            Change::Factors(factors) => {
                let part = |weight: ArrayView2<f32>| writing.part_of_checkpoint(target, weight);
                let has_part = target.initialization.changes_the_base();
                Rows::sum(stored, types, factors, target.stored_in_out, has_part, part)
            }
            Change::Values(saved) => {
                values = saved.values.iter().copied().collect();
                Rows::replaced(stored, types, &values)
            }
        };
        let sums =
            write_rows(output, &rows.map_err(refused)?, writing).map_err(|error| error.unwrap_or_refuse(refused))?;
        changes.insert(target.place(), sums.change());
        position = part.end;
    }
    keep(position..stored.len())
}

/// Why rows could not be written.
enum Stopped {
    Refused(super::weights::Refusal),
    Io(io::Error),
}

impl Stopped {
    fn unwrap_or_refuse(self, refused: impl FnOnce(super::weights::Refusal) -> io::Error) -> io::Error {
        match self {
            Stopped::Refused(refusal) => refused(refusal),
            Stopped::Io(error) => error,
        }
    }
}

/// Computes rows block by block on all threads.
fn write_rows(output: &Output<'_>, rows: &Rows, writing: &Writing) -> Result<Sums, Stopped> {
    let mut sums = Sums::default();
    for group in rows.blocks().chunks(32 * rayon::current_num_threads()) {
        writing.observer.check().map_err(|cancelled| Stopped::Io(io::Error::other(cancelled)))?;
        let computed: Result<Vec<_>, _> = group.par_iter().map(|block| rows.block(block.clone())).collect();
        for (bytes, change) in computed.map_err(Stopped::Refused)? {
            sums.add(&change);
            output.write(bytes).map_err(Stopped::Io)?;
        }
    }
    Ok(sums)
}

/// Reads a file that was written: its header must give the tensors of the layout, and its bytes the checksum.
fn read_again(path: &Path, file: &NewFile, crc32: u32, observer: &dyn Observer) -> Result<(), MergeError> {
    let differs = |reason: &str| MergeError::NotAsWritten { path: path.into(), reason: reason.into() };
    let read = Checkpoint::open_file(path)?;
    let same = |(found, wanted): (&TensorInfo, &NewTensor)| {
        found.name == wanted.name && found.element_type == wanted.element_type && found.shape == wanted.shape
    };
    let mut wanted: Vec<&NewTensor> = file.tensors.iter().collect();
    let mut found: Vec<&TensorInfo> = read.tensors().iter().collect();
    // Tensors without elements lie at one place.
    wanted.sort_by_key(|tensor| &tensor.name);
    found.sort_by_key(|tensor| &tensor.name);
    if found.len() != wanted.len() || !found.into_iter().zip(wanted).all(same) {
        return Err(differs("its header gives other tensors than those that were written"));
    }
    let mut checksum = crc32fast::Hasher::new();
    let mut handle = File::open(path).map_err(FileError::new("read", path))?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        observer.check()?;
        match handle.read(&mut buffer).map_err(FileError::new("read", path))? {
            0 => break,
            length => checksum.update(&buffer[..length]),
        }
    }
    match checksum.finalize() == crc32 {
        true => Ok(()),
        false => Err(differs("its bytes are not those that were written")),
    }
}
