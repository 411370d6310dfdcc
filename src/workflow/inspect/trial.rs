//! A few sentences through an export, to see whether it does what gelora needs.

use crate::checkpoint::ModelFolder;
use crate::dataset::Example;
use crate::onnx::Transformer;
use crate::progress::Silent;
use crate::runtime::{Causality, SelfCheck, self_check};

use super::super::causality::causality_of;
use super::super::export::{tokenizer as tokenizer_of, too_large_to_run};
use super::{Session, WorkflowError};

/// What came of the attempt to run a model.
pub(super) enum Trial {
    /// What it gave, and whether tokens see those after them, of a model that predicts tokens.
    Done(SelfCheck, Option<Causality>),
    /// Why it was left out.
    Skipped(String),
}

/// Runs a few sentences of different lengths through the model, cut to the length that it takes where that is fixed.
pub(super) fn try_model(
    session: &Session<'_>,
    folder: &ModelFolder,
    model: &Transformer,
) -> Result<Trial, WorkflowError> {
    /// No sentence is longer.
    const LENGTH: usize = 32;
    const SENTENCES: [&str; 6] = [
        "The keys to the old cabinet were on the table.",
        "She left.",
        "Although it had rained for days, the river stayed within its banks and nobody in the valley had to leave home.",
        "What did the engineer say about the bridge that the town built last year?",
        "No.",
        "A dog that barks at every passing car rarely sleeps well, and neither do the people who live next door to it.",
    ];
    if let Some(reason) = too_large_to_run(model) {
        return Ok(Trial::Skipped(format!("{reason}; `gelora plan` checks it on its first rows")));
    }
    let Some(tokenizer) = &folder.tokenizer else {
        return Ok(Trial::Skipped("there is no tokenizer.json beside the model".into()));
    };
    let library = session.library()?;
    let tokenizer = tokenizer_of(session, tokenizer, model, LENGTH)?;
    let examples: Vec<Example> =
        SENTENCES.iter().enumerate().map(|(line, text)| Example { line, text: (*text).into(), pair: None }).collect();
    let encodings = tokenizer.encode(&examples, &Silent)?;
    let check = self_check(library, model, &encodings, tokenizer.padding(), &session.inference())?;
    let causality = match model.head()?.filter(|head| head.predicts_tokens) {
        Some(_) => causality_of(session, model, &encodings, &tokenizer)?,
        None => None,
    };
    Ok(Trial::Done(check, causality))
}
