//! The stages of `gelora run`, each identified by everything its result depends on.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::adapter;
use crate::checkpoint::ModelFolder;
use crate::dataset::{Metric, Tokenizer};
use crate::files::{sha256, sha256_file, write_json};
use crate::merge::{MergeSettings, merge};
use crate::progress::Event;
use crate::rank::Plan;

use super::evaluate::{EvaluationData, EvaluationFacts, evaluate, padding_is_safe};
use super::journal::{Earlier, Journal};
use super::outputs::refuse_adapter_folder;
use super::plan::{PlanData, PlanFiles, plan};
use super::rows::{fitting_metrics, objective_of, read, read_held_out};
use super::train::{TrainingData, TrainingFacts, check_learning, refuse_ranks, tell_no_gain, train_adapter};
use super::{Export, Session, WorkflowError};
use crate::settings::{Config, TrainSettings};
use crate::task::{Objective, Purpose, Rows};

const ADAPTER: &str = "adapter";
const MERGED: &str = "merged";

/// Everything a run needs, opened and checked before the first long computation.
struct Pipeline<'a> {
    session: &'a Session<'a>,
    config: &'a Config,
    model: Export,
    model_sha256: String,
    tokenizer: Tokenizer,
    train: Box<dyn Rows>,
    dev: Option<Box<dyn Rows>>,
    test: Option<Box<dyn Rows>>,
    objective: Objective,
    metrics: Vec<Metric>,
    out: PathBuf,
}

/// Results of a run.
#[derive(Debug, Serialize)]
pub struct Finished {
    /// The plan; `None` for a method without ranks.
    pub plan: Option<Plan>,
    /// Results of the training.
    pub training: TrainingFacts,
    /// Metrics before and after training.
    pub evaluation: Evaluations,
    /// Paths of all files written.
    pub files: Vec<String>,
}

/// Metrics of the original export and of the merged one.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Evaluations {
    /// On the rows by which the best state was chosen.
    pub dev: Option<BeforeAfter>,
    /// On rows that played no part in any choice.
    pub test: Option<BeforeAfter>,
}

/// Metrics of one set of rows.
#[derive(Debug, Serialize, Deserialize)]
pub struct BeforeAfter {
    /// Metrics of the original export; `None` where it has no head.
    pub before: Option<EvaluationFacts>,
    /// Metrics of the merged export.
    pub after: EvaluationFacts,
}

/// Plans, trains, merges and evaluates, as configured. A stage is skipped if its result exists, made from the same inputs.
///
/// # Errors
/// Those of the stages; faults in the inputs are reported before the first stage.
pub fn run(session: &Session<'_>, config: &Config) -> Result<Finished, WorkflowError> {
    Pipeline::open(session, config)?.run()
}

impl<'a> Pipeline<'a> {
    /// Opens model, tokenizer and data.
    fn open(session: &'a Session<'a>, config: &'a Config) -> Result<Self, WorkflowError> {
        let section = &config.data;
        let out = &config.output.folder;
        refuse_adapter_folder(out)?;
        session.take_folder(out, &[("model", &config.model.path)])?;
        // Another process that writes one of these alone must wait as well.
        for part in [PlanFiles::in_folder(out).store, out.join(ADAPTER), out.join(MERGED)] {
            session.lock(&part)?;
        }
        let model = Export::new(&config.model.path)?;
        model.tell_origin(session);
        refuse_ranks(&config.train, config.output.flavour, &[])?;
        if !config.train.method.takes_plan() {
            // Otherwise the plan reports it.
            model.told_structure(session, &model.weights()?)?;
        }
        let tokenizer = {
            model.found_head()?.fits_training(section, &config.train)?;
            model.tokenizer(session, section.max_length())?
        };
        let train = read(session, section, &tokenizer, Purpose::Train, model.config_of_own_head(&config.train))?;
        let objective = objective_of(train.as_ref())?.clone();
        model.found_head()?.fits_labels(&objective)?;
        check_learning(&config.train, &objective, train.len())?;
        let held_out = |path: &PathBuf| read_held_out(session, section, path, &tokenizer, &objective);
        let other = |path: &Option<PathBuf>| path.as_ref().map(held_out).transpose();
        Ok(Self {
            dev: other(&section.dev)?,
            test: other(&section.test)?,
            metrics: fitting_metrics(section, &objective)?,
            model_sha256: sha256(model.model.file_bytes()),
            out: config.output.folder.clone(),
            session,
            config,
            model,
            tokenizer,
            train,
            objective,
        })
    }

    /// Runs all stages.
    fn run(self) -> Result<Finished, WorkflowError> {
        let mut journal = Journal::open(self.out.join("run.json"))?;
        let files = PlanFiles::in_folder(&self.out);
        let plan = match self.config.train.method.takes_plan() {
            true => Some(self.plan(&mut journal, &files)?),
            false => None,
        };
        for warning in plan.iter().flat_map(|plan| &plan.warnings) {
            self.session.observer().observe(Event::Warning(warning));
        }
        let padding_is_safe = match &plan {
            Some(plan) => !plan.extraction.equal_lengths,
            None => self.padding_is_safe()?,
        };
        let training = self.train(&mut journal, plan.as_ref(), padding_is_safe)?;
        self.merge(&mut journal)?;
        let evaluation = self.evaluate(&mut journal, padding_is_safe)?;
        self.tell_no_gain(&evaluation);

        let of_plan = plan.iter().flat_map(|_| files.written());
        let mut written: Vec<PathBuf> = of_plan.map(Path::to_path_buf).collect();
        written.extend([self.adapter(), self.merged()]);
        written.extend([self.out.join("evaluation.json"), self.out.join("run.json")]);
        let finished = Finished {
            plan,
            training,
            evaluation,
            files: written.iter().map(|path| path.display().to_string()).collect(),
        };
        journal.summary = Some(finished.summary());
        journal.write()?;
        Ok(finished)
    }

    /// Warns if training brought no gain: by the decisive metric, on the rows by which the best state was chosen, or else on
    /// the test rows.
    fn tell_no_gain(&self, evaluations: &Evaluations) {
        let sets = [(&self.dev, &evaluations.dev), (&self.test, &evaluations.test)];
        let evaluated = sets.into_iter().find_map(|(rows, found)| Some((rows.as_ref()?.path(), found.as_ref()?)));
        let Some((rows, BeforeAfter { before: Some(before), after })) = evaluated else { return };
        if let (Some(before), Some(after)) = (before.metrics.first(), after.metrics.first()) {
            tell_no_gain(self.session, &after.name, rows, before.value, after.value);
        }
    }

    /// Whether rows may be padded, for methods without a plan that records it.
    fn padding_is_safe(&self) -> Result<bool, WorkflowError> {
        let sample = self.train.first(64, &self.tokenizer)?;
        padding_is_safe(self.session, &self.model.model, &sample, &self.tokenizer)
    }

    fn adapter(&self) -> PathBuf {
        self.out.join(ADAPTER)
    }

    fn merged(&self) -> PathBuf {
        self.out.join(MERGED)
    }

    /// Model and tokenizer, as inputs of every stage.
    fn model_inputs(&self) -> Result<Value, WorkflowError> {
        let mut files = Vec::new();
        for file in self.model.model.external_files() {
            files.push((file.location.clone(), sha256(file.bytes())));
        }
        for file in self.model.folder.checkpoint.iter().flat_map(|checkpoint| checkpoint.files()) {
            files.push((file.path.display().to_string(), sha256_file(&file.path)?));
        }
        Ok(json!({ "onnx": self.model_sha256, "files": files, "tokenizer": self.tokenizer.sha256() }))
    }

    /// Adds what, besides files and columns, determines how the task sees its rows.
    fn enter_task(&self, mut inputs: Value, learning: bool) -> Value {
        if let Some((key, value)) = self.config.data.reader().identity(&self.config.data, learning) {
            inputs[key] = value;
        }
        inputs
    }

    fn plan(&self, journal: &mut Journal, files: &PlanFiles) -> Result<Plan, WorkflowError> {
        if journal.was_edited("plan", &files.plan) {
            return Err(WorkflowError::EditedPlan { plan: files.plan.clone() });
        }
        let section = &self.config.data;
        let settings = section.load_settings();
        let inputs = json!({
            "model": self.model_inputs()?,
            "data": self.train.sha256(),
            "columns": [Some(settings.text), settings.pair],
            "limit": section.limit,
            "max_length": section.max_length(),
            "plan": self.config.plan,
            // Tasks that have a template set it; the others keep this key too, as in journals of earlier versions.
            "template": Value::Null,
        });
        let data = PlanData { section, rows: self.train.as_ref(), tokenizer: &self.tokenizer };
        journal.stage("plan", self.enter_task(inputs, false), self.session.observer(), |_| {
            let plan = plan(self.session, &self.model, &data, &self.config.plan, files)?;
            let mut outputs: Vec<PathBuf> = files.written().map(Path::to_path_buf).to_vec();
            if self.config.plan.mini_batch.is_none() {
                outputs.push(files.store.join("manifest.json"));
            }
            Ok((plan, outputs))
        })
    }

    fn train(
        &self,
        journal: &mut Journal,
        plan: Option<&Plan>,
        padding_is_safe: bool,
    ) -> Result<TrainingFacts, WorkflowError> {
        let section = &self.config.data;
        let flavour = self.config.output.flavour;
        let inputs = json!({
            "plan": plan.map(|plan| &plan.blocks),
            "model": self.model_inputs()?,
            "train": self.train.sha256(),
            "dev": self.dev.as_ref().map(|rows| rows.sha256()),
            "columns": [Some(&section.load_settings().text), section.load_settings().pair.as_ref(), section.load_settings().label.as_ref()],
            "objective": self.objective,
            "limit": section.limit,
            "max_length": section.max_length(),
            "texts": Value::Null,
            "metrics": self.metrics,
            "settings": self.config.train,
            "flavour": self.config.output.flavour,
        });
        let data = TrainingData {
            initial: None,
            train: self.train.as_ref(),
            validation: self.dev.as_deref(),
            tokenizer: &self.tokenizer,
            metrics: &self.metrics,
            padding_is_safe,
        };
        let out = self.adapter();
        journal.stage("train", self.enter_task(inputs, true), self.session.observer(), |earlier| {
            let settings = self
                .session
                .on_device(TrainSettings { restart: earlier == Earlier::None, ..self.config.train.clone() });
            let facts = train_adapter(self.session, &self.model, plan, &data, &settings, flavour, &out)?;
            let names = [
                adapter::CONFIG_FILE,
                adapter::TENSOR_FILE,
                adapter::PROVENANCE_FILE,
                adapter::HEAD_FILE,
                adapter::WHOLE_FILE,
            ];
            Ok((facts, names.iter().map(|name| out.join(name)).filter(|path| path.exists()).collect()))
        })
    }

    fn merge(&self, journal: &mut Journal) -> Result<(), WorkflowError> {
        let inputs = json!({
            "model": self.model_inputs()?,
            // The configuration is rewritten for the merged model.
            "config": self.model.folder.config,
            "adapter": journal.outputs("train"),
        });
        let out = self.merged();
        journal.stage("merge", inputs, self.session.observer(), |_| {
            let settings = MergeSettings::default();
            let report = merge(&self.model.folder, &self.adapter(), &out, &settings, self.session.observer())?;
            for warning in &report.warnings {
                self.session.observer().observe(Event::Warning(warning));
            }
            Ok(((), report.files.iter().map(|name| out.join(name)).collect()))
        })
    }

    fn evaluate(&self, journal: &mut Journal, padding_is_safe: bool) -> Result<Evaluations, WorkflowError> {
        let hash = |rows: &Option<Box<dyn Rows>>| rows.as_ref().map(|rows| rows.sha256().to_owned());
        let mut inputs = json!({
            "model": self.model_inputs()?,
            "merged": journal.outputs("merge"),
            "dev": hash(&self.dev),
            "test": hash(&self.test),
            "objective": self.objective,
            "metrics": self.metrics,
            "max_length": self.config.data.max_length(),
            "texts": Value::Null,
        });
        if self.objective.has_thresholds() {
            // The thresholds of the original export.
            inputs["config"] = json!(self.model.folder.config);
        }
        let path = self.out.join("evaluation.json");
        journal.stage("evaluate", self.enter_task(inputs, true), self.session.observer(), |_| {
            let evaluations = Evaluations {
                dev: self.before_and_after(self.dev.as_deref(), padding_is_safe)?,
                test: self.before_and_after(self.test.as_deref(), padding_is_safe)?,
            };
            write_json(&path, &evaluations)?;
            Ok((evaluations, vec![path.clone()]))
        })
    }

    fn before_and_after(
        &self,
        rows: Option<&dyn Rows>,
        padding_is_safe: bool,
    ) -> Result<Option<BeforeAfter>, WorkflowError> {
        let Some(rows) = rows else { return Ok(None) };
        let data = EvaluationData {
            rows,
            objective: &self.objective,
            encoded: &rows.encode(&self.tokenizer, self.session.observer())?,
            tokenizer: &self.tokenizer,
            metrics: &self.metrics,
            config: self.model.folder.config.as_ref(),
            batch_tokens: self.config.train.evaluation_tokens,
            padding_is_safe,
        };
        let before = match self.model.model.head()? {
            Some(_) => Some(evaluate(self.session, &self.model.folder.onnx, &data)?.0),
            None => None,
        };
        let merged = ModelFolder::open(&self.merged())?;
        let data = EvaluationData { config: merged.config.as_ref(), ..data };
        Ok(Some(BeforeAfter { before, after: evaluate(self.session, &merged.onnx, &data)?.0 }))
    }
}

impl Finished {
    /// The part that `run.json` keeps: the plan is a file of its own.
    fn summary(&self) -> Value {
        let plan = self.plan.as_ref();
        let ranks: Option<Vec<usize>> = plan.map(|plan| plan.blocks.iter().map(|block| block.rank).collect());
        json!({
            "ranks": ranks,
            "adapter_parameters": plan.map(|plan| plan.adapter_parameters),
            "training": self.training,
            "evaluation": self.evaluation,
            "files": self.files,
        })
    }
}
