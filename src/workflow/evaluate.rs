//! Metrics of an export on labelled rows: the work of `gelora evaluate` and of the last stage of `gelora run`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::checkpoint::ModelFolder;
use crate::dataset::metric::perplexity;
use crate::dataset::metric::squad::SquadScore;
use crate::dataset::{
    Dataset, DatasetError, Encoding, LoadSettings, Metric, Objective, ObjectiveKind, TextRows, Tokenizer,
};
use crate::evaluate::{
    EvaluateSettings, Evaluation, TokenLoss, check_label_order, check_outputs, check_span_outputs, class_count,
    evaluate_export, label_names, predictions_format, span_logits, token_loss, write_answers, write_predictions,
};
use crate::onnx::{HiddenStates, Model};
use crate::progress::Event;
use crate::runtime::{InferenceSession, saturating_products, self_check};
use crate::settings::DataSettings;

use super::causality::refuse_foresight;
use super::export::{load, tokenizer as tokenizer_of, tokenizer_path, told};
use super::head::FoundHead;
use super::rows::{Purpose, SpanRows, fitting_metrics};
use super::{Session, WorkflowError};

/// What an evaluation found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EvaluationFacts {
    pub model: String,
    pub data: String,
    pub data_sha256: String,
    pub rows: usize,
    /// How many tokens were predicted, of a language model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Windows of the contexts, for span answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub windows: Option<usize>,
    pub objective: Objective,
    pub metrics: Vec<MetricFacts>,
    pub matrix_products: String,
    pub rows_per_second: f64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MetricFacts {
    pub name: String,
    /// `None` where it is undefined.
    pub value: Option<f64>,
    pub note: Option<String>,
}

/// Rows to evaluate, and how.
pub(super) struct EvaluationData<'a> {
    pub dataset: &'a Dataset,
    pub objective: &'a Objective,
    pub encodings: &'a [Encoding],
    /// The same as a language model learns them; their encodings go before `encodings`.
    pub texts: Option<&'a TextRows>,
    pub tokenizer: &'a Tokenizer,
    pub metrics: &'a [Metric],
    pub batch_tokens: usize,
    /// Whether padding leaves the results as they are.
    pub padding_is_safe: bool,
}

/// Runs the rows through an export and scores what comes out. A language model gives no prediction per row.
pub(super) fn evaluate(
    session: &Session<'_>,
    onnx: &Path,
    data: &EvaluationData<'_>,
) -> Result<(EvaluationFacts, Option<Evaluation>), WorkflowError> {
    let mut inference = InferenceSession::from_file(session.library()?, onnx, &session.inference())?;
    let settings = EvaluateSettings {
        batch_tokens: data.batch_tokens,
        equal_lengths: !data.padding_is_safe,
        padding: data.tokenizer.padding(),
    };
    let labels = data.dataset.labels();
    let start = Instant::now();
    if let Some(texts) = data.texts {
        let loss = token_loss(&mut inference, texts, &settings, session.observer())?;
        let facts = facts(onnx, data, &inference, token_metrics(loss), start);
        return Ok((facts, None));
    }
    let evaluation = evaluate_export(
        &mut inference,
        data.encodings,
        labels.as_deref(),
        data.objective,
        data.metrics,
        &settings,
        session.observer(),
    )?;
    let scores = evaluation.scores.iter().map(|score| MetricFacts {
        name: score.metric.to_string(),
        value: score.value,
        note: score.note.map(str::to_owned),
    });
    let facts = facts(onnx, data, &inference, (scores.collect(), None), start);
    Ok((facts, Some(evaluation)))
}

fn facts(
    onnx: &Path,
    data: &EvaluationData<'_>,
    inference: &InferenceSession,
    (metrics, tokens): (Vec<MetricFacts>, Option<u64>),
    start: Instant,
) -> EvaluationFacts {
    let rows = data.texts.map_or(data.encodings.len(), |texts| texts.encodings.len());
    EvaluationFacts {
        model: onnx.display().to_string(),
        data: data.dataset.path.display().to_string(),
        data_sha256: data.dataset.sha256.clone(),
        rows,
        tokens,
        windows: None,
        objective: data.objective.clone(),
        metrics,
        matrix_products: inference.provider_of_matrix_products(),
        rows_per_second: rows as f64 / start.elapsed().as_secs_f64().max(1e-9),
    }
}

/// Perplexity and loss, and the number of tokens they are the mean over.
fn token_metrics(loss: TokenLoss) -> (Vec<MetricFacts>, Option<u64>) {
    let value = perplexity(loss.mean());
    let note = value.is_none().then(|| "beyond what a number can hold".to_owned());
    let perplexity = MetricFacts { name: Metric::Perplexity.to_string(), value, note };
    let mean = MetricFacts { name: "loss".into(), value: Some(loss.mean()), note: Some("per token".into()) };
    (vec![perplexity, mean], Some(loss.tokens))
}

/// Answers questions with an export, and scores the answers where the right ones are known.
pub(super) fn evaluate_spans<'a>(
    session: &Session<'_>,
    onnx: &Path,
    spans: &'a SpanRows,
    settings: &EvaluateSettings,
) -> Result<(EvaluationFacts, Vec<&'a str>), WorkflowError> {
    let mut inference = InferenceSession::from_file(session.library()?, onnx, &session.inference())?;
    let start = Instant::now();
    let logits = span_logits(&mut inference, &spans.encodings, settings, session.observer())?;
    let questions = spans.questions();
    let answers = questions.answers(&logits);
    let figures = questions.score(&answers).iter().flat_map(SquadScore::figures).collect::<Vec<_>>();
    let metrics = figures.into_iter().map(|(name, value, questions)| MetricFacts {
        name: name.to_owned(),
        value: Some(value),
        note: (questions < answers.len()).then(|| format!("{questions} questions")),
    });
    let facts = EvaluationFacts {
        model: onnx.display().to_string(),
        data: spans.file.path.display().to_string(),
        data_sha256: spans.file.sha256.clone(),
        rows: answers.len(),
        tokens: None,
        windows: Some(spans.encodings.len()),
        objective: spans.objective(),
        metrics: metrics.collect(),
        matrix_products: inference.provider_of_matrix_products(),
        rows_per_second: answers.len() as f64 / start.elapsed().as_secs_f64().max(1e-9),
    };
    Ok((facts, answers))
}

/// Whether rows may be padded: asked of the export itself. One whose hidden states cannot be seen is taken not to
/// obey its mask, which is slower and always right.
pub(super) fn padding_is_safe(
    session: &Session<'_>,
    model: &Model,
    encodings: &[Encoding],
    tokenizer: &Tokenizer,
) -> Result<bool, WorkflowError> {
    let Ok(states) = HiddenStates::find(model) else {
        let text = "the export shows no hidden states to check its attention mask with: only rows of equal length are \
                    computed together";
        session.observer().observe(Event::Notice(text));
        return Ok(false);
    };
    let padding = tokenizer.padding();
    let check = self_check(session.library()?, model, &states, encodings, padding, &session.inference())?;
    if let Some(fault) = check.padding_fault(model) {
        session.observer().observe(Event::Warning(&format!("the export {fault}")));
    }
    Ok(check.padding_invariant)
}

/// Rows whose labels count as the model's classes do: by its names, where it has them and the data use them, or by number. Some
/// of the classes may be missing in the rows.
fn load_as_named(
    session: &Session<'_>,
    section: &DataSettings,
    config: Option<&serde_json::Value>,
) -> Result<Dataset, WorkflowError> {
    let settings = section.load_settings();
    if section.labels.is_some() || section.task.is_some() || section.objective == Some(ObjectiveKind::Regression) {
        return load(session, &section.train, &settings);
    }
    let names = config.and_then(label_names);
    let numbers = config.and_then(class_count).map(|count| (0..count).map(|class| class.to_string()).collect());
    let mut unknown = None;
    for labels in [names, numbers].into_iter().flatten() {
        let named = LoadSettings { labels: Some(labels), ..settings.clone() };
        match Dataset::load(&section.train, &named) {
            Err(error @ DatasetError::UnknownLabel { .. }) => unknown = unknown.or(Some(error)),
            other => return Ok(told(session, other?)),
        }
    }
    let dataset = load(session, &section.train, &settings)?;
    let is_named = config.and_then(label_names).is_some();
    match unknown.filter(|_| is_named && dataset.objective != Some(Objective::Regression)) {
        Some(unknown) => Err(unknown.into()),
        None => Ok(dataset),
    }
}

/// Whether a table lacks nothing but the usual column of labels, which nobody asked for by name.
fn lacks_only_labels(error: &WorkflowError, section: &DataSettings) -> bool {
    let usual = section.load_settings().label;
    let missing = match error {
        WorkflowError::Dataset(DatasetError::MissingColumn { column, .. }) => Some(column),
        _ => None,
    };
    section.label.is_none() && missing.is_some() && missing == usual.as_ref()
}

/// How an evaluation is done.
#[derive(Debug, Clone, Copy)]
pub struct EvaluationSettings<'a> {
    /// Tokens per batch, padding included.
    pub batch_tokens: usize,
    /// A file for the prediction of every row: `.csv`, `.tsv` or `.jsonl`; for span answers `.json`.
    pub predictions: Option<&'a Path>,
}

/// Runs rows through an export, scores what comes out where the right answers are known, and writes predictions where that is
/// wanted.
///
/// # Errors
/// An export without the outputs of the task, rows that cannot be read, labels that are not the model's.
pub fn evaluate_model(
    session: &Session<'_>,
    model: &Path,
    data: &DataSettings,
    settings: &EvaluationSettings<'_>,
) -> Result<EvaluationFacts, WorkflowError> {
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
        check_predictions(predictions, data)?;
    }
    let folder = ModelFolder::open(model)?;
    let model = Model::open(&folder.onnx)?;
    data.check()?;
    match data.spans() {
        Some(_) => check_span_outputs(&model)?,
        None => check_outputs(&model)?,
    }
    let states = HiddenStates::find(&model).ok();
    let head = FoundHead::new(&folder, &model, states.as_ref())?;
    head.fits_task(data)?;
    if let Some(text) = saturating_products(&model) {
        session.observer().observe(Event::Warning(&text));
    }
    let tokenizer = tokenizer_of(session, tokenizer_path(&folder)?, &model, data.max_length())?;
    match data.spans() {
        Some(_) => answer(session, data, &folder, &model, &tokenizer, settings),
        None => evaluate_rows(session, data, (&folder, &model), &head, &tokenizer, settings),
    }
}

/// Refuses predictions that could not be written in the end.
fn check_predictions(path: &Path, data: &DataSettings) -> Result<(), WorkflowError> {
    let refuse = |text: String| Err(WorkflowError::Predictions(text));
    if data.spans().is_some() {
        return match path.extension().is_some_and(|ending| ending == "json") {
            true => Ok(()),
            false => refuse(format!(
                "{}: span answers are written as one JSON object; give the ending .json",
                path.display()
            )),
        };
    }
    if data.load_settings().objective == Some(ObjectiveKind::CausalLm) {
        return refuse("a language model predicts tokens, not rows; leave out --predictions".into());
    }
    predictions_format(path)?;
    Ok(())
}

/// Rows with a label each, or the texts of a language model.
fn evaluate_rows(
    session: &Session<'_>,
    section: &DataSettings,
    (folder, model): (&ModelFolder, &Model),
    head: &FoundHead<'_>,
    tokenizer: &Tokenizer,
    settings: &EvaluationSettings<'_>,
) -> Result<EvaluationFacts, WorkflowError> {
    let names = folder.config.as_ref().and_then(label_names);
    let dataset = match load_as_named(session, section, folder.config.as_ref()) {
        Err(error) if settings.predictions.is_some() && lacks_only_labels(&error, section) => {
            let settings = section.load_settings().without_labels();
            session.observer().observe(Event::Notice("there is no column of labels: predictions only, no metrics"));
            load(session, &section.train, &settings)?
        }
        loaded => loaded?,
    };
    let objective = match (&dataset.objective, names.or_else(|| section.labels.clone())) {
        (Some(objective), Some(names)) => {
            check_label_order(&names, objective)?;
            objective.clone()
        }
        (Some(objective), None) => objective.clone(),
        (None, Some(labels)) if settings.predictions.is_some() => Objective::Classification { labels },
        (None, None) if settings.predictions.is_some() && section.objective == Some(ObjectiveKind::Regression) => {
            Objective::Regression
        }
        (None, _) if settings.predictions.is_some() => {
            return Err(WorkflowError::NoClasses { folder: folder.folder.clone() });
        }
        (None, _) => return Err(WorkflowError::NothingToCompare { path: dataset.path.clone() }),
    };
    let objective = &objective;
    head.fits_labels(objective)?;
    let metrics = fitting_metrics(section, objective)?;
    let texts = match objective {
        Objective::CausalLm => Some(tokenizer.encode_texts(&dataset.examples, section.packing, session.observer())?),
        _ => None,
    };
    let encodings = match &texts {
        Some(texts) => texts.encodings.clone(),
        None => tokenizer.encode(&dataset.examples, session.observer())?,
    };
    if *objective == Objective::CausalLm {
        refuse_foresight(session, model, &encodings, tokenizer)?;
    }
    let data = EvaluationData {
        objective,
        encodings: &encodings,
        texts: texts.as_ref(),
        tokenizer,
        metrics: &metrics,
        batch_tokens: settings.batch_tokens,
        padding_is_safe: padding_is_safe(session, model, &encodings, tokenizer)?,
        dataset: &dataset,
    };
    let (facts, evaluation) = evaluate(session, &folder.onnx, &data)?;
    if let (Some(path), Some(evaluation)) = (settings.predictions, &evaluation) {
        write_predictions(path, &dataset, objective, evaluation)?;
    }
    Ok(facts)
}

/// Span answers.
fn answer(
    session: &Session<'_>,
    section: &DataSettings,
    folder: &ModelFolder,
    model: &Model,
    tokenizer: &Tokenizer,
    &EvaluationSettings { batch_tokens, predictions }: &EvaluationSettings<'_>,
) -> Result<EvaluationFacts, WorkflowError> {
    let spans = SpanRows::load(session, section, &section.train, section.limit, tokenizer, Purpose::Evaluate)?;
    if predictions.is_none() && !spans.file.has_answers() {
        return Err(WorkflowError::NoAnswersToCompare { path: spans.file.path.clone() });
    }
    let settings = EvaluateSettings {
        batch_tokens,
        equal_lengths: !padding_is_safe(session, model, &spans.encodings, tokenizer)?,
        padding: tokenizer.padding(),
    };
    let (facts, answers) = evaluate_spans(session, &folder.onnx, &spans, &settings)?;
    if let Some(path) = predictions {
        write_answers(path, &spans.file, &answers)?;
    }
    Ok(facts)
}

impl MetricFacts {
    /// Four decimals, as papers print it.
    pub fn show(&self) -> String {
        self.value.map_or_else(|| "undefined".to_owned(), |value| format!("{value:.4}"))
    }
}
