//! Long contexts in windows: the question first, then as much of the context as fits, each window overlapping the one before.

use rayon::prelude::*;

use super::squad::{Question, SquadFile};
use super::{DatasetError, Encoding, Tokenizer};
use crate::progress::{Event, Observer};

/// Questions between two reports of progress.
const CHUNK: usize = 512;

/// A part of a context beside its question, as the tokenizer gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Index of the question.
    pub question: usize,
    /// The first token of the context.
    pub first: usize,
    /// Characters of the context, `(start, end)`, of every token of the context in this window, from [`Self::first`].
    pub offsets: Vec<(u32, u32)>,
}

/// The windows of all questions.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Windows {
    /// Token ids of every window.
    pub encodings: Vec<Encoding>,
    /// What every window shows; in the order of the questions, and along the context.
    pub windows: Vec<Window>,
}

impl Window {
    /// The tokens, `(first, last)`, that hold the characters `start..end` of the context. Where this window does not hold
    /// them all: `(0, 0)`, the place of the first token, which stands for "not here".
    ///
    /// As Hugging Face prepares features for question answering, but for one thing: an answer in the last token of a
    /// window starts at that token, not at the padding behind it.
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
    /// Windows of every question, in parallel. A context that does not fit is cut into windows, of which each repeats the
    /// last `stride` tokens of the one before.
    ///
    /// # Errors
    /// A question so long that a window would hold no more of the context than `stride`; cancellation.
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

    /// Where the answer of each window's question stands: the first of its answers that is where the file says it is.
    /// `None` where no answer is.
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

/// Where a question is answered.
#[derive(Clone, Copy)]
enum AnswerSpan {
    /// Not in this context.
    Nowhere,
    /// By these characters.
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
