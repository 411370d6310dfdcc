//! What can be wrong with data and tokenizer files. Every text is one line that ends in the cure.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

use crate::files::FileError;
use crate::hint::Hint;
use crate::progress::Cancelled;

/// Where in a file, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A line of a text.
    Line(usize),
    /// A row of a Parquet file, which has no lines.
    Row(usize),
}

impl Place {
    /// The number alone.
    pub fn number(self) -> usize {
        match self {
            Place::Line(number) | Place::Row(number) => number,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Line(line) => write!(formatter, "line {line}"),
            Place::Row(row) => write!(formatter, "row {row}"),
        }
    }
}

/// What can be wrong with a data set or its tokenizer.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The user asked to stop.
    #[error("{0}")]
    Cancelled(#[from] Cancelled),
    /// The ending of the file name says nothing.
    #[error(
        "{}: cannot tell the format from the file name; {}",
        path.display(),
        if is_conll(path) {
            format!("this one is usual for a label per word (entities): give {}", Hint::Task.with("ner"))
        } else {
            format!("give it ({})", Hint::Format.one_of(&["tsv", "csv", "jsonl", "parquet", "txt"]))
        }
    )]
    UnknownFormat {
        /// The file.
        path: PathBuf,
    },
    /// The file is not a text table at all.
    #[error("{} {found}; {cure}", path.display())]
    NotATable {
        /// The file.
        path: PathBuf,
        /// What it is, e.g. `is a Parquet file`.
        found: &'static str,
        /// What to do.
        cure: Cow<'static, str>,
    },
    /// Bytes that are not UTF-8.
    #[error("{}, line {line}: byte {byte} of the line is not UTF-8; save the file as UTF-8", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Byte within the line, from 1.
        byte: usize,
    },
    /// A character that no table has there.
    #[error("{}, line {line}: {found}; {cure}", path.display())]
    OddCharacter {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What was found.
        found: &'static str,
        /// What to do.
        cure: &'static str,
    },
    /// A compressed file that cannot be unpacked.
    #[error("{} {found}; {cure}", path.display())]
    Packed {
        /// The file.
        path: PathBuf,
        /// What was found.
        found: String,
        /// What to do.
        cure: &'static str,
    },
    /// A file of questions and contexts that cannot be taken.
    #[error("{} {found}; {cure}", path.display())]
    Squad {
        /// The file.
        path: PathBuf,
        /// What it is or has.
        found: String,
        /// What to do.
        cure: Cow<'static, str>,
    },
    /// A question that leaves too little room for its context.
    #[error(
        "{}: the question {id} has {tokens} tokens and leaves {room} for its context, of which every window repeats {stride} \
         ({overlap}); lower {overlap}, or raise {}",
        path.display(),
        Hint::MaximumLength,
        overlap = Hint::Stride
    )]
    LongQuestion {
        /// The file.
        path: PathBuf,
        /// Id of the question, quoted.
        id: String,
        /// Tokens of the question.
        tokens: usize,
        /// Tokens of the context that a window could hold.
        room: usize,
        /// Tokens that two windows share.
        stride: usize,
    },
    /// Sentences with tags that cannot be taken.
    #[error("{}{}: {found}; {cure}", path.display(), place.map(|place| format!(", {place}")).unwrap_or_default())]
    Tagged {
        /// The file.
        path: PathBuf,
        /// Line or row, where it is one.
        place: Option<Place>,
        /// What was found.
        found: String,
        /// What to do.
        cure: Cow<'static, str>,
    },
    /// Two columns have the same name.
    #[error("{}, line 1: column {column} appears twice; give every column its own name", path.display())]
    RepeatedColumn {
        /// The file.
        path: PathBuf,
        /// The name, quoted.
        column: String,
    },
    /// A column that was asked for is not there.
    #[error(
        "{}{}: no column `{column}`; the columns are {there}; {cure}",
        path.display(),
        line.map(|line| format!(", line {line}")).unwrap_or_default()
    )]
    MissingColumn {
        /// The file.
        path: PathBuf,
        /// Line of the header, or of the JSON object; a Parquet file has none.
        line: Option<usize>,
        /// The name that was asked for.
        column: String,
        /// The columns that are there, quoted and separated by commas.
        there: String,
        /// What to do.
        cure: Cow<'static, str>,
    },
    /// A row has more or fewer fields than the header.
    #[error("{}, line {line}: the number of fields is {found}, in the header {expected}; {cure}", path.display())]
    RaggedRow {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Fields in the header.
        expected: usize,
        /// Fields in the row.
        found: usize,
        /// What to do.
        cure: Cow<'static, str>,
    },
    /// A quote that nobody closes.
    #[error(
        "{}, line {line}: a quoted field begins here and never ends; close the quote, or say that `\"` is an ordinary \
         character ({})",
        path.display(),
        Hint::Quoting.with(false)
    )]
    OpenQuote {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
    },
    /// Text between the end of a quoted field and the next separator.
    #[error(
        "{}, line {line}: text follows the quote that closes a field ({}); write \"\" for a quote inside a \
         quoted field, or say that `\"` is an ordinary character ({})",
        path.display(),
        if line == opened { "it begins in the same line".to_owned() } else { format!("it begins in line {opened}") },
        Hint::Quoting.with(false)
    )]
    TextAfterQuote {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Line in which the field begins.
        opened: usize,
    },
    /// A line that is not a JSON object, or a value of the wrong kind.
    #[error("{}, line {line}: {found}; {cure}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What was found.
        found: String,
        /// What to do.
        cure: Cow<'static, str>,
    },
    /// A column of a Parquet file that holds something else than texts or labels.
    #[error("{}: column `{column}` {found}; {cure}", path.display())]
    ColumnType {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// What it holds.
        found: String,
        /// What to do.
        cure: Cow<'static, str>,
    },
    /// A value of a Parquet file that cannot be used.
    #[error("{}, row {row}: column `{column}` {found}; fill it in or remove the row", path.display())]
    ColumnValue {
        /// The file.
        path: PathBuf,
        /// Row, from 1.
        row: usize,
        /// The column.
        column: String,
        /// What it is, e.g. `is null`.
        found: &'static str,
    },
    /// A Parquet file that is broken or written in a way that cannot be read.
    #[error("{} cannot be read as Parquet: {reason}; check that it is whole, or write it again", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// A header and nothing else.
    #[error("{} has no rows; check that it is the right file", path.display())]
    NoRows {
        /// The file.
        path: PathBuf,
    },
    /// A text with nothing in it.
    #[error("{}, {place}: column `{column}` is empty; fill it in or remove the row", path.display())]
    EmptyText {
        /// The file.
        path: PathBuf,
        /// Line or row.
        place: Place,
        /// The column.
        column: String,
    },
    /// A row without a label.
    #[error(
        "{}, {place}: the label (column `{column}`) is empty; fill it in, remove the row, or name no label column",
        path.display()
    )]
    EmptyLabel {
        /// The file.
        path: PathBuf,
        /// Line or row.
        place: Place,
        /// The column.
        column: String,
    },
    /// A label that is not among the known ones.
    #[error(
        "{}, {place}: label {found} is not one of {known}; mend the row, or list all labels ({})",
        path.display(),
        Hint::Labels.with("A,B,…")
    )]
    UnknownLabel {
        /// The file.
        path: PathBuf,
        /// Line or row.
        place: Place,
        /// The label, quoted.
        found: String,
        /// The known labels, quoted and separated by commas.
        known: String,
    },
    /// Labels of a row that cannot be read.
    #[error("{}, {place}: column `{column}` {found}; {cure}", path.display())]
    NotALabelSet {
        /// The file.
        path: PathBuf,
        /// Line or row.
        place: Place,
        /// The column.
        column: String,
        /// What it has.
        found: String,
        /// What to do.
        cure: &'static str,
    },
    /// A word, or no finite number, where a number is needed.
    #[error("{}, {place}: label {found} is not a finite number, which {why}; mend the row{other}", path.display())]
    NotANumber {
        /// The file.
        path: PathBuf,
        /// Line or row.
        place: Place,
        /// The label, quoted.
        found: String,
        /// Why a number is expected.
        why: &'static str,
        /// Another cure, or nothing.
        other: String,
    },
    /// Labels that can be read in two ways, or in none.
    #[error("{}: {found}; {cure}", path.display())]
    UnclearLabels {
        /// The file.
        path: PathBuf,
        /// What was found.
        found: String,
        /// What to do.
        cure: String,
    },
    /// The tokenizer file cannot be understood.
    #[error("{} is not a tokenizer that can be read: {reason}; copy tokenizer.json from the model's folder again", path.display())]
    BadTokenizer {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// A tokenizer of a class that cannot be reproduced.
    #[error(
        "{} makes the tokenizer a {class}, which {reason}; save the tokenizer with transformers as a PreTrainedTokenizerFast, \
         or name that class there if tokenizer.json is right as it is",
        path.display()
    )]
    TokenizerClass {
        /// `tokenizer_config.json`.
        path: PathBuf,
        /// The class.
        class: String,
        /// Why it cannot be.
        reason: String,
    },
    /// A setting of `tokenizer_config.json` that cannot be taken.
    #[error("{}: {found}; mend it, or copy the file from the model's folder again", path.display())]
    TokenizerSetting {
        /// The file.
        path: PathBuf,
        /// What was found.
        found: String,
    },
    /// A template that cannot be filled.
    #[error("the template {found}; {cure}")]
    Template {
        /// What is wrong with it.
        found: String,
        /// What to do.
        cure: &'static str,
    },
    /// Nothing tells where a text ends.
    #[error(
        "{} says of no token that it ends a text, and a language model must learn where texts end; name it there \
         (\"eos_token\": \"…\")",
        path.display()
    )]
    NoEndToken {
        /// `tokenizer_config.json`.
        path: PathBuf,
    },
    /// Nothing is left to learn.
    #[error(
        "the {documents} texts have no token to learn within {maximum_length} tokens each; give a larger maximum length"
    )]
    NothingLearnt {
        /// How many texts there are.
        documents: usize,
        /// The longest row, in tokens.
        maximum_length: usize,
    },
    /// No room for text beside the special tokens.
    #[error("a maximum length of {found} tokens leaves no room for text; give at least {least}")]
    MaximumLength {
        /// What was given.
        found: usize,
        /// The least that works with this tokenizer.
        least: usize,
    },
    /// A row that the tokenizer cannot take.
    #[error("line {line}: the tokenizer {} {reason}; mend the row or remove it", path.display())]
    Tokenization {
        /// Line of the row in its file.
        line: usize,
        /// The tokenizer file.
        path: PathBuf,
        /// What it said.
        reason: String,
    },
    /// Tokenizer and model do not belong together.
    #[error(
        "tokenizer and model do not fit: token {token} has id {id}, the model knows ids 0 to {last}; use the tokenizer.json \
         that came with this model (tokenizer: {})",
        path.display()
    )]
    Vocabulary {
        /// The tokenizer file.
        path: PathBuf,
        /// The token, quoted.
        token: String,
        /// Its id.
        id: u32,
        /// The largest id that the model has an embedding for.
        last: usize,
    },
}

fn is_conll(path: &std::path::Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    matches!(ending.to_ascii_lowercase().as_str(), "conll" | "conllu" | "conll03" | "bio" | "iob" | "iob2")
}

/// A piece of a user's file for an error text: one line, quoted, not too long.
pub(super) fn quoted(text: &str) -> String {
    const SHOWN: usize = 60;
    let shown: String = text
        .chars()
        .take(SHOWN)
        .flat_map(|c| if c == '"' || c == '\'' { vec![c] } else { c.escape_debug().collect() })
        .collect();
    let dots = if text.chars().nth(SHOWN).is_some() { "…" } else { "" };
    format!("`{shown}{dots}`")
}

/// A list for an error text: quoted, separated by commas, not endless.
pub(super) fn quoted_list<S: AsRef<str>>(items: &[S]) -> String {
    const SHOWN: usize = 20;
    let mut text = items.iter().take(SHOWN).map(|item| quoted(item.as_ref())).collect::<Vec<_>>().join(", ");
    if items.len() > SHOWN {
        text.push_str(&format!(" and {} more", items.len() - SHOWN));
    }
    text
}
