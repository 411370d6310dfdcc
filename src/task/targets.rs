//! What is to be predicted for every row.

use super::{Figure, Outputs, TaskError};

/// What is to be predicted for every row, all of one kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Targets {
    /// A class.
    Classes(Vec<usize>),
    /// A number.
    Values(Vec<f32>),
    /// Whether it has each of several labels.
    LabelSets(Vec<Vec<bool>>),
    /// The tokens of the row that count: each is predicted from those before it. The first of a row never counts.
    Tokens(Vec<Vec<bool>>),
    /// A class for every token of the row that counts; `None` for the others.
    TokenClasses(Vec<Vec<Option<usize>>>),
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
            Targets::LabelSets(rows) | Targets::Tokens(rows) => rows.len(),
            Targets::TokenClasses(rows) => rows.len(),
            Targets::Spans(rows) => rows.len(),
        }
    }

    /// Those of some rows.
    pub fn of(&self, rows: &[usize]) -> Targets {
        fn chosen<T: Clone>(all: &[T], rows: &[usize]) -> Vec<T> {
            rows.iter().filter_map(|&row| all.get(row).cloned()).collect()
        }
        match self {
            Targets::Classes(all) => Targets::Classes(chosen(all, rows)),
            Targets::Values(all) => Targets::Values(chosen(all, rows)),
            Targets::LabelSets(all) => Targets::LabelSets(chosen(all, rows)),
            Targets::Tokens(all) => Targets::Tokens(chosen(all, rows)),
            Targets::TokenClasses(all) => Targets::TokenClasses(chosen(all, rows)),
            Targets::Spans(all) => Targets::Spans(chosen(all, rows)),
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
            Targets::LabelSets(_) => "a set of labels",
            Targets::Tokens(_) => "the next token",
            Targets::TokenClasses(_) => "a class per word",
            Targets::Spans(_) => "a part of a text",
        }
    }

    /// All of them as bytes, for a hash.
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Targets::Classes(rows) => rows.iter().flat_map(|&class| (class as u64).to_le_bytes()).collect(),
            Targets::Values(rows) => rows.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Targets::LabelSets(rows) | Targets::Tokens(rows) => {
                rows.iter().flatten().map(|&counts| u8::from(counts)).collect()
            }
            Targets::TokenClasses(rows) => {
                let class = |class: &Option<usize>| class.map_or(u64::MAX, |class| class as u64).to_le_bytes();
                rows.iter().flatten().flat_map(class).collect()
            }
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
