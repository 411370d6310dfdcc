//! Training, with LoRA at the ranks of a plan to a PEFT folder: the implementation of `gelora train` and of a stage of
//! `gelora run`.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::activations::ModelIdentity;
use crate::adapter::{
    self, Adapter, CONFIG_FILE, Flavour, TrainedHead, WholeSettings, WriteSettings, adapter_config, read_named,
};
use crate::dataset::{Encoding, Metric, Tokenizer, sample_rows};
use crate::files::sha256;
use crate::hint::Hint;
use crate::progress::Event;
use crate::rank::{Plan, RankError};
use crate::settings::{Method, SettingError, TrainSettings};
use crate::task::{DataSettings, Encoded, Lines, Objective, Outputs, Purpose, Rows, Targets};
use crate::train::{
    Evaluation, HEAD_BIAS, HEAD_WEIGHT, LabelledRows, TrainError, TrainInput, TrainOutcome, check_class_weights,
    check_plan, logits, train,
};

use super::causality::refuse_foresight;
use super::evaluate::padding_is_safe;
use super::plan::{blocks_to_adapt, config_settings, other_files, plan_file};
use super::rows::{fitting_metrics, objective_of, read, read_held_out};
use super::start::check_start;
use super::{Export, Session, WorkflowError};

/// The inputs of a training.
pub(super) struct TrainingData<'a> {
    pub train: &'a dyn Rows,
    pub validation: Option<&'a dyn Rows>,
    pub tokenizer: &'a Tokenizer,
    pub metrics: &'a [Metric],
    /// Initial factors and head; by default A is random, B zero and the head unchanged.
    pub initial: Option<&'a Adapter>,
    /// Whether padding leaves the results unchanged.
    pub padding_is_safe: bool,
}

/// Results of a training.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TrainingFacts {
    /// Path of the output folder: an adapter, or trained tensors.
    pub adapter: String,
    /// The training method.
    #[serde(default)]
    pub method: Method,
    pub steps: u64,
    pub best_step: Option<u64>,
    /// The metrics on the validation rows at the best step, the decisive one first.
    pub validation: Vec<(String, Option<f64>)>,
    pub trained_parameters: usize,
    pub examples_per_second: f64,
    pub device: String,
    pub threads: usize,
    pub stopped_early: bool,
    pub resumed_from: Option<u64>,
    pub added_head: Option<String>,
    /// The decisive metric before the first step, if it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<f64>,
}

/// What is trained, and on which data.
#[derive(Debug, Clone)]
pub struct Training<'a> {
    /// The model folder, or `.onnx` file, that the plan was made for.
    pub model: &'a Path,
    /// The plan: its file, or the folder that contains it. `None` for methods without ranks.
    pub plan: Option<&'a Path>,
    /// The rows to train on, and `dev` to choose the best state.
    pub data: DataSettings,
    /// Settings of the training.
    pub settings: TrainSettings,
    /// How the ranks are represented in the adapter folder.
    pub flavour: Flavour,
    /// An adapter folder of the same plan to start from; without one, A is random, B zero and the head unchanged.
    pub start: Option<&'a Path>,
    /// Path of the output folder.
    pub out: &'a Path,
}

impl<'a> Training<'a> {
    /// Training on these rows with default settings.
    pub fn new(model: &'a Path, plan: &'a Path, data: DataSettings, out: &'a Path) -> Self {
        let (settings, flavour) = (TrainSettings::default(), Flavour::default());
        Training { model, plan: Some(plan), data, settings, flavour, start: None, out }
    }
}

/// Trains, or resumes training, and writes a folder: with LoRA at the ranks of the plan an adapter for PEFT, otherwise the
/// trained tensors, for [`merge_adapter`](super::merge_adapter).
///
/// # Errors
/// Returns an error for a plan of another export, rows that do not fit the head, invalid settings, and a state of another run.
pub fn train_at_plan(session: &Session<'_>, training: &Training<'_>) -> Result<TrainingFacts, WorkflowError> {
    let Training { model, plan, ref data, ref settings, flavour, start, out } = *training;
    let plan_file = plan.map(plan_file).transpose()?;
    let method = settings.method;
    if plan_file.is_none() && method.takes_plan() {
        return Err(TrainError::NoPlan.into());
    }
    refuse_ranks(settings, flavour, &[("plan", plan_file.is_some()), ("start", start.is_some())])?;
    let mut inputs = vec![("model", model)];
    inputs.extend(plan_file.as_deref().map(|plan| ("plan", plan)));
    inputs.extend(start.map(|start| ("adapter to start from", start)));
    session.take_folder(out, &inputs)?;
    if settings.patience.is_some() && data.dev.is_none() {
        let cure = format!("name them ({}), or leave it out", Hint::Validation);
        return Err(SettingError::new("patience", "needs rows to evaluate on".into(), cure).into());
    }
    let plan = plan_file.as_deref().map(Plan::read).transpose()?;
    let model = Export::new(model)?;
    let head = model.found_head()?;
    head.fits_training(data, settings)?;
    model.tell_origin(session);
    match plan.as_ref().zip(plan_file.as_deref()) {
        Some((plan, file)) => {
            check_plan(plan, &model.model, &sha256(model.model.file_bytes()))?;
            check_edited_plan(session, &model, plan, file)?;
        }
        None => model.told_structure(session, &model.weights()?)?,
    }
    let tokenizer = model.tokenizer(session, data.max_length())?;
    let train = read(session, data, &tokenizer, Purpose::Train, model.config_of_own_head(settings))?;
    let objective = objective_of(train.as_ref())?;
    head.fits_labels(objective)?;
    check_learning(settings, objective, train.len())?;
    let metrics = fitting_metrics(data, objective)?;
    if let Some(plan) = plan.as_ref().filter(|plan| plan.data.sha256 != train.sha256()) {
        session.observer().observe(Event::Warning(&format!(
            "the plan was made for the rows of {}, not for those of {}: its ranks are theirs",
            plan.data.file,
            train.path().display()
        )));
    }
    let held_out = |path: &PathBuf| read_held_out(session, data, path, &tokenizer, objective);
    let validation = data.dev.as_ref().map(held_out).transpose()?;
    let sample = train.first(64, &tokenizer)?;
    let head = model.head_names()?.unwrap_or_else(|| [HEAD_WEIGHT, HEAD_BIAS].map(str::to_owned).into());
    let modules = plan.iter().flat_map(|plan| &plan.blocks).flat_map(|block| &block.modules);
    let modules = modules.map(|module| module.module.as_str());
    let known: Vec<&str> = modules.chain(head.iter().map(String::as_str)).collect();
    if let Some((adapter, plan)) = start.zip(plan.as_ref()) {
        check_start(adapter, plan, settings.head.map(|head| head.as_str()))?;
    }
    let initial = start.map(|folder| read_named(folder, known)).transpose()?;
    let data = TrainingData {
        initial: initial.as_ref(),
        validation: validation.as_deref(),
        tokenizer: &tokenizer,
        metrics: &metrics,
        padding_is_safe: padding_is_safe(session, &model.model, &sample, &tokenizer)?,
        train: train.as_ref(),
    };
    let facts =
        train_adapter(session, &model, plan.as_ref(), &data, &session.on_device(settings.clone()), flavour, out)?;
    if let (Some((metric, after)), Some(validation)) = (facts.validation.first(), data.validation) {
        tell_no_gain(session, metric, validation.path(), facts.before, *after);
    }
    Ok(facts)
}

/// Refuses settings about ranks for a method without ranks.
pub(super) fn refuse_ranks(
    settings: &TrainSettings,
    flavour: Flavour,
    given: &[(&'static str, bool)],
) -> Result<(), SettingError> {
    let method = settings.method;
    let more = [("flavour", flavour != Flavour::default()), ("dropout", settings.dropout > 0.0)];
    match given.iter().chain(&more).find(|(_, given)| *given && !method.takes_plan()) {
        None => Ok(()),
        Some((key, _)) => {
            let found = format!("has no use for {method}, which has no ranks");
            Err(SettingError::new(key, found, format!("leave it out, or take {}", Hint::Method.with("lora"))))
        }
    }
}

/// Refuses training settings that do not fit the objective, before anything is computed.
pub(super) fn check_learning(settings: &TrainSettings, objective: &Objective, rows: usize) -> Result<(), SettingError> {
    if let Some(weights) = &settings.class_weights {
        check_class_weights(weights, objective)?;
    }
    let Some(share) = settings.threshold_rows else { return Ok(()) };
    let refuse = |found: String, cure: &str| Err(SettingError::new("threshold_rows", found, cure));
    if !objective.has_thresholds() {
        let found = format!("has no use for {}", objective.in_words());
        return refuse(found, &format!("leave it out, or take {}", Hint::Task.with("multi-label")));
    }
    match held_out_rows(share, rows) {
        count if count == 0 || count >= rows => {
            refuse(format!("is {share}: {count} of {rows} rows"), "leave rows on both sides")
        }
        _ => Ok(()),
    }
}

fn held_out_rows(share: f64, rows: usize) -> usize {
    (share * rows as f64).round() as usize
}

/// Warns that training did not improve the model, if that is known: by the decisive metric, on rows that were not trained on.
pub(super) fn tell_no_gain(session: &Session<'_>, metric: &str, rows: &Path, before: Option<f64>, after: Option<f64>) {
    let (Some(before), Some(after)) = (before, after) else { return };
    let less_is_better = metric.parse::<Metric>().is_ok_and(Metric::less_is_better);
    let gained = if less_is_better { after < before } else { after > before };
    if !gained {
        session.observer().observe(Event::Warning(&format!(
            "training did not improve {metric} on {}: {before:.4} before, {after:.4} after; try another learning rate, more epochs \
             or more data",
            rows.display()
        )));
    }
}

/// Trains, or resumes training, and writes the adapter folder.
pub(super) fn train_adapter(
    session: &Session<'_>,
    model: &Export,
    plan: Option<&Plan>,
    data: &TrainingData<'_>,
    settings: &TrainSettings,
    flavour: Flavour,
    out: &Path,
) -> Result<TrainingFacts, WorkflowError> {
    let objective = objective_of(data.train)?;
    let head = objective.head();
    if head.lines == Lines::Vocabulary {
        refuse_foresight(session, &model.model, &data.train.first(64, data.tokenizer)?, data.tokenizer)?;
    }
    if let Some(warning) = crate::onnx::normalised_logits(&model.model) {
        session.observer().observe(Event::Warning(&warning));
    }
    let mut train_rows = Learnt::new(session, data.tokenizer, data.train)?;
    let deciding = settings.threshold_rows.map(|share| train_rows.hold_out(share, settings.seed));
    let validation = data.validation.map(|rows| Learnt::new(session, data.tokenizer, rows)).transpose()?;
    // The plan was made for the file; additions to its head in memory do not change its identity.
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
        judge: data.validation.and_then(|rows| rows.judge()),
        metrics: data.metrics,
        padding: data.tokenizer.padding(),
        padding_is_safe: data.padding_is_safe,
        initial: data.initial,
        folder: out,
    };
    let base_files = other_files(model, identity.external.clone())?;
    for (name, hash) in &base_files {
        let planned = plan.iter().flat_map(|plan| &plan.model.other_files);
        if planned.clone().any(|(planned, other)| planned == name && other != hash) {
            session.observer().observe(Event::Warning(&format!(
                "{name} is not the file that was there when the plan was made: its ranks are those of another model"
            )));
        }
    }
    let (names, path) = (model.head_names()?.unwrap_or_default(), model.head_path()?);
    let naming = model.naming(match settings.head {
        _ if !head.trained => TrainedHead::Tokens,
        Some(_) => TrainedHead::Added,
        None => TrainedHead::Own(&names, path.as_ref()),
    });
    if let Some(text) = naming.notice.as_ref().filter(|_| plan.is_some()) {
        // A head added by training was requested; any other that PEFT lacks would go unnoticed, so it gets a warning.
        let event = if settings.head.is_some() { Event::Notice(text) } else { Event::Warning(text) };
        session.observer().observe(event);
    }
    let outcome = train(&input, settings, session.observer())?;
    let thresholds = deciding.map(|rows| rows.thresholds(session, &input, settings, &outcome)).transpose()?;
    let Some(plan) = plan else {
        let whole = WholeSettings {
            method: settings.method.to_string(),
            onnx_sha256: identity.sha256,
            base_files,
            added_head: outcome.new_head,
            naming,
            head: match settings.head {
                Some(_) => [HEAD_WEIGHT, HEAD_BIAS].map(str::to_owned).into(),
                None => names,
            },
            labels: objective.classes().map(<[String]>::to_vec),
            problem_type: objective.problem_type(),
            thresholds,
        };
        adapter::write_whole(out, &outcome.adapter.saved, &whole)?;
        return Ok(TrainingFacts::new(&outcome, settings.method, out));
    };
    let method = settings.method;
    let settings = WriteSettings {
        flavour,
        base_model: Some(model.base_model_path()),
        checkpoint: model.folder.checkpoint.as_ref(),
        added_head: outcome.new_head,
        labels: objective.classes().map(<[String]>::to_vec),
        problem_type: objective.problem_type(),
        thresholds,
        naming,
        base_files: Some(base_files),
    };
    adapter::write(out, plan, &outcome.adapter, &settings)?;
    Ok(TrainingFacts::new(&outcome, method, out))
}

/// With fewer rows than this, a label's threshold is unreliable.
const FEW_ROWS: usize = 5;

/// Rows in the form the trainer needs.
struct Learnt<'a> {
    encodings: Cow<'a, [Encoding]>,
    targets: Targets,
}

impl<'a> Learnt<'a> {
    fn new(session: &Session<'_>, tokenizer: &Tokenizer, rows: &'a dyn Rows) -> Result<Self, WorkflowError> {
        let Encoded { encodings, targets } = rows.encode(tokenizer, session.observer())?;
        let unlabelled = || WorkflowError::NoLabels { path: rows.path().to_owned() };
        Ok(Learnt { encodings, targets: targets.ok_or_else(unlabelled)? })
    }

    fn rows(&self) -> LabelledRows<'_> {
        LabelledRows { encodings: &self.encodings, targets: &self.targets }
    }

    /// Removes a share of the rows and returns it, for choosing thresholds.
    fn hold_out(&mut self, share: f64, seed: u64) -> Learnt<'static> {
        let all: Vec<usize> = (0..self.encodings.len()).collect();
        let taken = sample_rows(&all, held_out_rows(share, all.len()), seed);
        let rest: Vec<usize> = all.into_iter().filter(|row| taken.binary_search(row).is_err()).collect();
        let held_out = self.of(&taken);
        *self = self.of(&rest);
        held_out
    }

    fn of(&self, rows: &[usize]) -> Learnt<'static> {
        let encodings: Vec<Encoding> = rows.iter().filter_map(|&row| self.encodings.get(row).cloned()).collect();
        Learnt { encodings: Cow::Owned(encodings), targets: self.targets.of(rows) }
    }

    /// The best threshold for every label on these rows.
    fn thresholds(
        &self,
        session: &Session<'_>,
        input: &TrainInput<'_>,
        settings: &TrainSettings,
        outcome: &TrainOutcome,
    ) -> Result<Vec<f64>, WorkflowError> {
        let found = logits(input, settings, &outcome.adapter, self.rows(), session.observer())?;
        let outputs = Outputs::Rows(found.outer_iter().map(|row| row.to_vec()).collect());
        let text = format!(
            "thresholds are chosen for F1 on {} of the training rows, which were held out",
            self.encodings.len()
        );
        session.observer().observe(Event::Notice(&text));
        if let (Targets::LabelSets(sets), Some(labels)) = (&self.targets, input.objective.classes()) {
            let rows = |label: usize| sets.iter().filter(|set| set.get(label) == Some(&true)).count();
            let rare: Vec<String> = (0..labels.len())
                .filter(|&label| rows(label) < FEW_ROWS)
                .map(|label| format!("{} ({})", labels[label], rows(label)))
                .collect();
            if !rare.is_empty() {
                session.observer().observe(Event::Warning(&format!(
                    "thresholds of labels that few of these rows have say little (one that no row has keeps 0.5): {}; hold out more rows",
                    rare.join(", ")
                )));
            }
        }
        Ok(input.objective.thresholds(&self.targets, &outputs)?)
    }
}

impl TrainingFacts {
    fn new(outcome: &TrainOutcome, method: Method, out: &Path) -> Self {
        let best = outcome.best.as_ref();
        let evaluation = match best {
            Some(best) => outcome.evaluations.iter().find(|evaluation| evaluation.step == best.step),
            None => outcome.evaluations.last(),
        };
        Self {
            adapter: out.display().to_string(),
            method,
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
            before: outcome.evaluations.iter().find(|evaluation| evaluation.step == 0).and_then(Evaluation::decisive),
        }
    }
}

/// Refuses a plan edited into something the export does not have, and warns of an edited configuration beside it.
fn check_edited_plan(session: &Session<'_>, model: &Export, plan: &Plan, file: &Path) -> Result<(), WorkflowError> {
    let (blocks, _) = blocks_to_adapt(session, model)?;
    plan.check_export(&model.model.states()?.values, &blocks, model.folder.checkpoint.is_some())
        .map_err(|fault| RankError::in_plan(file, fault))?;
    let beside = file.with_file_name(CONFIG_FILE);
    let Ok(found) = crate::files::read(&beside) else { return Ok(()) };
    let found: serde_json::Value = serde_json::from_slice(&found).unwrap_or_default();
    let planned = adapter_config(plan, &config_settings(model)?)?;
    let decisive = ["r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules"];
    if let Some(key) = decisive.into_iter().find(|key| found.get(*key) != planned.get(*key)) {
        session.observer().observe(Event::Warning(&format!(
            "{} has another {key} than {}: what is trained is what the plan says",
            beside.display(),
            file.display()
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::progress::Observer;
    use crate::settings::DeviceSettings;

    #[derive(Default)]
    struct Warnings(Mutex<Vec<String>>);

    impl Observer for Warnings {
        fn observe(&self, event: Event<'_>) {
            if let Event::Warning(text) = event {
                self.0.lock().unwrap().push(text.to_owned());
            }
        }

        fn is_cancelled(&self) -> bool {
            false
        }
    }

    #[test]
    fn training_that_gained_nothing_is_told() {
        let warned = |metric: &str, before: Option<f64>, after: Option<f64>| {
            let warnings = Warnings::default();
            let session = Session::new(&warnings, DeviceSettings::default());
            tell_no_gain(&session, metric, Path::new("dev.tsv"), before, after);
            warnings.0.lock().unwrap().pop()
        };
        insta::assert_snapshot!(
            warned("accuracy", Some(0.75), Some(0.5)).unwrap(),
            @"training did not improve accuracy on dev.tsv: 0.7500 before, 0.5000 after; try another learning rate, more epochs or more data"
        );
        assert!(
            warned("accuracy", Some(0.5), Some(0.5)).is_some() && warned("accuracy", Some(0.5), Some(0.6)).is_none()
        );
        // For perplexity, smaller is better.
        assert!(
            warned("perplexity", Some(9.0), Some(9.5)).is_some()
                && warned("perplexity", Some(9.0), Some(8.0)).is_none()
        );
        // If either value is unknown, there is no warning.
        assert!(warned("pearson", None, Some(0.1)).is_none() && warned("pearson", Some(0.1), None).is_none());
        assert!(warned("exact_match", Some(10.0), Some(9.0)).is_some());
    }
}
