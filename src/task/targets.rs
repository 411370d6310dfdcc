//! What is to be predicted for every row.

use super::{Figure, Outputs, TaskError};

/// What is to be predicted for every row, all of one kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Targets {
    /// A class.
    Classes(Vec<usize>),
    /// A number.
    Values(Vec<f32>),
    /// The tokens of the row that count: each is predicted from those before it. The first of a row never counts.
    Tokens(Vec<Vec<bool>>),
    /// First and last token of a piece of the row. Both 0, the first token of the row, where it does not hold the answer; `None`
    /// where that is not known, which counts for nothing.
    Spans(Vec<Option<(usize, usize)>>),
}

impl Targets {
    /// How many rows have one.
    pub fn len(&self) -> usize {
        match self {
            Targets::Classes(rows) => rows.len(),
            Targets::Values(rows) => rows.len(),
            Targets::Tokens(rows) => rows.len(),
            Targets::Spans(rows) => rows.len(),
        }
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What they are, in words: `a class`.
    pub fn in_words(&self) -> &'static str {
        match self {
            Targets::Classes(_) => "a class",
            Targets::Values(_) => "a value",
            Targets::Tokens(_) => "the next token",
            Targets::Spans(_) => "a part of a text",
        }
    }

    /// All of them as bytes, for a hash.
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Targets::Classes(rows) => rows.iter().flat_map(|&class| (class as u64).to_le_bytes()).collect(),
            Targets::Values(rows) => rows.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Targets::Tokens(rows) => rows.iter().flatten().map(|&counts| u8::from(counts)).collect(),
            Targets::Spans(rows) => {
                let ends = |place: &Option<(usize, usize)>| place.map_or([usize::MAX; 2], |(start, end)| [start, end]);
                rows.iter().flat_map(ends).flat_map(|place| (place as u64).to_le_bytes()).collect()
            }
        }
    }
}

/// Scores outputs by more than the targets of the rows.
pub trait Judge: Sync {
    /// How many rows it scores.
    fn rows(&self) -> usize;

    /// What comes of the outputs of all rows.
    ///
    /// # Errors
    /// Outputs of other rows.
    fn judge(&self, outputs: &Outputs) -> Result<Vec<Figure>, TaskError>;

    /// What decides the scores, in a name and a value that an error can show.
    fn identity(&self) -> (&'static str, String);
}
