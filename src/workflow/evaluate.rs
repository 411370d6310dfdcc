//! Metrics of an export on labelled rows: the implementation of `gelora evaluate` and of the last stage of `gelora run`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::checkpoint::ModelFolder;
use crate::dataset::{Encoding, Metric, Tokenizer};
use crate::evaluate::{EvaluateSettings, check_outputs, evaluate_export};
use crate::onnx::Transformer;
use crate::progress::Event;
use crate::runtime::{InferenceSession, saturating_products, self_check};
use crate::settings_value::at_least;
use crate::task::{DataSettings, Encoded, Figure, Lines, Objective, Outputs, Request, Rows, other_problem};

use super::causality::refuse_foresight;
use super::export::{tokenizer as tokenizer_of, tokenizer_path};
use super::head::FoundHead;
use super::rows::{fitting_metrics, request};
use super::{Session, WorkflowError};

/// Results of an evaluation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EvaluationFacts {
    /// Path of the `.onnx` file.
    pub model: String,
    /// Path of the data file.
    pub data: String,
    /// SHA-256 of the data file, in hex.
    pub data_sha256: String,
    /// Number of rows, of questions, or of texts of words.
    pub rows: usize,
    /// Number of tokens predicted by a language model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Number of windows of contexts or of texts of words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub windows: Option<usize>,
    /// The objective: what was predicted.
    pub objective: Objective,
    /// The metrics, the decisive one first; empty without labels.
    pub metrics: Vec<Figure>,
    /// Execution provider of the matrix products.
    pub matrix_products: String,
    /// Throughput in rows per second.
    pub rows_per_second: f64,
}

/// Rows to evaluate, and their settings.
pub(super) struct EvaluationData<'a> {
    pub rows: &'a dyn Rows,
    pub objective: &'a Objective,
    pub encoded: &'a Encoded<'a>,
    pub tokenizer: &'a Tokenizer,
    pub metrics: &'a [Metric],
    /// `config.json` of the model.
    pub config: Option<&'a serde_json::Value>,
    pub batch_tokens: usize,
    /// Whether padding leaves the results unchanged.
    pub padding_is_safe: bool,
}

/// Runs the rows through an export and scores the outputs.
pub(super) fn evaluate(
    session: &Session<'_>,
    onnx: &Path,
    data: &EvaluationData<'_>,
) -> Result<(EvaluationFacts, Outputs), WorkflowError> {
    let EvaluationData { rows, objective, encoded, .. } = *data;
    let mut inference = InferenceSession::from_file(session.library()?, onnx, &session.inference())?;
    let settings = EvaluateSettings {
        batch_tokens: data.batch_tokens,
        equal_lengths: !data.padding_is_safe,
        padding: data.tokenizer.padding(),
    };
    let start = Instant::now();
    let targets = encoded.targets.as_ref();
    let head = objective.head();
    let outputs = evaluate_export(&mut inference, &encoded.encodings, targets, &head, &settings, session.observer())?;
    let mut metrics = rows.score_as(data.config, encoded, &outputs, data.metrics)?;
    let tokens = match &outputs {
        Outputs::Loss(loss) => {
            let note = Some("per token".to_owned());
            metrics.push(Figure { name: "loss".into(), value: Some(loss.mean()), note });
            Some(loss.tokens)
        }
        Outputs::Rows(_) => None,
    };
    let encodings = encoded.encodings.len();
    let judged = rows.judged();
    let count = judged.unwrap_or(encodings);
    let facts = EvaluationFacts {
        model: onnx.display().to_string(),
        data: rows.path().display().to_string(),
        data_sha256: rows.sha256().to_owned(),
        rows: count,
        tokens,
        windows: judged.map(|_| encodings),
        objective: objective.clone(),
        metrics,
        matrix_products: inference.provider_of_matrix_products(),
        rows_per_second: count as f64 / start.elapsed().as_secs_f64().max(1e-9),
    };
    Ok((facts, outputs))
}

/// Whether rows may be padded: tested on the export itself. An export whose hidden states cannot be read is assumed to
/// ignore its mask, which is slower and always correct.
pub(super) fn padding_is_safe(
    session: &Session<'_>,
    model: &Transformer,
    encodings: &[Encoding],
    tokenizer: &Tokenizer,
) -> Result<bool, WorkflowError> {
    if model.states().is_err() {
        let text = "the export shows no hidden states to check its attention mask with: only rows of equal length are \
                    computed together";
        session.observer().observe(Event::Notice(text));
        return Ok(false);
    }
    let padding = tokenizer.padding();
    let check = self_check(session.library()?, model, encodings, padding, &session.inference())?;
    if let Some(fault) = check.padding_fault(model) {
        session.observer().observe(Event::Warning(&format!("the export {fault}")));
    }
    Ok(check.padding_invariant)
}

/// Settings of an evaluation.
#[derive(Debug, Clone, Copy)]
pub struct EvaluationSettings<'a> {
    /// Tokens per batch, padding included.
    pub batch_tokens: usize,
    /// A file for the prediction of every row: `.csv`, `.tsv` or `.jsonl`; for span answers `.json`.
    pub predictions: Option<&'a Path>,
}

/// Runs rows through an export, scores the outputs where the right answers are known, and writes predictions if requested.
///
/// # Errors
/// Returns an error for an export without the outputs of the task, rows that cannot be read, and labels that are not the model's.
pub fn evaluate_model(
    session: &Session<'_>,
    model: &Path,
    data: &DataSettings,
    settings: &EvaluationSettings<'_>,
) -> Result<EvaluationFacts, WorkflowError> {
    at_least("batch_tokens", Some(settings.batch_tokens as u64), 1)?;
    let reader = data.reader();
    if let Some(predictions) = settings.predictions {
        let beside = ["tokenizer.json", "config.json"].map(|name| model.join(name));
        let [tokenizer, config] = beside.each_ref().map(PathBuf::as_path);
        session.take_file(
            predictions,
            &[
                ("model", model),
                ("data", &data.train),
                ("model's tokenizer", tokenizer),
                ("model's configuration", config),
            ],
        )?;
        reader.check_predictions(predictions)?;
    }
    let folder = ModelFolder::open(model)?;
    let model = Transformer::open(&folder.onnx)?;
    data.check()?;
    check_outputs(&model, &reader.head())?;
    // An export whose hidden states cannot be found is run all the same.
    let found = if model.states().is_ok() { model.head()? } else { None };
    let head = FoundHead::new(&folder, &model, found);
    head.fits_task(data)?;
    if let Some(text) = saturating_products(&model) {
        session.observer().observe(Event::Warning(&text));
    }
    let tokenizer = &tokenizer_of(session, tokenizer_path(&folder)?, &model, data.max_length())?;
    let rows = reader.read(&Request {
        model_config: folder.config.as_ref(),
        predictions: settings.predictions.is_some(),
        ..request(session, data, &data.train, tokenizer)
    })?;
    if let Some(what) = rows.lacks().filter(|_| settings.predictions.is_none()) {
        return Err(WorkflowError::NothingToCompare { path: rows.path().to_owned(), what });
    }
    let no_classes = || WorkflowError::NoClasses { folder: folder.folder.clone() };
    let objective = rows.objective().ok_or_else(no_classes)?;
    head.fits_labels(objective)?;
    if let Some(text) = folder.config.as_ref().and_then(|config| other_problem(config, objective)) {
        session.observer().observe(Event::Warning(&text));
    }
    let metrics = fitting_metrics(data, objective)?;
    let encoded = rows.encode(tokenizer, session.observer())?;
    if objective.head().lines == Lines::Vocabulary {
        refuse_foresight(session, &model, &encoded.encodings, tokenizer)?;
    }
    let evaluated = EvaluationData {
        rows: rows.as_ref(),
        objective,
        encoded: &encoded,
        tokenizer,
        metrics: &metrics,
        config: folder.config.as_ref(),
        batch_tokens: settings.batch_tokens,
        padding_is_safe: padding_is_safe(session, &model, &encoded.encodings, tokenizer)?,
    };
    let (facts, outputs) = evaluate(session, &folder.onnx, &evaluated)?;
    if let Some(path) = settings.predictions {
        rows.write_predictions(path, &outputs)?;
    }
    Ok(facts)
}
