//! Targets: what is to be predicted for every row.

use super::{Figure, Outputs, TaskError};

/// The targets of all rows, of one kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Targets {
    /// The class of every row.
    Classes(Vec<usize>),
    /// The number of every row.
    Values(Vec<f32>),
    /// For every row, whether it has each of several labels: `[rows][labels]`.
    LabelSets(Vec<Vec<bool>>),
    /// Which tokens of every row count: each of these is predicted from those before it. The first of a row never counts.
    Tokens(Vec<Vec<bool>>),
    /// A class for every token that counts; `None` for the others.
    TokenClasses(Vec<Vec<Option<usize>>>),
    /// First and last token of a span of the row. Both are 0, the first token of the row, where it does not hold the answer;
    /// `None` where that is not known: such a row is ignored.
    Spans(Vec<Option<(usize, usize)>>),
}

impl Targets {
    /// Number of rows.
    pub fn len(&self) -> usize {
        match self {
            Targets::Classes(rows) => rows.len(),
            Targets::Values(rows) => rows.len(),
            Targets::LabelSets(rows) | Targets::Tokens(rows) => rows.len(),
            Targets::TokenClasses(rows) => rows.len(),
            Targets::Spans(rows) => rows.len(),
        }
    }

    /// The targets of some rows.
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

    /// What a target is, as a phrase: `a class`.
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

    /// All targets as bytes, for a hash.
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

/// Scores outputs with more than the targets of the rows.
pub trait Judge: Sync {
    /// Number of rows that it scores.
    fn rows(&self) -> usize;

    /// Figures that score the outputs of all rows.
    ///
    /// # Errors
    /// Outputs of other rows.
    fn judge(&self, outputs: &Outputs) -> Result<Vec<Figure>, TaskError>;

    /// What determines the scores, as a name and a value that an error can show.
    fn identity(&self) -> (&'static str, String);
}
