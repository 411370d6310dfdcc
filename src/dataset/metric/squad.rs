//! Exact match and F1 of answers, as the evaluation scripts of SQuAD v1.1 and v2.0 define them.
//!
//! Rajpurkar, Zhang, Lopyrev and Liang 2016, "SQuAD: 100,000+ Questions for Machine Comprehension of Text", section 5.1;
//! Rajpurkar, Jia and Liang 2018, "Know What You Don't Know", section 5. Values are percentages, as published.

use std::collections::HashMap;
use std::sync::LazyLock;

use regex::{Captures, Regex};

/// What the scripts count as punctuation: Python's `string.punctuation`.
const PUNCTUATION: &str = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";

/// Runs of characters that Python's `\w` matches.
static WORD: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"[\p{L}\p{N}_]+").ok());

/// Exact match and F1 of one answer, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct AnswerScore {
    /// 1 where the normalised texts are equal.
    pub exact: f64,
    /// Harmonic mean of precision and recall over the words.
    pub f1: f64,
}

/// Mean scores over some questions, in percent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MeanScore {
    /// Exact match.
    pub exact: f64,
    /// F1.
    pub f1: f64,
    /// Number of questions.
    pub questions: usize,
}

/// Scores of a whole file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SquadScore {
    /// All questions.
    pub all: MeanScore,
    /// Questions with an answer, and questions without one, where there are both.
    pub by_answer: Option<(MeanScore, MeanScore)>,
}

/// An answer normalised for comparison: lower case, without punctuation, without the articles a, an, the, white space
/// collapsed.
pub fn normalize(answer: &str) -> String {
    let lower = answer.to_lowercase();
    let plain: String = lower.chars().filter(|&character| !PUNCTUATION.contains(character)).collect();
    let without_articles = |captures: &Captures<'_>| match &captures[0] {
        "a" | "an" | "the" => " ".to_owned(),
        other => other.to_owned(),
    };
    let plain = match &*WORD {
        Some(word) => word.replace_all(&plain, without_articles).into_owned(),
        None => plain,
    };
    // Python's `split` treats four control characters as white space too.
    let is_space = |character: char| character.is_whitespace() || ('\x1c'..='\x1f').contains(&character);
    plain.split(is_space).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// The best score over the right answers. `null_answers` selects the rules of v2.0: there only the empty text is right for a
/// question without an answer, and an answer that is empty after normalisation counts for F1 as it does for exact match.
pub fn score_answer(prediction: &str, right: &[&str], null_answers: bool) -> AnswerScore {
    let prediction = normalize(prediction);
    let mut right: Vec<String> = right.iter().map(|answer| normalize(answer)).collect();
    if null_answers {
        right.retain(|answer| !answer.is_empty());
        if right.is_empty() {
            right.push(String::new());
        }
    }
    let mut best = AnswerScore::default();
    for answer in &right {
        best.exact = best.exact.max(f64::from(u8::from(*answer == prediction)));
        best.f1 = best.f1.max(f1(&prediction, answer, null_answers));
    }
    best
}

/// F1 over the words of two normalised answers.
fn f1(prediction: &str, right: &str, null_answers: bool) -> f64 {
    let words = |text: &str| text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    let (found, wanted) = (words(prediction), words(right));
    if null_answers && (found.is_empty() || wanted.is_empty()) {
        return f64::from(u8::from(found == wanted));
    }
    let mut left: HashMap<&str, usize> = HashMap::new();
    for word in &wanted {
        *left.entry(word).or_default() += 1;
    }
    let mut same = 0;
    for word in &found {
        if let Some(count) = left.get_mut(word.as_str()).filter(|count| **count > 0) {
            *count -= 1;
            same += 1;
        }
    }
    if same == 0 {
        return 0.0;
    }
    let (precision, recall) = (f64::from(same) / found.len() as f64, f64::from(same) / wanted.len() as f64);
    2.0 * precision * recall / (precision + recall)
}

/// Means over questions, each with its prediction and its right answers (none: the question has no answer).
/// `None` without questions.
pub fn score<'a>(
    answered: impl IntoIterator<Item = (&'a str, Vec<&'a str>)>,
    null_answers: bool,
) -> Option<SquadScore> {
    let (mut all, mut with, mut without) = (Sum::default(), Sum::default(), Sum::default());
    for (prediction, right) in answered {
        let score = score_answer(prediction, &right, null_answers);
        all.add(score);
        if right.is_empty() { without.add(score) } else { with.add(score) }
    }
    let by_answer = null_answers.then(|| with.mean().zip(without.mean())).flatten();
    Some(SquadScore { all: all.mean()?, by_answer })
}

#[derive(Default)]
struct Sum {
    score: AnswerScore,
    questions: usize,
}

impl Sum {
    fn add(&mut self, score: AnswerScore) {
        self.score.exact += score.exact;
        self.score.f1 += score.f1;
        self.questions += 1;
    }

    fn mean(&self) -> Option<MeanScore> {
        let percent = |sum: f64| 100.0 * sum / self.questions as f64;
        let AnswerScore { exact, f1 } = self.score;
        (self.questions > 0).then(|| MeanScore { exact: percent(exact), f1: percent(f1), questions: self.questions })
    }
}

impl SquadScore {
    /// Name, value and number of questions of every figure; F1 of all questions first, which decides between states of a
    /// training.
    pub fn figures(&self) -> Vec<(&'static str, f64, usize)> {
        let mut figures =
            vec![("f1", self.all.f1, self.all.questions), ("exact_match", self.all.exact, self.all.questions)];
        if let Some((with, without)) = self.by_answer {
            figures.push(("has_answer_f1", with.f1, with.questions));
            figures.push(("has_answer_exact_match", with.exact, with.questions));
            figures.push(("no_answer_f1", without.f1, without.questions));
            figures.push(("no_answer_exact_match", without.exact, without.questions));
        }
        figures
    }
}
