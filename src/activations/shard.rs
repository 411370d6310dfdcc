//! A shard: a range of rows of the data, which of them are kept, how they are batched, and their vectors on disk.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use ndarray::{Array1, Array2};
use ndarray_npy::{WriteNpyError, WriteNpyExt};

use super::pooling::TokenSample;
use super::source::Seen;
use super::{ActivationsError, ShardEntry, ShardFile};
use crate::dataset::Encoding;
use crate::files::FileError;
use crate::runtime::FixedSizes;

/// Folder of a shard in the store.
pub(super) fn folder(store: &Path, index: usize) -> PathBuf {
    store.join(format!("shard-{index:05}"))
}

/// File of a hidden state in the folder of a shard.
pub(super) fn state_file(state: usize) -> String {
    format!("hidden_state.{state}.npy")
}

/// File of the row of the data for each vector, `int64 [points]`.
pub(super) const ROWS_FILE: &str = "rows.npy";
/// File of the token position of each vector in its row, `int64 [points]`; only where tokens were sampled.
pub(super) const POSITIONS_FILE: &str = "positions.npy";

/// Plan of the computation of a shard.
#[derive(Debug)]
pub(super) struct ShardPlan {
    pub index: usize,
    pub range: Range<usize>,
    /// The kept rows.
    pub encodings: Vec<Encoding>,
    /// Index in the data of each kept row.
    pub rows: Vec<usize>,
    /// Token positions selected in each kept row; empty lists where tokens are not sampled.
    pub positions: Vec<Vec<u32>>,
    /// Index of the first vector of each kept row, and the total number of vectors.
    pub offsets: Vec<usize>,
    /// Kept rows by batch.
    pub batches: Vec<Vec<usize>>,
    pub duplicates: usize,
}

/// State carried from shard to shard while planning.
#[derive(Default)]
pub(super) struct Progress {
    pub seen: Seen,
    pub tokens: u64,
}

/// Settings for choosing and batching rows.
pub(super) struct ShardSettings<'a> {
    pub deduplicate: bool,
    pub sample: Option<&'a TokenSample>,
    pub batch_tokens: usize,
    pub equal_lengths: bool,
    pub sizes: FixedSizes,
    pub vocabulary: Option<usize>,
}

impl ShardPlan {
    /// Chooses and batches the rows of `range`. Called for every shard in order, finished ones too: what a shard keeps
    /// depends on the rows before it.
    pub(super) fn new(
        index: usize,
        range: Range<usize>,
        encodings: &[Encoding],
        progress: &mut Progress,
        settings: &ShardSettings<'_>,
    ) -> Result<Self, ActivationsError> {
        let mut plan = Self {
            index,
            range: range.clone(),
            encodings: Vec::new(),
            rows: Vec::new(),
            positions: Vec::new(),
            offsets: vec![0],
            batches: Vec::new(),
            duplicates: 0,
        };
        for (row, encoding) in range.zip(encodings) {
            check_row(row, encoding, settings.vocabulary)?;
            if settings.deduplicate && !progress.seen.is_new(encoding) {
                plan.duplicates += 1;
                continue;
            }
            let positions = match settings.sample {
                Some(sample) => sample.of_row(row, encoding.len(), progress.tokens),
                None => Vec::new(),
            };
            progress.tokens += encoding.len() as u64;
            let points = if settings.sample.is_some() { positions.len() } else { 1 };
            plan.offsets.push(plan.points() + points);
            plan.encodings.push(encoding.clone());
            plan.rows.push(row);
            plan.positions.push(positions);
        }
        let lengths: Vec<usize> = plan.encodings.iter().map(Encoding::len).collect();
        let needed: Vec<usize> = (0..lengths.len()).filter(|k| plan.offsets[k + 1] > plan.offsets[*k]).collect();
        plan.batches = settings.sizes.batches(&lengths, &needed, settings.batch_tokens, settings.equal_lengths);
        Ok(plan)
    }

    /// Number of vectors per hidden state.
    pub(super) fn points(&self) -> usize {
        self.offsets.last().copied().unwrap_or(0)
    }

    fn row_of_points(&self) -> Vec<usize> {
        let counts = self.offsets.windows(2).map(|pair| pair[1] - pair[0]);
        self.rows.iter().zip(counts).flat_map(|(row, count)| std::iter::repeat_n(*row, count)).collect()
    }
}

fn check_row(row: usize, encoding: &Encoding, vocabulary: Option<usize>) -> Result<(), ActivationsError> {
    let largest = encoding.ids.iter().copied().max().ok_or(ActivationsError::EmptyRow { row })?;
    match vocabulary {
        Some(vocabulary) if largest as usize >= vocabulary => {
            Err(ActivationsError::TokenOutOfRange { row, id: largest, vocabulary })
        }
        _ => Ok(()),
    }
}

/// Collects the vectors of a shard as they arrive.
pub(super) struct ShardBuffer {
    /// Per hidden state, `[points, width]`.
    values: Vec<Vec<f32>>,
    widths: Vec<usize>,
    pub batches_left: usize,
}

impl ShardBuffer {
    pub(super) fn new(plan: &ShardPlan, widths: &[usize]) -> Self {
        let values = widths.iter().map(|width| vec![0.0; plan.points() * width]).collect();
        Self { values, widths: widths.to_vec(), batches_left: plan.batches.len() }
    }

    /// Stores the vectors of a batch at their rows: `values[state]` is `[points of the batch, width]`.
    pub(super) fn put(&mut self, plan: &ShardPlan, batch: usize, values: &[Vec<f32>]) {
        for ((all, width), values) in self.values.iter_mut().zip(&self.widths).zip(values) {
            let mut from = 0;
            for &row in &plan.batches[batch] {
                let (start, end) = (plan.offsets[row] * width, plan.offsets[row + 1] * width);
                all[start..end].copy_from_slice(&values[from..from + (end - start)]);
                from += end - start;
            }
        }
        self.batches_left -= 1;
    }

    /// The manifest entry of the shard.
    pub(super) fn entry(&self, plan: &ShardPlan, (matrix_products, onnxruntime): (&str, &str)) -> ShardEntry {
        let rows = plan.row_of_points();
        let mut non_finite: Vec<usize> = Vec::new();
        for (point, &row) in rows.iter().enumerate() {
            let mut vectors = self.values.iter().zip(&self.widths).map(|(v, width)| &v[point * width..][..*width]);
            if non_finite.last() != Some(&row) && vectors.any(|vector| vector.iter().any(|v| !v.is_finite())) {
                non_finite.push(row);
            }
        }
        ShardEntry {
            index: plan.index,
            first_row: plan.range.start,
            end_row: plan.range.end,
            points: plan.points(),
            duplicates: plan.duplicates,
            non_finite: non_finite.len(),
            non_finite_rows: non_finite.into_iter().take(10).collect(),
            matrix_products: matrix_products.into(),
            onnxruntime: onnxruntime.into(),
            files: Vec::new(),
        }
    }

    /// The vectors, per hidden state `[points, width]`, and the row of the data that each belongs to.
    pub(super) fn into_layers(self, plan: &ShardPlan) -> (Vec<Array2<f32>>, Vec<usize>) {
        let points = plan.points();
        let layers = self.values.into_iter().zip(self.widths);
        let layer = |(values, width)| Array2::from_shape_vec((points, width), values).expect("width values per point");
        (layers.map(layer).collect(), plan.row_of_points())
    }

    /// Writes the shard under a temporary name and renames it; returns name, length and checksum of its files.
    pub(super) fn write(self, store: &Path, plan: &ShardPlan) -> Result<Vec<ShardFile>, ActivationsError> {
        let rows = plan.row_of_points();
        let temporary = store.join(format!(".shard-{:05}.tmp", plan.index));
        let written = self.write_files(&temporary, plan, &rows).and_then(|files| {
            let folder = folder(store, plan.index);
            remove(&folder)?;
            fs::rename(&temporary, &folder).map_err(FileError::new("write", &folder)).map(|()| files)
        });
        written.map_err(|error| {
            // The partial folder is of no use and may be what fills the disk.
            let _ = fs::remove_dir_all(&temporary);
            error.into()
        })
    }

    fn write_files(self, folder: &Path, plan: &ShardPlan, rows: &[usize]) -> Result<Vec<ShardFile>, FileError> {
        let mut files = Vec::new();
        remove(folder)?;
        fs::create_dir_all(folder).map_err(FileError::new("create", folder))?;
        for (state, (values, width)) in self.values.into_iter().zip(&self.widths).enumerate() {
            let name = state_file(state);
            let path = folder.join(&name);
            let array = Array2::from_shape_vec((plan.points(), *width), values)
                .map_err(|error| FileError::new("write", &path)(io::Error::other(error)))?;
            files.push(write_npy(folder, name, &array)?);
        }
        let rows: Array1<i64> = rows.iter().map(|row| *row as i64).collect();
        files.push(write_npy(folder, ROWS_FILE.into(), &rows)?);
        if plan.positions.iter().any(|positions| !positions.is_empty()) {
            let positions: Array1<i64> = plan.positions.iter().flatten().map(|p| i64::from(*p)).collect();
            files.push(write_npy(folder, POSITIONS_FILE.into(), &positions)?);
        }
        Ok(files)
    }
}

/// Writes an array, and returns name, length and checksum of the file.
fn write_npy(folder: &Path, name: String, array: &impl WriteNpyExt) -> Result<ShardFile, FileError> {
    let path = folder.join(&name);
    let write = || -> io::Result<ShardFile> {
        let file = Hashed { inner: File::create(&path)?, bytes: 0, crc32: crc32fast::Hasher::new() };
        let mut writer = BufWriter::with_capacity(1 << 20, file);
        array.write_npy(&mut writer).map_err(|error| match error {
            WriteNpyError::Io(error) => error,
            other => io::Error::other(other),
        })?;
        writer.flush()?;
        let Hashed { inner, bytes, crc32 } = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
        inner.sync_all()?;
        Ok(ShardFile { name, bytes, crc32: crc32.finalize() })
    };
    write().map_err(FileError::new("write", &path))
}

/// Counts and checksums the bytes written through it.
struct Hashed {
    inner: File,
    bytes: u64,
    crc32: crc32fast::Hasher,
}

impl Write for Hashed {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.bytes += written as u64;
        self.crc32.update(&buffer[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Removes a folder if it exists.
pub(super) fn remove(folder: &Path) -> Result<(), FileError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FileError::new("remove", folder)(error)),
        _ => Ok(()),
    }
}
