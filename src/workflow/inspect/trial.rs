//! Runs a few sentences through an export, to check that it does what gelora needs.

use crate::checkpoint::ModelFolder;
use crate::dataset::Example;
use crate::onnx::Transformer;
use crate::progress::Silent;
use crate::runtime::{Causality, SelfCheck, self_check};

use super::super::causality::causality_of;
use super::super::export::{tokenizer as tokenizer_of, too_large_to_run};
use super::{Session, WorkflowError};

/// Result of trying to run a model.
pub(super) enum Trial {
    /// Results of the self-check, and for a model that predicts tokens whether tokens depend on later ones.
    Done(SelfCheck, Option<Causality>),
    /// Why the model was not run.
    Skipped(String),
}

/// Runs a few sentences of different lengths through the model, truncated to its fixed length where it has one.
pub(super) fn try_model(
    session: &Session<'_>,
    folder: &ModelFolder,
    model: &Transformer,
) -> Result<Trial, WorkflowError> {
    /// Maximum length of a sentence, in tokens.
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
