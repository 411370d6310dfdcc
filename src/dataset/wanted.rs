//! The columns of a table that a reader wants.

/// A column that the caller wants.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// Name of the column.
    pub name: &'a str,
    /// Whether JSON numbers and booleans are accepted too (labels), or only strings (text).
    pub scalar: bool,
    /// Whether the column may be missing; its values are then empty.
    pub optional: bool,
    /// Whether the value may be a list in JSON and Parquet; it is then passed on as a JSON list, and may not be null.
    pub list: bool,
}

impl<'a> Wanted<'a> {
    /// A required column of texts.
    pub fn text(name: &'a str) -> Self {
        Wanted { name, scalar: false, optional: false, list: false }
    }
}
