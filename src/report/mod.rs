//! Output for people: the HTML report of a plan, tables for the terminal, CSV.
//!
//! Everything here turns values into text; only [`write_report`] and [`write_dimensions`] touch files.

mod chart;
mod compare;
mod csv;
mod error;
mod fit;
mod number;
mod page;
mod profile;
mod ranks;
mod scale;
mod spark;
mod table;
#[cfg(test)]
mod tests;

pub use compare::{Named, compare_html, compare_table, write_comparison};
pub use csv::{dimensions_csv, write_dimensions};
pub use error::ReportError;
pub(crate) use number::dimension;
pub use page::{report_html, write_report};
pub use table::{DimensionRow, dimension_table, facts, plan_table, scale_in_words, table};
