//! Answers of questions from the logits of windows, chosen as in Hugging Face's examples for question answering.

use crate::dataset::metric::squad::{SquadScore, score};
use crate::dataset::{SquadFile, Window, characters};

/// Start and end logits of a window, padding left out.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SpanLogits {
    /// Logit of every token as the start of the answer, `[tokens]`.
    pub start: Vec<f32>,
    /// Logit of every token as the end of the answer, `[tokens]`.
    pub end: Vec<f32>,
}

/// Which spans can be answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AnswerSettings {
    /// Length limit of an answer, in tokens.
    pub maximum_tokens: usize,
    /// How many of the best starts, and of the best ends, of a window are combined.
    pub candidates: usize,
    /// Where a question may have no answer: there is none if the score for "not here" exceeds that of the best answer by
    /// more than this.
    pub null_threshold: f32,
}

impl Default for AnswerSettings {
    fn default() -> Self {
        AnswerSettings { maximum_tokens: 30, candidates: 20, null_threshold: 0.0 }
    }
}

/// Questions with the windows they are answered from.
#[derive(Debug, Clone, Copy)]
pub struct SpanQuestions<'a> {
    /// The questions.
    pub file: &'a SquadFile,
    /// The windows, in the order of the logits.
    pub windows: &'a [Window],
    /// Which spans can be answers.
    pub settings: AnswerSettings,
}

/// A span of a window.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: u32,
    end: u32,
    score: f32,
}

impl<'a> SpanQuestions<'a> {
    /// The answer of every question: a span of its context; empty where there is none, or where no start and end among
    /// the candidates form a valid span.
    ///
    /// Over all windows of a question, the span with the highest sum of start and end logit, within the context, not empty,
    /// no longer than allowed. With null answers, the sum at the first token is the score for "not here", and the smallest
    /// over all windows is compared. `logits` has one entry per window.
    pub fn answers(&self, logits: &[SpanLogits]) -> Vec<&'a str> {
        let mut best: Vec<Option<Span>> = vec![None; self.file.questions.len()];
        let mut null: Vec<f32> = vec![f32::INFINITY; self.file.questions.len()];
        for (window, logits) in self.windows.iter().zip(logits) {
            if let (Some(start), Some(end)) = (logits.start.first(), logits.end.first()) {
                null[window.question] = null[window.question].min(start + end);
            }
            let best = &mut best[window.question];
            for span in self.spans(window, logits) {
                if best.is_none_or(|best| span.score > best.score) {
                    *best = Some(span);
                }
            }
        }
        let questions = self.file.questions.iter().zip(best).zip(null);
        let answer = |((question, best), null): ((_, Option<Span>), f32)| match best {
            Some(best) if !self.file.null_answers || null - best.score <= self.settings.null_threshold => {
                characters(self.file.context(question), best.start as usize, best.end as usize)
            }
            _ => "",
        };
        questions.map(answer).collect()
    }

    /// Scores of these answers; `None` where the file does not say which answers are right.
    pub fn score(&self, answers: &[&str]) -> Option<SquadScore> {
        if !self.file.has_answers() {
            return None;
        }
        let right =
            self.file.questions.iter().map(|question| question.answers.iter().map(|a| a.text.as_str()).collect());
        score(answers.iter().copied().zip(right), self.file.null_answers)
    }

    /// The spans of a window that can be answers, ordered by start from the best, then by end from the best.
    fn spans(&self, window: &Window, logits: &SpanLogits) -> Vec<Span> {
        let context = window.first..window.first + window.offsets.len();
        let (Some(starts), Some(ends)) = (logits.start.get(context.clone()), logits.end.get(context)) else {
            return Vec::new();
        };
        let mut spans = Vec::new();
        let last = best_of(ends, self.settings.candidates);
        for first in best_of(starts, self.settings.candidates) {
            for &last in last.iter().filter(|&&last| last >= first && last - first < self.settings.maximum_tokens) {
                let (start, end) = (window.offsets[first].0, window.offsets[last].1);
                if start < end {
                    spans.push(Span { start, end, score: starts[first] + ends[last] });
                }
            }
        }
        spans
    }
}

/// Indices of the largest values, the largest first; of equal values, the first one first.
fn best_of(values: &[f32], count: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..values.len()).collect();
    places.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    places.truncate(count);
    places
}
