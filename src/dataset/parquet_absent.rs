//! Replaces the reader of Parquet files in a build without the feature `parquet`.

use std::path::Path;

use super::DatasetError;
use super::cures::NO_PARQUET;
use super::table::{Row, Wanted};

fn absent<T>(path: &Path) -> Result<T, DatasetError> {
    Err(DatasetError::NotATable { path: path.into(), found: "is a Parquet file", cure: NO_PARQUET.into() })
}

pub(super) fn read_file(path: &Path, _: &[Wanted<'_>], _: usize) -> Result<Vec<Row>, DatasetError> {
    absent(path)
}

pub(super) fn read_bytes(path: &Path, _: &[u8], _: &[Wanted<'_>]) -> Result<Vec<Row>, DatasetError> {
    absent(path)
}
