//! Reads the rows of a step according to its settings.

use std::path::Path;

use serde_json::Value;

use crate::dataset::{Metric, Tokenizer};
use crate::task::{DataSettings, Objective, Purpose, Request, Rows};

use super::{Session, WorkflowError};

/// Rows to plan or train with: all rows of `[data]`, at most `limit`. `config` is the `config.json` of a model whose classes
/// the labels must be.
pub(super) fn read(
    session: &Session<'_>,
    settings: &DataSettings,
    tokenizer: &Tokenizer,
    purpose: Purpose,
    config: Option<&Value>,
) -> Result<Box<dyn Rows>, WorkflowError> {
    settings.check()?;
    let request = request(session, settings, &settings.train, tokenizer);
    Ok(settings.reader().read(&Request { purpose, model_config: config, ..request })?)
}

/// Rows to evaluate with, all of them, with the classes of the training rows.
#[cfg_attr(not(feature = "train"), allow(dead_code, reason = "only training needs it"))]
pub(super) fn read_held_out(
    session: &Session<'_>,
    settings: &DataSettings,
    path: &Path,
    tokenizer: &Tokenizer,
    like: &Objective,
) -> Result<Box<dyn Rows>, WorkflowError> {
    Ok(settings.reader().read(&Request { like: Some(like), ..request(session, settings, path, tokenizer) })?)
}

/// A request for rows to evaluate.
pub(super) fn request<'a>(
    session: &Session<'a>,
    settings: &'a DataSettings,
    path: &'a Path,
    tokenizer: &'a Tokenizer,
) -> Request<'a> {
    Request {
        path,
        settings,
        purpose: Purpose::Evaluate,
        like: None,
        model_config: None,
        predictions: false,
        tokenizer,
        observer: session.observer(),
    }
}

/// The objective of rows that must have labels.
#[cfg_attr(not(feature = "train"), allow(dead_code, reason = "only training needs it"))]
pub(super) fn objective_of(rows: &dyn Rows) -> Result<&Objective, WorkflowError> {
    rows.objective().ok_or_else(|| WorkflowError::NoLabels { path: rows.path().to_owned() })
}

/// The metrics to compute; checked to fit the task before anything is computed.
pub(super) fn fitting_metrics(settings: &DataSettings, objective: &Objective) -> Result<Vec<Metric>, WorkflowError> {
    let metrics = settings.metrics(objective);
    objective.check_metrics(&metrics)?;
    Ok(metrics)
}
