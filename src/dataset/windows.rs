//! Long contexts in windows: the question first, then as much of the context as fits; consecutive windows overlap.

use rayon::prelude::*;

use super::squad::{Question, SquadFile};
use super::{DatasetError, Encoding, Tokenizer};
use crate::progress::{Event, Observer};

/// Number of questions between two progress reports.
const CHUNK: usize = 512;

/// A part of a context together with its question, as the tokenizer gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Index of the question.
    pub question: usize,
    /// Index of the first context token in the window.
    pub first: usize,
    /// Characters `(start, end)` in the context of every context token of this window, from [`Self::first`].
    pub offsets: Vec<(u32, u32)>,
}

/// The windows of all questions.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Windows {
    /// Token ids of every window.
    pub encodings: Vec<Encoding>,
    /// Question and offsets of every window; in the order of the questions, and along the context.
    pub windows: Vec<Window>,
}

impl Window {
    /// The tokens `(first, last)` that hold the characters `start..end` of the context. Where this window does not hold
    /// them all: `(0, 0)`, the index of the first token, which means "not here".
    ///
    /// As Hugging Face prepares features for question answering, with one exception: an answer in the last token of a
    /// window starts at that token, not at the padding after it.
    pub fn tokens_of(&self, start: usize, end: usize) -> (usize, usize) {
        let inside = |&(from, to): &(u32, u32)| (from as usize, to as usize);
        let (Some(from), Some(to)) = (self.offsets.first().map(inside), self.offsets.last().map(inside)) else {
            return (0, 0);
        };
        if from.0 > start || to.1 < end {
            return (0, 0);
        }
        let first = self.offsets.iter().rposition(|&(from, _)| from as usize <= start);
        let last = self.offsets.iter().position(|&(_, to)| to as usize >= end);
        match (first, last) {
            (Some(first), Some(last)) if first <= last => (self.first + first, self.first + last),
            _ => (0, 0),
        }
    }
}

impl Windows {
    /// Windows of every question, in parallel. A context that does not fit is cut into windows, each of which repeats the
    /// last `stride` tokens of the one before.
    ///
    /// # Errors
    /// A question so long that a window would hold no more context than `stride`; cancellation.
    pub fn new(
        file: &SquadFile,
        tokenizer: &Tokenizer,
        stride: usize,
        observer: &dyn Observer,
    ) -> Result<Self, DatasetError> {
        let total = Some(file.questions.len() as u64);
        observer.observe(Event::Begin { stage: "tokenizing", total, done: 0, unit: "questions" });
        let mut all = Windows::default();
        for (number, chunk) in file.questions.chunks(CHUNK).enumerate() {
            observer.check()?;
            let part: Vec<_> = chunk
                .par_iter()
                .map(|question| tokenizer.windows(&file.path, question, file.context(question), stride))
                .collect::<Result<_, _>>()?;
            for (place, windows) in part.into_iter().enumerate() {
                for (encoding, window) in windows {
                    all.encodings.push(encoding);
                    all.windows.push(Window { question: number * CHUNK + place, ..window });
                }
            }
            let done = (number * CHUNK + chunk.len()) as u64;
            observer.observe(Event::Advance { done, detail: "" });
        }
        observer.observe(Event::End);
        Ok(all)
    }

    /// Token span of the answer in each window: the question's first answer whose text is at its offset in the context.
    /// `None` where there is no such answer.
    pub fn labels(&self, file: &SquadFile) -> Vec<Option<(usize, usize)>> {
        let places: Vec<Option<AnswerSpan>> =
            file.questions.iter().map(|question| AnswerSpan::of(question, file.context(question))).collect();
        let label = |window: &Window| match places[window.question]? {
            AnswerSpan::Nowhere => Some((0, 0)),
            AnswerSpan::At(start, end) => Some(window.tokens_of(start, end)),
        };
        self.windows.iter().map(label).collect()
    }
}

/// The answer of a question in its context.
#[derive(Clone, Copy)]
enum AnswerSpan {
    /// The context holds no answer.
    Nowhere,
    /// The answer spans these characters, `start..end`.
    At(usize, usize),
}

impl AnswerSpan {
    fn of(question: &Question, context: &str) -> Option<Self> {
        if question.impossible {
            return Some(AnswerSpan::Nowhere);
        }
        question.answers.iter().find_map(|answer| answer.place(context)).map(|(start, end)| AnswerSpan::At(start, end))
    }
}
