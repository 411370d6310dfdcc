//! Metrics of an export on labelled rows: the work of `gelora evaluate` and of the last stage of `gelora run`.

use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::dataset::metric::perplexity;
use crate::dataset::metric::squad::SquadScore;
use crate::dataset::{Dataset, Encoding, Metric, Objective, TextRows, Tokenizer};
use crate::evaluate::{EvaluateSettings, Evaluation, TokenLoss, evaluate_export, span_logits, token_loss};
use crate::onnx::{HiddenStates, Model};
use crate::progress::{Event, Observer};
use crate::report;
use crate::runtime::{FixedSizes, Session, self_check};

use super::context::Context;
use super::rows::SpanRows;

/// What an evaluation found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct EvaluationFacts {
    pub(crate) model: String,
    pub(crate) data: String,
    pub(crate) data_sha256: String,
    pub(crate) rows: usize,
    /// How many tokens were predicted, of a language model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tokens: Option<u64>,
    /// Windows of the contexts, for span answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) windows: Option<usize>,
    pub(crate) objective: Objective,
    pub(crate) metrics: Vec<MetricFacts>,
    pub(crate) matrix_products: String,
    pub(crate) rows_per_second: f64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct MetricFacts {
    pub(crate) name: String,
    /// `None` where it is undefined.
    pub(crate) value: Option<f64>,
    pub(crate) note: Option<String>,
}

/// Rows to evaluate, and how.
pub(crate) struct EvaluationData<'a> {
    pub(crate) dataset: &'a Dataset,
    pub(crate) objective: &'a Objective,
    pub(crate) encodings: &'a [Encoding],
    /// The same as a language model learns them; their encodings go before `encodings`.
    pub(crate) texts: Option<&'a TextRows>,
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) metrics: &'a [Metric],
    pub(crate) batch_tokens: usize,
    /// Whether padding leaves the results as they are.
    pub(crate) padding_is_safe: bool,
}

/// Runs the rows through an export and scores what comes out. A language model gives no prediction per row.
pub(crate) fn evaluate(
    context: &Context,
    onnx: &Path,
    data: &EvaluationData<'_>,
) -> anyhow::Result<(EvaluationFacts, Option<Evaluation>)> {
    let mut session = Session::from_file(context.library()?, onnx, &context.session_settings())?;
    let settings = EvaluateSettings {
        batch_tokens: data.batch_tokens,
        equal_lengths: !data.padding_is_safe,
        padding: data.tokenizer.padding(),
    };
    let labels = data.dataset.labels();
    let start = Instant::now();
    if let Some(texts) = data.texts {
        let loss = token_loss(&mut session, texts, &settings, context.observer())?;
        let facts = facts(onnx, data, &session, token_metrics(loss), start);
        return Ok((facts, None));
    }
    let evaluation = evaluate_export(
        &mut session,
        data.encodings,
        labels.as_deref(),
        data.objective,
        data.metrics,
        &settings,
        context.observer(),
    )?;
    let scores = evaluation.scores.iter().map(|score| MetricFacts {
        name: score.metric.to_string(),
        value: score.value,
        note: score.note.map(str::to_owned),
    });
    let facts = facts(onnx, data, &session, (scores.collect(), None), start);
    Ok((facts, Some(evaluation)))
}

fn facts(
    onnx: &Path,
    data: &EvaluationData<'_>,
    session: &Session,
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
        matrix_products: session.provider_of_matrix_products(),
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
pub(crate) fn evaluate_spans<'a>(
    context: &Context,
    onnx: &Path,
    spans: &'a SpanRows,
    settings: &EvaluateSettings,
) -> anyhow::Result<(EvaluationFacts, Vec<&'a str>)> {
    let mut session = Session::from_file(context.library()?, onnx, &context.session_settings())?;
    let start = Instant::now();
    let logits = span_logits(&mut session, &spans.encodings, settings, context.observer())?;
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
        matrix_products: session.provider_of_matrix_products(),
        rows_per_second: answers.len() as f64 / start.elapsed().as_secs_f64().max(1e-9),
    };
    Ok((facts, answers))
}

/// Whether rows may be padded: asked of the export itself. One whose hidden states cannot be seen is taken not to
/// obey its mask, which is slower and always right.
pub(crate) fn padding_is_safe(
    context: &Context,
    model: &Model,
    encodings: &[Encoding],
    tokenizer: &Tokenizer,
) -> anyhow::Result<bool> {
    let Ok(states) = HiddenStates::find(model) else {
        let text = "the export shows no hidden states to check its attention mask with: only rows of equal length are \
                    computed together";
        context.observer().observe(Event::Notice(text));
        return Ok(false);
    };
    let padding = tokenizer.padding();
    let check = self_check(context.library()?, model, &states, encodings, padding, &context.session_settings())?;
    if !check.padding_invariant {
        let what = FixedSizes::of(&model.graph.inputs).with_ignored_mask();
        context.observer().observe(Event::Warning(&format!("the export ignores its attention mask: {what}")));
    }
    Ok(check.padding_invariant)
}

impl EvaluationFacts {
    /// For people.
    pub(crate) fn describe(&self) -> String {
        let rows: Vec<Vec<String>> = self
            .metrics
            .iter()
            .map(|metric| vec![metric.name.clone(), metric.show(), metric.note.clone().unwrap_or_default()])
            .collect();
        let table = match self.metrics.is_empty() {
            true => String::new(),
            false => report::table(&["metric", "value", ""], &[1], &rows) + "\n\n",
        };
        let tokens = self.tokens.map_or_else(String::new, |tokens| format!("{tokens} tokens in "));
        let (unit, windows) = match self.windows {
            Some(windows) => ("questions", format!(" in {windows} windows")),
            None => ("rows", String::new()),
        };
        format!(
            "{table}{tokens}{} {unit} of {}{windows}, {} ({}, {:.0} {unit}/s)",
            self.rows, self.data, self.model, self.matrix_products, self.rows_per_second
        )
    }
}

impl MetricFacts {
    /// Four decimals, as papers print it.
    pub(crate) fn show(&self) -> String {
        self.value.map_or_else(|| "undefined".to_owned(), |value| format!("{value:.4}"))
    }
}
