//! `manifest.json`: what a store holds and what it was made from. A shard counts only once it is listed here.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{ActivationsError, Pooling, Provenance};
use crate::files::{self, FileError};
use crate::onnx::Model;
use crate::runtime::SelfCheck;

/// Version of the store's format.
pub const FORMAT: u32 = 2;

/// Name of the manifest in the store.
pub(super) const MANIFEST: &str = "manifest.json";

/// What a store holds and what it was made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the format.
    pub format: u32,
    /// Version of gelora that made the store.
    pub gelora: String,
    /// Whether all required shards are finished.
    pub complete: bool,
    /// Identity of the export.
    pub model: ModelIdentity,
    /// Names of the hidden states, 0 to L.
    pub hidden_states: Vec<String>,
    /// Width of each hidden state.
    pub widths: Vec<usize>,
    /// Element type of the `.npy` files.
    pub dtype: String,
    /// Machine epsilon of the type that the export computes in.
    pub precision: f32,
    /// Which vectors stand for a row.
    pub pooling: Pooling,
    /// Number of rows of the data.
    pub source_rows: usize,
    /// Number of first rows required so far; all rows where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_wanted: Option<usize>,
    /// SHA-256 of all tokens or texts.
    pub rows_sha256: String,
    /// Source of the data.
    pub provenance: Provenance,
    /// Whether rows with equal tokens were left out.
    pub deduplicate: bool,
    /// Number of duplicate rows left out.
    pub duplicates: usize,
    /// Number of vectors per hidden state.
    pub points: usize,
    /// Rows of the data per shard.
    pub shard_rows: usize,
    /// Whether batches contain only rows of equal length, because the export ignores its mask.
    pub equal_lengths: bool,
    /// Result of the check of the export.
    pub self_check: Option<SelfCheck>,
    /// Number of rows with NaN or infinite values.
    pub non_finite: usize,
    /// The finished shards.
    pub shards: Vec<ShardEntry>,
}

/// Identity of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelIdentity {
    /// Path the export was read from.
    pub path: String,
    /// SHA-256 of the `.onnx` file.
    pub sha256: String,
    /// Name and SHA-256 of each external data file.
    pub external: Vec<(String, String)>,
}

/// A finished shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardEntry {
    /// Number of the shard, from 0; its folder is `shard-NNNNN`.
    pub index: usize,
    /// First row of the data, counted from 0.
    pub first_row: usize,
    /// One past its last row.
    pub end_row: usize,
    /// Number of vectors per hidden state.
    pub points: usize,
    /// Number of rows left out because they repeat an earlier one.
    pub duplicates: usize,
    /// Number of rows with NaN or infinite values.
    pub non_finite: usize,
    /// The first rows with such values, at most 10.
    pub non_finite_rows: Vec<usize>,
    /// Execution providers that ran the matrix products, each with its count.
    pub matrix_products: String,
    /// Version of ONNX Runtime.
    pub onnxruntime: String,
    /// Files of the shard. Stores of format 1 do not list them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<ShardFile>,
}

/// A file of a shard, with what is needed to verify it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardFile {
    /// File name in the folder of the shard.
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
    /// CRC-32 of the file, as `zlib.crc32` computes it.
    pub crc32: u32,
}

impl ModelIdentity {
    /// Identity of a model: hashes its file and its external data.
    pub fn of(model: &Model) -> Self {
        let external = model.external_files().iter();
        Self {
            path: model.path().display().to_string(),
            sha256: files::sha256(model.file_bytes()),
            external: external.map(|file| (file.location.clone(), files::sha256(file.bytes()))).collect(),
        }
    }

    fn has_equal_content(&self, other: &Self) -> bool {
        self.sha256 == other.sha256 && self.external == other.external
    }
}

impl Manifest {
    /// The versions of ONNX Runtime that made the shards.
    pub fn onnxruntime(&self) -> String {
        distinct(self.shards.iter().map(|shard| shard.onnxruntime.as_str()))
    }

    /// The execution providers that ran the matrix products of the shards.
    pub fn matrix_products(&self) -> String {
        distinct(self.shards.iter().map(|shard| shard.matrix_products.as_str()))
    }

    /// Reads the manifest of a store; `None` where there is none.
    pub(super) fn read(store: &Path) -> Result<Option<Self>, ActivationsError> {
        let path = store.join(MANIFEST);
        let bytes = match files::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(FileError::new("read", path)(error).into()),
        };
        let damaged = |reason: String| ActivationsError::Damaged { path: path.clone(), reason };
        let value: serde_json::Value =
            serde_json::from_slice(&bytes).map_err(|error| damaged(format!("it is not valid JSON: {error}")))?;
        match value.get("format").and_then(serde_json::Value::as_u64) {
            Some(format) if (1..=u64::from(FORMAT)).contains(&format) => {}
            Some(found) => return Err(ActivationsError::NewerFormat { path, found }),
            None => return Err(damaged("it has no format number".into())),
        }
        let manifest: Self = serde_json::from_value(value).map_err(|error| damaged(error.to_string()))?;
        if manifest.widths.len() != manifest.hidden_states.len() {
            return Err(damaged("it names other hidden states than it has widths for".into()));
        }
        if manifest.points != manifest.shards.iter().map(|shard| shard.points).sum::<usize>() {
            return Err(damaged("it counts other points than its shards have".into()));
        }
        Ok(Some(manifest))
    }

    pub(super) fn write(&self, store: &Path) -> Result<(), ActivationsError> {
        // What an earlier version began is continued in the current format.
        Ok(files::write_json(&store.join(MANIFEST), &Self { format: FORMAT, ..self.clone() })?)
    }

    /// Returns an error that names the first difference between the store and what this run requires.
    pub(super) fn check_same(&self, wanted: &Self, store: &Path) -> Result<(), ActivationsError> {
        let short = |hash: &str| hash.chars().take(12).collect::<String>();
        let optional = |value: &Option<String>| value.as_deref().map_or("none".into(), short);
        let (a, b) = (&self.provenance, &wanted.provenance);
        let states = |manifest: &Self| format!("{} hidden states", manifest.hidden_states.len());
        let rows = |manifest: &Self| format!("{} rows, {}", manifest.source_rows, short(&manifest.rows_sha256));
        let differences = [
            (
                "model",
                !self.model.has_equal_content(&wanted.model),
                short(&self.model.sha256),
                short(&wanted.model.sha256),
            ),
            ("set of hidden states", self.hidden_states != wanted.hidden_states, states(self), states(wanted)),
            (
                "tokenizer",
                a.tokenizer_sha256 != b.tokenizer_sha256,
                optional(&a.tokenizer_sha256),
                optional(&b.tokenizer_sha256),
            ),
            ("data file", a.data_sha256 != b.data_sha256, optional(&a.data_sha256), optional(&b.data_sha256)),
            (
                "maximum length",
                a.maximum_length != b.maximum_length,
                a.maximum_length.map_or_else(|| "none".to_owned(), |length| length.to_string()),
                b.maximum_length.map_or_else(|| "none".to_owned(), |length| length.to_string()),
            ),
            ("selection of rows", self.rows_sha256 != wanted.rows_sha256, rows(self), rows(wanted)),
            ("pooling", self.pooling != wanted.pooling, self.pooling.to_string(), wanted.pooling.to_string()),
            (
                "treatment of repeated rows",
                self.deduplicate != wanted.deduplicate,
                format!("deduplicate {}", self.deduplicate),
                format!("deduplicate {}", wanted.deduplicate),
            ),
        ];
        match differences.into_iter().find(|(_, differs, _, _)| *differs) {
            Some((what, _, found, wanted)) => {
                Err(ActivationsError::OtherStore { path: store.into(), what, found, wanted })
            }
            None => Ok(()),
        }
    }

    /// Adds a shard and updates the totals.
    pub(super) fn enter(&mut self, entry: ShardEntry) {
        self.shards.retain(|shard| shard.index != entry.index);
        self.shards.push(entry);
        self.shards.sort_by_key(|shard| shard.index);
        self.recount();
    }

    fn recount(&mut self) {
        self.points = self.shards.iter().map(|shard| shard.points).sum();
        self.duplicates = self.shards.iter().map(|shard| shard.duplicates).sum();
        self.non_finite = self.shards.iter().map(|shard| shard.non_finite).sum();
        self.complete = self.has_all();
    }

    /// Removes shards from the manifest, so that they are recomputed.
    pub(super) fn forget(&mut self, damaged: &[usize]) {
        self.shards.retain(|shard| !damaged.contains(&shard.index));
        self.recount();
    }

    /// Number of shards needed for the required rows.
    pub(super) fn shards_wanted(&self) -> usize {
        let rows = self.rows_wanted.unwrap_or(self.source_rows).min(self.source_rows);
        rows.div_ceil(self.shard_rows.max(1))
    }

    /// Requires at least this many of the first rows, or all.
    pub(super) fn want(&mut self, rows: Option<usize>) {
        self.rows_wanted = rows.map(|rows| rows.max(self.rows_wanted.unwrap_or(0)));
        self.complete = self.has_all();
    }

    /// Whether every shard of the required rows is finished. Shards of further rows do not make up for a missing one.
    fn has_all(&self) -> bool {
        let wanted = self.shards_wanted();
        wanted > 0 && (0..wanted).all(|index| self.has(index))
    }

    /// Whether this shard is done.
    pub(super) fn has(&self, index: usize) -> bool {
        self.shards.iter().any(|shard| shard.index == index)
    }

    /// Rows of the data in finished shards.
    pub fn rows_done(&self) -> usize {
        self.shards.iter().map(|shard| shard.end_row - shard.first_row).sum()
    }

    /// Returns an error if some rows have activations that are not finite.
    pub(super) fn check_finite(&self) -> Result<(), ActivationsError> {
        if self.non_finite == 0 {
            return Ok(());
        }
        let rows = self.shards.iter().flat_map(|shard| &shard.non_finite_rows).take(10);
        let mut rows: Vec<String> = rows.map(usize::to_string).collect();
        if rows.len() < self.non_finite {
            rows.push("…".into());
        }
        Err(ActivationsError::NonFinite { count: self.non_finite, rows: rows.join(", ") })
    }
}

/// The different values in their order: shards of a resumed run may have been computed elsewhere.
fn distinct<'a>(values: impl Iterator<Item = &'a str>) -> String {
    let mut seen: Vec<&str> = Vec::new();
    for value in values {
        if !seen.contains(&value) {
            seen.push(value);
        }
    }
    seen.join("; ")
}
