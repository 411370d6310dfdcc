//! Rows in, shards out: one thread tokenizes and plans, several run the model, the caller's thread writes.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use ndarray::Array2;

use super::pooled_model::{POOL_WEIGHTS, TOKEN_PLACES, output};
use super::shard::{Progress, ShardBuffer, ShardPlan, ShardSettings};
use super::source::Source;
use super::{ActivationsError, Manifest, MiniBatch, Pooling, ShardEntry};
use crate::dataset::{Batch, Encoding, Padding};
use crate::progress::{Event, Observer};
use crate::runtime::{Feeder, InferenceSession, InputTensor, RowStates, RuntimeError, Tokens, padded};

/// Maximum number of batches waiting for a session: enough to plan the next shard meanwhile.
const WAITING: usize = 64;

/// A session of the pooled model and what is needed to fill its inputs.
pub(super) struct PooledSession {
    session: InferenceSession,
    feeder: Feeder,
    outputs: Vec<String>,
    pooling: Pooling,
    padding: Padding,
}

impl PooledSession {
    pub(super) fn new(
        session: InferenceSession,
        states: usize,
        pooling: Pooling,
        padding: Padding,
    ) -> Result<Self, RuntimeError> {
        let feeder = Feeder::new(session.inputs(), &[POOL_WEIGHTS, TOKEN_PLACES])?;
        Ok(Self { session, feeder, outputs: (0..states).map(output).collect(), pooling, padding })
    }

    pub(super) fn inference(&self) -> &InferenceSession {
        &self.session
    }

    /// The vectors of a batch, per hidden state row-major `[points, width]`. `places` are batch row and position of every
    /// sampled token; it is ignored when tokens are not sampled.
    fn vectors(&mut self, batch: &Batch, places: &[i64]) -> Result<Vec<Vec<f32>>, RuntimeError> {
        let feed = self.feeder.feed(&Tokens::from(batch));
        let mut inputs = feed.tensors();
        let weights;
        let (points_shape, weights_shape) = ([places.len() / 2, 2], [batch.rows.len(), 1, batch.length]);
        if self.pooling.is_tokens() {
            inputs.push((TOKEN_PLACES, InputTensor::I64 { shape: &points_shape, data: places }));
        } else {
            weights = self.pooling.weights(batch);
            inputs.push((POOL_WEIGHTS, InputTensor::F32 { shape: &weights_shape, data: &weights }));
        }
        let outputs: Vec<&str> = self.outputs.iter().map(String::as_str).collect();
        let mut values = Vec::with_capacity(outputs.len());
        self.session.run_each(&inputs, &outputs, |_, _, vectors| values.push(vectors.to_vec()))?;
        Ok(values)
    }

    fn run(&mut self, plan: &ShardPlan, batch: usize) -> Result<Vec<Vec<f32>>, RuntimeError> {
        let sizes = self.feeder.sizes();
        let mut all: Vec<Vec<f32>> = vec![Vec::new(); self.outputs.len()];
        for rows in sizes.parts(&plan.batches[batch]) {
            let part = self.part(plan, rows)?;
            all.iter_mut().zip(part).for_each(|(all, part)| match all.is_empty() {
                true => *all = part,
                false => all.extend(part),
            });
        }
        Ok(all)
    }

    /// The vectors of rows that fit into one batch.
    fn part(&mut self, plan: &ShardPlan, rows: &[usize]) -> Result<Vec<Vec<f32>>, RuntimeError> {
        let places = rows.iter().enumerate().flat_map(|(place, row)| {
            plan.positions[*row].iter().flat_map(move |position| [place as i64, i64::from(*position)])
        });
        let places: Vec<i64> = places.collect();
        let batch = self.feeder.sizes().batch(&plan.encodings, rows, self.padding)?;
        self.vectors(&batch, &places)
    }

    /// Pooled vectors of a few rows at a given padded length, for the check of the export.
    pub(super) fn row_states(&mut self, rows: &[Encoding], length: usize) -> Result<Vec<RowStates>, RuntimeError> {
        let mut states = Vec::with_capacity(rows.len());
        for part in self.feeder.sizes().parts(rows) {
            states.extend(self.states_of_part(part, length)?);
        }
        Ok(states)
    }

    fn states_of_part(&mut self, rows: &[Encoding], length: usize) -> Result<Vec<RowStates>, RuntimeError> {
        let batch = padded(rows, length, self.padding, self.feeder.sizes())?;
        let counts: Vec<usize> = rows.iter().map(|row| if self.pooling.is_tokens() { row.len() } else { 1 }).collect();
        let all = rows.iter().enumerate().flat_map(|(i, row)| (0..row.len()).flat_map(move |p| [i as i64, p as i64]));
        let values = self.vectors(&batch, &all.collect::<Vec<_>>())?;
        let points: usize = counts.iter().sum();
        let mut from = 0;
        let mut states = Vec::with_capacity(rows.len());
        for count in counts {
            let row = values.iter().zip(&self.outputs).map(|(values, name)| {
                let width = values.len() / points.max(1);
                let vectors = values[from * width..(from + count) * width].to_vec();
                let found = || RuntimeError::Output { name: name.clone(), found: "of an unexpected shape".into() };
                Array2::from_shape_vec((count, width), vectors).map_err(|_| found())
            });
            states.push(row.collect::<Result<RowStates, _>>()?);
            from += count;
        }
        Ok(states)
    }
}

struct Job {
    plan: Arc<ShardPlan>,
    batch: usize,
}

enum Message {
    Planned(Arc<ShardPlan>),
    Done { job: Job, values: Vec<Vec<f32>> },
    Failed(ActivationsError),
    Exhausted,
}

/// Destination of finished shards.
pub(super) enum Sink<'a> {
    /// Written to the store in this folder.
    Store(&'a Path),
    /// Passed on in order, until there are enough.
    Stream {
        take: &'a mut TakeBatch<'a>,
        /// Shards that arrived out of order.
        early: BTreeMap<usize, (ShardEntry, MiniBatch)>,
        next: usize,
    },
}

/// Receives a mini-batch, and returns whether to continue.
pub type TakeBatch<'a> = dyn FnMut(MiniBatch) -> Result<ControlFlow<()>, ActivationsError> + 'a;

impl Sink<'_> {
    fn put(
        &mut self,
        plan: &ShardPlan,
        buffer: ShardBuffer,
        ran_on: (&str, &str),
        manifest: &mut Manifest,
    ) -> Result<ControlFlow<()>, ActivationsError> {
        let mut entry = buffer.entry(plan, ran_on);
        match self {
            Sink::Store(store) => {
                entry.files = buffer.write(store, plan)?;
                manifest.enter(entry);
                manifest.write(store)?;
            }
            Sink::Stream { take, early, next } => {
                let (layers, rows) = buffer.into_layers(plan);
                early.insert(plan.index, (entry, MiniBatch { layers, rows }));
                while let Some((entry, batch)) = early.remove(next) {
                    *next += 1;
                    manifest.enter(entry);
                    if take(batch)?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// State shared by the threads.
pub(super) struct Pipeline<'a> {
    pub source: &'a dyn Source,
    pub plan: ShardSettings<'a>,
    pub onnxruntime: &'a str,
}

impl Pipeline<'_> {
    /// Computes the shards missing from `manifest`, and passes them to the sink.
    pub(super) fn run(
        &self,
        sessions: Vec<PooledSession>,
        manifest: &mut Manifest,
        sink: &mut Sink<'_>,
        observer: &dyn Observer,
    ) -> Result<(), ActivationsError> {
        let shard_rows = manifest.shard_rows.max(1);
        let shards = manifest.shards_wanted();
        let done: Vec<bool> = (0..shards).map(|index| manifest.has(index)).collect();
        let products = sessions.first().map(|e| e.inference().provider_of_matrix_products()).unwrap_or_default();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let (jobs, waiting) = sync_channel::<Job>(WAITING);
            let (sender, messages) = channel();
            let waiting = Arc::new(Mutex::new(waiting));
            for pooled in sessions {
                let (waiting, sender, stop) = (Arc::clone(&waiting), sender.clone(), &stop);
                scope.spawn(move || work(pooled, &waiting, &sender, stop));
            }
            drop(waiting);
            scope.spawn(|| {
                let (jobs, sender) = (jobs, sender);
                let planned = self.plan_shards(shard_rows, &done, &jobs, &sender, &stop);
                // The receiver is gone only after an error of its own.
                let _ = sender.send(planned.map_or_else(Message::Failed, |()| Message::Exhausted));
            });
            let result = self.collect(&messages, manifest, sink, &products, observer);
            stop.store(true, Ordering::SeqCst);
            result
        })
    }

    /// Tokenizes shard after shard and hands out its batches.
    fn plan_shards(
        &self,
        shard_rows: usize,
        done: &[bool],
        jobs: &SyncSender<Job>,
        sender: &Sender<Message>,
        stop: &AtomicBool,
    ) -> Result<(), ActivationsError> {
        let mut progress = Progress::default();
        let last = done.iter().rposition(|done| !done).map_or(0, |last| last + 1);
        for (index, done) in done.iter().enumerate().take(last) {
            if stop.load(Ordering::SeqCst) {
                return Ok(());
            }
            let range = index * shard_rows..((index + 1) * shard_rows).min(self.source.rows());
            let encodings = self.source.encodings(range.clone())?;
            let plan = Arc::new(ShardPlan::new(index, range, &encodings, &mut progress, &self.plan)?);
            if *done {
                continue;
            }
            if sender.send(Message::Planned(Arc::clone(&plan))).is_err() {
                return Ok(());
            }
            for batch in 0..plan.batches.len() {
                if jobs.send(Job { plan: Arc::clone(&plan), batch }).is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Assembles the vectors of batches and passes on every complete shard.
    fn collect(
        &self,
        messages: &Receiver<Message>,
        manifest: &mut Manifest,
        sink: &mut Sink<'_>,
        products: &str,
        observer: &dyn Observer,
    ) -> Result<(), ActivationsError> {
        let mut open: HashMap<usize, (Arc<ShardPlan>, ShardBuffer)> = HashMap::new();
        let mut exhausted = false;
        let mut rows_done = manifest.rows_done();
        while !(exhausted && open.is_empty()) {
            observer.check()?;
            let whole = match messages.recv_timeout(Duration::from_millis(100)) {
                Ok(Message::Planned(plan)) => {
                    rows_done += plan.range.len() - plan.batches.iter().map(Vec::len).sum::<usize>();
                    let buffer = ShardBuffer::new(&plan, &manifest.widths);
                    let index = plan.index;
                    open.insert(index, (plan, buffer));
                    index
                }
                Ok(Message::Done { job, values }) => {
                    if let Some((plan, buffer)) = open.get_mut(&job.plan.index) {
                        buffer.put(plan, job.batch, &values);
                    }
                    rows_done += job.plan.batches[job.batch].len();
                    observer.observe(Event::Advance { done: rows_done as u64, detail: "" });
                    job.plan.index
                }
                Ok(Message::Failed(error)) => return Err(error),
                Ok(Message::Exhausted) => {
                    exhausted = true;
                    continue;
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => continue,
            };
            if open.get(&whole).is_some_and(|(_, buffer)| buffer.batches_left == 0)
                && let Some((plan, buffer)) = open.remove(&whole)
                && sink.put(&plan, buffer, (products, self.onnxruntime), manifest)?.is_break()
            {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Runs batches until there are none.
fn work(mut pooled: PooledSession, waiting: &Mutex<Receiver<Job>>, sender: &Sender<Message>, stop: &AtomicBool) {
    while !stop.load(Ordering::SeqCst) {
        let job = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        let message = match pooled.run(&job.plan, job.batch) {
            Ok(values) => Message::Done { job, values },
            Err(error) => Message::Failed(error.into()),
        };
        if sender.send(message).is_err() {
            return;
        }
    }
}
