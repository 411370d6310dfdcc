//! Replaces the reader of lists in Parquet files in a build without the feature `parquet`.

use std::path::Path;

use super::DatasetError;
use super::cures::NO_PARQUET;
use super::tagged_sentence::{TaggedSentence, TaggedSettings};

pub(super) fn read(path: &Path, _: &[u8], _: &TaggedSettings) -> Result<Vec<TaggedSentence>, DatasetError> {
    Err(DatasetError::NotATable { path: path.into(), found: "is a Parquet file", cure: NO_PARQUET.into() })
}
