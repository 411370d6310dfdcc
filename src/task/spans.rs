//! Answers that are spans of a text: SQuAD v1.1 and v2.0.

use std::borrow::Cow;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    AnswerSettings, DataSettings, Encoded, Figure, HeadSpec, Judge, Lines, Objective, Outputs, Preset, Purpose, Reader,
    Request, Rows, Source, SpanLogits, SpanQuestions, Targets, Task, TaskError,
};
use crate::dataset::metric::squad::SquadScore;
use crate::dataset::{DatasetError, Encoding, Metric, SquadFile, SquadSettings, Tokenizer, Window, Windows};
use crate::files::write_atomically;
use crate::progress::{Event, Observer};
use crate::settings_value::SettingError;

/// The task of answering with a span of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spans {
    /// Whether a question may have no answer.
    pub null_answers: bool,
}

const HEAD: HeadSpec = HeadSpec {
    outputs: &["start_logits", "end_logits"],
    lines: Lines::Ends,
    width: Some(2),
    trained: true,
    counts_padding: true,
    cure: "export it with a head for question answering (scripts/export_onnx.py --head qa)",
};

impl Task for Spans {
    fn head(&self) -> HeadSpec {
        HEAD
    }

    fn target(&self) -> &'static str {
        "a part of a text"
    }

    fn in_words(&self) -> String {
        "span answers".into()
    }

    fn unit(&self) -> &'static str {
        "questions"
    }
}

/// How span answers are read and chosen.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct SpanSettings {
    /// Whether a question may have no answer.
    pub null_answers: bool,
    /// Tokens that a window repeats from the one before.
    pub stride: usize,
    /// Length limit of an answer, in tokens.
    pub max_answer_length: usize,
    /// How many of the best starts and ends of a window are combined.
    pub n_best: usize,
    /// How much the score of "no answer" must exceed that of the best answer.
    pub null_threshold: f32,
}

impl SpanSettings {
    /// The span settings from `[data]`.
    pub fn new(settings: &DataSettings) -> Self {
        let usual = AnswerSettings::default();
        SpanSettings {
            null_answers: settings.preset().is_some_and(|preset| preset.name == "squad2"),
            stride: settings.stride.unwrap_or(128),
            max_answer_length: settings.max_answer_length.unwrap_or(usual.maximum_tokens),
            n_best: settings.n_best.unwrap_or(usual.candidates),
            null_threshold: settings.null_threshold.unwrap_or(usual.null_threshold),
        }
    }

    /// Which spans can be answers.
    pub fn answers(&self) -> AnswerSettings {
        AnswerSettings {
            maximum_tokens: self.max_answer_length,
            candidates: self.n_best,
            null_threshold: self.null_threshold,
        }
    }
}

const fn squad(
    name: &'static str,
    keys: &'static [&'static str],
    train_file: &'static str,
    dev_file: &'static str,
) -> Preset {
    Preset {
        name,
        // Questions have no columns; these names appear in the journals of runs.
        text: "text",
        pair: None,
        label: Some("label"),
        kind: None,
        labels: &[],
        metrics: &[],
        keys,
        train_file,
        dev_file,
    }
}

const PRESETS: [Preset; 2] = [
    squad("squad", &["stride", "max_answer_length", "n_best"], "train-v1.1.json", "dev-v1.1.json"),
    squad("squad2", &["stride", "max_answer_length", "n_best", "null_threshold"], "train-v2.0.json", "dev-v2.0.json"),
];

/// Reader of questions about contexts.
#[derive(Debug)]
pub(super) struct Questions;

impl Reader for Questions {
    fn presets(&self) -> &'static [Preset] {
        &PRESETS
    }

    fn maximum_length(&self) -> usize {
        384
    }

    fn head(&self) -> HeadSpec {
        HEAD
    }

    fn check(&self, _settings: &DataSettings) -> Result<(), SettingError> {
        Ok(())
    }

    fn read(&self, request: &Request<'_>) -> Result<Box<dyn Rows>, TaskError> {
        Ok(Box::new(SpanRows::read(request)?))
    }

    fn check_predictions(&self, path: &Path) -> Result<(), TaskError> {
        match path.extension().is_some_and(|ending| ending == "json") {
            true => Ok(()),
            false => Err(TaskError::Predictions(format!(
                "{}: span answers are written as one JSON object; give the ending .json",
                path.display()
            ))),
        }
    }

    fn identity(&self, settings: &DataSettings, learning: bool) -> Option<(&'static str, Value)> {
        let spans = SpanSettings::new(settings);
        Some(("spans", if learning { json!(spans) } else { json!({ "stride": spans.stride }) }))
    }
}

/// Questions with windows of their contexts, tokenized.
#[derive(Debug)]
pub struct SpanRows {
    /// The questions.
    pub file: SquadFile,
    /// How the answers are read and chosen.
    pub settings: SpanSettings,
    /// Token ids of every window.
    pub encodings: Vec<Encoding>,
    /// The windows; without offsets where no answers are to be given.
    pub windows: Vec<Window>,
    /// Token span `(first, last)` of the answer in every window; `None` where it is not known.
    pub places: Vec<Option<(usize, usize)>>,
    objective: Objective,
}

impl SpanRows {
    /// Reads questions and cuts their contexts into windows.
    ///
    /// # Errors
    /// A file in another form; questions without answers where these are to be learnt; a tokenizer that cannot process them.
    pub fn read(request: &Request<'_>) -> Result<Self, TaskError> {
        let (path, purpose) = (request.path, request.purpose);
        let settings = SpanSettings::new(request.settings);
        let null_answers = settings.null_answers;
        let file = SquadFile::load(path, SquadSettings { limit: request.limit(), null_answers })?;
        if purpose == Purpose::Train && !file.has_answers() {
            return Err(TaskError::NoAnswers { path: path.into() });
        }
        let windows = Windows::new(&file, request.tokenizer, settings.stride, request.observer)?;
        let places = windows.labels(&file);
        let objective = Objective::Spans(Spans { null_answers });
        let (encodings, kept, known) = (Vec::new(), Vec::new(), Vec::new());
        let mut rows = SpanRows { encodings, windows: kept, places: known, file, settings, objective };
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
            rows.places.push(place);
        }
        misplaced.dedup();
        rows.tell_misplaced(request.observer, &misplaced, purpose);
        if rows.encodings.is_empty() {
            return Err(TaskError::MisplacedAnswers { path: path.into() });
        }
        Ok(rows)
    }

    fn tell_misplaced(&self, observer: &dyn Observer, questions: &[usize], purpose: Purpose) {
        let Some(&first) = questions.first() else { return };
        let consequence = match purpose {
            Purpose::Evaluate => "the validation loss leaves them out",
            _ => "they are left out",
        };
        observer.observe(Event::Warning(&format!(
            "{}: {} of {} questions have no answer at the place that answer_start says, and {consequence}; the first is `{}`",
            self.file.path.display(),
            questions.len(),
            self.file.questions.len(),
            self.file.questions[first].id
        )));
    }

    /// The questions, to be answered from the windows.
    pub fn questions(&self) -> SpanQuestions<'_> {
        SpanQuestions { file: &self.file, windows: &self.windows, settings: self.settings.answers() }
    }

    /// The answers by id, as the evaluation scripts of SQuAD read them.
    fn answers(&self, outputs: &Outputs) -> Map<String, Value> {
        let answers = self.questions().answers(&ends(outputs));
        let questions = self.file.questions.iter();
        questions.zip(answers).map(|(question, answer)| (question.id.clone(), Value::from(answer))).collect()
    }
}

/// Splits every row into start logits (first half) and end logits (second half).
fn ends(outputs: &Outputs) -> Vec<SpanLogits> {
    let halves = |row: &Vec<f32>| {
        let (start, end) = row.split_at(row.len() / 2);
        SpanLogits { start: start.to_vec(), end: end.to_vec() }
    };
    outputs.rows().iter().map(halves).collect()
}

impl Rows for SpanRows {
    fn path(&self) -> &Path {
        &self.file.path
    }

    fn sha256(&self) -> &str {
        &self.file.sha256
    }

    fn source(&self) -> Source<'_> {
        Source::Encodings(&self.encodings)
    }

    fn text(&self, row: usize) -> Option<String> {
        let question = self.windows.get(row)?.question;
        Some(self.file.questions.get(question)?.text.clone())
    }

    fn columns(&self) -> Vec<String> {
        vec!["question".into(), "context".into()]
    }

    fn objective(&self) -> Option<&Objective> {
        Some(&self.objective)
    }

    fn lacks(&self) -> Option<Cow<'static, str>> {
        (!self.file.has_answers()).then_some("holds no answers to compare with; name a file that does".into())
    }

    fn strata(&self) -> Result<Vec<Vec<usize>>, String> {
        Err("questions have none; leave it out".into())
    }

    fn encode(&self, _tokenizer: &Tokenizer, _observer: &dyn Observer) -> Result<Encoded<'_>, DatasetError> {
        let targets = Some(Targets::Spans(self.places.clone()));
        Ok(Encoded { encodings: Cow::Borrowed(&self.encodings), targets })
    }

    fn score(&self, _encoded: &Encoded<'_>, outputs: &Outputs, _metrics: &[Metric]) -> Result<Vec<Figure>, TaskError> {
        self.questions().judge(outputs)
    }

    fn write_predictions(&self, path: &Path, outputs: &Outputs) -> Result<(), TaskError> {
        let by_id = self.answers(outputs);
        Ok(write_atomically(path, |writer| {
            serde_json::to_writer_pretty(&mut *writer, &by_id)?;
            writeln!(writer)
        })?)
    }

    fn judged(&self) -> Option<usize> {
        Some(self.file.questions.len())
    }

    fn judge(&self) -> Option<&dyn Judge> {
        Some(self)
    }
}

impl Judge for SpanRows {
    fn rows(&self) -> usize {
        self.windows.len()
    }

    fn judge(&self, outputs: &Outputs) -> Result<Vec<Figure>, TaskError> {
        self.questions().judge(outputs)
    }

    fn identity(&self) -> (&'static str, String) {
        self.questions().identity()
    }
}

impl Judge for SpanQuestions<'_> {
    fn rows(&self) -> usize {
        self.windows.len()
    }

    fn judge(&self, outputs: &Outputs) -> Result<Vec<Figure>, TaskError> {
        let (found, expected) = (outputs.rows().len(), self.windows.len());
        if found != expected {
            return Err(TaskError::Lengths { what: "windows with logits", found, expected });
        }
        let answers = self.answers(&ends(outputs));
        let figures = self.score(&answers).iter().flat_map(SquadScore::figures).collect::<Vec<_>>();
        let figure = |(name, value, questions): (&'static str, f64, usize)| Figure {
            name: name.to_owned(),
            value: Some(value),
            note: (questions < answers.len()).then(|| format!("{questions} questions")),
        };
        Ok(figures.into_iter().map(figure).collect())
    }

    fn identity(&self) -> (&'static str, String) {
        let AnswerSettings { maximum_tokens, candidates, null_threshold } = self.settings;
        let file: String = self.file.sha256.chars().take(12).collect();
        let value =
            format!("{maximum_tokens} tokens, {candidates} candidates, threshold {null_threshold}, file {file}");
        ("choice of answers", value)
    }
}
