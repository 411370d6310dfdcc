//! Labels, and what a model learns from them.

/// The kind of task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ObjectiveKind {
    /// One of several classes.
    Classification,
    /// A number.
    Regression,
    /// The next token.
    #[serde(rename = "causal-lm")]
    CausalLm,
    /// A piece of the text.
    Spans,
}

/// What a model learns from the labels.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Objective {
    /// One of several classes; `labels[i]` is the name of class `i`.
    Classification {
        /// Names in the order of the classes.
        labels: Vec<String>,
    },
    /// A number.
    Regression,
    /// The next token of a text.
    #[serde(rename = "causal-lm")]
    CausalLm,
    /// Where an answer starts and ends in a text.
    Spans {
        /// Whether there may be no answer.
        null_answers: bool,
    },
}

impl Objective {
    /// Width of the logits: the number of classes, 1 for a number, or 2 (start and end, for every token) for a span. 0 for a
    /// language model, whose logits are as wide as its vocabulary.
    pub fn outputs(&self) -> usize {
        match self {
            Objective::Classification { labels } => labels.len(),
            Objective::Regression => 1,
            Objective::CausalLm => 0,
            Objective::Spans { .. } => 2,
        }
    }

    /// Its kind.
    pub fn kind(&self) -> ObjectiveKind {
        match self {
            Objective::Classification { .. } => ObjectiveKind::Classification,
            Objective::Regression => ObjectiveKind::Regression,
            Objective::CausalLm => ObjectiveKind::CausalLm,
            Objective::Spans { .. } => ObjectiveKind::Spans,
        }
    }
}

/// The label of one row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Label {
    /// Number of the class, from 0.
    Class(usize),
    /// The value.
    Value(f32),
    /// The part of a text that a language model learns, as a range of its bytes; without a label it learns all of it.
    Learnt {
        /// Where the part begins.
        start: usize,
        /// Where it ends.
        end: usize,
    },
    /// A piece of the row.
    Span {
        /// Its first and its last token, from 0. Both 0, the first token of the row, where the row does not hold the answer;
        /// `None` where that is not known, which counts for nothing.
        place: Option<(usize, usize)>,
    },
}
