//! Tables, texts, questions about contexts, tokenization, batches, and metrics.
//!
//! A table becomes a [`Dataset`] of [`Example`]s with their [`Labels`], texts for a language model become [`Documents`]. A
//! [`Tokenizer`] turns both into [`Encoding`]s, [`distinct`] removes duplicates, and [`token_budget_batches`] with [`pad`]
//! make [`Batch`]es of similar length. Questions about contexts are a [`SquadFile`], which becomes [`Windows`]; sentences with a
//! tag for every word are a [`TaggedFile`], which becomes [`WordWindows`]. What a model learns from them is up to the
//! [task](crate::task).

mod batch;
mod cures;
mod documents;
mod encoding;
mod error;
mod example;
mod label_column;
mod label_sets;
mod labels;
mod language;
mod load;
pub mod metric;
#[cfg_attr(feature = "parquet", path = "parquet_table.rs")]
#[cfg_attr(not(feature = "parquet"), path = "parquet_absent.rs")]
mod parquet;
#[cfg(feature = "parquet")]
mod parquet_checks;
#[cfg_attr(feature = "parquet", path = "parquet_lists.rs")]
#[cfg_attr(not(feature = "parquet"), path = "parquet_lists_absent.rs")]
mod parquet_lists;
#[cfg(feature = "parquet")]
mod parquet_pages;
mod squad;
mod table;
mod tag_scheme;
mod tagged;
mod tagged_conll;
mod tagged_json;
mod tagged_sentence;
mod tagged_writer;
mod template;
#[cfg(test)]
mod tests;
mod tokenizer;
mod tokenizer_build;
mod tokenizer_class;
mod tokenizer_long;
mod tokenizer_recipe;
mod wanted;
mod windows;
mod word_tokens;

pub use batch::{Batch, Padding, Positions, pad, token_budget_batches};
pub use documents::Documents;
pub use encoding::{Distinct, Encoding, distinct, sample_rows};
pub use error::{DatasetError, Place};
pub use example::{Example, LoadSettings};
pub use label_sets::LabelSets;
pub use labels::{LabelKind, Labels};
pub use language::TextRows;
pub use load::Dataset;
pub use metric::{Metric, Score};
pub use squad::{Answer, Question, SquadFile, SquadSettings, characters};
pub use table::Format;
pub use tag_scheme::{Detected, Entity, TagError, TagScheme, Unclear, spans};
pub use tagged::TaggedFile;
pub use tagged_sentence::{TaggedFormat, TaggedSentence, TaggedSettings};
pub use tagged_writer::{write_conll, write_json_lines};
pub use template::Template;
pub use tokenizer::Tokenizer;
pub use windows::{Window, Windows};
pub use word_tokens::{WordTokens, WordWindow, WordWindows};
