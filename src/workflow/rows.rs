//! The rows of a step, as its settings say.

use std::path::Path;

use serde_json::Value;

use crate::dataset::{Metric, Tokenizer};
use crate::task::{DataSettings, Objective, Purpose, Request, Rows};

use super::{Session, WorkflowError};

/// Rows to plan or to train with: all that `[data]` names, at most `limit`. `config` is `config.json` of a model whose classes the
/// labels are.
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

/// Rows to evaluate with, whole, with the classes of the training rows.
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

/// Rows to evaluate.
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

/// What is learnt from rows that must have labels.
#[cfg_attr(not(feature = "train"), allow(dead_code, reason = "only training needs it"))]
pub(super) fn objective_of(rows: &dyn Rows) -> Result<&Objective, WorkflowError> {
    rows.objective().ok_or_else(|| WorkflowError::NoLabels { path: rows.path().to_owned() })
}

/// What to measure: metrics that all fit the task, which is asked before anything is computed.
pub(super) fn fitting_metrics(settings: &DataSettings, objective: &Objective) -> Result<Vec<Metric>, WorkflowError> {
    let metrics = settings.metrics(objective);
    objective.check_metrics(&metrics)?;
    Ok(metrics)
}
