//! The head that a task needs, and whether a model has one.

use crate::hint::Hint;
use crate::onnx::Head;

/// What the head gives one line of logits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lines {
    /// Every row: `[rows, width]`.
    Row,
    /// Every token of a row, once for starts and once for ends: two outputs `[rows, tokens]`.
    Ends,
    /// Every token of a row, as wide as there are labels: `[rows, tokens, labels]`.
    Token,
    /// Every token of a row, as wide as the vocabulary: `[rows, tokens, vocabulary]`.
    Vocabulary,
}

/// The head that a task needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadSpec {
    /// Names of the export's outputs that belong to the head.
    pub outputs: &'static [&'static str],
    /// What the head gives one line of logits for.
    pub lines: Lines,
    /// Number of logits in a line; `None` where the task does not fix it.
    pub width: Option<usize>,
    /// Whether the head is trained, and can be added to an export that has none.
    pub trained: bool,
    /// Whether the loss includes padding.
    pub counts_padding: bool,
    /// What to do if the export has no such head, as the rest of a sentence.
    pub cure: &'static str,
}

impl HeadSpec {
    /// Why a head is not of this kind, phrased to follow the name of the export; with the cure.
    pub fn misfit(&self, head: &Head) -> Option<String> {
        let listed = |names: &[String]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let outputs = listed(&head.outputs);
        let cure = self.cure;
        match self.lines {
            Lines::Vocabulary if !head.predicts_tokens => Some(format!(
                "its head ({outputs}) does not give a logit for every token of the vocabulary; {cure}, or name another task"
            )),
            Lines::Ends if head.outputs != self.outputs => Some(format!(
                "span answers need the outputs `start_logits` and `end_logits`, and its head makes {outputs}; {cure}, or name \
                 another task"
            )),
            Lines::Token if head.predicts_tokens => Some(format!(
                "its head ({outputs}) predicts the tokens of the vocabulary, not labels of words; {cure}, or name another task"
            )),
            Lines::Token if head.outputs.len() > 1 || head.every_token == Some(false) => Some(format!(
                "its head ({outputs}) does not give a line of numbers for every token; {cure}, or name another task"
            )),
            Lines::Row if head.labels_tokens() => Some(format!(
                "its head ({outputs}) gives a line of numbers for every token, not for the row; {cure}, or name another task \
                 ({})",
                Hint::Task.with("ner")
            )),
            Lines::Row if head.predicts_tokens => {
                Some(format!("its head ({outputs}) predicts tokens, not labels of rows; {cure}, or name another task"))
            }
            Lines::Row if head.outputs.len() > 1 => Some(format!(
                "its head makes {outputs}, which answers with a part of the text; {cure}, or name another task ({})",
                Hint::Task.with("squad")
            )),
            _ => None,
        }
    }
}

/// A head with one line of logits per row.
pub(super) const ROW_HEAD: HeadSpec = HeadSpec {
    outputs: &["logits"],
    lines: Lines::Row,
    width: None,
    trained: true,
    counts_padding: false,
    cure: "export it as a sequence classifier (scripts/export_onnx.py --labels N)",
};
