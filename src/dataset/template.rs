//! How an instruction, its input and the output it asks for become one text.

use std::ops::Range;

use super::DatasetError;

const INSTRUCTION: &str = "{instruction}";
const INPUT: &str = "{input}";
const OUTPUT: &str = "{output}";

/// Text with the placeholders `{instruction}`, `{input}` and `{output}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Template for every row, or for those with an input.
    pub text: String,
    /// Template for rows whose input is empty or missing; `None` uses `text` for them too.
    pub without_input: Option<String>,
}

impl Default for Template {
    /// The two templates of Alpaca (Taori et al. 2023).
    fn default() -> Self {
        Template {
            text: "Below is an instruction that describes a task, paired with an input that provides further context. \
                   Write a response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n\
                   ### Input:\n{input}\n\n### Response:\n{output}"
                .into(),
            without_input: Some(
                "Below is an instruction that describes a task. Write a response that appropriately completes the \
                 request.\n\n### Instruction:\n{instruction}\n\n### Response:\n{output}"
                    .into(),
            ),
        }
    }
}

impl Template {
    /// Checks that every text made from the template has an instruction and exactly one output.
    ///
    /// # Errors
    /// A placeholder that is missing or misplaced.
    pub fn check(&self) -> Result<(), DatasetError> {
        let refuse = |found: String, cure| Err(DatasetError::Template { found, cure });
        for text in std::iter::once(&self.text).chain(&self.without_input) {
            let outputs = text.matches(OUTPUT).count();
            if outputs != 1 {
                let found = format!("has {OUTPUT} {outputs} times");
                return refuse(found, "write it once, where the output is to stand");
            }
            if !text.contains(INSTRUCTION) {
                return refuse(format!("has no {INSTRUCTION}"), "write it where the instruction is to stand");
            }
        }
        match &self.without_input {
            Some(text) if text.contains(INPUT) => {
                refuse(format!("for rows without input has {INPUT}"), "leave it out there")
            }
            _ => Ok(()),
        }
    }

    /// The text of a row, and the byte range of the output in it. Values are inserted verbatim: placeholders in them are not
    /// filled again.
    pub fn fill(&self, instruction: &str, input: &str, output: &str) -> (String, Range<usize>) {
        let mut rest = match &self.without_input {
            Some(template) if input.trim().is_empty() => template.as_str(),
            _ => self.text.as_str(),
        };
        let places = [(INSTRUCTION, instruction), (INPUT, input), (OUTPUT, output)];
        let mut text = String::new();
        let mut learnt = 0..0;
        while let Some(at) = rest.find('{') {
            text.push_str(&rest[..at]);
            rest = &rest[at..];
            match places.iter().find(|(place, _)| rest.starts_with(place)) {
                Some((place, value)) => {
                    if *place == OUTPUT {
                        learnt = text.len()..text.len() + value.len();
                    }
                    text.push_str(value);
                    rest = &rest[place.len()..];
                }
                None => {
                    text.push('{');
                    rest = &rest[1..];
                }
            }
        }
        text.push_str(rest);
        (text, learnt)
    }
}
