//! Activations of every hidden state over a data set: the extraction pipeline and the store on disk.
//!
//! [`extract`] runs the graph over the rows, pools inside the graph, and writes shards of dataset rows; [`Store`] reads
//! them. Memory grows with the size of a shard and not with the number of rows.

mod error;
mod extract;
mod manifest;
mod pipeline;
mod pooled_model;
mod pooling;
mod shard;
mod source;
mod store;

pub use error::ActivationsError;
pub use extract::{ExtractSettings, MiniBatch, Provenance, extract, extract_texts, stream, stream_texts};
pub use manifest::{FORMAT, Manifest, ModelIdentity, ShardEntry, ShardFile};
pub use pipeline::TakeBatch;
pub use pooled_model::pooled_model;
pub use pooling::{Pooling, PoolingKind};
pub use store::Store;
