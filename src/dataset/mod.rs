//! Tables, task presets, tokenization, batches, and the metrics that say what counts as right for a task.
//!
//! A file becomes a [`Dataset`] of [`Example`]s, a [`Tokenizer`] turns these into [`Encoding`]s, [`distinct`] leaves out
//! repeated ones, and [`token_budget_batches`] with [`pad`] make [`Batch`]es of similar length. Questions about contexts are a
//! [`SquadFile`], which becomes [`Windows`]; [`SpanQuestions`] chooses the answers.

mod answers;
mod batch;
mod documents;
mod encoding;
mod error;
mod example;
mod label_column;
mod labels;
mod language;
mod load;
pub mod metric;
#[cfg_attr(feature = "parquet", path = "parquet_table.rs")]
#[cfg_attr(not(feature = "parquet"), path = "parquet_absent.rs")]
mod parquet;
#[cfg(feature = "parquet")]
mod parquet_checks;
#[cfg(feature = "parquet")]
mod parquet_pages;
mod preset;
mod squad;
mod table;
mod template;
#[cfg(test)]
mod tests;
mod tokenizer;
mod tokenizer_build;
mod tokenizer_class;
mod tokenizer_long;
mod tokenizer_recipe;
mod windows;

pub use answers::{AnswerSettings, SpanLogits, SpanQuestions};
pub use batch::{Batch, Padding, Positions, pad, token_budget_batches};
pub use encoding::{Distinct, Encoding, distinct, sample_rows};
pub use error::{DatasetError, Place};
pub use example::{Example, LoadSettings};
pub use labels::{Label, Objective, ObjectiveKind};
pub use language::TextRows;
pub use load::Dataset;
pub use metric::{Metric, Score};
pub use preset::{PRESETS, Preset, missing_task, preset};
pub use squad::{Answer, Question, SPAN_TASKS, SquadFile, SquadSettings, characters, span_task};
pub use table::Format;
pub use template::Template;
pub use tokenizer::Tokenizer;
pub use windows::{Window, Windows};
