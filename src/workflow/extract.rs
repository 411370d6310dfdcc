//! Extracts the activations of the sampled rows to a store.

use std::path::Path;

use super::rows::read;
use super::sampling::{Drawn, Subject};
use super::{Export, Session, WorkflowError};
use crate::activations::{self, ActivationsError, ExtractSettings, Provenance, Store, extract_texts};
use crate::progress::{Event, Observer};
use crate::settings::PlanSettings;
use crate::task::{DataSettings, Purpose, Source};

/// Runs the rows chosen by the settings through a model, and keeps the activations of every layer in the folder `out`. An
/// existing store is resumed; one made from other inputs is replaced with `overwrite`.
///
/// # Errors
/// Returns an error for a model, tokenizer or rows that cannot be read or do not fit together, and for a store made from
/// other inputs.
pub fn extract_activations(
    session: &Session<'_>,
    model: &Path,
    data: &DataSettings,
    plan: &PlanSettings,
    out: &Path,
    overwrite: bool,
) -> Result<Store, WorkflowError> {
    plan.check_extraction()?;
    session.take_folder(out, &[("model", model)])?;
    let model = Export::new(model)?;
    model.tell_origin(session);
    model.told_structure(session, &model.weights()?)?;
    let tokenizer = model.tokenizer(session, data.max_length())?;
    let rows = read(session, data, &tokenizer, Purpose::planning(plan.stratified), None)?;
    let drawn = Drawn::new(rows.as_ref(), plan)?;
    let subject = Subject { session, model: &model, rows: rows.as_ref(), tokenizer: &tokenizer, drawn: &drawn, plan };
    let (store, _) = subject.extract(out, overwrite)?;
    Ok(store)
}

impl Subject<'_> {
    /// Settings of the extraction.
    pub(super) fn extraction(&self, overwrite: bool) -> ExtractSettings {
        ExtractSettings {
            pooling: self.plan.pooling(),
            session: self.session.inference(),
            library: self.session.ort_lib().map(Into::into),
            batch_tokens: self.plan.batch_tokens,
            overwrite,
            provenance: Provenance {
                data: Some(self.rows.path().to_owned()),
                data_sha256: Some(self.rows.sha256().to_owned()),
                ..Provenance::default()
            },
            ..ExtractSettings::default()
        }
    }
}

/// Extracts the sampled rows, or the first `first_rows` of them, to a store; resumes an unfinished store and keeps a
/// complete one.
pub(super) fn extract(
    subject: &Subject<'_>,
    out: &Path,
    overwrite: bool,
    first_rows: Option<usize>,
) -> Result<Store, WorkflowError> {
    let Subject { session, model, rows, tokenizer, drawn, .. } = *subject;
    let observer = session.observer();
    let model = &model.model;
    let settings = |overwrite| ExtractSettings { first_rows, ..subject.extraction(overwrite) };
    match rows.source() {
        Source::Examples(examples) => {
            let examples = drawn.of(examples);
            once_more(observer, overwrite, |overwrite| {
                extract_texts(model, &examples, tokenizer, &settings(overwrite), out, observer)
            })
        }
        Source::Encodings(encodings) => {
            let encodings = drawn.of(encodings);
            once_more(observer, overwrite, |overwrite| {
                let settings = settings(overwrite).of_tokenizer(tokenizer);
                activations::extract(model, &encodings, &settings, out, observer)
            })
        }
    }
}

/// Extracts; with `overwrite`, a second time over a store made from other inputs.
fn once_more(
    observer: &dyn Observer,
    overwrite: bool,
    attempt: impl Fn(bool) -> Result<Store, ActivationsError>,
) -> Result<Store, WorkflowError> {
    match attempt(false) {
        Err(error @ ActivationsError::OtherStore { .. }) if overwrite => {
            observer.observe(Event::Notice(&format!("made anew: {}", short_reason(&error))));
            Ok(attempt(true)?)
        }
        other => Ok(other?),
    }
}

/// The difference alone, without the advice: it is already being followed.
pub(super) fn short_reason(error: &ActivationsError) -> String {
    let text = error.to_string();
    text.split(';').next().unwrap_or(&text).to_owned()
}
