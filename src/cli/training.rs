//! LoRA training at the ranks of a plan, to a PEFT folder: the work of `gelora train` and of a stage of `gelora run`.

use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::activations::ModelIdentity;
use crate::adapter::{self, Adapter, Flavour, TrainedHead, WriteSettings};
use crate::dataset::{Dataset, Encoding, Label, Metric, Objective, TextRows, Tokenizer};
use crate::progress::{Event, Observer};
use crate::rank::Plan;
use crate::train::{TrainInput, TrainOutcome, TrainSettings, train};

use super::causality::refuse_foresight;
use super::context::Context;
use super::opened::Opened;
use super::planning::other_files;
use super::rows::{Rows, SpanRows};

/// What there is to train with.
pub(crate) struct TrainingData<'a> {
    pub(crate) train: &'a Rows,
    pub(crate) validation: Option<&'a Rows>,
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) metrics: &'a [Metric],
    /// Whether the texts of a language model are joined and cut into rows of equal length.
    pub(crate) packing: bool,
    /// Where the factors and the head begin; by default A random, B zero and the head as it is.
    pub(crate) initial: Option<&'a Adapter>,
    /// Whether padding leaves the results as they are.
    pub(crate) padding_is_safe: bool,
}

/// How a training went.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TrainingFacts {
    pub(crate) adapter: String,
    pub(crate) steps: u64,
    pub(crate) best_step: Option<u64>,
    /// The metrics on the validation rows at the best step, the decisive one first.
    pub(crate) validation: Vec<(String, Option<f64>)>,
    pub(crate) trained_parameters: usize,
    pub(crate) examples_per_second: f64,
    pub(crate) device: String,
    pub(crate) threads: usize,
    pub(crate) stopped_early: bool,
    pub(crate) resumed_from: Option<u64>,
    pub(crate) added_head: Option<String>,
}

/// Trains, or goes on training, and writes the adapter folder.
pub(crate) fn train_adapter(
    context: &Context,
    model: &Opened,
    plan: &Plan,
    data: &TrainingData<'_>,
    settings: &TrainSettings,
    flavour: Flavour,
    out: &Path,
) -> anyhow::Result<TrainingFacts> {
    let objective = &objective_of(data.train)?;
    if *objective == Objective::CausalLm {
        refuse_foresight(context, &model.model, &data.train.first(64, data.tokenizer)?, data.tokenizer)?;
    }
    if let Some(warning) = crate::onnx::normalised_logits(&model.model) {
        context.observer().observe(Event::Warning(&warning));
    }
    let train_rows = Learnt::new(context, data, data.train)?;
    let validation = data.validation.map(|rows| Learnt::new(context, data, rows)).transpose()?;
    // The plan was made for the file; what is added to its head in memory does not make it another one.
    let identity = ModelIdentity::of(&model.model);
    let trained = model.with_own_head()?;
    let input = TrainInput {
        model: &trained,
        model_sha256: &identity.sha256,
        checkpoint: model.folder.checkpoint.as_ref(),
        config: model.folder.config.as_ref(),
        plan,
        objective,
        train: train_rows.rows(),
        validation: validation.as_ref().map(Learnt::rows),
        questions: match data.validation {
            Some(Rows::Spans(spans)) => Some(spans.questions()),
            _ => None,
        },
        metrics: data.metrics,
        padding: data.tokenizer.padding(),
        padding_is_safe: data.padding_is_safe,
        initial: data.initial,
        folder: out,
    };
    let base_files = other_files(model, identity.external.clone())?;
    for (name, hash) in &base_files {
        if plan.model.other_files.iter().any(|(planned, other)| planned == name && other != hash) {
            context.observer().observe(Event::Warning(&format!(
                "{name} is not the file that was there when the plan was made: its ranks are those of another model"
            )));
        }
    }
    let (names, path) = (model.head_names()?.unwrap_or_default(), model.head_path()?);
    let naming = model.naming(match objective {
        Objective::CausalLm => TrainedHead::Tokens,
        _ if settings.head.is_some() => TrainedHead::Added,
        _ => TrainedHead::Own(&names, path.as_ref()),
    });
    if let Some(text) = &naming.notice {
        // A head that training adds is what was asked for; of another that PEFT will not have nobody knows yet.
        let event = if settings.head.is_some() { Event::Notice(text) } else { Event::Warning(text) };
        context.observer().observe(event);
    }
    let outcome = train(&input, settings, context.observer())?;
    let settings = WriteSettings {
        flavour,
        base_model: Some(model.base_model_path()),
        checkpoint: model.folder.checkpoint.as_ref(),
        added_head: outcome.new_head,
        labels: match objective {
            Objective::Classification { labels } => Some(labels.clone()),
            Objective::Regression | Objective::CausalLm | Objective::Spans { .. } => None,
        },
        naming,
        base_files: Some(base_files),
    };
    adapter::write(out, plan, &outcome.adapter, &settings)?;
    Ok(TrainingFacts::new(&outcome, out))
}

/// Rows as the trainer takes them.
enum Learnt<'a> {
    Labelled(Vec<Encoding>, Vec<Label>),
    Texts(TextRows),
    Spans(&'a SpanRows),
}

impl<'a> Learnt<'a> {
    fn new(context: &Context, data: &TrainingData<'_>, rows: &'a Rows) -> anyhow::Result<Self> {
        let (tokenizer, observer) = (data.tokenizer, context.observer());
        Ok(match rows {
            Rows::Spans(spans) => Learnt::Spans(spans),
            Rows::Table(dataset) if dataset.objective == Some(Objective::CausalLm) => {
                Learnt::Texts(tokenizer.encode_texts(&dataset.examples, data.packing, observer)?)
            }
            Rows::Table(dataset) => {
                let (_, labels) = labelled(dataset)?;
                Learnt::Labelled(tokenizer.encode(&dataset.examples, observer)?, labels)
            }
        })
    }

    fn rows(&self) -> crate::train::Rows<'_> {
        use crate::train::Rows;
        match self {
            Learnt::Labelled(encodings, labels) => Rows::labelled(encodings, labels),
            Learnt::Texts(rows) => Rows::of_texts(rows),
            Learnt::Spans(spans) => Rows::labelled(&spans.encodings, &spans.labels),
        }
    }
}

/// What is learnt from rows that must have labels.
pub(crate) fn objective_of(rows: &Rows) -> anyhow::Result<Objective> {
    match rows {
        Rows::Table(dataset) => Ok(labelled(dataset)?.0.clone()),
        Rows::Spans(spans) => Ok(spans.objective()),
    }
}

/// Objective and labels of rows that must have them; a language model needs none.
fn labelled(dataset: &Dataset) -> anyhow::Result<(&Objective, Vec<Label>)> {
    if let Some(objective @ Objective::CausalLm) = &dataset.objective {
        return Ok((objective, Vec::new()));
    }
    let missing = || format!("{} was read without labels; name their column with --label", dataset.path.display());
    Ok((dataset.objective.as_ref().with_context(missing)?, dataset.labels().with_context(missing)?))
}

impl TrainingFacts {
    fn new(outcome: &TrainOutcome, out: &Path) -> Self {
        let best = outcome.best.as_ref();
        let evaluation = match best {
            Some(best) => outcome.evaluations.iter().find(|evaluation| evaluation.step == best.step),
            None => outcome.evaluations.last(),
        };
        Self {
            adapter: out.display().to_string(),
            steps: outcome.steps,
            best_step: best.map(|best| best.step),
            validation: evaluation.map(|evaluation| evaluation.metrics.clone()).unwrap_or_default(),
            trained_parameters: outcome.trained_parameters,
            examples_per_second: outcome.examples_per_second,
            device: outcome.device.clone(),
            threads: outcome.threads,
            stopped_early: outcome.stopped_early,
            resumed_from: outcome.resumed_from,
            added_head: outcome.new_head.map(|head| head.as_str().to_owned()),
        }
    }

    /// For people.
    pub(crate) fn describe(&self) -> String {
        let metrics = self.validation.iter().map(|(name, value)| match value {
            Some(value) => format!("{name} {value:.4}"),
            None => format!("{name} undefined"),
        });
        let metrics = metrics.collect::<Vec<_>>().join(", ");
        let mut facts = vec![("adapter", self.adapter.clone())];
        if let Some(best) = self.best_step {
            facts.push(("best", format!("{metrics} (after {best} of {} steps)", self.steps)));
        } else {
            facts.push(("steps", self.steps.to_string()));
        }
        facts.push((
            "trained",
            format!("{} parameters on {} ({} threads)", self.trained_parameters, self.device, self.threads),
        ));
        facts.push(("speed", format!("{:.1} rows/s", self.examples_per_second)));
        if let Some(head) = &self.added_head {
            facts.push(("head", format!("added, reads the {head} token vector of the last hidden state")));
        }
        if self.stopped_early {
            facts.push(("ended", "early: the metric no longer got better".to_owned()));
        }
        crate::report::facts(&facts)
    }
}
