//! The rows of a command: those of a table, or windows of contexts with their questions.

use std::path::Path;

use crate::dataset::{
    Dataset, Encoding, Label, Metric, Objective, SpanQuestions, SquadFile, SquadSettings, Tokenizer, Window, Windows,
};
use crate::progress::{Event, Silent};

use super::export::load;
use super::{Session, WorkflowError};
use crate::settings::{DataSettings, SpanSettings};

/// The rows of a file.
pub enum Rows {
    /// Of a table, not tokenized yet.
    Table(Dataset),
    /// Of questions about contexts.
    Spans(SpanRows),
}

/// What windows are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Activations: answers need not be known.
    Plan,
    /// The same for a sample in proportion to the labels.
    PlanByLabel,
    /// Training: every question has an answer, or is known to have none.
    #[cfg_attr(not(feature = "train"), allow(dead_code, reason = "only training needs it"))]
    Train,
    /// Evaluation: windows are answered by question.
    Evaluate,
}

/// Windows of contexts, tokenized.
pub struct SpanRows {
    pub file: SquadFile,
    pub settings: SpanSettings,
    pub encodings: Vec<Encoding>,
    /// Without offsets where nothing is to be answered.
    pub windows: Vec<Window>,
    pub labels: Vec<Label>,
}

impl Purpose {
    /// For a plan, whose rows may be drawn by their labels.
    pub fn planning(stratified: bool) -> Self {
        if stratified { Purpose::PlanByLabel } else { Purpose::Plan }
    }
}

impl Rows {
    /// The file.
    pub fn path(&self) -> &Path {
        match self {
            Rows::Table(dataset) => &dataset.path,
            Rows::Spans(spans) => &spans.file.path,
        }
    }

    /// SHA-256 of the file.
    pub fn sha256(&self) -> &str {
        match self {
            Rows::Table(dataset) => &dataset.sha256,
            Rows::Spans(spans) => &spans.file.sha256,
        }
    }

    /// Rows of the table, or windows.
    pub fn len(&self) -> usize {
        match self {
            Rows::Table(dataset) => dataset.examples.len(),
            Rows::Spans(spans) => spans.encodings.len(),
        }
    }

    /// What a row says, pairs with a stroke between them.
    pub fn text(&self, row: usize) -> Option<String> {
        match self {
            Rows::Table(dataset) => {
                let example = dataset.examples.get(row)?;
                Some(match &example.pair {
                    Some(pair) => format!("{} | {pair}", example.text),
                    None => example.text.clone(),
                })
            }
            Rows::Spans(spans) => {
                let question = spans.windows.get(row)?.question;
                Some(spans.file.questions.get(question)?.text.clone())
            }
        }
    }

    /// Rows to plan or to train with: all that `[data]` names, at most `limit`.
    pub fn load(
        session: &Session<'_>,
        section: &DataSettings,
        tokenizer: &Tokenizer,
        purpose: Purpose,
    ) -> Result<Self, WorkflowError> {
        section.check()?;
        if section.spans().is_some() {
            return Ok(Rows::Spans(SpanRows::load(
                session,
                section,
                &section.train,
                section.limit,
                tokenizer,
                purpose,
            )?));
        }
        let settings = section.load_settings();
        // Labels that are named are looked at, though activations need none: what is wrong with them is said now, not by the
        // training after the plan.
        let settings = match purpose {
            Purpose::Plan if !section.names_labels() => settings.without_labels(),
            _ => settings,
        };
        Ok(Rows::Table(load(session, &section.train, &settings)?))
    }

    /// Token ids of the first so many rows.
    #[cfg_attr(not(feature = "train"), allow(dead_code, reason = "only training needs it"))]
    pub fn first(&self, count: usize, tokenizer: &Tokenizer) -> Result<Vec<Encoding>, WorkflowError> {
        let count = self.len().min(count);
        Ok(match self {
            Rows::Table(dataset) => tokenizer.encode(&dataset.examples[..count], &Silent)?,
            Rows::Spans(spans) => spans.encodings[..count].to_vec(),
        })
    }

    /// Rows to evaluate with, whole, with the classes of the training rows.
    #[cfg_attr(not(feature = "train"), allow(dead_code, reason = "only training needs it"))]
    pub fn load_held_out(
        session: &Session<'_>,
        section: &DataSettings,
        path: &Path,
        tokenizer: &Tokenizer,
        objective: &Objective,
    ) -> Result<Self, WorkflowError> {
        if section.spans().is_some() {
            return Ok(Rows::Spans(SpanRows::load(session, section, path, None, tokenizer, Purpose::Evaluate)?));
        }
        Ok(Rows::Table(load(session, path, &section.held_out_settings(objective))?))
    }
}

/// What to measure: metrics that all fit the task, which is asked before anything is computed.
pub fn fitting_metrics(section: &DataSettings, objective: &Objective) -> Result<Vec<Metric>, WorkflowError> {
    let metrics = section.metrics(objective);
    metrics.iter().try_for_each(|metric| metric.check(objective))?;
    Ok(metrics)
}

impl SpanRows {
    /// Reads questions and cuts their contexts into windows.
    pub fn load(
        session: &Session<'_>,
        section: &DataSettings,
        path: &Path,
        limit: Option<usize>,
        tokenizer: &Tokenizer,
        purpose: Purpose,
    ) -> Result<Self, WorkflowError> {
        let settings = section.spans().unwrap_or_default();
        let file = SquadFile::load(path, SquadSettings { limit, null_answers: settings.null_answers })?;
        if purpose == Purpose::Train && !file.has_answers() {
            return Err(WorkflowError::NoAnswers { path: path.into() });
        }
        let windows = Windows::new(&file, tokenizer, settings.stride, session.observer())?;
        let places = windows.labels(&file);
        let mut rows = SpanRows { encodings: Vec::new(), windows: Vec::new(), labels: Vec::new(), file, settings };
        let mut misplaced = Vec::new();
        for ((encoding, mut window), place) in windows.encodings.into_iter().zip(windows.windows).zip(places) {
            let question = &rows.file.questions[window.question];
            if place.is_none() && (purpose == Purpose::Train || !question.answers.is_empty()) {
                misplaced.push(window.question);
                if purpose != Purpose::Evaluate {
                    continue;
                }
            }
            if purpose != Purpose::Evaluate {
                window.offsets = Vec::new();
            }
            rows.encodings.push(encoding);
            rows.windows.push(window);
            rows.labels.push(Label::Span { place });
        }
        misplaced.dedup();
        rows.tell_misplaced(session, &misplaced, purpose);
        if rows.encodings.is_empty() {
            return Err(WorkflowError::MisplacedAnswers { path: path.into() });
        }
        Ok(rows)
    }

    fn tell_misplaced(&self, session: &Session<'_>, questions: &[usize], purpose: Purpose) {
        let Some(&first) = questions.first() else { return };
        let consequence = match purpose {
            Purpose::Evaluate => "the validation loss leaves them out",
            _ => "they are left out",
        };
        session.observer().observe(Event::Warning(&format!(
            "{}: {} of {} questions have no answer at the place that answer_start says, and {consequence}; the first is `{}`",
            self.file.path.display(),
            questions.len(),
            self.file.questions.len(),
            self.file.questions[first].id
        )));
    }

    /// What is learnt.
    #[cfg_attr(not(feature = "train"), allow(dead_code, reason = "only training needs it"))]
    pub fn objective(&self) -> Objective {
        Objective::Spans { null_answers: self.settings.null_answers }
    }

    /// The questions, to be answered from the windows.
    pub fn questions(&self) -> SpanQuestions<'_> {
        SpanQuestions { file: &self.file, windows: &self.windows, settings: self.settings.answers() }
    }
}
