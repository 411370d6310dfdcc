//! What can be wrong with data and tokenizer files. Every message is one line that ends in the cure.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

use crate::files::FileError;
use crate::hint::Hint;
use crate::progress::Cancelled;

/// Position in a file, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Line of a text file.
    Line(usize),
    /// Row of a Parquet file, which has no lines.
    Row(usize),
}

impl Place {
    /// The line or row number, from 1.
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
    /// The extension of the file name stands for no known format.
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
        /// Path of the file whose format is unknown.
        path: PathBuf,
    },
    /// The file is not a text table.
    #[error("{} {found}; {cure}", path.display())]
    NotATable {
        /// Path of the file.
        path: PathBuf,
        /// What the file is, e.g. `is a Parquet file`.
        found: &'static str,
        /// What the user should do.
        cure: Cow<'static, str>,
    },
    /// Bytes that are not UTF-8.
    #[error("{}, line {line}: byte {byte} of the line is not UTF-8; save the file as UTF-8", path.display())]
    NotUtf8 {
        /// Path of the file.
        path: PathBuf,
        /// Line of the byte, from 1.
        line: usize,
        /// Byte within the line, from 1.
        byte: usize,
    },
    /// A character that a table cannot contain at this position.
    #[error("{}, line {line}: {found}; {cure}", path.display())]
    OddCharacter {
        /// Path of the table.
        path: PathBuf,
        /// Line of the character, from 1.
        line: usize,
        /// The character, e.g. `a NUL byte`.
        found: &'static str,
        /// What the user should do.
        cure: &'static str,
    },
    /// A compressed file that cannot be unpacked.
    #[error("{} {found}; {cure}", path.display())]
    Packed {
        /// Path of the compressed file.
        path: PathBuf,
        /// Why it cannot be unpacked, as the rest of a sentence.
        found: String,
        /// What the user should do.
        cure: &'static str,
    },
    /// A file of questions and contexts that cannot be used.
    #[error("{} {found}; {cure}", path.display())]
    Squad {
        /// Path of the file of questions.
        path: PathBuf,
        /// What is wrong with the file, as the rest of a sentence.
        found: String,
        /// What the user should do.
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
        /// Path of the file of questions.
        path: PathBuf,
        /// Id of the question, quoted.
        id: String,
        /// Length of the question, in tokens.
        tokens: usize,
        /// Tokens of the context that a window has room for.
        room: usize,
        /// Tokens that consecutive windows share.
        stride: usize,
    },
    /// Tagged sentences that cannot be used.
    #[error("{}{}: {found}; {cure}", path.display(), place.map(|place| format!(", {place}")).unwrap_or_default())]
    Tagged {
        /// Path of the file of sentences.
        path: PathBuf,
        /// Line or row; `None` where the error concerns the whole file.
        place: Option<Place>,
        /// What is wrong with the sentences.
        found: String,
        /// What the user should do.
        cure: Cow<'static, str>,
    },
    /// Two columns have the same name.
    #[error("{}, line 1: column {column} appears twice; give every column its own name", path.display())]
    RepeatedColumn {
        /// Path of the table.
        path: PathBuf,
        /// Name of the column, quoted.
        column: String,
    },
    /// A requested column is missing.
    #[error(
        "{}{}: no column `{column}`; the columns are {there}; {cure}",
        path.display(),
        line.map(|line| format!(", line {line}")).unwrap_or_default()
    )]
    MissingColumn {
        /// Path of the table.
        path: PathBuf,
        /// Line of the header, or of the JSON object; `None` for a Parquet file.
        line: Option<usize>,
        /// Name of the missing column.
        column: String,
        /// Names of the columns that exist, quoted and separated by commas.
        there: String,
        /// What the user should do.
        cure: Cow<'static, str>,
    },
    /// A row has more or fewer fields than the header.
    #[error("{}, line {line}: the number of fields is {found}, in the header {expected}; {cure}", path.display())]
    RaggedRow {
        /// Path of the table.
        path: PathBuf,
        /// Line of the row, from 1.
        line: usize,
        /// Number of fields in the header.
        expected: usize,
        /// Number of fields in the row.
        found: usize,
        /// What the user should do.
        cure: Cow<'static, str>,
    },
    /// A quote that is never closed.
    #[error(
        "{}, line {line}: a quoted field begins here and never ends; close the quote, or say that `\"` is an ordinary \
         character ({})",
        path.display(),
        Hint::Quoting.with(false)
    )]
    OpenQuote {
        /// Path of the table.
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
        /// Path of the table.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Line on which the field begins, from 1.
        opened: usize,
    },
    /// A line that is not a JSON object, or a value of the wrong kind.
    #[error("{}, line {line}: {found}; {cure}", path.display())]
    Json {
        /// Path of the JSON lines file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong with the line.
        found: String,
        /// What the user should do.
        cure: Cow<'static, str>,
    },
    /// A column of a Parquet file that holds something other than texts or labels.
    #[error("{}: column `{column}` {found}; {cure}", path.display())]
    ColumnType {
        /// Path of the Parquet file.
        path: PathBuf,
        /// Name of the column.
        column: String,
        /// What the column holds, as the rest of a sentence.
        found: String,
        /// What the user should do.
        cure: Cow<'static, str>,
    },
    /// A value of a Parquet file that cannot be used.
    #[error("{}, row {row}: column `{column}` {found}; fill it in or remove the row", path.display())]
    ColumnValue {
        /// Path of the Parquet file.
        path: PathBuf,
        /// Row of the value, from 1.
        row: usize,
        /// Name of the column.
        column: String,
        /// What is wrong with the value, e.g. `is null`.
        found: &'static str,
    },
    /// A Parquet file that is broken or written in a way that cannot be read.
    #[error("{} cannot be read as Parquet: {reason}; check that it is whole, or write it again", path.display())]
    Parquet {
        /// Path of the Parquet file.
        path: PathBuf,
        /// Why it cannot be read.
        reason: String,
    },
    /// A file without rows.
    #[error("{} has no rows; check that it is the right file", path.display())]
    NoRows {
        /// Path of the file.
        path: PathBuf,
    },
    /// An empty text.
    #[error("{}, {place}: column `{column}` is empty; fill it in or remove the row", path.display())]
    EmptyText {
        /// Path of the table.
        path: PathBuf,
        /// Line or row of the empty text.
        place: Place,
        /// Name of the column.
        column: String,
    },
    /// A row without a label.
    #[error(
        "{}, {place}: the label (column `{column}`) is empty; fill it in, remove the row, or name no label column",
        path.display()
    )]
    EmptyLabel {
        /// Path of the table.
        path: PathBuf,
        /// Line or row that has no label.
        place: Place,
        /// Name of the label column.
        column: String,
    },
    /// A label that is not among the known ones.
    #[error(
        "{}, {place}: label {found} is not one of {known}; mend the row, or list all labels ({})",
        path.display(),
        Hint::Labels.with("A,B,…")
    )]
    UnknownLabel {
        /// Path of the file.
        path: PathBuf,
        /// Line or row of the label.
        place: Place,
        /// The label, quoted.
        found: String,
        /// The known labels, quoted and separated by commas.
        known: String,
    },
    /// Labels of a row that cannot be read.
    #[error("{}, {place}: column `{column}` {found}; {cure}", path.display())]
    NotALabelSet {
        /// Path of the table.
        path: PathBuf,
        /// Line or row of the labels.
        place: Place,
        /// Name of the label column.
        column: String,
        /// What is wrong with the labels, as the rest of a sentence.
        found: String,
        /// What the user should do.
        cure: &'static str,
    },
    /// A label that is not a finite number where one is needed.
    #[error("{}, {place}: label {found} is not a finite number, which {why}; mend the row{other}", path.display())]
    NotANumber {
        /// Path of the table.
        path: PathBuf,
        /// Line or row of the label.
        place: Place,
        /// The label, quoted.
        found: String,
        /// Why a number is expected.
        why: &'static str,
        /// An alternative cure; may be empty.
        other: String,
    },
    /// Labels that are ambiguous, or that cannot be interpreted at all.
    #[error("{}: {found}; {cure}", path.display())]
    UnclearLabels {
        /// Path of the table.
        path: PathBuf,
        /// What is unclear about the labels.
        found: String,
        /// What the user should do.
        cure: String,
    },
    /// The tokenizer file cannot be parsed.
    #[error("{} is not a tokenizer that can be read: {reason}; copy tokenizer.json from the model's folder again", path.display())]
    BadTokenizer {
        /// Path of the `tokenizer.json`.
        path: PathBuf,
        /// Why it cannot be parsed.
        reason: String,
    },
    /// A tokenizer whose class cannot be reproduced.
    #[error(
        "{} makes the tokenizer a {class}, which {reason}; save the tokenizer with transformers as a PreTrainedTokenizerFast, \
         or name that class there if tokenizer.json is right as it is",
        path.display()
    )]
    TokenizerClass {
        /// Path of the `tokenizer_config.json`.
        path: PathBuf,
        /// Name of the class.
        class: String,
        /// Why it cannot be reproduced.
        reason: String,
    },
    /// A setting of `tokenizer_config.json` that cannot be used.
    #[error("{}: {found}; mend it, or copy the file from the model's folder again", path.display())]
    TokenizerSetting {
        /// Path of the `tokenizer_config.json`.
        path: PathBuf,
        /// What is wrong with the setting.
        found: String,
    },
    /// A template that cannot be filled.
    #[error("the template {found}; {cure}")]
    Template {
        /// What is wrong with the template, as the rest of a sentence.
        found: String,
        /// What the user should do.
        cure: &'static str,
    },
    /// No end-of-text token is known.
    #[error(
        "{} says of no token that it ends a text, and a language model must learn where texts end; name it there \
         (\"eos_token\": \"…\")",
        path.display()
    )]
    NoEndToken {
        /// Path of the `tokenizer_config.json`.
        path: PathBuf,
    },
    /// No token is left to learn.
    #[error(
        "the {documents} texts have no token to learn within {maximum_length} tokens each; give a larger maximum length"
    )]
    NothingLearnt {
        /// Number of texts.
        documents: usize,
        /// Maximum length of a row, in tokens.
        maximum_length: usize,
    },
    /// No room for text beside the special tokens.
    #[error("a maximum length of {found} tokens leaves no room for text; give at least {least}")]
    MaximumLength {
        /// The given maximum length, in tokens.
        found: usize,
        /// The smallest maximum length that works with this tokenizer.
        least: usize,
    },
    /// A row that the tokenizer cannot process.
    #[error("line {line}: the tokenizer {} {reason}; mend the row or remove it", path.display())]
    Tokenization {
        /// Line of the row in its file.
        line: usize,
        /// Path of the tokenizer file.
        path: PathBuf,
        /// What the tokenizer reported.
        reason: String,
    },
    /// The tokenizer does not belong to the model.
    #[error(
        "tokenizer and model do not fit: token {token} has id {id}, the model knows ids 0 to {last}; use the tokenizer.json \
         that came with this model (tokenizer: {})",
        path.display()
    )]
    Vocabulary {
        /// Path of the tokenizer file.
        path: PathBuf,
        /// The token, quoted.
        token: String,
        /// Id of the token.
        id: u32,
        /// The largest id that the model has an embedding for.
        last: usize,
    },
}

fn is_conll(path: &std::path::Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    matches!(
        ending.to_ascii_lowercase().as_str(),
        "conll" | "conllu" | "conll02" | "conll03" | "conll2003" | "bio" | "iob" | "iob2" | "bilou" | "iobes"
    )
}

/// A piece of a user's file for an error message: one line, quoted, of limited length.
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

/// A list for an error message: quoted, separated by commas, of limited length.
pub(super) fn quoted_list<S: AsRef<str>>(items: &[S]) -> String {
    const SHOWN: usize = 20;
    let mut text = items.iter().take(SHOWN).map(|item| quoted(item.as_ref())).collect::<Vec<_>>().join(", ");
    if items.len() > SHOWN {
        text.push_str(&format!(" and {} more", items.len() - SHOWN));
    }
    text
}
