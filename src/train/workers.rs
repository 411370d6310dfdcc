//! Threads that compute the pieces of a batch, each with a [`Replica`] of its own and one thread of libtorch.
//!
//! With several threads in every operation, all of them wait for the last one at every operation: beside another
//! program on the same core that costs far more than the core. Here a thread takes the next piece when it is done with one,
//! and they wait for each other once per step.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::body::Replica;
use super::error::TrainError;

type Job = Box<dyn FnOnce(&mut Replica) + Send>;

/// Threads with a replica each.
#[derive(Debug)]
pub(super) struct Workers {
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
    clocks: Arc<Clocks>,
}

/// How long the threads were at work, and for how much of it they had a processor core, both in nanoseconds.
#[derive(Debug, Default)]
struct Clocks {
    work: AtomicU64,
    core: AtomicU64,
}

impl Clocks {
    fn measure(&self, job: impl FnOnce()) {
        let (start, core) = (Instant::now(), core_time());
        job();
        self.work.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
        self.core.fetch_add(core_time().saturating_sub(core).as_nanos() as u64, Ordering::Relaxed);
    }
}

/// The time that the calling thread had a core.
#[cfg(target_os = "linux")]
fn core_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes to a variable of its own type.
    match unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) } {
        0 => Duration::new(time.tv_sec as u64, time.tv_nsec as u32),
        _ => Duration::ZERO,
    }
}

/// The time that the calling thread had a core; not measured on this system.
#[cfg(not(target_os = "linux"))]
fn core_time() -> Duration {
    Duration::ZERO
}

impl Workers {
    /// Starts a thread for each replica.
    pub fn start(replicas: Vec<Replica>) -> Result<Self, TrainError> {
        let (jobs, queue) = channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        let clocks = Arc::new(Clocks::default());
        let threads = Vec::with_capacity(replicas.len());
        let mut workers = Workers { jobs: Some(jobs), threads, clocks: Arc::clone(&clocks) };
        for replica in replicas {
            let (queue, clocks) = (Arc::clone(&queue), Arc::clone(&clocks));
            let thread = std::thread::Builder::new().name("train".into());
            let thread = thread.spawn(move || work(&queue, replica, &clocks));
            workers.threads.push(thread.map_err(|error| TrainError::Thread { error })?);
        }
        Ok(workers)
    }

    /// The share of their working time for which the threads had a core: below 1 where other programs use the cores too. `None`
    /// as long as they have worked for less than `least`, and where the system does not tell.
    pub fn share_of_cores(&self, least: Duration) -> Option<f64> {
        let (work, core) = (self.clocks.work.load(Ordering::Relaxed), self.clocks.core.load(Ordering::Relaxed));
        (core > 0 && Duration::from_nanos(work) >= least).then(|| core as f64 / work as f64)
    }

    /// Computes all items, each on the next free thread, and gives the results to `take` in the order of the items.
    ///
    /// # Errors
    /// The first error in that order; items that are in the making are finished before it is returned.
    pub fn run<I, T>(
        &self,
        items: Vec<I>,
        compute: impl Fn(&mut Replica, I) -> Result<T, TrainError> + Clone + Send + 'static,
        mut take: impl FnMut(T) -> Result<(), TrainError>,
    ) -> Result<(), TrainError>
    where
        I: Send + 'static,
        T: Send + 'static,
    {
        let count = items.len();
        let (done, results) = channel();
        for (number, item) in items.into_iter().enumerate() {
            let (done, compute) = (done.clone(), compute.clone());
            let job = move |replica: &mut Replica| drop(done.send((number, compute(replica, item))));
            if let Some(jobs) = &self.jobs {
                // It fails only where all threads have panicked, which the missing results tell below.
                drop(jobs.send(Box::new(job)));
            }
        }
        drop(done);
        in_order(count, &results, &mut take)
    }
}

/// Gives the results to `take` by their number. All are waited for: a thread that is still at work would use the tensors that
/// the caller goes on to change.
fn in_order<T>(
    count: usize,
    results: &Receiver<(usize, Result<T, TrainError>)>,
    take: &mut dyn FnMut(T) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    let mut early: Vec<Option<Result<T, TrainError>>> = (0..count).map(|_| None).collect();
    let (mut next, mut outcome) = (0, Ok(()));
    for (number, result) in results {
        early[number] = Some(result);
        while let Some(result) = early.get_mut(next).and_then(Option::take) {
            next += 1;
            if outcome.is_ok() {
                outcome = result.and_then(&mut *take);
            }
        }
    }
    assert!(next == count, "a thread that trains has panicked");
    outcome
}

fn work(queue: &Mutex<Receiver<Job>>, mut replica: Replica, clocks: &Clocks) {
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match job {
            Ok(job) => clocks.measure(|| job(&mut replica)),
            Err(_) => return,
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // Its panic has been reported, and the results it owed are missing.
            drop(thread.join());
        }
    }
}
