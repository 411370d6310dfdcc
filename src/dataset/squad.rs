//! Questions about contexts whose answers are spans of the context: the JSON of SQuAD v1.1 and v2.0.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::quoted;
use super::{DatasetError, table};
use crate::files::{read_file, sha256, without_mark};

/// How to read a file of questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SquadSettings {
    /// Number of questions to read, from the first; `None` reads all.
    pub limit: Option<usize>,
    /// Whether a question may have no answer (SQuAD v2.0).
    pub null_answers: bool,
}

/// The questions of a file, with their contexts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SquadFile {
    /// Path of the file.
    pub path: PathBuf,
    /// SHA-256 of the file, in hex.
    pub sha256: String,
    /// Whether a question may have no answer.
    pub null_answers: bool,
    /// The contexts without duplicates, in the order of the file.
    pub contexts: Vec<String>,
    /// The questions, in the order of the file.
    pub questions: Vec<Question>,
}

/// One question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Id of the question in files of predictions.
    pub id: String,
    /// The question, without leading white space.
    pub text: String,
    /// Index of its context in [`SquadFile::contexts`].
    pub context: usize,
    /// The answers that count as right. Empty where the context holds none, or where the file does not say.
    pub answers: Vec<Answer>,
    /// Whether the file says that the context holds no answer, rather than nothing about answers.
    pub impossible: bool,
}

/// An answer that counts as right.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Answer {
    /// Text of the answer.
    pub text: String,
    /// Offset of the answer in the context, in characters (Unicode code points) from 0.
    #[serde(rename = "answer_start")]
    pub start: usize,
}

#[derive(Deserialize)]
struct RawFile {
    data: Vec<RawArticle>,
}

/// A row of the flat form, which Hugging Face's `datasets` writes.
#[derive(Deserialize)]
struct FlatRow {
    id: Id,
    context: String,
    question: String,
    answers: Option<Answers>,
    #[serde(default)]
    is_impossible: bool,
}

#[derive(Deserialize)]
struct FlatFile {
    data: Vec<FlatRow>,
}

/// A string, or a number that counts as its text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Id {
    Text(String),
    Number(serde_json::Number),
}

/// A list of answers, or one list per field.
#[derive(Deserialize)]
#[serde(untagged)]
enum Answers {
    Listed(Vec<Answer>),
    InColumns { text: Vec<String>, answer_start: Vec<usize> },
}

impl Answers {
    fn listed(self) -> Vec<Answer> {
        match self {
            Answers::Listed(answers) => answers,
            Answers::InColumns { text, answer_start } => {
                text.into_iter().zip(answer_start).map(|(text, start)| Answer { text, start }).collect()
            }
        }
    }
}

#[derive(Deserialize)]
struct RawArticle {
    paragraphs: Vec<RawParagraph>,
}

#[derive(Deserialize)]
struct RawParagraph {
    context: String,
    qas: Vec<RawQuestion>,
}

#[derive(Deserialize)]
struct RawQuestion {
    id: Id,
    question: String,
    answers: Option<Answers>,
    #[serde(default)]
    is_impossible: bool,
}

impl SquadFile {
    /// Reads a file.
    ///
    /// # Errors
    /// One line that names the file, what was found and the cure: unreadable file, JSON of another form, a question or
    /// context without text, a duplicate id, a question without an answer where every question must have one, no questions.
    pub fn load(path: &Path, settings: SquadSettings) -> Result<Self, DatasetError> {
        let bytes = read_file(path)?;
        let paragraphs = paragraphs(path, &table::unpacked(path, &bytes)?)?;
        let mut file = SquadFile {
            path: path.into(),
            sha256: sha256(&bytes),
            null_answers: settings.null_answers,
            contexts: Vec::new(),
            questions: Vec::new(),
        };
        let limit = settings.limit.unwrap_or(usize::MAX);
        for paragraph in paragraphs {
            let left = limit - file.questions.len();
            if left == 0 {
                break;
            }
            if !paragraph.qas.is_empty() {
                file.add(paragraph, left)?;
            }
        }
        file.check().map(|()| file)
    }

    fn add(&mut self, paragraph: RawParagraph, limit: usize) -> Result<(), DatasetError> {
        let context = self.contexts.len();
        for raw in paragraph.qas.into_iter().take(limit) {
            let id = match raw.id {
                Id::Text(id) => id,
                Id::Number(id) => id.to_string(),
            };
            let empty = match (raw.question.trim().is_empty(), paragraph.context.trim().is_empty()) {
                (true, _) => Some("question"),
                (false, true) => Some("context"),
                (false, false) => None,
            };
            if let Some(what) = empty {
                return Err(self.bad(format!("has an empty {what} at id {}", quoted(&id)), "write it, or leave it out"));
            }
            // A gold answer without text means that there is no answer.
            let told = raw.answers.is_some();
            let answers = raw.answers.map(Answers::listed).unwrap_or_default();
            let answers: Vec<Answer> = answers.into_iter().filter(|answer| !answer.text.trim().is_empty()).collect();
            let impossible = raw.is_impossible || (told && answers.is_empty());
            self.questions.push(Question {
                id,
                text: raw.question.trim_start().to_owned(),
                context,
                // Version 2.0 lists plausible answers elsewhere; an answer given beside `is_impossible` does not count.
                answers: if raw.is_impossible { Vec::new() } else { answers },
                impossible,
            });
        }
        self.contexts.push(paragraph.context);
        Ok(())
    }

    fn check(&self) -> Result<(), DatasetError> {
        if self.questions.is_empty() {
            return Err(self.bad("holds no questions".into(), "name a file that does"));
        }
        let mut ids: Vec<&str> = self.questions.iter().map(|question| question.id.as_str()).collect();
        ids.sort_unstable();
        if let Some(twice) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            let found = format!("has two questions with the id {}", quoted(twice[0]));
            return Err(self.bad(found, "give every question its own: predictions are named by it"));
        }
        if let (false, Some(question)) = (self.null_answers, self.questions.iter().find(|question| question.impossible))
        {
            return Err(self.bad(
                format!("has a question without an answer, {}", quoted(&question.id)),
                "take it as SQuAD v2.0 (task squad2)",
            ));
        }
        Ok(())
    }

    fn bad(&self, found: String, cure: &'static str) -> DatasetError {
        DatasetError::Squad { path: self.path.clone(), found, cure: cure.into() }
    }

    /// Context of a question.
    pub fn context(&self, question: &Question) -> &str {
        &self.contexts[question.context]
    }

    /// Whether the answers are known: at least one question has an answer, or is marked as having none.
    pub fn has_answers(&self) -> bool {
        self.questions.iter().any(|question| question.impossible || !question.answers.is_empty())
    }
}

/// Reads the paragraphs of a file of either form.
fn paragraphs(path: &Path, bytes: &[u8]) -> Result<Vec<RawParagraph>, DatasetError> {
    let bad = |found: String, cure: Cow<'static, str>| DatasetError::Squad { path: path.into(), found, cure };
    if let Some((found, cure)) = table::other_kind(bytes) {
        let flat = "write it as JSON lines (datasets: to_json(name)); its rows are read as they are";
        return Err(bad(found.into(), if found.contains("Parquet") { flat.into() } else { cure }));
    }
    let bytes = without_mark(bytes);
    let of_squad = match serde_json::from_slice::<RawFile>(bytes) {
        Ok(file) => return Ok(file.data.into_iter().flat_map(|article| article.paragraphs).collect()),
        Err(error) => error,
    };
    let rows = match flat_form(bytes) {
        Some(FlatForm::List) => serde_json::from_slice::<Vec<FlatRow>>(bytes),
        Some(FlatForm::Data) => serde_json::from_slice::<FlatFile>(bytes).map(|file| file.data),
        Some(FlatForm::Lines) => serde_json::Deserializer::from_slice(bytes).into_iter().collect(),
        None => {
            return Err(bad(
                format!("is not the JSON of SQuAD ({of_squad})"),
                "it holds data > paragraphs > context and qas > id, question, answers > text, answer_start; or rows of id, \
                 context, question and answers"
                    .into(),
            ));
        }
    };
    let rows = rows.map_err(|error| {
        let cure = "a row holds id, context, question and answers > text, answer_start";
        bad(format!("has a row that cannot be read ({error})"), cure.into())
    })?;
    let paragraph = |row: FlatRow| {
        let FlatRow { id, context, question, answers, is_impossible } = row;
        RawParagraph { context, qas: vec![RawQuestion { id, question, answers, is_impossible }] }
    };
    Ok(rows.into_iter().map(paragraph).collect())
}

/// Layout of the rows of the flat form.
enum FlatForm {
    List,
    Data,
    Lines,
}

/// Detects the flat form from the first row, which has a question.
fn flat_form(bytes: &[u8]) -> Option<FlatForm> {
    let is_row = |value: &serde_json::Value| value.get("question").is_some() && value.get("context").is_some();
    let first = serde_json::Deserializer::from_slice(bytes).into_iter::<serde_json::Value>().next()?.ok()?;
    let begins = |list: &serde_json::Value| list.get(0).is_some_and(is_row);
    match () {
        () if is_row(&first) => Some(FlatForm::Lines),
        () if begins(&first) => Some(FlatForm::List),
        () if first.get("data").is_some_and(begins) => Some(FlatForm::Data),
        () => None,
    }
}

/// The characters `start..end` of a text, as Python slices it: positions outside the text are ignored.
pub fn characters(text: &str, start: usize, end: usize) -> &str {
    let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte);
    let (start, end) = (byte(start), byte(end.max(start)));
    &text[start..end]
}

impl Answer {
    /// Span of the answer in the context, in characters `start..end`; `None` where the context has other text there.
    pub fn place(&self, context: &str) -> Option<(usize, usize)> {
        let end = self.start.checked_add(self.text.chars().count())?;
        (characters(context, self.start, end) == self.text).then_some((self.start, end))
    }
}
