//! The training loop: steps, evaluation after every epoch, the best state, saving and resuming.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use tch::{Kind, Tensor};

use super::body::Part;
use super::error::TrainError;
use super::evaluation::{self, Measured};
use super::fingerprint::fingerprint;
use super::input::TrainInput;
use super::journal::{EvaluationLine, Journal, StepLine, SummaryLine};
use super::learner::Learner;
use super::losses::{Loss, class_weights, loss_of};
use super::once::{backend, take_turn, threads};
use super::optimizer::{AdamW, clip_norm};
use super::order::{check_batches, epoch_batches, epochs, total_steps};
use super::outcome::{Best, Evaluation, TrainOutcome};
use super::precision::precision;
use super::program::LinearBackend;
use super::rows::LabelledRows;
use super::schedule::LearningRate;
use super::state::{Header, Position, State};
use super::{device, dropout, state};
use crate::hint::Hint;
use crate::onnx::DataType;
use crate::progress::{Event, Observer};
use crate::settings::{Precision, TrainSettings};

/// Trains adapters at the ranks of a plan, and the head.
///
/// `metrics.jsonl` and `state/` in [`TrainInput::folder`] are written during the run; called again with the same input
/// and settings, a run resumes from the saved state and gives, on the CPU with any number of threads, the same bits.
/// A finished run is not repeated. Runs of one process take turns.
///
/// # Errors
/// If input, plan, settings and a saved state do not fit together; if the loss is not finite; if a file cannot be read or
/// written; if libtorch fails; [`TrainError::Cancelled`] if the observer asks to stop (the state is saved first).
pub fn train(
    input: &TrainInput<'_>,
    settings: &TrainSettings,
    observer: &dyn Observer,
) -> Result<TrainOutcome, TrainError> {
    let _turn = take_turn();
    let mut run = Run::prepare(input, settings, observer)?;
    let done = run.go();
    if let Err(TrainError::Cancelled(_)) = done {
        run.save()?;
    }
    done?;
    run.outcome()
}

const PADDING_MATTERS: &str = "the logits of a row change with the padding of its batch, so padding is computed like text, \
     as the export has it; a head that reads real tokens only would be faster and give the same logits in every batch";

const SLOW_FLOAT16: &str = "the weights of this export are float16, with which a CPU trains many times as slowly as with float32: \
     plan and train with the float32 export of the same model, or on a GPU";

/// Share of the cores below which the machine is said to be shared.
const SHARED: f64 = 0.8;

/// Loss and gradient norm of a step that are still on the device: reading them at once would make the host wait.
struct Pending {
    loss: Tensor,
    norm: Tensor,
    rows: usize,
    /// Denominator of the mean loss: the number of rows, the sum of their class weights, or the number of tokens that count.
    weight: f64,
    learning_rate: f64,
}

struct Run<'a> {
    input: &'a TrainInput<'a>,
    settings: &'a TrainSettings,
    observer: &'a dyn Observer,
    header: Header,
    learner: Learner<'a>,
    optimizer: AdamW,
    rate: LearningRate,
    total_steps: u64,
    lengths: Vec<usize>,
    loss: Arc<dyn Loss>,
    validation: Option<(LabelledRows<'a>, Arc<dyn Loss>)>,
    journal: Journal,
    pending: Vec<Pending>,
    last_loss: f64,
    last_norm: f64,
    best: Option<Vec<f32>>,
    resumed_from: Option<u64>,
    /// Whether it was looked at, and said, that other programs use the cores.
    shared_told: bool,
}

impl<'a> Run<'a> {
    fn prepare(
        input: &'a TrainInput<'a>,
        settings: &'a TrainSettings,
        observer: &'a dyn Observer,
    ) -> Result<Self, TrainError> {
        settings.check()?;
        input.check()?;
        check_batches(settings, input.train.encodings.len())?;
        let weights = class_weights(settings.class_weights.as_ref(), input.objective, input.train.targets)?;
        let weights = weights.as_deref();
        let loss = loss_of("training", input.objective, &input.train, weights)?;
        let validation = match input.validation {
            Some(rows) => Some((rows, loss_of("validation", input.objective, &rows, weights)?)),
            None => None,
        };
        let device = device::open(settings.device)?;
        let folder = state_folder(input);
        let fingerprint = fingerprint(input, settings);
        let saved = if settings.restart { None } else { State::read(&folder)? };
        if let Some(saved) = &saved {
            saved.header.check(&state::path(&folder), &fingerprint)?;
        }
        let finished = saved.as_ref().is_some_and(|saved| saved.header.position.finished);
        if device == tch::Device::Cpu && !finished && in_float16(input) {
            observer.observe(Event::Warning(SLOW_FLOAT16));
        }
        let threads = threads(settings);
        let mut header = Header::new(fingerprint, device_name(device), threads as i32);
        let linear = match &saved {
            Some(saved) if !saved.header.linear.is_empty() => LinearBackend::Chosen(saved.header.linear.clone()),
            _ => backend(settings.linear),
        };
        let chosen = saved.as_ref().and_then(|saved| saved.header.precision);
        let precision = precision((settings.precision, settings.method), chosen, input, device, observer)?;
        header.precision = (settings.precision == Precision::Auto).then_some(precision);
        let mut learner = Learner::new(input, settings, device, (linear, precision))?;
        if let (false, Some(first)) = (finished, learner.missing().first()) {
            observer.observe(Event::Notice(&format!(
                "{} tensors of the checkpoint are not in the export under values of their own, and stay as they are: `{first}` …",
                learner.missing().len()
            )));
        }
        if !finished {
            learner.start(input.train.encodings, threads)?;
            if learner.padding_matters() {
                observer.observe(Event::Warning(PADDING_MATTERS));
            }
        }
        header.parameters = learner.parameters().entries().to_vec();
        let optimizer = AdamW::new(settings, learner.parameters().values())?;
        let lengths: Vec<usize> = input.train.encodings.iter().map(|encoding| encoding.len()).collect();
        let total_steps = total_steps(settings, &lengths);
        if settings.restart {
            state::remove(&folder)?;
        }
        let journal_bytes = saved.as_ref().map_or(0, |saved| saved.header.position.journal_bytes);
        let mut run = Run {
            journal: Journal::open(&input.folder.join("metrics.jsonl"), journal_bytes)?,
            rate: LearningRate::new(settings, total_steps),
            input,
            settings,
            observer,
            header,
            learner,
            optimizer,
            total_steps,
            lengths,
            loss,
            validation,
            pending: Vec::new(),
            last_loss: f64::NAN,
            last_norm: f64::NAN,
            best: None,
            resumed_from: None,
            shared_told: false,
        };
        if let Some(saved) = saved {
            run.restore(saved)?;
        }
        Ok(run)
    }

    /// Restores a saved state.
    fn restore(&mut self, saved: State) -> Result<(), TrainError> {
        if saved.header.parameters != self.header.parameters {
            return Err(TrainError::BadState {
                path: state::path(&state_folder(self.input)),
                reason: "its parameters are not those of this model and plan".into(),
            });
        }
        let (before, now) = (saved.header.device.as_str(), self.header.device.as_str());
        if before != now && !saved.header.position.finished {
            self.observer.observe(Event::Warning(&format!(
                "going on with {now} after {before}: the last bits of the result may differ"
            )));
        }
        self.learner.parameters_mut().write(&saved.values)?;
        self.optimizer.restore(&saved.optimizer)?;
        self.best = saved.best;
        self.resumed_from = Some(saved.header.position.step);
        self.header.linear = saved.header.linear;
        self.header.position = saved.header.position;
        Ok(())
    }

    fn position(&mut self) -> &mut Position {
        &mut self.header.position
    }

    /// Runs all remaining steps.
    fn go(&mut self) -> Result<(), TrainError> {
        let done = self.header.position.step;
        self.observer.observe(Event::Begin { stage: "training", total: Some(self.total_steps), done, unit: "steps" });
        if done == 0 && self.settings.evaluate_before && self.header.position.evaluations.is_empty() {
            self.evaluate(false)?;
            self.save()?;
        }
        while !self.header.position.finished {
            self.finish_epoch_of_steps()?;
            self.evaluate(true)?;
            let position = self.position();
            position.epoch += 1;
            position.batch = 0;
            self.decide_whether_to_stop();
            if self.header.position.finished {
                self.journal.write(&self.summary())?;
            }
            self.save()?;
        }
        self.observer.observe(Event::End);
        Ok(())
    }

    /// The rest of the current epoch, step by step.
    fn finish_epoch_of_steps(&mut self) -> Result<(), TrainError> {
        let batches = epoch_batches(self.settings, &self.lengths, self.header.position.epoch);
        while (self.header.position.batch as usize) < batches.len() && self.header.position.step < self.total_steps {
            self.observer.check()?;
            let start = self.header.position.batch as usize;
            let window = &batches[start..batches.len().min(start + self.settings.accumulation)];
            self.step(window)?;
            self.position().batch += window.len() as u64;
            let step = self.header.position.step;
            if step.is_multiple_of(self.settings.log_every) || step == self.total_steps {
                self.log(batches.len())?;
            }
            if step.is_multiple_of(self.settings.save_every) {
                self.save()?;
            }
            self.report();
            self.tell_shared_machine();
        }
        self.collect()
    }

    /// One optimizer step on the mean loss of all rows of these batches (of all their tokens that count, for a language model:
    /// a batch of long texts weighs more than one of short ones).
    fn step(&mut self, batches: &[Vec<usize>]) -> Result<(), TrainError> {
        let clock = Instant::now();
        let step = self.header.position.step;
        let rows: usize = batches.iter().map(Vec::len).sum();
        let weight: f64 = batches.iter().map(|batch| self.loss.weight(batch)).sum();
        let encodings = self.input.train.encodings;
        let seed = |piece| dropout::seed(self.settings.seed, step, piece);
        let part = self.learner.gradient(encodings, batches, (&self.loss, weight), seed)?;
        let Some(Part { mut gradient, loss }) = part else { return Ok(()) };
        let norm = clip_norm(&mut gradient, self.settings.largest_norm())?;
        let learning_rate = self.rate.at(step);
        self.optimizer.step(self.learner.parameters().values(), &gradient, learning_rate)?;
        self.learner.after_step(step + 1)?;
        self.pending.push(Pending { loss, norm, rows, weight, learning_rate });
        let position = self.position();
        position.step += 1;
        position.rows += rows as u64;
        let seconds = clock.elapsed().as_secs_f64();
        position.seconds += seconds;
        position.loss_seconds += seconds;
        Ok(())
    }

    /// Reads back what the device has computed, and stops at a loss that is not finite.
    fn collect(&mut self) -> Result<(), TrainError> {
        let clock = Instant::now();
        let pending = std::mem::take(&mut self.pending);
        let first = self.header.position.step - pending.len() as u64;
        for (number, pending) in pending.into_iter().enumerate() {
            let loss = pending.loss.f_to_kind(Kind::Double)?.f_double_value(&[])?;
            if !loss.is_finite() {
                let step = first + number as u64 + 1;
                return Err(TrainError::NotFinite { step, loss, learning_rate: pending.learning_rate });
            }
            self.last_loss = loss;
            self.last_norm = pending.norm.f_to_kind(Kind::Double)?.f_double_value(&[])?;
            let position = self.position();
            position.loss_sum += loss * pending.weight;
            position.loss_weight += pending.weight;
            position.loss_rows += pending.rows as u64;
        }
        let seconds = clock.elapsed().as_secs_f64();
        let position = self.position();
        position.seconds += seconds;
        position.loss_seconds += seconds;
        Ok(())
    }

    /// Writes a line about the steps since the last one.
    fn log(&mut self, batches: usize) -> Result<(), TrainError> {
        self.collect()?;
        let epoch = self.epochs_done(batches);
        let position = &self.header.position;
        let rows = position.loss_rows as f64;
        let line = StepLine {
            step: position.step,
            epoch,
            loss: position.loss_sum / if position.loss_weight > 0.0 { position.loss_weight } else { 1.0 },
            gradient_norm: self.last_norm,
            learning_rate: self.rate.at(position.step.saturating_sub(1)),
            examples_per_second: rows / position.loss_seconds.max(1e-9),
        };
        self.journal.write(&line)?;
        let position = self.position();
        (position.loss_sum, position.loss_weight) = (0.0, 0.0);
        (position.loss_rows, position.loss_seconds) = (0, 0.0);
        Ok(())
    }

    /// Says once that other programs take a part of the cores.
    fn tell_shared_machine(&mut self) {
        let Some(share) = self.learner.share_of_cores().filter(|_| !self.shared_told) else { return };
        self.shared_told = true;
        if share < SHARED {
            self.observer.observe(Event::Notice(&format!(
                "other programs use the cores too: the {} threads had {:.0} % of the time that they could have used; {} leaves cores to the others",
                self.header.threads,
                100.0 * share,
                Hint::Threads
            )));
        }
    }

    fn epochs_done(&self, batches: usize) -> f64 {
        let position = &self.header.position;
        position.epoch as f64 + position.batch as f64 / batches.max(1) as f64
    }

    fn report(&self) {
        let position = &self.header.position;
        let speed = position.rows as f64 / position.seconds.max(1e-9);
        let detail = if self.last_loss.is_nan() {
            format!("{speed:.0} rows/s")
        } else {
            format!("loss {:.4} · {speed:.0} rows/s", self.last_loss)
        };
        self.observer.observe(Event::Advance { done: position.step, detail: &detail });
    }

    /// Evaluates on the validation data. `counts` is whether the result can become the best.
    fn evaluate(&mut self, counts: bool) -> Result<(), TrainError> {
        self.collect()?;
        let Some((rows, loss_of_rows)) = &self.validation else { return Ok(()) };
        let budget = self.settings.evaluation_tokens;
        let Measured { loss, metrics } =
            evaluation::evaluate(&mut self.learner, self.input, *rows, loss_of_rows, budget, self.observer)?;
        let batches = epoch_batches(self.settings, &self.lengths, self.header.position.epoch).len();
        let evaluation = Evaluation {
            step: self.header.position.step,
            epoch: self.epochs_done(batches),
            loss: Some(loss).filter(|loss| loss.is_finite()),
            metrics,
        };
        let better = match (evaluation.decisive(), &self.header.position.best) {
            (Some(value), Some(best)) if self.less_is_better() => value < best.value,
            (Some(value), Some(best)) => value > best.value,
            (Some(_), None) => true,
            (None, _) => false,
        };
        let best = counts && better;
        if let (true, Some(value)) = (best, evaluation.decisive()) {
            self.best = Some(self.learner.parameters().read()?);
            let step = evaluation.step;
            self.position().best = Some(Best { step, value });
        }
        if counts {
            let position = self.position();
            position.epochs_without_gain = if best { 0 } else { position.epochs_without_gain + 1 };
        }
        self.journal.write(&EvaluationLine {
            step: evaluation.step,
            epoch: evaluation.epoch,
            validation_loss: loss,
            metrics: evaluation.metrics.iter().map(|(name, value)| (name.clone(), (*value).into())).collect(),
            best,
        })?;
        self.observer.observe(Event::Notice(&sentence(&evaluation, best)));
        self.position().evaluations.push(evaluation);
        Ok(())
    }

    /// Whether the smaller of two values of the deciding metric is the better one.
    fn less_is_better(&self) -> bool {
        let usual = self.input.objective.usual_metrics();
        self.input.metrics.first().or(usual.first()).is_some_and(|metric| metric.less_is_better())
    }

    fn decide_whether_to_stop(&mut self) {
        let (steps, epochs) = (self.total_steps, epochs(self.settings));
        let patience = self.settings.patience;
        let measured = self.validation.is_some();
        let position = self.position();
        let done = position.step >= steps || position.epoch >= epochs;
        position.stopped_early =
            !done && measured && patience.is_some_and(|patience| position.epochs_without_gain >= patience.max(1));
        position.finished = done || position.stopped_early;
    }

    fn summary(&self) -> SummaryLine {
        let position = &self.header.position;
        SummaryLine {
            steps: position.step,
            rows: position.rows,
            seconds: position.seconds,
            examples_per_second: position.rows as f64 / position.seconds.max(1e-9),
            kept_step: position.best.as_ref().map_or(position.step, |best| best.step),
            stopped_early: position.stopped_early,
        }
    }

    /// Saves the state, so that the run can be resumed from here.
    fn save(&mut self) -> Result<(), TrainError> {
        self.collect()?;
        self.header.position.journal_bytes = self.journal.sync()?;
        self.header.linear = self.learner.linear_choices();
        let state = State {
            header: self.header.clone(),
            values: self.learner.parameters().read()?,
            optimizer: self.optimizer.state()?,
            best: self.best.clone(),
        };
        state.write(&state_folder(self.input))
    }

    fn outcome(self) -> Result<TrainOutcome, TrainError> {
        let values = match self.best {
            Some(best) => best,
            None => self.learner.parameters().read()?,
        };
        let position = self.header.position;
        Ok(TrainOutcome {
            adapter: self.learner.adapter(&values),
            new_head: self.settings.head,
            evaluations: position.evaluations,
            best: position.best,
            steps: position.step,
            stopped_early: position.stopped_early,
            resumed_from: self.resumed_from,
            examples_per_second: position.rows as f64 / position.seconds.max(1e-9),
            trained_parameters: values.len(),
            device: self.header.device,
            threads: usize::try_from(self.header.threads).unwrap_or(1),
            linear: self.header.linear,
        })
    }
}

/// Whether trained weights are stored as float16.
pub(super) fn in_float16(input: &TrainInput<'_>) -> bool {
    let modules = input.plan.iter().flat_map(|plan| &plan.blocks).flat_map(|block| &block.modules);
    let planned: HashSet<&str> = modules.map(|module| module.weight.as_str()).collect();
    let is_trained = |name: &str| input.plan.is_none() || planned.contains(name);
    let mut initializers = input.model.graph.initializers.iter();
    initializers.any(|tensor| tensor.data_type == DataType::Float16 && is_trained(&tensor.name))
}

fn state_folder(input: &TrainInput<'_>) -> PathBuf {
    input.folder.join("state")
}

fn device_name(device: tch::Device) -> String {
    match device {
        tch::Device::Cuda(number) => format!("cuda:{number}"),
        _ => "cpu".into(),
    }
}

fn sentence(evaluation: &Evaluation, best: bool) -> String {
    let number = |value: &Option<f64>| value.map_or_else(|| "undefined".to_owned(), |value| format!("{value:.4}"));
    let metrics: Vec<String> =
        evaluation.metrics.iter().map(|(name, value)| format!("{name} {}", number(value))).collect();
    let best = if best { ", the best so far" } else { "" };
    format!("epoch {:.2}: loss {}, {}{best}", evaluation.epoch, number(&evaluation.loss), metrics.join(", "))
}
