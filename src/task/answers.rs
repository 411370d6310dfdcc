//! From the logits of windows to the answers of questions, as Hugging Face's examples for question answering choose them.

use crate::dataset::metric::squad::{SquadScore, score};
use crate::dataset::{SquadFile, Window, characters};

/// Logits of a window, padding left out.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SpanLogits {
    /// How much each token looks like the start of the answer, `[tokens]`.
    pub start: Vec<f32>,
    /// How much each token looks like its end, `[tokens]`.
    pub end: Vec<f32>,
}

/// Which spans can be answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AnswerSettings {
    /// Longest answer, in tokens.
    pub maximum_tokens: usize,
    /// How many of the best starts, and of the best ends, of a window are combined.
    pub candidates: usize,
    /// Where there may be no answer: there is none when the score for "not here" is higher than that of the best answer by
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
    /// The answer of every question: a piece of its context; empty where there is none, or where no start and end among
    /// the candidates go together.
    ///
    /// Over all windows of a question, the span with the highest sum of start and end logit, within the context, not empty,
    /// no longer than allowed. With null answers, the sum at the first token stands for "not here", and the least of all
    /// windows is compared. `logits` has one entry for every window.
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

    /// The spans of a window that can be answers, by their start from the best, then by their end from the best.
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

/// The places of the largest values, the largest first; of equal ones the first.
fn best_of(values: &[f32], count: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..values.len()).collect();
    places.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    places.truncate(count);
    places
}
